//! Machines' disks in the operator's words.

use std::sync::Arc;
use std::time::SystemTime;

use aoe_common::Mac;

use super::content::Content;
use super::naming::DiskName;
use super::{Disk, Disks, Instance};
use crate::config::Overlay;
use crate::store::{Health, OverlayTotals, OverlayUsage};

/// A disk, for the operator.
#[derive(Debug, Clone)]
pub(in crate::control) struct DiskState {
    pub(crate) name: DiskName,
    pub(crate) macs: Vec<Mac>,
    /// Those of them that the configuration gives to other machines.
    pub(crate) kept_by: Vec<Mac>,
    /// When it began.
    pub(crate) since: SystemTime,
    pub(crate) usage: OverlayUsage,
    /// What its machine does; `None`: it has no copy that is open.
    pub(crate) totals: Option<OverlayTotals>,
    /// The copy stays when its machine boots.
    pub(crate) pinned: bool,
    /// Which kind; none: it is the image itself.
    pub(crate) kind: Overlay,
    /// Its image was replaced; it gets the new one when it begins anew.
    pub(crate) old_image: bool,
    pub(crate) in_flight: usize,
    /// Why it is not served.
    pub(crate) problem: Option<String>,
    /// That is because it ended with the host.
    pub(crate) ended: bool,
}

/// What is wrong with what a machine is served.
fn problem(content: &Content) -> Option<String> {
    match content.health() {
        Health::Healthy => None,
        Health::LostWrites(lost) => {
            let until = match content.writes_image() {
                true => "accepted (`xblade state clear`, --lost-writes)",
                false if content.is_unknown() => "it is reset (`xblade overlay reset`)",
                false => "it is reset, or the loss accepted (`xblade state clear`, --lost-writes)",
            };
            let what = if lost.stopped {
                "no writes are taken"
            } else {
                "flushes fail"
            };
            Some(format!("{lost}; {what} until {until}"))
        }
        Health::Silent(why) | Health::Degraded(why) => Some(why),
    }
}

impl Disks {
    /// All disks, by name. Looks at files, which may block.
    pub(in crate::control) fn states(&self) -> Vec<DiskState> {
        let seen: Vec<_> = {
            let disks = self.shared.disks.lock();
            let state = |(name, disk): (&DiskName, &Disk)| {
                let state = DiskState {
                    name: name.clone(),
                    macs: Vec::new(),
                    kept_by: Vec::new(),
                    since: disk.since,
                    usage: OverlayUsage::default(),
                    totals: None,
                    pinned: disk.kept.pinned,
                    kind: disk.kept.kind,
                    old_image: false,
                    in_flight: 0,
                    problem: disk.problem.clone(),
                    ended: disk.ended,
                };
                (state, disk.instance.clone())
            };
            disks.iter().map(state).collect()
        };
        let complete = |(mut state, instance): (DiskState, Option<Arc<Instance>>)| {
            // Workers need the table: nothing is waited for or looked at while it is held.
            {
                let table = self.shared.table.read();
                state.macs = table.macs_of(&state.name);
                state.kept_by = table.kept_by(&state.name);
            }
            if let Some(instance) = instance {
                let content = &instance.content;
                state.usage = content.usage();
                state.kind = content.kind();
                state.totals = content.totals();
                state.pinned = content.is_pinned();
                state.problem = problem(content).or(state.problem);
                state.old_image = content.is_old();
                state.in_flight = instance.export.in_flight();
            }
            state
        };
        seen.into_iter().map(complete).collect()
    }
}
