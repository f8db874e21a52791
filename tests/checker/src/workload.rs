//! Clients at work.

use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::{Duration, Instant};

use aoe_common::Mac;

use super::client::{Client, Path};
use super::network::{Fate, Network, Weather};
use super::record::{Action, Clock, History, Op};
use lab::frame::Address;
use lab::image::{Random, SECTOR};
use lab::values::{sector, value};

/// What keeps writers apart: without any rule AoE itself cannot give one order (see [`super`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discipline {
    /// One writer a sector at a time, who keeps the sector till every copy of its write is dead. All frames may be
    /// lost, doubled and held back, and the target may die. What file systems and lock managers do, done strictly.
    Owned,
    /// One writer a sector at a time, the next as soon as the first has its reply, with copies of the old write still
    /// under way: needs a target that knows late duplicates, and that keeps its memory (is not killed).
    HandedOver,
    /// Everybody writes at any time. No write is ever sent twice: neither by the network nor by its client.
    Free,
}

/// A run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Where all chance comes from.
    pub seed: u64,
    /// How writers keep apart.
    pub discipline: Discipline,
    /// Number of clients.
    pub clients: usize,
    /// Sectors they all use.
    pub sectors: u64,
    /// Operations of each client at least.
    pub operations: usize,
    /// Queues of each port.
    pub queues: usize,
    /// Wait before the first retransmission; over [`Weather::longest`] twice, or every held frame is sent again.
    pub patience: Duration,
    /// Clients give up on an operation after this.
    pub deadline: Duration,
}

impl Plan {
    /// Six clients on eight sectors.
    pub fn new(seed: u64, discipline: Discipline, operations: usize) -> Plan {
        Plan {
            seed,
            discipline,
            clients: 6,
            sectors: 8,
            operations,
            queues: 2,
            patience: Duration::from_millis(15),
            deadline: Duration::from_secs(20),
        }
    }

    /// The worst weather that the discipline allows.
    pub fn weather(&self) -> Weather {
        let bad = Fate {
            lost: 30,
            doubled: 50,
            held: 200,
        };
        let slow = Fate {
            lost: 0,
            doubled: 0,
            held: 200,
        };
        let (writes, write_replies) = match self.discipline {
            Discipline::Free => (slow, Fate { doubled: 50, ..slow }),
            Discipline::Owned | Discipline::HandedOver => (bad, bad),
        };
        let seed = self.seed;
        Weather {
            seed,
            reads: bad,
            writes,
            read_replies: bad,
            write_replies,
            longest: Duration::from_millis(6),
        }
    }
}

/// What a run was like.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the clients saw.
    pub history: History,
    /// Requests sent again.
    pub retransmissions: u64,
    /// What clients found wrong at once: torn sectors, ATA errors.
    pub complaints: Vec<String>,
}

/// Runs the clients until each has done its operations and `enough` says so. `paths[client][port]` gives their ways to
/// the target.
pub fn run(
    plan: &Plan,
    network: &Network,
    address: Address,
    paths: &[Vec<Path>],
    enough: impl Fn() -> bool + Sync,
) -> Outcome {
    let locks = Arc::new(Locks::default());
    let clock = Arc::new(Clock::default());
    let (start, enough) = (Barrier::new(plan.clients), &enough);
    std::thread::scope(|scope| {
        let start = &start;
        let mut workers = Vec::new();
        for (number, ways) in paths.iter().enumerate().take(plan.clients) {
            let mut client = Client::new(network, address, ways.clone());
            (client.patience, client.deadline) = (plan.patience, plan.deadline);
            let mut worker = Worker {
                plan: *plan,
                number,
                client,
                locks: Arc::clone(&locks),
                clock: Arc::clone(&clock),
                longest: network.longest(),
                outcome: Outcome::default(),
                random: Random::new(plan.seed.wrapping_add(number as u64 * 7919)),
                values: 0,
            };
            workers.push(scope.spawn(move || {
                start.wait();
                worker.run(enough);
                worker.outcome.retransmissions = worker.client.retransmissions;
                worker.outcome
            }));
        }
        let mut all = Outcome::default();
        for worker in workers {
            let outcome = worker.join().expect("a client panicked");
            all.history.merge(outcome.history);
            all.retransmissions += outcome.retransmissions;
            all.complaints.extend(outcome.complaints);
        }
        all
    })
}

/// The usual addresses: every client has one on each port's link.
pub fn paths(clients: usize, targets: &[Mac]) -> Vec<Vec<Path>> {
    let own = |client: usize, port: usize| Mac([2, 0xc1, 0, port as u8, 0, client as u8 + 1]);
    let ways = |client| {
        let ways = targets.iter().enumerate();
        ways.map(|(port, target)| Path {
            port,
            target: *target,
            own: own(client, port),
        })
        .collect()
    };
    (0..clients).map(ways).collect()
}

