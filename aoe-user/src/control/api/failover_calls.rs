//! Carries out what `xblade failover` asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::failover::{FailoverGroups, GroupExport, GroupInfo, Role};
use super::socket::ControlAnswer;
use crate::control::open::Served;
use crate::control::plan::{GroupStatus, Role as Machine};
use crate::control::supervisor::Supervisor;
use crate::store::Health;

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

    /// Why a gateway that has the group answers nobody.
    pub(in crate::control) fn silence_of(&self, status: &GroupStatus) -> Option<String> {
        let open = status.exports.iter().filter_map(|(id, _)| self.exports.get(id));
        let mut silences = open.map(|served| match served.export.store().health() {
            Health::Silent(why) => Some(why),
            _ => None,
        });
        let first = silences.next()??;
        silences.all(|silence| silence.is_some()).then_some(first)
    }

    /// Whether the storage of any export of a group is not heard.
    pub(in crate::control) fn misses_storage(&self, group: &str) -> bool {
        let of_group = |served: &&Arc<Served>| {
            let failover = served.config.failover.as_ref();
            failover.is_some_and(|failover| failover.name == group)
        };
        let is_silent = |served: &Arc<Served>| matches!(served.export.store().health(), Health::Silent(_));
        self.exports.values().filter(of_group).any(is_silent)
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
        let reason = status.reason.clone().or_else(|| match role {
            Role::Active => self.silence_of(status),
            Role::Standby => left_to_others(status, held, now),
            _ => None,
        });
        GroupInfo {
            group: status.config.name.clone(),
            role,
            since_seconds: ago(status.since),
            mac: status.config.mac.to_string(),
            heard_seconds: status.heard.filter(|_| role != Role::Active).map(ago),
            held_seconds: held.filter(|held| !held.is_zero()).map(|held| held.as_secs_f64()),
            is_silent: role == Role::Active && self.silence_of(status).is_some(),
            reason,
            refused: status.refused.clone(),
            exports: exports.collect(),
        }
    }
}

/// Why nobody answers although this gateway could, where that is so.
fn left_to_others(status: &GroupStatus, held: Option<Duration>, now: Instant) -> Option<String> {
    /// Whoever was heard within this time still answers.
    const RECENT: Duration = Duration::from_secs(2);
    let left = held.filter(|held| !held.is_zero())?;
    let is_recent = |heard: Instant| now.saturating_duration_since(heard) < RECENT;
    (!status.heard.is_some_and(is_recent)).then(|| {
        format!(
            "nobody is heard, and it is left to other gateways for {} s more, since it was lost here; `xblade failover take {}` ends that",
            left.as_secs().max(1),
            status.config.name
        )
    })
}

/// Says whether the move of a group has begun.
fn told(begun: Result<(), String>, group: &str, answer: ControlAnswer) {
    match begun {
        Ok(()) => answer.result(json!({ "group": group })),
        Err(reason) => answer.error(reason),
    }
}
