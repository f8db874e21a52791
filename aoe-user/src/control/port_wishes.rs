//! What control wishes of a port's thread, in slots that hold the newest only, and what the thread tells of the port.

use std::collections::HashSet;

use aoe_common::Mac;
use parking_lot::{Condvar, Mutex};

use super::denied::DeniedSource;
use super::other_targets::OtherTarget;
use super::plan::ExportId;
use super::port_view::PortView;
use crate::port::{Drain, QueueRelease};

/// What control and the thread of a port both see.
#[derive(Debug, Default)]
pub(super) struct PortShared {
    pub(crate) wishes: Mutex<PortWishes>,
    pub(crate) wake: Condvar,
    /// Frees the queues of workers that hang.
    pub(crate) queues: Mutex<Vec<QueueRelease>>,
    pub(crate) about: Mutex<Option<About>>,
    pub(crate) denied: Mutex<Vec<DeniedSource>>,
}

/// What an open port is, for the operator.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(crate) mode: String,
    pub(crate) mac: Mac,
    pub(crate) mtu_bytes: u32,
    /// What is wrong with it although it is open.
    pub(crate) fault: Option<String>,
}

/// What control wants and the thread has not done yet.
#[derive(Debug, Default)]
pub(super) struct PortWishes {
    pub(crate) view: Option<PortView>,
    pub(crate) mac: Option<Mac>,
    /// Masks changed: the rules are made anew.
    pub(crate) masks: bool,
    pub(crate) announce_all: bool,
    pub(crate) announce: HashSet<ExportId>,
    pub(crate) counters: bool,
    /// Other targets that an export is to be left to.
    pub(crate) lost: Vec<OtherTarget>,
    /// A worker has panicked.
    pub(crate) lost_worker: bool,
    /// The interface may have lost its queues or the program.
    pub(crate) check: bool,
    pub(crate) close: Option<Drain>,
}

impl PortWishes {
    /// Whether an export is to be served no more when what is being done is done.
    pub(super) fn gives_up(&self, id: ExportId) -> bool {
        let is_gone = |view: &PortView| view.exports.iter().all(|served| served.id != id);
        self.close.is_some() || self.view.as_ref().is_some_and(is_gone)
    }

    /// Nothing is wished.
    pub(super) fn is_empty(&self) -> bool {
        self.view.is_none()
            && self.mac.is_none()
            && self.announce.is_empty()
            && self.lost.is_empty()
            && self.close.is_none()
            && !(self.masks || self.announce_all || self.counters || self.lost_worker || self.check)
    }
}

impl PortShared {
    /// Wishes something, and wakes the thread.
    pub(super) fn wish(&self, change: impl FnOnce(&mut PortWishes)) {
        change(&mut self.wishes.lock());
        self.wake.notify_one();
    }
}
