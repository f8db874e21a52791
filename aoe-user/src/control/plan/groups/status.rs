//! What is said of failover groups.

use std::sync::Arc;
use std::time::Instant;

use failover::{GroupState as Role, Holder};

use super::super::exports::ExportEntry;
use super::super::{ExportId, Level, Plan};
use super::Membership;
use crate::config::FailoverGroup;

/// A group, for whoever asks.
#[derive(Debug, Clone)]
pub(in crate::control) struct GroupStatus {
    pub(crate) config: Arc<FailoverGroup>,
    pub(crate) role: Role,
    /// Since when.
    pub(crate) since: Instant,
    /// When the gateway that answers was last heard.
    pub(crate) heard: Option<Instant>,
    /// Until when it is left to others.
    pub(crate) held_until: Option<Instant>,
    /// What went wrong.
    pub(crate) reason: Option<String>,
    /// Why it could not be taken the last time that was tried.
    pub(crate) refused: Option<String>,
    /// The exports, with who had their images' locks when that was last looked at.
    pub(crate) exports: Vec<(ExportId, Option<String>)>,
}

impl Plan {
    /// One line for each change.
    pub(super) fn tell_role(&mut self, name: &str) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let (level, what) = match (group.machine.state(), group.machine.reason()) {
            (Role::Standby, None) => (Level::Info, "standing by".to_owned()),
            (Role::Standby, Some(reason)) => (Level::Warn, format!("standing by: {reason}")),
            (Role::Taking, _) => (
                Level::Warn,
                match &group.from {
                    None => "taking it, as the operator wants".to_owned(),
                    Some(Holder::Nobody) => "nobody answers for it or has its locks: taking it".to_owned(),
                    Some(Holder::Known(_)) => {
                        "nobody answers for it: taking it from who has its locks".to_owned()
                    }
                },
            ),
            (Role::Quiet, _) => (Level::Info, "taken; answering in a moment".to_owned()),
            (Role::Active, None) => (
                Level::Info,
                format!("ACTIVE, answering from {}", group.config.mac),
            ),
            (Role::Active, Some(reason)) => (Level::Error, reason.to_owned()),
            (Role::Leaving, reason) => (
                match group.machine.is_released() {
                    true => Level::Info,
                    false => Level::Error,
                },
                format!("silent and closing: {}", reason.unwrap_or("it is left")),
            ),
        };
        if group.told.as_ref() != Some(&what) {
            group.told = Some(what.clone());
            self.say(level, format!("failover group {name}: {what}"));
        }
    }

    /// All groups, by name.
    pub(crate) fn groups(&self) -> Vec<GroupStatus> {
        let status = |(name, group): (&String, &Membership)| {
            let owner = |id: ExportId| (id, group.owners.get(&id).cloned().flatten());
            let held_until = self.at(group.machine.held_until_us());
            GroupStatus {
                config: Arc::clone(&group.config),
                role: group.machine.state().clone(),
                since: self.at(group.machine.since_us()),
                heard: group.machine.heard_us().map(|us| self.at(us)),
                held_until: (group.machine.held_until_us() > 0).then_some(held_until),
                reason: group.machine.reason().map(str::to_owned),
                refused: group.machine.refusal().map(str::to_owned),
                exports: self.members(name).into_iter().map(owner).collect(),
            }
        };
        self.groups.iter().map(status).collect()
    }

    /// What is said of an export that is not open because of its group.
    pub(in super::super) fn standby_text(&self, entry: &ExportEntry) -> Option<String> {
        let group = self.group_of(entry)?;
        let text = match (group.machine.state(), group.machine.reason()) {
            (Role::Active, _) => return None,
            // Whoever is heard is the reason of nothing that went wrong before.
            (Role::Standby, Some(reason)) => reason,
            (Role::Standby, None) if group.machine.heard_us().is_some() => "another gateway serves it",
            (Role::Standby, None) => "no gateway that serves it was heard yet",
            (Role::Taking, _) => "being taken from the gateway before",
            (Role::Quiet, _) => "taken, and silent for a moment",
            (Role::Leaving, _) => "silent, being closed",
        };
        Some(format!("failover group {}: {text}", group.config.name))
    }
}
