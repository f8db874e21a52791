//! `xblade failover`: which of several gateways serves a group of exports.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use super::args::{FailoverAction, GroupArgs, GroupsArgs};
use super::client::ControlClient;
use super::columns::{Column, choose, table};
use super::show::idle;
use crate::cli::output;
use crate::control::api::failover::{FailoverGroups, GroupInfo, Role};
use crate::control::api::types::{ControlRequest, SCHEMA};

/// How long a group may take to move.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often to look.
const PACE: Duration = Duration::from_millis(100);

const COLUMNS: [Column<GroupInfo>; 8] = [
    ("group", |row| row.group.clone()),
    ("role", |row| row.role.to_string()),
    ("since", |row| idle(row.since_seconds)),
    ("mac", |row| row.mac.clone()),
    ("heard", |row| {
        row.heard_seconds
            .map_or("-".into(), |ago| format!("{ago:.1}s ago"))
    }),
    ("exports", |row| {
        let names: Vec<&str> = row.exports.iter().map(|member| member.export.as_str()).collect();
        names.join(",")
    }),
    ("reason", |row| row.reason.clone().unwrap_or_default()),
    ("held", |row| row.held_seconds.map_or("-".into(), idle)),
];

pub(in crate::cli) fn failover(action: FailoverAction) -> Result<ExitCode> {
    match action {
        FailoverAction::Status(args) => status(&args)?,
        FailoverAction::Take(args) => {
            let request = ControlRequest::TakeGroup {
                group: args.group.clone(),
            };
            move_group(&args, &request, Role::Active)?;
        }
        FailoverAction::Release(args) => {
            let request = ControlRequest::ReleaseGroup {
                group: args.group.clone(),
            };
            move_group(&args, &request, Role::Standby)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn status(args: &GroupsArgs) -> Result<()> {
    let columns = choose(&COLUMNS, 7, &args.output)?;
    let groups: FailoverGroups = ControlClient::new(&args.target)?.ask(&ControlRequest::FailoverGroups {})?;
    if args.output.json {
        let mut value = json!(groups);
        value["schema"] = json!(SCHEMA);
        return output::line(value);
    }
    table(&columns, &groups.groups, &args.output).print()
}

/// Asks for a move and waits until it is over.
fn move_group(args: &GroupArgs, request: &ControlRequest, wanted: Role) -> Result<()> {
    let mut client = ControlClient::new(&args.ask.target)?;
    let _: serde_json::Value = client.ask(request)?;
    let end = Instant::now() + TIMEOUT;
    let mut moved = false;
    loop {
        let groups: FailoverGroups = client.ask(&ControlRequest::FailoverGroups {})?;
        let Some(group) = groups.groups.into_iter().find(|group| group.group == args.group) else {
            bail!("the failover group {} is not configured any more", args.group);
        };
        if group.role == wanted {
            return done(args, &group);
        }
        // It went the way back, perhaps faster than anybody looked: a try before this one has left no refusal.
        let is_refused = wanted == Role::Active && group.refused.is_some();
        if (moved || is_refused) && group.role == Role::Standby {
            bail!(
                "failover group {}: {}",
                args.group,
                group
                    .refused
                    .or(group.reason)
                    .as_deref()
                    .unwrap_or("it was lost again")
            );
        }
        moved |= group.role != Role::Standby;
        if Instant::now() >= end {
            bail!(
                "failover group {} is still {} after a minute; `xblade failover status` shows how it goes on",
                args.group,
                group.role
            );
        }
        std::thread::sleep(PACE);
    }
}

fn done(args: &GroupArgs, group: &GroupInfo) -> Result<()> {
    if args.ask.json {
        let mut value = json!(group);
        value["schema"] = json!(SCHEMA);
        return output::line(value);
    }
    output::line(format_args!("failover group {}: {}", group.group, group.role))
}
