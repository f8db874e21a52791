//! The target's process: workers, exports, and how it starts and ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use aoe_common::{Address, Mac, Vlan};
use arrayvec::ArrayVec;
use engine::{
    AccessList, Change, Export, Exports, Fault, Identity, Observer, Options, Persistent, PortInfo, Remains,
    Session, StateStore, Store, WireAdmin,
};

use crate::bus::{Bus, CompletionQueue, WorkerId};
use crate::frame::Frame;
use crate::link::{Chunked, SimLink};
use crate::oracle::Tick;
use crate::oracle::{SHELF, STALE_AFTER_US};
use crate::plan::{ExportPlan, PortPlan};
use crate::state::SimState;

/// Frames of a round.
const BATCH: usize = 32;

/// Why a worker takes no more part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It serves.
    Serving,
    /// It serves until nothing is under way or this time has come.
    Draining(u64),
    /// It waits for its transfers, then it is gone.
    Closing,
}

/// A frame in a receive ring.
#[derive(Debug)]
struct InRing {
    tick: Option<Tick>,
    frame: Frame,
    arrived_us: u64,
}

/// One receive queue of one port.
#[derive(Debug)]
pub struct Worker {
    /// Its port.
    pub port: u8,
    /// Its queue.
    pub queue: u8,
    session: Session<SimLink, CompletionQueue>,
    link: SimLink,
    ring: VecDeque<InRing>,
    /// It is going to run.
    pub scheduled: bool,
    /// It does not run before.
    pub stalled_until: u64,
    /// Whether it ends.
    pub stage: Stage,
    due_us: Option<u64>,
}

impl Worker {
    /// Takes a frame into the ring; false: there is no memory for it.
    pub fn take(&mut self, tick: Option<Tick>, frame: Frame, arrived_us: u64) -> bool {
        self.ring.push_back(InRing {
            tick,
            frame,
            arrived_us,
        });
        true
    }

    /// Room for one more frame.
    pub fn has_room(&self) -> bool {
        self.stage != Stage::Closing && self.ring.len() + self.link.out < self.link.pool
    }

    /// Whether a request still lies in the ring.
    pub fn has_in_ring(&self, tick: Tick) -> bool {
        self.ring.iter().any(|other| other.tick == Some(tick))
    }

    /// Frames that wait in the ring.
    pub fn waiting(&self) -> usize {
        self.ring.len()
    }

    /// Requests that wait for something.
    pub fn pending(&self) -> usize {
        self.session.pending()
    }

    /// One round: completions, then what the ring holds. True: there is more.
    pub fn round(&mut self, port: &PortInfo, now_us: u64) -> bool {
        self.session.completions(&mut self.link, now_us);
        let mut batch: ArrayVec<Chunked, BATCH> = ArrayVec::new();
        while !batch.is_full()
            && let Some(InRing {
                frame, arrived_us, ..
            }) = self.ring.pop_front()
        {
            batch.push(self.link.receive(frame.bytes, arrived_us));
        }
        if !batch.is_empty() {
            self.session.batch(&mut self.link, port, &mut batch, now_us);
        }
        let is_due = match self.due_us {
            Some(due) => due <= now_us,
            None => self.session.has_to_advertise(),
        };
        if is_due {
            self.due_us = self.session.tick(&mut self.link, port, now_us);
        }
        !self.ring.is_empty()
    }

    /// When it wants to advertise.
    pub fn due_us(&self) -> Option<u64> {
        self.due_us
    }

    /// Frames in the engine's hands, and requests that wait: they hold none.
    pub fn frames(&self) -> (usize, usize) {
        (self.link.out, self.session.pending())
    }

    /// Advertises every export.
    pub fn advertise(&mut self, port: &PortInfo, exports: &Exports<CompletionQueue>, now_us: u64) {
        let all: Vec<_> = exports.iter().cloned().collect();
        self.session.advertise(&mut self.link, port, &all, now_us);
        self.due_us = self.session.tick(&mut self.link, port, now_us);
    }

    /// Ends the session; what it leaves of its frames, and with the stores.
    pub fn close(mut self) -> (usize, Remains<CompletionQueue>) {
        let remains = self.session.close(&mut self.link);
        (self.link.out, remains)
    }
}

/// Nobody listens: the oracles see the wire.
#[derive(Debug)]
struct Deaf;

