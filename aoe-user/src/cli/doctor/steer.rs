//! `xblade doctor --steer`: a receive queue for each initiator, by filters of the card. Shown, carried out, and taken back.
//!
//! Nothing is kept of what was done: the card itself tells which filters it has.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};
use aoe_common::Mac;

use super::advice::{FILTERS, has_fixed_filters};
use super::drivers::{Steering, steering};
use super::filters::{Ethtool, EthtoolFailure, Filters, SteeringFilter, read};
use crate::cli::output;
use crate::host::Probe;

/// What `ethtool -K` calls the switch for filters.
const FILTERS_SWITCH: &str = "ntuple";

/// What to do with the filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// Say what would be done.
    Show,
    /// Do it.
    Apply,
    /// Take it back.
    Undo,
}

/// Steers these initiators on an interface, or says why that cannot be.
///
/// # Errors
/// When the card or its driver has no such filters; those that were set before it said so are taken back.
pub(super) fn run(ethtool: &mut dyn Ethtool, probe: &Probe, sources: &[Mac], intent: Intent) -> Result<()> {
    let present = match read(ethtool, &probe.interface) {
        Filters::Set(filters) => filters,
        Filters::Refused(said) => bail!("{}", refusal(probe, &said)),
        Filters::NotAsked(said) => bail!("{said}: install the package `ethtool`"),
    };
    if intent == Intent::Undo {
        return undo(ethtool, probe, &present, sources);
    }
    let commands = plan(probe, &present, sources)?;
    let mut text = format!(
        "# {}: a receive queue for each initiator, by turns\n",
        probe.interface
    );
    for command in &commands {
        let _ = writeln!(text, "ethtool {}", command.join(" "));
    }
    if commands.is_empty() {
        text += "# all of them have filters already\n";
    }
    output::print(text)?;
    if intent == Intent::Show {
        return output::line("# carried out with --apply, taken back with --undo");
    }
    let (done, said) = match carry_out(ethtool, &commands) {
        Err((done, failure)) => (done, refusal(probe, &failure.to_string())),
        Ok(()) => match check(ethtool, probe, sources) {
            Err(error) => (commands.len(), error.to_string()),
            Ok(()) => return Ok(()),
        },
    };
    let switched_on = done > 0 && commands[0][0] == "-K";
    take_back(ethtool, probe, &present, switched_on).with_context(|| said.clone())?;
    bail!("{said}. Nothing of it was left");
}

/// Up to the first that is refused: how many were carried out before it, and why.
fn carry_out(ethtool: &mut dyn Ethtool, commands: &[Vec<String>]) -> Result<(), (usize, EthtoolFailure)> {
    for (done, command) in commands.iter().enumerate() {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        ethtool.run(&words).map_err(|failure| (done, failure))?;
    }
    Ok(())
}

/// Leaves the filters that were there before, and the switch for filters as it was.
fn take_back(
    ethtool: &mut dyn Ethtool,
    probe: &Probe,
    before: &[SteeringFilter],
    switched_on: bool,
) -> Result<()> {
    let interface = &probe.interface;
    let Filters::Set(mut now) = read(ethtool, interface) else {
        bail!(
            "{interface}: its filters cannot be read any more: look with `ethtool -n {interface}` what is left"
        );
    };
    now.retain(|filter| before.iter().all(|old| old.id != filter.id));
    remove(ethtool, probe, &now)?;
    if switched_on && let Err(failure) = ethtool.run(&["-K", interface, FILTERS_SWITCH, "off"]) {
        bail!("{interface}: {failure}; `ethtool -K {interface} {FILTERS_SWITCH} off`");
    }
    Ok(())
}

