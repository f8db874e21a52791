//! The exports' part of the plan: stores that open, fail, are renewed and close.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::super::backoff::Backoff;
use super::reload_report::ReloadReport;
use super::{ExportId, HANDOVER, Level, OpenRefusal, Plan, PlanAction, address_of};
use crate::config::ExportConfig;
use crate::config::interfaces::Patterns;
use crate::target::Address;

/// An export that is wanted.
#[derive(Debug)]
pub(super) struct ExportEntry {
    pub(crate) config: Arc<ExportConfig>,
    /// Changes with the configuration.
    pub(crate) revision: u64,
    /// Shared by exports with the same list.
    pub(crate) patterns: Arc<Patterns>,
    /// What has to close first: it has the same address or file.
    after: Vec<ExportId>,
    pub(crate) life: ExportLife,
}

/// How far an export's store is.
#[derive(Debug)]
pub(super) enum ExportLife {
    /// For the state directory or for a predecessor, since then.
    Waiting(Instant),
    Opening(Instant, Option<Backoff>),
    Open,
    Failed(Backoff),
}

/// An export that is not wanted any more and not closed yet.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(crate) address: Address,
    path: PathBuf,
    since: Instant,
    /// The failover group that it is in, or was.
    pub(crate) group: Option<String>,
    /// The end of its opening has not been reported: it is closed then.
    opening: bool,
}

impl ExportEntry {
    pub(super) fn backoff(&self) -> Option<&Backoff> {
        match &self.life {
            ExportLife::Failed(backoff) => Some(backoff),
            _ => None,
        }
    }

    pub(super) fn backoff_mut(&mut self) -> Option<&mut Backoff> {
        match &mut self.life {
            ExportLife::Failed(backoff) => Some(backoff),
            _ => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.life, ExportLife::Open)
    }

    pub(super) fn is_settled(&self) -> bool {
        matches!(self.life, ExportLife::Open | ExportLife::Failed(_))
    }

    /// Since when it is on its way to be open.
    pub(super) fn coming_since(&self) -> Option<Instant> {
        match &self.life {
            ExportLife::Waiting(since) | ExportLife::Opening(since, _) => Some(*since),
            _ => None,
        }
    }

    pub(super) fn next_time(&self, plan: &Plan) -> Option<Instant> {
        match &self.life {
            ExportLife::Failed(backoff) => Some(backoff.next_try),
            ExportLife::Waiting(_) => {
                let leaving = self.after.iter().filter_map(|id| plan.leaving.get(id));
                leaving.map(|leaving| leaving.since + HANDOVER).min()
            }
            _ => None,
        }
    }
}
impl Plan {
    pub(super) fn add(
        &mut self,
        config: ExportConfig,
        patterns: Arc<Patterns>,
        report: &mut ReloadReport,
        now: Instant,
    ) -> ExportId {
        let id = ExportId(self.next_id());
        report.coming.insert(id);
        self.exports.insert(
            id,
            ExportEntry {
                config: Arc::new(config),
                revision: id.0,
                patterns,
                after: Vec::new(),
                life: ExportLife::Waiting(now),
            },
        );
        self.order.push(id);
        id
    }

    /// Has an export closed that is not wanted as it is.
    pub(super) fn leave(&mut self, id: ExportId, now: Instant) {
        let Some(entry) = self.exports.remove(&id) else {
            return;
        };
        self.ports_dirty = true;
        let opening = matches!(entry.life, ExportLife::Opening(..));
        if !opening && !entry.is_open() {
            return;
        }
        let leaving = Leaving {
            address: address_of(&entry.config),
            path: entry.config.path.clone(),
            since: now,
            group: entry.config.failover.as_ref().map(|group| group.name.clone()),
            opening,
        };
        self.leaving.insert(id, leaving);
        if !opening {
            self.actions.push(PlanAction::CloseExport(id));
        }
    }

    /// Has an open export closed and puts another opening of it in its place.
    pub(super) fn renew(
        &mut self,
        id: ExportId,
        report: &mut ReloadReport,
        now: Instant,
    ) -> Option<ExportId> {
        let at = self.order.iter().position(|other| *other == id)?;
        let entry = self.exports.get(&id)?;
        let (config, patterns) = ((*entry.config).clone(), Arc::clone(&entry.patterns));
        self.leave(id, now);
        let new = self.add(config, patterns, report, now);
        // Its place in the order stays.
        self.order.pop();
        self.order[at] = new;
        Some(new)
    }