impl Observer for Deaf {
    fn changed(&self, _: Address, _: Change) {}
    fn fault(&self, _: Address, _: &Fault) {}
}

/// A process.
#[derive(Debug)]
pub struct Process {
    bus: Bus,
    /// What it serves, by slot.
    pub exports: Vec<Arc<Export<CompletionQueue>>>,
    /// The stores behind, by slot.
    pub stores: Vec<Arc<dyn Store<CompletionQueue>>>,
    /// On all ports.
    pub served: Arc<Exports<CompletionQueue>>,
    /// Its workers.
    pub workers: BTreeMap<WorkerId, Worker>,
    /// What workers that have ended left with the stores.
    pub remains: BTreeMap<WorkerId, Remains<CompletionQueue>>,
    /// SIGTERM has come.
    pub terminating: bool,
}

/// The options of an export.
pub fn options(slot: usize, plan: &ExportPlan, access: &BTreeMap<Mac, bool>) -> Options {
    use aoe_common::Access::{ReadOnly, ReadWrite};
    let member = |(mac, writes): (&Mac, &bool)| (*mac, if *writes { ReadWrite } else { ReadOnly });
    Options {
        address: Address {
            shelf: SHELF,
            slot: slot as u8,
        },
        vlan: Vlan::Untagged,
        read_only: false,
        sync: plan.sync,
        access: AccessList::new(access.iter().map(member)),
        buffers: plan.buffers,
        max_sectors: 255,
        firmware_version: 1,
        identity: Identity {
            serial: format!("sim-{slot}"),
            model: "xblade sim".into(),
            firmware: "1".into(),
            wwn: None,
        },
        wire_admin: WireAdmin::All,
        smart: false,
        stale_after_us: STALE_AFTER_US,
        late_duplicates: plan.late_duplicates,
        gateway: None,
    }
}

impl Process {
    /// Starts to serve these stores.
    ///
    /// # Panics
    /// When a state breaks the engine's limits: the state store has it from the engine itself.
    pub fn start(
        bus: &Bus,
        stores: Vec<Arc<dyn Store<CompletionQueue>>>,
        options: Vec<Options>,
        load: impl Fn(Address) -> Persistent,
        keeper: &Arc<dyn StateStore<CompletionQueue>>,
    ) -> Process {
        let exports: Vec<_> = stores
            .iter()
            .zip(options)
            .map(|(store, options)| {
                let (kept, keeper) = (load(options.address), Some(Arc::clone(keeper)));
                let export = Export::new(options, Arc::clone(store), keeper, Arc::new(Deaf), kept);
                Arc::new(export.expect("a state that the engine had saved"))
            })
            .collect();
        let served = Arc::new(Exports::new(exports.clone()));
        Process {
            bus: bus.clone(),
            exports,
            stores,
            served,
            workers: BTreeMap::new(),
            remains: BTreeMap::new(),
            terminating: false,
        }
    }

    /// Starts a worker.
    pub fn start_worker(&mut self, id: WorkerId, port: u8, queue: u8, plan: &PortPlan) {
        let session = Session::new(Arc::clone(&self.served), self.bus.completions(id));
        let link = SimLink::new(id, &self.bus, plan.pool as usize, plan.piece as usize);
        let worker = Worker {
            port,
            queue,
            session,
            link,
            ring: VecDeque::new(),
            scheduled: false,
            stalled_until: 0,
            stage: Stage::Serving,
            due_us: None,
        };
        self.workers.insert(id, worker);
    }

    /// Serves other exports from now on.
    pub fn reconfigure(&mut self, options: Vec<Options>, anew: bool, state: &SimState) {
        let exports: Vec<_> = match anew {
            false => self
                .exports
                .iter()
                .zip(options)
                .map(|(export, options)| Arc::new(export.reconfigured(options)))
                .collect(),
            true => {
                let keeper: Arc<dyn StateStore<CompletionQueue>> = Arc::new(state.clone());
                let load = |address| state.load(address);
                Process::start(&self.bus, self.stores.clone(), options, load, &keeper).exports
            }
        };
        self.exports = exports;
        self.served = Arc::new(Exports::new(self.exports.clone()));
        for worker in self.workers.values_mut() {
            worker.session.set_exports(Arc::clone(&self.served));
        }
    }
}
