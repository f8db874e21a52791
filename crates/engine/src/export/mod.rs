//! One export: what it is, what it stores to, and the state that initiators change.

pub(crate) mod access;
pub(crate) mod exports;
pub(crate) mod limiter;
pub(crate) mod machines;
pub(crate) mod observer;
pub(crate) mod shared;
pub(crate) mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use aoe_common::wire::aoe;
use aoe_common::wire::query::subcommand;
use aoe_common::{Access, Mac, Vlan};

use crate::ata::identify::{Identity, MAX_MULTIPLE};
use crate::export::machines::Machines;
use crate::export::observer::{Change, Observer};
use crate::export::shared::ReadMostly;
use crate::frames::port::PortInfo;
use crate::frames::request::{Command, Request};
use crate::mutants::{self, Mutant};
use crate::order::Order;
use crate::session::completion::Completions;
use crate::store::{Fault, FaultKind, Store};
use crate::{AccessList, Address, Persistent, StateError, StateStore};

/// However many buffers an export advertises: a write of a jumbo frame that waits takes 9 KiB.
const MAX_IN_FLIGHT: usize = 4096;

/// What initiators may change of the protocol state; to read it is always allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireAdmin {
    /// Nothing.
    Nothing,
    /// The config string. Mask and reservation shut others out.
    Strings,
    /// Config string, mask and reservation.
    All,
}

/// What an export is and does, fixed for its life.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shelf and slot.
    pub address: Address,
    /// Frames it answers to.
    pub vlan: Vlan,
    /// Refuses all writes.
    pub read_only: bool,
    /// Acknowledges writes only when they are on the medium.
    pub sync: bool,
    /// Who may use it; empty: everyone that the MAC mask admits. Where it is not empty it decides alone.
    pub access: AccessList,
    /// Buffer count to advertise, at least 2.
    pub buffers: u16,
    /// Most sectors in one command, where the port's MTU allows more; 255: no limit of its own.
    pub max_sectors: u8,
    /// Firmware version in Query Config replies.
    pub firmware_version: u16,
    /// Names in IDENTIFY.
    pub identity: Identity,
    /// What initiators may change from the wire.
    pub wire_admin: WireAdmin,
    /// Offers SMART.
    pub smart: bool,
    /// A write, TRIM or change that arrived longer ago than this when its turn comes is dropped in silence, in microseconds: the
    /// shortest time after which an initiator sends a request again.
    pub stale_after_us: u64,
    /// Drops late duplicates of writes (a heuristic, `docs/conformance.md`).
    pub late_duplicates: bool,
    /// For an export that several gateways can serve, of which one does.
    pub gateway: Option<Gateway>,
}

/// What the gateways of an export have in common: initiators know one address, whichever of them answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The address that frames for the export are sent to and answered from, in place of the port's.
    pub mac: Mac,
    /// The gateways' own addresses. From these the config string may be read, whoever else may see the export: that is how they
    /// find out whether one of them answers.
    pub peers: Arc<[Mac]>,
    /// What these are told in its place that ask at the port's own address: whether this gateway has the export, and since when. Empty: nothing.
    pub standing: Arc<str>,
}

/// An export, shared by all workers that serve it.
#[derive(Debug)]
pub struct Export<C: Completions> {
    pub(crate) options: Options,
    pub(crate) store: Arc<dyn Store<C>>,
    pub(crate) state_store: Option<Arc<dyn StateStore<C>>>,
    pub(crate) observer: Arc<dyn Observer>,
    /// Gives each machine a disk of its own.
    pub(crate) machines: Option<Arc<dyn Machines<Export<C>>>>,
    /// Size last seen, to notice growth.
    sectors: AtomicU64,
    /// An initiator was told that the store is unavailable, and no operation has reached it since.
    gone: AtomicBool,
    /// Nobody is answered any more, whatever becomes of what is in flight.
    silenced: Arc<AtomicBool>,
    /// What a worker does in the call that brought it, it does with this held to read: who has it to write is alone.
    pub(crate) state: Arc<ReadMostly<State>>,
    /// What is in flight.
    pub(crate) order: Arc<Order<C::Handle>>,
}

/// What an export has in common with those that take its place after a reload.
struct Shared<C: Completions> {
    state: Arc<ReadMostly<State>>,
    order: Arc<Order<C::Handle>>,
    silenced: Arc<AtomicBool>,
}

/// What changes during an export's life.
#[derive(Debug)]
pub(crate) struct State {
    pub persistent: Persistent,
    /// Nothing is served until the operator says so.
    pub paused: bool,
    /// Sectors per READ/WRITE MULTIPLE; 0: off.
    pub multiple: AtomicU8,
    pub smart_enabled: AtomicBool,
}

impl State {
    pub(crate) fn multiple(&self) -> u8 {
        self.multiple.load(Ordering::Relaxed)
    }

    pub(crate) fn set_multiple(&self, multiple: u8) {
        self.multiple.store(multiple, Ordering::Relaxed);
    }