    /// Another client has the store of an open export, which has been silent since: it has failed, and is opened anew in its time. What
    /// has its address on the network meanwhile is asked for first.
    pub(crate) fn fenced(&mut self, id: ExportId, reason: String, now: Instant) {
        if self.group_fenced(id, &reason, now) || !self.exports.get(&id).is_some_and(ExportEntry::is_open) {
            return;
        }
        let Some(new) = self.renew(id, &mut ReloadReport::new(now, false), now) else {
            return;
        };
        let (backoff, _) = Backoff::after(None, reason, now);
        let Some(entry) = self.exports.get_mut(&new) else {
            return;
        };
        let line = format!(
            "{} of {}: FENCED, silent until it is open again: {}",
            address_of(&entry.config),
            entry.config.path.display(),
            backoff.reason
        );
        entry.life = ExportLife::Failed(backoff);
        self.say(Level::Error, line);
    }

    pub(super) fn step_exports(&mut self, now: Instant) {
        if !self.has_state() {
            return;
        }
        let stands_by = |id: &&ExportId| self.exports.get(id).is_some_and(|entry| self.stands_by(entry));
        let standing_by: HashSet<ExportId> = self.order.iter().filter(stands_by).copied().collect();
        let leaving = &self.leaving;
        for id in self.order.iter().filter(|id| !standing_by.contains(id)) {
            let Some(entry) = self.exports.get_mut(id) else {
                continue;
            };
            let before = match &entry.life {
                ExportLife::Waiting(_) => {
                    if entry.after.is_empty() {
                        // Only what was leaving already can be a predecessor, and all of it is known by now.
                        entry.after = predecessors(leaving, &entry.config);
                    }
                    entry.after.retain(|id| {
                        leaving
                            .get(id)
                            .is_some_and(|leaving| now < leaving.since + HANDOVER)
                    });
                    if !entry.after.is_empty() {
                        continue;
                    }
                    None
                }
                ExportLife::Failed(backoff) if backoff.is_due(now) => Some(backoff.clone()),
                _ => continue,
            };
            entry.life = ExportLife::Opening(now, before);
            self.actions.push(PlanAction::OpenExport(*id));
            self.ports_stale = true;
        }
    }

    /// A store is open. False when nobody wants it any more: it is being closed again.
    pub(crate) fn export_opened(&mut self, id: ExportId, revision: u64) -> bool {
        self.ports_stale = true;
        if let Some(leaving) = self.leaving.get_mut(&id) {
            leaving.opening = false;
            self.actions.push(PlanAction::CloseExport(id));
            return false;
        }
        let Some(entry) = self.exports.get_mut(&id) else {
            return false;
        };
        if let ExportLife::Opening(_, Some(before)) = &entry.life {
            let line = format!(
                "{}: open now, after {} failed tries",
                address_of(&entry.config),
                before.tries
            );
            self.actions.push(PlanAction::Say(Level::Info, line));
        }
        entry.life = ExportLife::Open;
        if entry.revision != revision {
            self.actions.push(PlanAction::Reconfigure(id));
        }
        self.note_opened(id);
        true
    }

    /// A store could not be opened.
    pub(crate) fn export_failed(&mut self, id: ExportId, refusal: impl Into<OpenRefusal>, now: Instant) {
        let refusal = refusal.into();
        self.note_obstacle(id, &refusal, now);
        let reason = refusal.reason;
        self.ports_stale = true;
        self.leaving.remove(&id);
        let again = self.again();
        let Some(entry) = self.exports.get_mut(&id) else {
            return;
        };
        let before = match std::mem::replace(&mut entry.life, ExportLife::Waiting(now)) {
            ExportLife::Opening(_, before) => before,
            _ => None,
        };
        let (backoff, log) = Backoff::after(before, reason, now);
        let line = format!("{} FAILED{again}: {}", address_of(&entry.config), backoff.reason);
        entry.life = ExportLife::Failed(backoff);
        if log {
            self.say(Level::Error, line);
        }
        self.forget_claims(id);
    }

    /// The store of an export that was not wanted any more is closed.
    pub(crate) fn export_closed(&mut self, id: ExportId, now: Instant) {
        let Some(closed) = self.leaving.remove(&id) else {
            return;
        };
        if now < closed.since + HANDOVER {
            return;
        }
        // It took long: whoever did not wait for it failed on it.
        for entry in self.exports.values_mut() {
            let stood_before = closed.stands_before(&entry.config);
            if let Some(backoff) = entry.backoff_mut().filter(|_| stood_before) {
                backoff.next_try = now;
            }
        }
    }
}

impl Leaving {
    /// It has what the other export needs.
    fn stands_before(&self, config: &ExportConfig) -> bool {
        self.address == address_of(config) || self.path == config.path
    }
}

fn predecessors(leaving: &BTreeMap<ExportId, Leaving>, config: &ExportConfig) -> Vec<ExportId> {
    let stand_before = leaving
        .iter()
        .filter(|(_, leaving)| leaving.stands_before(config));
    stand_before.map(|(id, _)| *id).collect()
}