struct Worker {
    plan: Plan,
    number: usize,
    client: Client,
    locks: Arc<Locks>,
    clock: Arc<Clock>,
    longest: Duration,
    outcome: Outcome,
    random: Random,
    values: u64,
}

impl Worker {
    fn run(&mut self, enough: impl Fn() -> bool) {
        let mut operations = 0;
        while operations < self.plan.operations || !enough() {
            operations += 1;
            let count = 1 + self.random.below(2);
            let lba = self.random.below(self.plan.sectors - count + 1);
            if self.random.below(5) < 2 {
                self.write(lba, count);
            } else {
                self.read(lba, count);
            }
            if !self.outcome.complaints.is_empty() {
                return;
            }
        }
    }

    fn read(&mut self, lba: u64, count: u64) {
        let invoked = self.clock.tick();
        let answer = self.client.read(lba, count as u8);
        let returned = self.clock.tick();
        let Some(reply) = answer.reply else { return };
        let want = count as usize * SECTOR;
        if reply.status() & 0xa9 != 0 || reply.data().len() != want {
            let (status, length) = (reply.status(), reply.data().len());
            self.complain(&format!(
                "read of {lba}+{count}: status {status:#04x}, {length} bytes"
            ));
            return;
        }
        for (lba, bytes) in (lba..).zip(reply.data().chunks(SECTOR)) {
            match value(lba, bytes) {
                Some(value) => self.record(lba, Action::Read(value), invoked, Some(returned)),
                None => self.complain(&format!("sector {lba} holds what nobody wrote: {bytes:02x?}")),
            }
        }
    }

    fn write(&mut self, lba: u64, count: u64) {
        let owned = self.plan.discipline != Discipline::Free;
        let most = if owned { u32::MAX } else { 1 };
        let sectors = lba..lba + count;
        if owned {
            self.locks.take(sectors.clone());
        }
        let values: Vec<u64> = sectors.clone().map(|_| self.fresh()).collect();
        let data: Vec<u8> = sectors
            .clone()
            .zip(&values)
            .flat_map(|(lba, value)| sector(lba, *value))
            .collect();
        let invoked = self.clock.tick();
        let answer = self.client.write(lba, &data, most);
        let returned = answer.reply.as_ref().map(|_| self.clock.tick());
        if let Some(reply) = answer.reply
            && reply.status() & 0xa9 != 0
        {
            self.complain(&format!("write of {lba}+{count}: status {:#04x}", reply.status()));
        }
        for (lba, value) in sectors.clone().zip(values) {
            self.record(lba, Action::Write(value), invoked, returned);
        }
        if self.plan.discipline == Discipline::Owned {
            // All copies have left the network after this, and after the fence the target's queues too.
            std::thread::sleep(self.longest + Duration::from_millis(1));
            if !self.client.fence(self.plan.queues) {
                self.complain(&format!("the target is gone after the write of {lba}+{count}"));
            }
        }
        if owned {
            self.locks.give_back(sectors);
        }
    }

    fn record(&mut self, lba: u64, action: Action, invoked: u64, returned: Option<u64>) {
        self.outcome.history.push(
            lba,
            Op {
                client: self.number,
                action,
                invoked,
                returned,
            },
        );
    }

    fn complain(&mut self, what: &str) {
        self.outcome
            .complaints
            .push(format!("client {}: {what}", self.number));
    }

    fn fresh(&mut self) -> u64 {
        self.values += 1;
        (self.number as u64 + 1) << 32 | self.values
    }
}

/// Who may write which sector.
#[derive(Debug, Default)]
struct Locks {
    taken: Mutex<Vec<u64>>,
    changed: Condvar,
}

impl Locks {
    /// Takes all of them at once, so that nobody waits for another in a circle.
    fn take(&self, sectors: std::ops::Range<u64>) {
        let taken = self.taken.lock().expect("no holder panics");
        let busy = |taken: &mut Vec<u64>| taken.iter().any(|lba| sectors.contains(lba));
        let mut taken = self.changed.wait_while(taken, busy).expect("no holder panics");
        taken.extend(sectors);
    }

    fn give_back(&self, sectors: std::ops::Range<u64>) {
        self.taken
            .lock()
            .expect("no holder panics")
            .retain(|lba| !sectors.contains(lba));
        self.changed.notify_all();
    }
}

/// Repeats `step` at random moments, on average every `pause`, till `done` says so.
pub fn disturb(seed: u64, pause: Duration, done: impl Fn() -> bool, mut step: impl FnMut(&mut Random)) {
    let mut random = Random::new(seed);
    loop {
        let wait = pause.mul_f64(0.5 + random.below(1000) as f64 / 1000.0);
        let until = Instant::now() + wait;
        while Instant::now() < until {
            if done() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2).min(wait));
        }
        step(&mut random);
    }
}