    /// Whether SMART is enabled; `None` where it is not offered.
    pub(crate) fn smart(&self, offered: bool) -> Option<bool> {
        offered.then(|| self.smart_enabled.load(Ordering::Relaxed))
    }

    pub(crate) fn set_smart(&self, enabled: bool) {
        self.smart_enabled.store(enabled, Ordering::Relaxed);
    }
}

/// Why another protocol state cannot be put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// The two would overwrite each other.
    #[error("an initiator is changing the protocol state of {0} right now; try again")]
    Busy(Address),
    /// It breaks a limit.
    #[error(transparent)]
    State(#[from] StateError),
}

impl<C: Completions> Export<C> {
    /// An export with the protocol state it had before (or an empty one). Without a state store, changes live in memory.
    ///
    /// # Errors
    /// When `persistent` breaks a limit.
    pub fn new(
        options: Options,
        store: Arc<dyn Store<C>>,
        state_store: Option<Arc<dyn StateStore<C>>>,
        observer: Arc<dyn Observer>,
        persistent: Persistent,
    ) -> Result<Export<C>, StateError> {
        persistent.check()?;
        let state = State {
            persistent,
            paused: false,
            multiple: AtomicU8::new(MAX_MULTIPLE),
            smart_enabled: AtomicBool::new(options.smart),
        };
        Ok(Export::assemble(
            options,
            store,
            state_store,
            observer,
            Shared {
                state: Arc::new(ReadMostly::new(state)),
                order: Arc::default(),
                silenced: Arc::default(),
            },
        ))
    }

    /// The same export with other options, as after a reload: same store, same protocol state, and one order with
    /// the requests that are still in flight for the old one.
    pub fn reconfigured(&self, options: Options) -> Export<C> {
        let (store, state_store) = (self.store.clone(), self.state_store.clone());
        let mut export = Export::assemble(
            options,
            store,
            state_store,
            self.observer.clone(),
            Shared {
                state: self.state.clone(),
                order: self.order.clone(),
                silenced: self.silenced.clone(),
            },
        );
        export.machines = self.machines.clone();
        export
    }

    /// The same export, of which each machine has a disk of its own.
    #[must_use]
    pub fn with_machines(mut self, machines: Arc<dyn Machines<Export<C>>>) -> Export<C> {
        self.machines = Some(machines);
        self
    }

    fn assemble(
        mut options: Options,
        store: Arc<dyn Store<C>>,
        state_store: Option<Arc<dyn StateStore<C>>>,
        observer: Arc<dyn Observer>,
        Shared {
            state,
            order,
            silenced,
        }: Shared<C>,
    ) -> Export<C> {
        if options.identity.serial.trim().is_empty() {
            // 9front never sets the size of a device without one.
            options.identity.serial = options.address.to_string();
        }
        options.late_duplicates |= mutants::is(Mutant::StaleDuplicateAnswered);
        let sectors = AtomicU64::new(store.sectors());
        Export {
            options,
            store,
            state_store,
            observer,
            machines: None,
            sectors,
            gone: AtomicBool::new(false),
            silenced,
            state,
            order,
        }
    }

    /// Shelf and slot.
    pub fn address(&self) -> Address {
        self.options.address
    }

    /// What it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Where its sectors live.
    pub fn store(&self) -> &Arc<dyn Store<C>> {
        &self.store
    }

    /// Config string, mask and reservation in force.
    pub fn persistent(&self) -> Persistent {
        self.state.read().persistent.clone()
    }

    /// Changes the protocol state on behalf of the local operator. `save` starts to save it: before any later change of an
    /// initiator does, and without waiting.
    ///
    /// # Errors
    /// While an initiator's change is being saved, and for a state that breaks a limit.
    pub fn change_persistent(
        &self,
        change: impl FnOnce(&mut Persistent),
        save: impl FnOnce(&Persistent),
    ) -> Result<(), ReplaceError> {
        let before = {
            let mut state = self.state.write();
            if self.order.has_admin() {
                return Err(ReplaceError::Busy(self.address()));
            }
            let mut persistent = state.persistent.clone();
            change(&mut persistent);
            persistent.check()?;
            save(&persistent);
            std::mem::replace(&mut state.persistent, persistent)
        };
        let now = self.persistent();
        for (changed, what) in [
            (before.string != now.string, Change::String),
            (before.mask != now.mask, Change::Mask),
            (before.reserve != now.reserve, Change::Reserve),
        ] {
            if changed {
                self.observer.changed(self.address(), what);
            }
        }
        Ok(())
    }

    /// Serves nothing and answers nobody from here on. Requests that have begun go on: [`Export::in_flight`] is 0 when the last
    /// has ended. May wait for the store.
    pub fn pause(&self) {
        self.state.write().paused = true;
        if let Some(machines) = &self.machines {
            machines.set_paused(true);
        }
    }

    /// Answers nobody from here on, for good: not even what is in flight, since another gateway may have the storage by the time that it
    /// ends. At once, and never waits.
    pub fn silence(&self) {
        self.silenced.store(true, Ordering::Release);
    }

    /// Whether nobody may be answered.
    pub(crate) fn is_silenced(&self) -> bool {
        self.silenced.load(Ordering::Acquire) || self.store.is_silenced()
    }

