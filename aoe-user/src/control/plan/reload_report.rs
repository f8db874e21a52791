//! What a reload changed, said in one line once it has all happened.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::ports::PlannedPort;
use super::{ExportId, Level, Plan, PlanAction, address_of};
use crate::target::Address;

/// After this time it is said what has happened so far.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Exports named in each part of the line.
const NAMED: usize = 20;

/// A reload whose consequences are under way.
#[derive(Debug)]
pub(super) struct ReloadReport {
    since: Instant,
    /// The first configuration of this process: nothing was reloaded.
    is_first: bool,
    /// Workers have other CPUs than before.
    pub(crate) cpus_changed: bool,
    pub(crate) added: Vec<Address>,
    pub(crate) changed: Vec<Address>,
    pub(crate) removed: Vec<Address>,
    /// Their files were replaced.
    pub(crate) renewed: Vec<Address>,
    /// Exports that are being opened because of it.
    pub(crate) coming: HashSet<ExportId>,
    /// Exports whose paths are being looked at.
    pub(crate) examining: usize,
}

impl ReloadReport {
    pub(super) fn new(now: Instant, is_first: bool) -> ReloadReport {
        ReloadReport {
            since: now,
            is_first,
            cpus_changed: false,
            added: Vec::new(),
            changed: Vec::new(),
            removed: Vec::new(),
            renewed: Vec::new(),
            coming: HashSet::new(),
            examining: 0,
        }
    }

    pub(super) fn next_time(&self) -> Instant {
        self.since + TIMEOUT
    }

    fn line(&self, exports: usize, failed: &[Address], coming: &[Address]) -> String {
        let mut line = format!("the configuration was reloaded: {exports} exports; ");
        let parts = [
            ("added", &self.added[..]),
            ("changed", &self.changed),
            ("removed", &self.removed),
            ("renewed", &self.renewed),
            ("failed", failed),
            ("still opening", coming),
        ];
        let mut separator = "";
        if self.cpus_changed {
            line.push_str("cpus changed");
            separator = ", ";
        }
        for (what, addresses) in parts.into_iter().filter(|(_, addresses)| !addresses.is_empty()) {
            let _ = write!(line, "{separator}{what} {}", named(addresses));
            separator = ", ";
        }
        if separator.is_empty() {
            line.push_str("nothing changed");
        }
        line
    }
}

/// `3 (1.1, 1.2, 1.3)`, shortened where there are many.
fn named(addresses: &[Address]) -> String {
    let names: Vec<String> = addresses.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if addresses.len() > NAMED { ", …" } else { "" };
    format!("{} ({}{more})", addresses.len(), names.join(", "))
}

impl Plan {
    /// Says what the reload did once it is done.
    pub(super) fn step_reload(&mut self, now: Instant) {
        let Some(reload) = &self.reload else { return };
        let ours = |id: &ExportId| self.exports.get(id).filter(|entry| self.may_open(entry));
        let coming = |id: &&ExportId| ours(id).is_some_and(|entry| !entry.is_settled());
        let is_done = reload.examining == 0
            && !(self.ports_dirty || self.ports_stale)
            && !reload.coming.iter().any(|id| coming(&id))
            && self.ports.values().all(PlannedPort::is_settled)
            && self.leaving.is_empty();
        if !is_done && now < reload.next_time() {
            return;
        }
        let addresses = |ids: &mut dyn Iterator<Item = &ExportId>| -> Vec<Address> {
            ids.filter_map(|id| self.exports.get(id))
                .map(|entry| address_of(&entry.config))
                .collect()
        };
        let failed = |id: &&ExportId| ours(id).and_then(|entry| entry.backoff()).is_some();
        let failed = addresses(&mut self.order.iter().filter(failed));
        let coming = addresses(&mut self.order.iter().filter(coming));
        let line = if !reload.is_first {
            Some((Level::Info, reload.line(self.order.len(), &failed, &coming)))
        } else if failed.is_empty() && coming.is_empty() {
            None
        } else {
            let bad = [failed, coming].concat();
            let line = format!(
                "{} of {} exports cannot be served yet: {}",
                bad.len(),
                self.order.len(),
                named(&bad)
            );
            Some((Level::Warn, line))
        };
        self.actions
            .extend(line.map(|(level, line)| PlanAction::Say(level, line)));
        self.reload = None;
    }
}
