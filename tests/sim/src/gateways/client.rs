//! A gateway's client of the cluster: whether the image is still its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use engine::{Completion, CompletionHandle as _};
use parking_lot::Mutex;

use super::answer::{Answer, ClientId};
use crate::bus::{Bus, Control, Event, Handle, WorkerId};
use crate::mutants::Mutant;

/// A gateway that has heard nothing of Ceph for so long answers nobody.
pub(super) const LEASE_US: u64 = 1_000_000;

/// A machine's clock. It may stand still.
#[derive(Debug)]
pub(super) struct Clock {
    bus: Bus,
    behind_us: AtomicU64,
}

impl Clock {
    /// A clock that goes right.
    pub(super) fn new(bus: &Bus) -> Clock {
        Clock {
            bus: bus.clone(),
            behind_us: AtomicU64::new(0),
        }
    }

    /// What it shows.
    pub(super) fn now_us(&self) -> u64 {
        self.bus.now_us() - self.behind_us.load(Ordering::Relaxed)
    }

    /// It stood still for so long.
    pub(super) fn stood(&self, us: u64) {
        self.behind_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// One instance of a client.
#[derive(Debug)]
pub(super) struct Client {
    /// Its number.
    pub id: ClientId,
    /// Whose it is.
    pub gateway: u8,
    /// Of which life of the gateway's process.
    pub life: u32,
    clock: Arc<Clock>,
    bus: Bus,
    mutant: Option<Mutant>,
    /// Its map.
    epoch: AtomicU64,
    shut_out: AtomicBool,
    silenced: AtomicBool,
    heard_us: AtomicU64,
    /// The worker that is to hear that the protocol state is saved, and one.
    saved: AtomicU32,
    /// As it was seen last (the design of a mutant).
    lapsed: AtomicBool,
    /// Ends of operations that came while nobody may be answered.
    withheld: Mutex<Vec<(Handle, Completion)>>,
}

impl Client {
    /// A new instance.
    pub(super) fn new(id: ClientId, (gateway, life): (u8, u32), clock: &Arc<Clock>, bus: &Bus) -> Client {
        Client {
            id,
            gateway,
            life,
            clock: Arc::clone(clock),
            bus: bus.clone(),
            mutant: None,
            epoch: AtomicU64::new(0),
            shut_out: AtomicBool::new(false),
            silenced: AtomicBool::new(false),
            heard_us: AtomicU64::new(clock.now_us()),
            saved: AtomicU32::new(0),
            lapsed: AtomicBool::new(false),
            withheld: Mutex::default(),
        }
    }

    /// With a planted defect.
    #[must_use]
    pub(super) fn with(mut self, mutant: Option<Mutant>) -> Client {
        self.mutant = mutant;
        self
    }

    /// The epoch of its map.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// It has this map, or a later one.
    pub(super) fn learn(&self, epoch: u64) {
        self.epoch.fetch_max(epoch, Ordering::Relaxed);
    }

    /// The time of its gateway.
    pub(super) fn now_us(&self) -> u64 {
        self.clock.now_us()
    }

    /// The cluster has answered what was asked at this time. An answer says that the image was the client's then: it may have waited
    /// for a process that was stopped.
    pub(super) fn answered(&self, answer: &Answer, asked_us: u64) {
        if *answer == Answer::ShutOut {
            return self.fence("Ceph has shut this client out");
        }
        let heard_us = match self.mutant {
            Some(Mutant::LeaseFromAnswer) => self.now_us(),
            _ => asked_us,
        };
        self.heard_us.fetch_max(heard_us, Ordering::Relaxed);
        if !self.has_lapsed() {
            self.let_go();
        }
    }

    /// Tells the end of an operation, when it may be answered.
    pub(super) fn deliver(&self, handle: &Handle, completion: Completion) {
        let is_over = self.is_shut_out() || self.silenced.load(Ordering::Relaxed);
        if self.is_silent() && !is_over {
            return self.withheld.lock().push((handle.clone(), completion));
        }
        handle.post(completion);
    }

    fn let_go(&self) {
        let withheld = std::mem::take(&mut *self.withheld.lock());
        withheld
            .into_iter()
            .for_each(|(handle, completion)| handle.post(completion));
    }

    /// The image is somebody else's.
    pub(super) fn fence(&self, reason: &'static str) {
        if !self.shut_out.swap(true, Ordering::Relaxed) {
            self.let_go();
            let told = Event::Gateway(
                self.gateway,
                self.life,
                Box::new(Control::Fenced(self.id, reason)),
            );
            self.bus.after(1000, told);
        }
    }

    /// Looks whether nothing was heard for too long (the design of a mutant).
    pub(super) fn look_at_lease(&self) {
        self.lapsed.store(self.has_lapsed(), Ordering::Relaxed);
    }

    /// Nobody is answered from now on.
    pub(super) fn silence(&self) {
        self.silenced.store(true, Ordering::Relaxed);
        self.let_go();
    }

    /// A worker is told that the protocol state is saved.
    pub(super) fn saved(&self, worker: WorkerId) {
        self.saved.store(worker + 1, Ordering::Relaxed);
    }

    /// Whether this worker has been told so since the last call.
    pub(super) fn hears_of_save(&self, worker: WorkerId) -> bool {
        let own = worker + 1;
        let taken = self
            .saved
            .compare_exchange(own, 0, Ordering::Relaxed, Ordering::Relaxed);
        taken.is_ok()
    }

    /// Whether the image is somebody else's.
    pub(super) fn is_shut_out(&self) -> bool {
        self.shut_out.load(Ordering::Relaxed)
    }

    /// Whether nothing was heard of Ceph for too long.
    pub(super) fn has_lapsed(&self) -> bool {
        self.clock.now_us() - self.heard_us.load(Ordering::Relaxed) > LEASE_US
    }

    /// Whether nobody may be answered.
    pub(super) fn is_silent(&self) -> bool {
        let fenced = self.mutant != Some(Mutant::AnswersWhileFenced) && self.is_shut_out();
        let lapsed = match self.mutant {
            Some(Mutant::NoLease) => false,
            Some(Mutant::LeaseNowAndThen) => self.lapsed.load(Ordering::Relaxed),
            _ => self.has_lapsed(),
        };
        fenced || lapsed || self.silenced.load(Ordering::Relaxed)
    }
}
