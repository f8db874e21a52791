//! The state store: strings, masks and reservations on a disk that a power cut does not harm once they are saved.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use engine::{
    Address, Completion, CompletionHandle as _, Event as End, Fault, FaultKind, Persistent, StateStore, Token,
};
use parking_lot::Mutex;

use crate::bus::{Bus, CompletionQueue, Event, Handle};
use crate::mutants::Mutant;
use crate::random::Random;

#[derive(Debug)]
struct Saving {
    address: Address,
    state: Persistent,
    handle: Handle,
    token: Token,
}

#[derive(Debug)]
struct Inner {
    bus: Bus,
    random: Random,
    mutant: Option<Mutant>,
    saved: BTreeMap<Address, Persistent>,
    saving: BTreeMap<u64, Saving>,
    /// Saved, and perhaps not told yet.
    latest: BTreeMap<Address, Persistent>,
    next: u64,
    fails: bool,
    hangs: bool,
    stuck: Vec<u64>,
}

/// A handle to it.
#[derive(Debug, Clone)]
pub struct SimState(Arc<Mutex<Inner>>);

impl SimState {
    /// An empty one.
    pub fn new(seed: u64, bus: &Bus, mutant: Option<Mutant>) -> SimState {
        SimState(Arc::new(Mutex::new(Inner {
            bus: bus.clone(),
            random: Random::stream(seed, 0x7374_6174),
            mutant,
            saved: BTreeMap::new(),
            saving: BTreeMap::new(),
            latest: BTreeMap::new(),
            next: 0,
            fails: false,
            hangs: false,
            stuck: Vec::new(),
        })))
    }

    /// What the next process finds.
    pub fn load(&self, address: Address) -> Persistent {
        let inner = self.0.lock();
        let address = match inner.mutant {
            // A name that depends on other exports.
            Some(Mutant::StateOfAnother) if address.slot > 0 => Address {
                slot: address.slot - 1,
                ..address
            },
            _ => address,
        };
        inner.saved.get(&address).cloned().unwrap_or_default()
    }

    /// The operator's word.
    pub fn put(&self, address: Address, state: &Persistent) {
        self.0.lock().saved.insert(address, state.clone());
    }

    /// Saves fail from now on, or not.
    pub fn set_fails(&self, fails: bool) {
        self.0.lock().fails = fails;
    }

    /// Saves do not end, or what was asked for ends now.
    pub fn set_hangs(&self, hangs: bool) {
        let inner = &mut *self.0.lock();
        inner.hangs = hangs;
        if !hangs {
            for number in std::mem::take(&mut inner.stuck) {
                inner.bus.after(1, Event::Saved(number));
            }
        }
    }

    /// A save has had its time.
    pub fn event(&self, number: u64) {
        let inner = &mut *self.0.lock();
        if inner.hangs {
            inner.stuck.push(number);
            return;
        }
        let Some(saving) = inner.saving.remove(&number) else {
            return;
        };
        let event = if inner.fails {
            let source = io::Error::other("as simulated");
            End::Finished(Err(Fault {
                kind: FaultKind::Write,
                lba: 0,
                source,
            }))
        } else {
            if inner.mutant != Some(Mutant::StateNotSaved) {
                inner.latest.insert(saving.address, saving.state.clone());
                inner.saved.insert(saving.address, saving.state);
            }
            End::Finished(Ok(None))
        };
        saving.handle.post(Completion {
            token: saving.token,
            event,
        });
    }

    /// The process is gone: what it was saving is saved or not. Returns what was asked for an address.
    pub fn process_gone(&self) -> BTreeMap<Address, Vec<Persistent>> {
        let inner = &mut *self.0.lock();
        // The engine asks for one at a time: of each export the latest is the only one that may be there unacknowledged.
        let mut asked: BTreeMap<Address, Vec<Persistent>> = BTreeMap::new();
        for (address, state) in std::mem::take(&mut inner.latest) {
            asked.insert(address, vec![state]);
        }
        for saving in std::mem::take(&mut inner.saving).into_values() {
            if inner.random.one_in(2) {
                inner.saved.insert(saving.address, saving.state.clone());
            }
            asked.insert(saving.address, vec![saving.state]);
        }
        inner.stuck.clear();
        asked
    }
}

impl StateStore<CompletionQueue> for SimState {
    fn save(&self, address: Address, state: &Persistent, handle: Handle, token: Token) {
        let inner = &mut *self.0.lock();
        let number = inner.next;
        inner.next += 1;
        let delay = inner.random.between(100, 20_000);
        inner.saving.insert(
            number,
            Saving {
                address,
                state: state.clone(),
                handle,
                token,
            },
        );
        inner.bus.after(delay, Event::Saved(number));
    }
}
