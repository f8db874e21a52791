//! `xblade state`: what initiators left behind, and the way out for whoever they locked out.

use std::io::{ErrorKind, Write as _};
use std::path::Path;

use aoe_common::Mac;

use crate::config::Vlan;
use crate::control::state::operator::{Action, Parts, decide};
use crate::control::state::{self, Entry, StateError, StateKey};
use crate::target::{Address, Persistent};

use super::args::{StateAction, StateTarget};
use super::table::Table;

pub(super) fn run(action: StateAction) -> anyhow::Result<()> {
    match action {
        StateAction::List { state_dir } => list(&state_dir),
        StateAction::Show(target) => show(&target),
        StateAction::Clear {
            target,
            mask,
            reserve,
            string,
            lost_writes,
        } => {
            if lost_writes {
                return Ok(decide(
                    &target.state_dir,
                    &key(&target),
                    &Action::AcceptLostWrites,
                )?);
            }
            let named = Parts {
                mask,
                reserve,
                string,
            };
            let parts = if mask || reserve || string {
                named
            } else {
                Parts::ALL
            };
            Ok(decide(&target.state_dir, &key(&target), &Action::Clear(parts))?)
        }
        StateAction::Adopt { target, from } => {
            let name = from.strip_suffix(".state").unwrap_or(&from).to_owned();
            Ok(decide(&target.state_dir, &key(&target), &Action::Adopt(name))?)
        }
    }
}

fn key(target: &StateTarget) -> StateKey {
    let address = Address {
        shelf: target.shelf,
        slot: target.slot,
    };
    StateKey::new(address, target.vlan.unwrap_or(Vlan::Untagged)).labelled(target.state_name.as_deref())
}

/// What is kept; nothing in a directory that no daemon has made yet.
fn entries(dir: &Path) -> anyhow::Result<Vec<Entry>> {
    match state::list(dir) {
        Err(StateError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => Ok(entries?),
    }
}

/// Losses that stand; none in a directory that no daemon has made yet.
fn lost_writes(dir: &Path) -> anyhow::Result<Vec<(String, String)>> {
    match state::lost::list(dir) {
        Err(StateError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        losses => Ok(losses?),
    }
}

fn list(dir: &Path) -> anyhow::Result<()> {
    let mut table = Table::new(["EXPORT", "CONFIG STRING", "MASK", "RESERVED FOR"]);
    for Entry { name, state } in entries(dir)? {
        match state {
            Ok(state) if state == Persistent::default() => {}
            Ok(state) => table.row([
                name,
                format!("\"{}\"", shortened(&state.string)),
                counted(&state.mask, "everyone"),
                counted(&state.reserve, "nobody"),
            ]),
            Err(reason) => table.row([name, reason, String::new(), String::new()]),
        }
    }
    for (name, lost) in lost_writes(dir)? {
        table.row([name, format!("LOST WRITES: {lost}"), String::new(), String::new()]);
    }
    table.print()
}

fn show(target: &StateTarget) -> anyhow::Result<()> {
    let (address, wanted) = (
        format!("{}.{}", target.shelf, target.slot),
        key(target).to_string(),
    );
    let all = target.vlan.is_none() && target.state_name.is_none();
    let mut found = entries(&target.state_dir)?;
    let is_meant = |name: &str| name == wanted || all && of_address(name, &address);
    found.retain(|entry| is_meant(&entry.name));
    let mut lost = lost_writes(&target.state_dir)?;
    lost.retain(|(name, _)| is_meant(name));
    anyhow::ensure!(
        !found.is_empty() || !lost.is_empty(),
        "nothing is kept for {wanted} in {}",
        target.state_dir.display()
    );
    let mut out = std::io::stdout().lock();
    for Entry { name, state } in found {
        let state = state.map_err(|reason| anyhow::anyhow!("{name}: {reason}"))?;
        writeln!(out, "{name}")?;
        writeln!(
            out,
            "  config string  \"{}\" ({} bytes)",
            state.string.escape_ascii(),
            state.string.len()
        )?;
        writeln!(out, "  MAC mask       {}", listed(&state.mask, "everyone"))?;
        writeln!(out, "  reserved for   {}", listed(&state.reserve, "nobody"))?;
    }
    for (name, lost) in lost {
        writeln!(out, "{name}")?;
        writeln!(out, "  LOST WRITES    {lost}")?;
        writeln!(
            out,
            "                 writes are refused until `xblade state clear --lost-writes`"
        )?;
    }
    Ok(())
}

/// True for `1.1`, `1.1-vlan-5`, `1.1+name` and an earlier release's `1.1@eth0`.
fn of_address(name: &str, address: &str) -> bool {
    name.strip_prefix(address)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// At most 32 characters of a config string.
fn shortened(string: &[u8]) -> String {
    let text = string.escape_ascii().to_string();
    if text.len() <= 32 {
        text
    } else {
        format!("{}…", &text[..31])
    }
}

fn counted(list: &[Mac], none: &str) -> String {
    match list {
        [] => none.to_owned(),
        [only] => only.to_string(),
        _ => format!("{} addresses", list.len()),
    }
}

fn listed(list: &[Mac], none: &str) -> String {
    if list.is_empty() {
        return none.to_owned();
    }
    list.iter().map(Mac::to_string).collect::<Vec<_>>().join(" ")
}
