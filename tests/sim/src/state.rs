//! The state store: strings, masks and reservations on a disk that a power cut does not harm once they are saved. What is written
//! when decides the target's own machine ([`store::saves`]); here are the disk below it and the thread around it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use engine::{
    Address, Completion, CompletionHandle as _, Event as End, Fault, FaultKind, Persistent, StateStore, Token,
};
use parking_lot::Mutex;
use store::saves::{Save, SaveAction, SaveAnswer, SaveMachine};

use crate::bus::{Bus, CompletionQueue, Event, Handle};
use crate::mutants::Mutant;
use crate::random::Random;

/// Who waits for a save.
type Who = (Handle, Token);

#[derive(Debug)]
struct Inner {
    bus: Bus,
    random: Random,
    mutant: Option<Mutant>,
    saved: BTreeMap<Address, Persistent>,
    /// Decides for the process that runs.
    writer: SaveMachine<Address, Who>,
    /// What it has the disk write.
    round: Option<Round>,
    /// Saved, and perhaps not told yet.
    latest: BTreeMap<Address, Persistent>,
    /// Asked for last, and not at its end. The engine asks for one at a time: nothing older may be there unacknowledged.
    asked: BTreeMap<Address, Persistent>,
    next: u64,
    fails: bool,
    hangs: bool,
    /// A round that has had its time and does not end.
    stuck: Option<u64>,
}

#[derive(Debug)]
struct Round {
    number: u64,
    saves: Vec<Save<Address, Who>>,
    /// Who takes this round for its own (a planted defect).
    intruders: Vec<Who>,
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
            writer: SaveMachine::new(),
            round: None,
            latest: BTreeMap::new(),
            asked: BTreeMap::new(),
            next: 0,
            fails: false,
            hangs: false,
            stuck: None,
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
        if !hangs && let Some(number) = inner.stuck.take() {
            inner.bus.after(1, Event::Saved(number));
        }
    }

    /// A round has had its time.
    pub fn event(&self, number: u64) {
        let inner = &mut *self.0.lock();
        if inner.round.as_ref().is_none_or(|round| round.number != number) {
            return;
        }
        if inner.hangs {
            inner.stuck = Some(number);
            return;
        }
        inner.end_round();
        inner.go_on();
    }

    /// The orderly end of the process: what waits is written, as far as the disk lets it.
    pub fn close(&self) {
        let inner = &mut *self.0.lock();
        inner.writer.close(inner.now());
        while !inner.hangs {
            inner.end_round();
            match inner.writer.poll() {
                SaveAction::Write(saves) => inner.begin(saves),
                SaveAction::Wait | SaveAction::End => return,
            }
        }
    }

    /// The process is gone: what it was writing is there or not. Returns what may be there of each export, unacknowledged.
    pub fn process_gone(&self) -> BTreeMap<Address, Vec<Persistent>> {
        let inner = &mut *self.0.lock();
        let round = inner.round.take().map(|round| round.saves);
        for Save { key, state, .. } in round.into_iter().flatten() {
            if inner.random.one_in(2) {
                inner.saved.insert(key, state);
            }
        }
        inner.writer = SaveMachine::new();
        inner.stuck = None;
        let mut asked = std::mem::take(&mut inner.latest);
        asked.append(&mut inner.asked);
        asked
            .into_iter()
            .map(|(address, state)| (address, vec![state]))
            .collect()
    }
}

impl Inner {
    fn now(&self) -> Duration {
        Duration::from_micros(self.bus.now_us())
    }

    /// Does what the machine wants.
    fn go_on(&mut self) {
        if let SaveAction::Write(saves) = self.writer.poll() {
            let delay = self.random.between(100, 20_000);
            self.begin(saves);
            self.bus.after(delay, Event::Saved(self.next));
        }
    }

    fn begin(&mut self, saves: Vec<Save<Address, Who>>) {
        self.next += 1;
        self.round = Some(Round {
            number: self.next,
            saves,
            intruders: Vec::new(),
        });
    }

    /// The disk has written what it was to write, or failed.
    fn end_round(&mut self) {
        let Some(Round { saves, intruders, .. }) = self.round.take() else {
            return;
        };
        let result = || match self.fails {
            true => Err(io::Error::other("as simulated")),
            false => Ok(()),
        };
        let results: Vec<_> = saves.iter().map(|_| result()).collect();
        let told = intruders.into_iter().map(|who| SaveAnswer {
            who,
            result: result(),
        });
        let told: Vec<_> = told.collect();
        for Save { key, state, .. } in &saves {
            if self.asked.get(key) == Some(state) {
                self.asked.remove(key);
            }
        }
        if !self.fails && self.mutant != Some(Mutant::StateNotSaved) {
            for Save { key, state, .. } in &saves {
                self.latest.insert(*key, state.clone());
                self.saved.insert(*key, state.clone());
            }
        }
        let outcome = self.writer.done(saves, results, self.now());
        outcome.answers.into_iter().chain(told).for_each(tell);
    }
}

fn tell(SaveAnswer { who, result }: SaveAnswer<Who>) {
    let (handle, token) = who;
    let fault = |source| Fault {
        kind: FaultKind::Write,
        lba: 0,
        source,
    };
    handle.post(Completion {
        token,
        event: End::Finished(result.map(|()| None).map_err(fault)),
    });
}

impl StateStore<CompletionQueue> for SimState {
    fn save(&self, address: Address, state: &Persistent, handle: Handle, token: Token) {
        let inner = &mut *self.0.lock();
        inner.asked.insert(address, state.clone());
        let who = (handle, token);
        if let Some(round) = &mut inner.round
            && inner.mutant == Some(Mutant::StateJoinsRunningWrite)
        {
            return round.intruders.push(who);
        }
        inner.writer.save(address, state, who).into_iter().for_each(tell);
        inner.go_on();
    }
}
