//! The programs of failover groups, which take and give back storage that has no lock of Ceph's: one order at a time for a group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use failover::GroupState as Role;

use super::super::{ExportId, Level, Plan, PlanAction};
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

/// One run of a program. Its end is told by the number: a group may be another one of the same name by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) struct LockRun {
    pub(crate) number: u64,
    pub(crate) order: LockOrder,
}

/// A group that is not configured any more, or not with this program, and has storage to give back or may get it yet.
#[derive(Debug)]
pub(in super::super) struct Retired {
    pub(super) config: Arc<FailoverGroup>,
    /// What is on that storage.
    pub(super) openings: Vec<ExportId>,
    pub(super) has_storage: bool,
    /// Its program is still running.
    pub(super) running: Option<LockRun>,
}

impl Retired {
    /// Whether it may have what a group is to take. Between images in Ceph their locks decide.
    fn stands_before(&self, config: &FailoverGroup) -> bool {
        match (&self.config.command, &config.command) {
            (None, None) => false,
            (before, now) => before == now || self.config.name == config.name,
        }
    }
}

impl Plan {
    /// What the program of a group took that is not configured any more is given back when all of it is closed, and the program has
    /// ended: it may have been taking it.
    pub(super) fn release_retired(&mut self) {
        for mut retired in std::mem::take(&mut self.retired) {
            let is_open = |id: &ExportId| self.exports.contains_key(id) || self.leaving.contains_key(id);
            let in_use = retired.running.is_some() || retired.openings.iter().any(is_open);
            if !in_use && std::mem::take(&mut retired.has_storage) && retired.config.command.is_some() {
                retired.running = Some(self.start_lock(&retired.config, LockOrder::Release));
            } else if !in_use {
                continue;
            }
            self.retired.push(retired);
        }
    }

    /// Begins to take the storage of a group that is to be taken, once nobody of before is in the way.
    pub(super) fn take_storage(&mut self, name: &str, now: Instant) {
        let retired = &self.retired;
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        group.is_due &= *group.machine.state() == Role::Taking;
        if !group.is_due || retired.iter().any(|retired| retired.stands_before(&group.config)) {
            return;
        }
        group.is_due = false;
        group.has_storage = group.config.command.is_none();
        match group.has_storage {
            true => self.open_members(name, now),
            false => self.run_lock(name, LockOrder::Take),
        }
    }

    /// What came of running the program of a group.
    pub(crate) fn lock_ended(&mut self, run: LockRun, result: &Result<(), String>, now: Instant) {
        let us = self.us(now);
        if let Some(retired) = self
            .retired
            .iter_mut()
            .find(|retired| retired.running == Some(run))
        {
            retired.running = None;
            retired.has_storage |= run.order == LockOrder::Take && result.is_ok();
            let name = retired.config.name.clone();
            return self.tell_release(&name, run, result);
        }
        let Some((name, group)) = self
            .groups
            .iter_mut()
            .find(|(_, group)| group.running == Some(run))
        else {
            return;
        };
        let name = name.clone();
        group.running = None;
        match (run.order, result) {
            (LockOrder::Take, Ok(())) => {
                group.has_storage = true;
                // It may have been given up meanwhile: then it is given back.
                if *group.machine.state() == Role::Taking {
                    group.check = Some(now + CHECK_EVERY);
                    self.open_members(&name, now);
                }
            }
            (LockOrder::Take, Err(reason)) => group.machine.refused(reason.clone(), us),
            (LockOrder::Check, Ok(())) => group.check = Some(now + CHECK_EVERY),
            (LockOrder::Check, Err(reason)) => group.machine.fenced(reason.clone(), us),
            (LockOrder::Release, _) => group.machine.left(us),
        }
        self.tell_release(&name, run, result);
    }

    fn tell_release(&mut self, name: &str, run: LockRun, result: &Result<(), String>) {
        if let (LockOrder::Release, Err(reason)) = (run.order, result) {
            self.say(Level::Error, format!("failover group {name}: {reason}"));
        }
    }

    /// For the end of the process: the groups whose programs have something to give back.
    pub(crate) fn storage_to_release(&self) -> Vec<Arc<FailoverGroup>> {
        let groups = self
            .groups
            .values()
            .map(|group| (&group.config, group.has_storage, group.running));
        let retired = self.retired.iter();
        let retired = retired.map(|retired| (&retired.config, retired.has_storage, retired.running));
        groups
            .chain(retired)
            .filter(|(config, has_storage, running)| {
                *has_storage && running.is_none() && config.command.is_some()
            })
            .map(|(config, ..)| Arc::clone(config))
            .collect()
    }

    /// The groups whose programs are running.
    pub(crate) fn locks_under_way(&self) -> Vec<String> {
        let groups = self.groups.values().map(|group| (&group.config, group.running));
        let retired = self
            .retired
            .iter()
            .map(|retired| (&retired.config, retired.running));
        groups
            .chain(retired)
            .filter_map(|(config, running)| running.map(|_| config.name.clone()))
            .collect()
    }

    pub(super) fn run_lock(&mut self, name: &str, order: LockOrder) {
        let config = self.groups.get(name).map(|group| Arc::clone(&group.config));
        let run = config.map(|config| self.start_lock(&config, order));
        if let Some(group) = self.groups.get_mut(name) {
            group.running = run;
        }
    }

    fn start_lock(&mut self, config: &Arc<FailoverGroup>, order: LockOrder) -> LockRun {
        let run = LockRun {
            number: self.next_id(),
            order,
        };
        self.actions.push(PlanAction::RunLock(run, Arc::clone(config)));
        run
    }

    pub(super) fn check_storage(&mut self, name: &str, now: Instant) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let is_due = group.config.command.is_some()
            && group.running.is_none()
            && group.machine.may_hold_locks()
            && group.check.is_some_and(|check| now >= check);
        if is_due {
            group.check = None;
            self.run_lock(name, LockOrder::Check);
        }
    }
}
