//! `xblade overlay`: the copies of golden images that machines write to.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Value, json};

use super::args::{ChosenMachines, ListArgs, MachinesToReset, OneMachine, OverlayAction};
use super::client::ControlClient;
use super::columns::{Column, choose, table};
use super::show::idle;
use crate::cli::output;
use crate::cli::table::size;
use crate::control::api::overlays::{
    CommitOverlay, FullOf, OverlayInfo, Overlays, PinOverlays, ResetOverlays,
};
use crate::control::api::types::{ControlRequest, SCHEMA};

const COLUMNS: [Column<OverlayInfo>; 13] = [
    ("export", |row| row.export.clone()),
    ("machine", |row| row.machine.clone()),
    ("kind", |row| kind(row).to_owned()),
    ("state", |row| state(row).to_owned()),
    ("written", |row| size(row.written_bytes / 512)),
    ("on disk", |row| size(row.allocated_bytes / 512)),
    ("age", |row| age(row.since)),
    ("image reads", |row| size(row.image_read_bytes / 512)),
    ("copy reads", |row| size(row.copy_read_bytes / 512)),
    ("writes", |row| size(row.wrote_bytes / 512)),
    ("macs", |row| row.macs.join(",")),
    ("refused", |row| row.refused_writes.to_string()),
    ("problem", |row| problem(row).unwrap_or_default()),
];

/// Those that are shown unless others are named, and one more where there is something to tell in it.
const USUAL: usize = 9;
const PROBLEM: &str = "problem";

/// Why a machine hears nothing, or some of its writes fail.
fn problem(row: &OverlayInfo) -> Option<String> {
    let full = row.full.map(|full| {
        match full {
            FullOf::Limit => "overlay_limit is reached",
            FullOf::Disk => "the file system of overlay_dir is full",
            FullOf::Memory => "the tmpfs where it is noted what copies hold is full",
        }
        .to_owned()
    });
    row.problem.clone().or(full)
}

fn state(row: &OverlayInfo) -> &'static str {
    match row {
        // Nothing is wrong: it waits for its machine's boot.
        OverlayInfo { ended: true, .. } => "ended",
        OverlayInfo { problem: Some(_), .. } => "FAILED",
        row if !row.kept_by.is_empty() => "kept",
        OverlayInfo { old_image: true, .. } => "old image",
        OverlayInfo { full: Some(_), .. } => "full",
        _ => "ready",
    }
}

fn kind(row: &OverlayInfo) -> &'static str {
    match row {
        OverlayInfo { copy: false, .. } => "none",
        OverlayInfo { persistent: true, .. } => "persistent",
        OverlayInfo { pinned: true, .. } => "pinned",
        _ => "volatile",
    }
}

fn age(since: f64) -> String {
    let began = UNIX_EPOCH + Duration::try_from_secs_f64(since).unwrap_or_default();
    let age = SystemTime::now().duration_since(began).unwrap_or_default();
    idle(age.as_secs_f64())
}

pub(in crate::cli) fn overlay(action: OverlayAction) -> Result<ExitCode> {
    match action {
        OverlayAction::List(args) => list(args)?,
        OverlayAction::Reset(args) => reset(&args, false)?,
        OverlayAction::Discard(args) => reset(&args, true)?,
        OverlayAction::Pin(args) => pin(&args, true)?,
        OverlayAction::Unpin(args) => pin(&args, false)?,
        OverlayAction::Commit(args) => commit(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: ListArgs) -> Result<()> {
    let ListArgs {
        exports,
        target,
        output,
    } = args;
    let mut columns = choose(&COLUMNS, USUAL, &output)?;
    let overlays: Overlays = ControlClient::new(&target)?.ask(&ControlRequest::Overlays { exports })?;
    if output.json {
        let mut value = json!(overlays);
        value["schema"] = json!(SCHEMA);
        return output::line(value);
    }
    let has_problem = overlays.overlays.iter().any(|row| problem(row).is_some());
    if has_problem && output.columns.is_empty() {
        columns.extend(COLUMNS.iter().filter(|(name, _)| *name == PROBLEM));
    }
    table(&columns, &overlays.overlays, &output).print()
}

fn reset(args: &MachinesToReset, discard: bool) -> Result<()> {
    let MachinesToReset { chosen: args, force } = args;
    let asked = ControlRequest::ResetOverlays(ResetOverlays {
        export: args.export.clone(),
        machines: args.machines.clone(),
        discard,
        force: *force,
    });
    change(args, &asked, if discard { "discarded" } else { "reset" })
}

fn pin(args: &ChosenMachines, pinned: bool) -> Result<()> {
    let asked = ControlRequest::PinOverlays(PinOverlays {
        export: args.export.clone(),
        machines: args.machines.clone(),
        pinned,
    });
    change(args, &asked, if pinned { "pinned" } else { "unpinned" })
}

/// Has something done with machines' copies, and says that it was.
fn change(args: &ChosenMachines, asked: &ControlRequest, what: &str) -> Result<()> {
    let ChosenMachines {
        export,
        machines,
        ask,
    } = args;
    let mut done: Value = ControlClient::new(&ask.target)?.ask(asked)?;
    if ask.json {
        done["schema"] = json!(SCHEMA);
        return output::line(done);
    }
    output::line(format_args!("{what} {} of {export}", machines.join(", ")))
}

fn commit(args: OneMachine) -> Result<()> {
    let OneMachine {
        export,
        machine,
        force,
        ask,
    } = args;
    let said =
        format!("what {machine} wrote is in the golden image of {export}, for every machine that boots");
    let asked = CommitOverlay {
        export,
        machine,
        force,
    };
    let mut done: Value = ControlClient::new(&ask.target)?.ask(&ControlRequest::CommitOverlay(asked))?;
    if ask.json {
        done["schema"] = json!(SCHEMA);
        return output::line(done);
    }
    output::line(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_told() {
        let mut row = OverlayInfo::default();
        assert_eq!(state(&row), "ready");
        row.full = Some(FullOf::Limit);
        assert_eq!(state(&row), "full");
        assert_eq!(problem(&row).unwrap(), "overlay_limit is reached");
        row.old_image = true;
        assert_eq!(state(&row), "old image");
        row.kept_by = vec!["02:00:00:00:00:01".into()];
        assert_eq!(state(&row), "kept");
        row.problem = Some("gone".into());
        assert_eq!(state(&row), "FAILED");
        row.ended = true;
        assert_eq!(state(&row), "ended");
    }
}
