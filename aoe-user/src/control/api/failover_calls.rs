//! Carries out what `xblade failover` asks for.

use std::time::Instant;

use serde_json::json;

use super::failover::{FailoverGroups, GroupExport, GroupInfo, Role};
use super::socket::ControlAnswer;
use crate::control::plan::{GroupStatus, Role as Machine};
use crate::control::supervisor::Supervisor;

impl Supervisor {
    /// Tells of all groups.
    pub(super) fn tell_groups(&self, answer: ControlAnswer, now: Instant) {
        let groups = self.groups(now);
        answer.result(FailoverGroups { groups });
    }

    /// All groups, by name.
    pub(super) fn groups(&self, now: Instant) -> Vec<GroupInfo> {
        let groups = self.plan.groups();
        groups.iter().map(|status| self.group(status, now)).collect()
    }

    /// Begins to take a group.
    pub(super) fn take_group(&mut self, group: &str, answer: ControlAnswer, now: Instant) {
        told(self.plan.take_group(group, now), group, answer);
    }

    /// Begins to leave a group to another gateway.
    pub(super) fn release_group(&mut self, group: &str, answer: ControlAnswer, now: Instant) {
        told(self.plan.release_group(group, now), group, answer);
    }

    fn group(&self, status: &GroupStatus, now: Instant) -> GroupInfo {
        let role = match status.role {
            Machine::Standby => Role::Standby,
            Machine::Taking => Role::Taking,
            Machine::Quiet => Role::Quiet,
            Machine::Active => Role::Active,
            Machine::Leaving => Role::Leaving,
        };
        let ago = |then: Instant| now.saturating_duration_since(then).as_secs_f64();
        let held = status.held_until.map(|end| end.saturating_duration_since(now));
        let exports = status.exports.iter().filter_map(|(id, owner)| {
            let (config, _) = self.plan.config(*id)?;
            Some(GroupExport {
                export: format!("e{}", config.address()),
                owner: owner.clone(),
            })
        });
        GroupInfo {
            group: status.config.name.clone(),
            role,
            since_seconds: ago(status.since),
            mac: status.config.mac.to_string(),
            heard_seconds: status.heard.filter(|_| role != Role::Active).map(ago),
            held_seconds: held.filter(|held| !held.is_zero()).map(|held| held.as_secs_f64()),
            reason: status.reason.clone(),
            refused: status.refused.clone(),
            exports: exports.collect(),
        }
    }
}

/// Says whether the move of a group has begun.
fn told(begun: Result<(), String>, group: &str, answer: ControlAnswer) {
    match begun {
        Ok(()) => answer.result(json!({ "group": group })),
        Err(reason) => answer.error(reason),
    }
}