/// The words of `ethtool` that give each source a queue, those left out that have one.
fn plan(probe: &Probe, present: &[SteeringFilter], sources: &[Mac]) -> Result<Vec<Vec<String>>> {
    let interface = &probe.interface;
    ensure!(
        probe.rx_queues > 1,
        "{interface} has one receive queue, which gets everything: `ethtool -L {interface} combined N` first, where the card has more"
    );
    let known = steering(probe.driver.as_deref().unwrap_or_default());
    let by_type = match known {
        Steering::SourceAndType | Steering::Unknown => true,
        Steering::Source => false,
        Steering::Nothing => bail!("{}", refusal(probe, "it knows no filter that would spread AoE")),
    };
    let is_fixed = has_fixed_filters(probe);
    // Some drivers have no such switch, and filters all the same.
    ensure!(
        !is_fixed || known == Steering::SourceAndType,
        "{}",
        refusal(probe, "this card's filters cannot be switched on")
    );
    let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let mut commands = Vec::new();
    for (at, source) in sources.iter().enumerate() {
        if present.iter().any(|filter| filter.steers(*source)) {
            continue;
        }
        let kind = if by_type { " proto 0x88a2" } else { "" };
        let queue = at % probe.rx_queues;
        commands.push(words(format!(
            "-N {interface} flow-type ether src {source} m 00:00:00:00:00:00{kind} action {queue}"
        )));
    }
    let is_off = probe.offload(FILTERS) != Some(true);
    if is_off && !is_fixed && !commands.is_empty() {
        commands.insert(0, words(format!("-K {interface} {FILTERS_SWITCH} on")));
    }
    Ok(commands)
}

fn remove(ethtool: &mut dyn Ethtool, probe: &Probe, filters: &[SteeringFilter]) -> Result<()> {
    let interface = &probe.interface;
    for filter in filters {
        let id = filter.id.to_string();
        let removed = ethtool.run(&["-N", interface, "delete", &id]);
        if let Err(failure) = removed {
            bail!(
                "{interface}: filter {id} cannot be taken back: {failure}; `ethtool -N {interface} delete {id}`"
            );
        }
    }
    Ok(())
}

/// A driver may take a filter and not keep it.
fn check(ethtool: &mut dyn Ethtool, probe: &Probe, sources: &[Mac]) -> Result<()> {
    let interface = &probe.interface;
    let Filters::Set(now) = read(ethtool, interface) else {
        bail!("{interface}: its filters cannot be read any more");
    };
    for source in sources {
        let Some(filter) = now.iter().find(|filter| filter.steers(*source)) else {
            bail!(
                "{interface}: the driver took the filter for {source}, and does not show it among those it has: `ethtool -n {interface}`"
            );
        };
        let queue = filter.queue.unwrap_or_default();
        output::line(format_args!("{source} arrives on queue {queue} now"))?;
    }
    Ok(())
}

/// Takes the filters of these sources away; the switch for filters stays as it is, since others may need it.
fn undo(ethtool: &mut dyn Ethtool, probe: &Probe, present: &[SteeringFilter], sources: &[Mac]) -> Result<()> {
    let is_theirs = |filter: &&SteeringFilter| sources.iter().any(|source| filter.steers(*source));
    let theirs: Vec<SteeringFilter> = present.iter().filter(is_theirs).cloned().collect();
    for filter in &theirs {
        output::line(format_args!(
            "ethtool -N {} delete {}",
            probe.interface, filter.id
        ))?;
    }
    if theirs.is_empty() {
        return output::line(format_args!("{}: no filter for them is set", probe.interface));
    }
    remove(ethtool, probe, &theirs)
}

/// That a card does not steer, why, and what is left.
fn refusal(probe: &Probe, said: &str) -> String {
    let interface = &probe.interface;
    let driver = probe.driver.as_deref().unwrap_or("its driver");
    let one_queue = match &probe.one_queue {
        Some(command) => format!("Serve with one queue (`{command}`)"),
        None => {
            "All of it arrives on one queue, and the driver does not let their number be set: leave it so"
                .to_owned()
        }
    };
    format!(
        "{interface}: {driver} does not spread AoE over queues: {said}. {one_queue}, or give exports interfaces of their own"
    )
}

#[cfg(test)]
#[path = "steer_tests.rs"]
mod tests;
