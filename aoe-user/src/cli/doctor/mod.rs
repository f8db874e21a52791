//! `xblade doctor`: what this host and an interface can do, what xblade will make of it, and what would help.

mod advice;
mod card_report;
mod drivers;
mod filters;
mod steer;
mod text;

use anyhow::Result;
use aoe_common::wire::sectors_per_frame;
use serde::Serialize;
use serde_json::{Value, json};

use super::args::DoctorArgs;
use super::output::{self, Shown};
use crate::control::other_aoe_programs;
use crate::host::{PageLists, Probe, page_lists, probe};
use crate::store::rbd_available;
use advice::{Advice, advice, mode};
use filters::{Filters, Program};
use steer::Intent;
use text::report;

/// Changes when a key of the JSON object changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// Prints what was found of each interface.
///
/// # Errors
/// When there is no such interface, or something of one is bad.
pub(super) fn run(args: &DoctorArgs) -> Result<()> {
    if !args.steer.is_empty() {
        return steer(args);
    }
    let found: Vec<(&str, Result<Finding>)> = args
        .interfaces
        .iter()
        .map(|name| (name.as_str(), probe(name).map(Finding::of)))
        .collect();
    if let Some(file) = &args.report {
        return card_report::write(file, &args.interfaces, &to_json(&found), args.full);
    }
    if args.json {
        output::line(to_json(&found))?;
    } else {
        let good = found.iter().filter_map(|(_, finding)| finding.as_ref().ok());
        let reports = good.map(report).chain([memory(page_lists()), ceph()]);
        output::print(reports.collect::<Vec<String>>().join("\n"))?;
    }
    let wrong = |(name, finding): &(&str, Result<Finding>)| match finding {
        Ok(finding) if finding.is_bad() => Some(format!("{name}: something must change, see above")),
        Ok(_) => None,
        Err(error) => Some(format!("{error:#}")),
    };
    let wrong: Vec<String> = found.iter().filter_map(wrong).collect();
    if !wrong.is_empty() {
        return Err(Shown(wrong.join("\n")).into());
    }
    Ok(())
}

/// Queues for initiators, on each of the interfaces.
fn steer(args: &DoctorArgs) -> Result<()> {
    let intent = match (args.apply, args.undo) {
        (true, _) => Intent::Apply,
        (_, true) => Intent::Undo,
        _ => Intent::Show,
    };
    for interface in &args.interfaces {
        steer::run(&mut Program, &probe(interface)?, &args.steer, intent)?;
    }
    Ok(())
}

fn to_json(found: &[(&str, Result<Finding>)]) -> Value {
    let interface = |(name, finding): &(&str, Result<Finding>)| match finding {
        Ok(finding) => json!(finding),
        Err(error) => json!({ "interface": name, "error": format!("{error:#}") }),
    };
    let ok = found
        .iter()
        .all(|(_, finding)| finding.as_ref().is_ok_and(|finding| !finding.is_bad()));
    let interfaces: Vec<Value> = found.iter().map(interface).collect();
    let librbd = rbd_available().is_ok();
    json!({
        "schema": SCHEMA,
        "ok": ok,
        "interfaces": interfaces,
        "page_lists": page_lists(),
        "librbd": librbd,
    })
}

/// How free pages come back to drivers, which is the whole machine's.
fn memory(lists: Option<PageLists>) -> String {
    let Some(PageLists {
        pages,
        wanted_fraction,
    }) = lists
    else {
        return "Memory\n  page lists   unknown: the kernel does not tell\n".to_owned();
    };
    let mib = pages * 4 / 1024;
    let Some(fraction) = wanted_fraction else {
        return format!("Memory\n  page lists   up to {pages} free pages ({mib} MiB) a CPU: short enough\n");
    };
    format!(
        "Memory\n  page lists   up to {pages} free pages ({mib} MiB) a CPU: more than its cache holds, so that they come back cold\n\n\
         What would help:\n\n  \
         # large writes in copy mode: measure it; for all programs, until the next boot\n  \
         sysctl -w vm.percpu_pagelist_high_fraction={fraction}\n"
    )
}

/// Whether images in Ceph could be served. Most hosts serve none, so that nothing is wrong without.
fn ceph() -> String {
    let librbd = match rbd_available() {
        Ok(()) => "found".to_owned(),
        Err(error) => format!("needed for store = \"rbd\" only: {error}"),
    };
    format!("Ceph\n  librbd       {librbd}\n")
}

/// An interface as it is shown, in words and as JSON.
#[derive(Debug, Serialize)]
struct Finding {
    #[serde(flatten)]
    probe: Probe,
    /// Sectors in a request, by the MTU.
    sectors: u8,
    /// What `--mode auto` will probably end in.
    mode: &'static str,
    /// Which filters the card has, where several queues make them of use.
    filters: Option<Filters>,
    advice: Vec<Advice>,
}

impl Finding {
    /// Of an interface, whose card is asked for its filters.
    fn of(probe: Probe) -> Finding {
        let has_use = probe.rx_queues > 1 && !probe.is_virtual;
        let filters = has_use.then(|| filters::read(&mut Program, &probe.interface));
        let others = other_aoe_programs(&probe.interface);
        let mut finding = Finding::with(probe, filters);
        finding.advice.extend(others.map(|why| Advice {
            bad: false,
            why,
            commands: Vec::new(),
        }));
        finding
    }

    fn with(probe: Probe, filters: Option<Filters>) -> Finding {
        Finding {
            sectors: sectors_per_frame(probe.mtu_bytes),
            mode: mode(&probe),
            advice: advice(&probe, filters.as_ref()),
            filters,
            probe,
        }
    }

    fn is_bad(&self) -> bool {
        self.advice.iter().any(|advice| advice.bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_page_lists_get_a_command_that_can_be_typed() {
        let text = |wanted_fraction| {
            memory(Some(PageLists {
                pages: 311_296,
                wanted_fraction,
            }))
        };
        assert!(text(Some(2400)).contains("\n  sysctl -w vm.percpu_pagelist_high_fraction=2400\n"));
        assert!(text(Some(2400)).contains("1216 MiB"));
        assert!(!text(None).contains("sysctl") && !memory(None).contains("sysctl"));
    }
}
