//! `xblade state`: what initiators left behind, and the way out for whoever they locked out. Asks the running target where
//! there is one, and works on the directory where there is none.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::config::Vlan;
use crate::control::api::kept::kept;
use crate::control::api::types::{ControlRequest, KeptState, KeptStates, SCHEMA};
use crate::control::state::StateKey;
use crate::control::state::operator::{OperatorAction, Parts, decide};
use crate::target::Address;

use super::args::{STATE_DIR, StateAction, StatePlace, StateTarget};
use super::live::NoTarget;
use super::live::client::ControlClient;
use super::output;
use super::table::TextTable;

pub(super) fn run(action: StateAction) -> Result<()> {
    match action {
        StateAction::List(place) => list(&place),
        StateAction::Show(target) => show(&target),
        StateAction::Clear {
            target,
            mask,
            reserve,
            string,
            lost_writes,
        } => {
            if lost_writes {
                return change(&target, OperatorAction::AcceptLostWrites);
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
            change(&target, OperatorAction::Clear(parts))
        }
        StateAction::Adopt { target, from } => {
            let name = from.strip_suffix(".state").unwrap_or(&from).to_owned();
            change(&target, OperatorAction::Adopt(name))
        }
    }
}

/// Who knows.
enum Source {
    Target(ControlClient),
    Directory(PathBuf),
}

impl Source {
    /// The directory that is named, else the target that runs, else the usual directory.
    fn of(place: &StatePlace) -> Result<Source> {
        if let Some(dir) = &place.state_dir {
            // The usual one may not be there yet. To find nothing in one that is mistyped would look like an answer.
            ensure!(
                !matches!(dir.try_exists(), Ok(false)),
                "there is no directory {}: --state-dir is where the daemon keeps states",
                dir.display()
            );
            return Ok(Source::Directory(dir.clone()));
        }
        match ControlClient::new(&place.target) {
            Ok(client) => Ok(Source::Target(client)),
            Err(error) if error.is::<NoTarget>() && place.target.control.is_none() => {
                Ok(Source::Directory(STATE_DIR.into()))
            }
            Err(error) => Err(error),
        }
    }

    fn states(self) -> Result<Vec<KeptState>> {
        let KeptStates { states } = match self {
            Source::Target(mut client) => client.ask(&ControlRequest::KeptStates {})?,
            Source::Directory(dir) => kept(Path::new(&dir))?,
        };
        Ok(states)
    }

    fn decide(self, key: &StateKey, action: OperatorAction) -> Result<()> {
        let mut client = match self {
            Source::Target(client) => client,
            Source::Directory(dir) => return Ok(decide(&dir, key, &action)?),
        };
        let state = key.to_string();
        let request = match action {
            OperatorAction::Clear(Parts {
                string,
                mask,
                reserve,
            }) => ControlRequest::ClearState {
                state,
                string,
                mask,
                reserve,
            },
            OperatorAction::Adopt(from) => ControlRequest::AdoptState { state, from },
            OperatorAction::AcceptLostWrites => ControlRequest::AcceptLostWrites { state },
        };
        client.ask::<Value>(&request).map(drop)
    }
}

fn key(target: &StateTarget) -> StateKey {
    let address = Address {
        shelf: target.shelf,
        slot: target.slot,
    };
    StateKey::new(address, target.vlan.unwrap_or(Vlan::Untagged)).labelled(target.state_name.as_deref())
}

fn change(target: &StateTarget, action: OperatorAction) -> Result<()> {
    let key = key(target);
    Source::of(&target.place)?.decide(&key, action)?;
    if target.place.json {
        output::line(json!({ "schema": SCHEMA, "state": key.to_string() }))?;
    }
    Ok(())
}

fn list(place: &StatePlace) -> Result<()> {
    let mut states = Source::of(place)?.states()?;
    states.retain(|kept| !kept.is_empty());
    if place.json {
        return output::line(json!({ "schema": SCHEMA, "states": states }));
    }
    let mut table = TextTable::new(["EXPORT", "CONFIG STRING", "MASK", "RESERVED FOR"]);
    for mut kept in states {
        if let Some(lost) = kept.lost_writes.take() {
            let lost = format!("LOST WRITES: {lost}");
            table.row([kept.state.clone(), lost, String::new(), String::new()]);
            if kept.is_empty() {
                continue;
            }
        }
        match kept.problem {
            Some(reason) => table.row([kept.state, reason, String::new(), String::new()]),
            None => table.row([
                kept.state,
                format!("\"{}\"", shortened(&kept.string)),
                counted(&kept.mask, "everyone"),
                counted(&kept.reserve, "nobody"),
            ]),
        }
    }
    table.print()
}

fn show(target: &StateTarget) -> Result<()> {
    let (address, wanted) = (
        format!("{}.{}", target.shelf, target.slot),
        key(target).to_string(),
    );
    let all = target.vlan.is_none() && target.state_name.is_none();
    let source = Source::of(&target.place)?;
    let place = match &source {
        Source::Target(_) => "by the running target".to_owned(),
        Source::Directory(dir) => format!("in {}", dir.display()),
    };
    let mut found = source.states()?;
    found.retain(|kept| kept.state == wanted || all && of_address(&kept.state, &address));
    ensure!(!found.is_empty(), "nothing is kept for {wanted} {place}");
    if target.place.json {
        return output::line(json!({ "schema": SCHEMA, "states": found }));
    }
    let mut text = String::new();
    for kept in found {
        let KeptState { state, string, .. } = &kept;
        if let Some(problem) = &kept.problem {
            bail!("{state}: {problem}");
        }
        let (bytes, mask) = (kept.string_bytes, listed(&kept.mask, "everyone"));
        let reserve = listed(&kept.reserve, "nobody");
        let _ = writeln!(
            text,
            "{state}\n  config string  \"{string}\" ({bytes} bytes)\n  MAC mask       {mask}\n  reserved for   {reserve}"
        );
        if let Some(lost) = &kept.lost_writes {
            let _ = writeln!(
                text,
                "  LOST WRITES    {lost}\n                 writes are refused until `xblade state clear --lost-writes`"
            );
        }
    }
    output::print(text)
}

/// True for `1.1`, `1.1-vlan-5`, `1.1+name` and an earlier release's `1.1@eth0`.
fn of_address(name: &str, address: &str) -> bool {
    name.strip_prefix(address)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// At most 32 characters of a config string.
fn shortened(text: &str) -> String {
    if text.len() <= 32 {
        text.to_owned()
    } else {
        format!("{}…", &text[..31])
    }
}

fn counted(list: &[String], none: &str) -> String {
    match list {
        [] => none.to_owned(),
        [only] => only.clone(),
        _ => format!("{} addresses", list.len()),
    }
}

fn listed(list: &[String], none: &str) -> String {
    if list.is_empty() {
        return none.to_owned();
    }
    list.join(" ")
}
