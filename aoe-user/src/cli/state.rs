//! `xblade state`: what initiators left behind, and the way out for whoever they locked out.

use std::io::Write as _;
use std::path::Path;

use aoe_common::Mac;

use crate::control::state::{self, Entry, StateDir};
use crate::target::Persistent;

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
        } => {
            let all = !(mask || reserve || string);
            let parts = Parts {
                mask: mask || all,
                reserve: reserve || all,
                string: string || all,
            };
            clear(&target, parts)
        }
    }
}

/// What is to be forgotten.
#[derive(Debug, Clone, Copy)]
struct Parts {
    mask: bool,
    reserve: bool,
    string: bool,
}

fn list(dir: &Path) -> anyhow::Result<()> {
    let mut table = Table::new(["EXPORT", "CONFIG STRING", "MASK", "RESERVED FOR"]);
    for Entry { name, state } in state::list(dir)? {
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
    table.print()
}

fn show(target: &StateTarget) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for (name, state) in of_target(target)? {
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
    Ok(())
}

fn clear(target: &StateTarget, parts: Parts) -> anyhow::Result<()> {
    let found = of_target(target)?;
    // The daemon would go on with what it has in memory, and write that over ours.
    let dir = StateDir::open(&target.state_dir)?;
    for (name, mut state) in found {
        if parts.string {
            state.string.clear();
        }
        if parts.mask {
            state.mask.clear();
        }
        if parts.reserve {
            state.reserve.clear();
        }
        dir.store(&name, &state)?;
    }
    Ok(())
}

/// The states of an address: one, unless several exports share it.
fn of_target(target: &StateTarget) -> anyhow::Result<Vec<(String, Persistent)>> {
    let address = format!("{}.{}", target.shelf, target.slot);
    let dir = &target.state_dir;
    let mut found = Vec::new();
    for Entry { name, state } in state::list(dir)? {
        if name.split('@').next() == Some(address.as_str()) {
            found.push((
                name.clone(),
                state.map_err(|reason| anyhow::anyhow!("{name}: {reason}"))?,
            ));
        }
    }
    anyhow::ensure!(
        !found.is_empty(),
        "nothing is kept for {address} in {}",
        dir.display()
    );
    Ok(found)
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