    /// Serves again. Initiators resend what got no answer meanwhile.
    pub fn resume(&self) {
        if let Some(machines) = &self.machines {
            machines.set_paused(false);
        }
        self.state.write().paused = false;
    }

    /// Whether [`Export::pause`] is in force; `None` where a worker that may be waiting for a disk keeps the answer now.
    pub fn is_paused(&self) -> Option<bool> {
        Some(self.state.try_read()?.paused)
    }

    /// The address that it is served under on a port.
    #[inline]
    pub(crate) fn mac(&self, port: &PortInfo) -> Mac {
        self.options
            .gateway
            .as_ref()
            .map_or(port.mac, |gateway| gateway.mac)
    }

    /// Whether another gateway asks if this one answers.
    pub(crate) fn is_asked_by_peer(&self, request: &Request) -> bool {
        let is_peers =
            |gateway: &Gateway| request.destination == gateway.mac && gateway.peers.contains(&request.source);
        reads_config(request) && self.options.gateway.as_ref().is_some_and(is_peers)
    }

    /// What another gateway is to be told that asks this very one whether it has the export.
    pub(crate) fn standing_for(&self, request: &Request) -> Option<&str> {
        let gateway = self.options.gateway.as_ref()?;
        let asks = reads_config(request)
            && request.version == aoe::VERSION
            && request.destination == request.port.mac
            && gateway.peers.contains(&request.source);
        (asks && !gateway.standing.is_empty()).then_some(&*gateway.standing)
    }

    /// Sources that may see it, for the filter and for advertisements; `None`: everyone.
    pub(crate) fn visible_to(&self) -> Option<Vec<Mac>> {
        if !self.options.access.is_empty() {
            return Some(self.options.access.macs().collect());
        }
        let mask = &self.state.read().persistent.mask;
        (!mask.is_empty()).then(|| mask.clone())
    }

    /// Whether only those see it whom an access list or a mask names.
    pub(crate) fn is_shut(&self) -> bool {
        !self.options.access.is_empty() || !self.state.read().persistent.mask.is_empty()
    }

    /// As [`Export::visible_to`]; `None` where a worker that may be waiting for a disk keeps the answer now.
    pub fn try_visible_to(&self) -> Option<Option<Vec<Mac>>> {
        if !self.options.access.is_empty() {
            return Some(Some(self.options.access.macs().collect()));
        }
        let state = self.state.try_read()?;
        let mask = &state.persistent.mask;
        Some((!mask.is_empty()).then(|| mask.clone()))
    }

    /// Requests that the store has not finished or that wait for one it has not.
    pub fn in_flight(&self) -> usize {
        let own = self.order.len();
        own.saturating_add(self.machines.as_ref().map_or(0, |machines| machines.in_flight()))
    }

    /// The same later on, for somebody who must not keep the export's store open: what a worker has given up and its store has not finished
    /// is counted as long as it lasts.
    pub fn outstanding(&self) -> Box<dyn Fn() -> usize + Send + Sync>
    where
        C::Handle: 'static,
    {
        let order = Arc::downgrade(&self.order);
        Box::new(move || order.upgrade().map_or(0, |order| order.len()))
    }

    /// What `source` may do; `None`: it does not see the export.
    pub(crate) fn access_of(&self, state: &State, source: Mac) -> Option<Access> {
        if !self.options.access.is_empty() {
            return self.options.access.of(source);
        }
        let mask = &state.persistent.mask;
        (mask.is_empty() || mask.contains(&source)).then_some(Access::ReadWrite)
    }

    /// Asks the store for its size and tells the observer of a new one.
    pub(crate) fn refresh(&self) -> std::io::Result<u64> {
        let sectors = self.store.refresh()?;
        if self.sectors.swap(sectors, Ordering::Relaxed) != sectors {
            self.observer.changed(self.address(), Change::Size(sectors));
        }
        Ok(sectors)
    }

    /// Tells the observer of a fault that an initiator is answered with.
    pub(crate) fn failed(&self, fault: &Fault) {
        if fault.kind == FaultKind::Gone {
            self.gone.store(true, Ordering::Relaxed);
        }
        self.observer.fault(self.address(), fault);
    }

    /// An operation went all the way to the medium. Off the path of what a cache answers at once: that proves nothing.
    pub(crate) fn reached(&self) {
        if self.gone.load(Ordering::Relaxed) && self.gone.swap(false, Ordering::Relaxed) {
            self.observer.changed(self.address(), Change::Returned);
        }
    }

    /// Most reads, and most of all else, in flight at a time: what all initiators together may have outstanding, with room for paths.
    /// It bounds the memory of what waits as well.
    pub(crate) fn max_in_flight(&self) -> usize {
        let wanted = usize::from(self.options.buffers.max(2)).saturating_mul(8);
        wanted.min(MAX_IN_FLIGHT)
    }
}

/// Whether the config string is asked for.
const fn reads_config(request: &Request) -> bool {
    matches!(
        request.command,
        Command::Query {
            subcommand: subcommand::READ,
            ..
        }
    )
}
