//! The programs of failover groups, which take and give back storage that has no lock of Ceph's: one order at a time for a group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use failover::State as Role;

use super::super::{Action, ExportId, Level, Plan};
use crate::config::FailoverGroup;

/// How often the program of a group is asked whether the storage is still this gateway's.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What the program of a group is run for: its last argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum LockOrder {
    /// Take the storage, or fail.
    Take,
    /// Give it back; nothing uses it any more.
    Release,
    /// Fail where it is not this gateway's any more.
    Check,
}

/// A group that is not configured any more, whose program has storage to give back.
#[derive(Debug)]
pub(in super::super) struct Retired {
    pub(super) config: Arc<FailoverGroup>,
    /// What is on that storage.
    pub(super) openings: Vec<ExportId>,
}

impl Plan {
    /// What the program of a group took that is not configured any more is given back when all of it is closed.
    pub(super) fn release_retired(&mut self) {
        let (exports, leaving) = (&self.exports, &self.leaving);
        let is_open = |id: &ExportId| exports.contains_key(id) || leaving.contains_key(id);
        let (open, closed) = std::mem::take(&mut self.retired)
            .into_iter()
            .partition(|retired| retired.openings.iter().any(is_open));
        self.retired = open;
        for Retired { config, .. } in closed {
            self.actions
                .push(Action::RunLock(config.name.clone(), config, LockOrder::Release));
        }
    }

    /// What came of running the program of a group.
    pub(crate) fn lock_ended(
        &mut self,
        name: &str,
        order: LockOrder,
        result: Result<(), String>,
        now: Instant,
    ) {
        let us = self.us(now);
        if let (LockOrder::Release, Err(reason)) = (order, &result) {
            self.say(Level::Error, format!("failover group {name}: {reason}"));
        }
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        match (order, result) {
            (LockOrder::Take, result) => {
                group.is_moving = false;
                group.has_storage = result.is_ok();
                match result {
                    // It may have been given up meanwhile: then it is given back.
                    Ok(()) if *group.machine.state() == Role::Taking => {
                        group.check = Some(now + CHECK_EVERY);
                        self.open_members(name, now);
                    }
                    Ok(()) => {}
                    Err(reason) => group.machine.refused(reason, us),
                }
            }
            (LockOrder::Check, Ok(())) => group.check = Some(now + CHECK_EVERY),
            (LockOrder::Check, Err(reason)) => group.machine.fenced(reason, us),
            (LockOrder::Release, _) => {
                group.is_moving = false;
                group.machine.left(us);
            }
        }
    }

    /// For the end of the process: the groups whose programs have something to give back.
    pub(crate) fn storage_to_release(&self) -> Vec<Arc<FailoverGroup>> {
        let held = self
            .groups
            .values()
            .filter(|group| (group.has_storage || group.is_moving) && group.config.command.is_some());
        let held = held.map(|group| Arc::clone(&group.config));
        let retired = self.retired.iter().map(|retired| Arc::clone(&retired.config));
        held.chain(retired).collect()
    }

    pub(super) fn run_lock(&mut self, name: &str, order: LockOrder) {
        if let Some(group) = self.groups.get(name) {
            let config = Arc::clone(&group.config);
            self.actions.push(Action::RunLock(name.to_owned(), config, order));
        }
    }

    pub(super) fn check_storage(&mut self, name: &str, now: Instant) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let is_due = group.config.command.is_some()
            && group.machine.may_hold_locks()
            && group.check.is_some_and(|check| now >= check);
        if is_due {
            group.check = None;
            self.run_lock(name, LockOrder::Check);
        }
    }
}
