//! A run: everything that is simulated, and the loop that goes from event to event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aoe_common::Mac;
use engine::{Persistent, PortInfo};
use parking_lot::Mutex;

use crate::bus::{Bus, Event, Note, WorkerId};
use crate::disk::{Disk, SimStore};
use crate::frame::Frame;
use crate::gateways;
use crate::host::{Host, mac_of};
use crate::mutants::Mutant;
use crate::net::Network;
use crate::oracle::{At, Oracle, Promise};
use crate::plan::Plan;
use crate::process::Process;
use crate::random::Random;
use crate::run::{self, Outcome, Record, Run};
use crate::state::SimState;

/// The tick of the hosts' timers.
const TIMER_US: u64 = 100_000;
/// After load and faults have ended, everything has so long to come to its end.
const BOUND_US: u64 = 90_000_000;
/// Frames that adversaries have seen lately.
const TAP: usize = 32;

/// A port of the target.
#[derive(Debug)]
pub struct Port {
    pub(crate) info: PortInfo,
    pub(crate) mtu: u32,
}

/// Where a store lies.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub(crate) disk: usize,
    pub(crate) store: usize,
    pub(crate) base: u64,
    pub(crate) sectors: u64,
}

/// Everything.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) bus: Bus,
    pub(crate) random: Random,
    pub(crate) ports: Vec<Port>,
    pub(crate) network: Network,
    pub(crate) disks: Vec<Arc<Mutex<Disk>>>,
    pub(crate) places: Vec<Place>,
    pub(crate) access: Vec<BTreeMap<Mac, bool>>,
    pub(crate) state: SimState,
    pub(crate) asked: BTreeMap<aoe_common::Address, Vec<Persistent>>,
    pub(crate) process: Option<Process>,
    pub(crate) next_worker: WorkerId,
    pub(crate) by_queue: BTreeMap<(u8, u8), WorkerId>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) oracle: Oracle,
    pub(crate) quiet: bool,
    /// Faults of the network that have begun and not ended.
    pub(crate) active: BTreeSet<usize>,
    notes: Vec<Note>,
    awake: Vec<WorkerId>,
    tap: Vec<(u8, Frame)>,
    tapped: bool,
    record: Record,
}

/// Runs a plan to its end, or to the first broken promise.
pub fn run(plan: &Plan, trace: bool) -> Outcome {
    if plan.gateways.is_some() {
        return gateways::run(plan, trace);
    }
    run::play(plan, || World::new(plan, trace))
}

impl World {
    fn new(plan: &Plan, trace: bool) -> World {
        let bus = Bus::default();
        if trace {
            bus.trace();
        }
        let port = |(number, port): (u8, &crate::plan::PortPlan)| Port {
            info: PortInfo {
                mac: Mac([2, 0, 0, 0, 0, number + 1]),
                mtu_bytes: port.mtu,
            },
            mtu: port.mtu,
        };
        let hosts = run::hosts(plan, &bus);
        let mut world = World {
            random: Random::stream(plan.seed, 0x776f_726c),
            ports: (0..).zip(&plan.ports).map(port).collect(),
            network: Network::new(&plan.network, plan.seed, &bus),
            disks: Vec::new(),
            places: Vec::new(),
            access: Vec::new(),
            state: SimState::new(plan.seed, &bus, plan.mutant),
            asked: BTreeMap::new(),
            process: None,
            next_worker: 0,
            by_queue: BTreeMap::new(),
            hosts,
            oracle: Oracle::new(),
            quiet: false,
            active: BTreeSet::new(),
            notes: Vec::new(),
            awake: Vec::new(),
            tap: Vec::new(),
            tapped: plan
                .hosts
                .iter()
                .any(|host| host.kind == crate::plan::HostKind::Adversary),
            record: Record::default(),
            plan: plan.clone(),
            bus,
        };
        world.build();
        world
    }

    fn build(&mut self) {
        for export in 0..self.plan.exports.len() {
            self.place(export);
            let access = self.plan.exports[export]
                .access
                .iter()
                .flat_map(|(host, writes)| {
                    (0..self.ports.len() as u8).map(|port| (mac_of(*host, port), *writes))
                });
            self.access.push(access.collect());
            let (place, plan) = (self.places[export], &self.plan.exports[export]);
            let access = self.access[export].clone();
            self.oracle.add(
                plan,
                &self.disks[place.disk],
                place.disk as u8,
                place.base,
                access,
            );
        }
        self.bus.after(0, Event::Boot);
        run::schedule(&self.plan, &self.bus);
    }

    fn place(&mut self, number: usize) {
        let plan = &self.plan.exports[number];
        let before = plan.beside.and_then(|before| self.places.get(before).copied());
        let (disk, base) = match before {
            Some(before) => (before.disk, before.base + before.sectors),
            None => {
                // Room for the one that may come behind it.
                let behind = self
                    .plan
                    .exports
                    .iter()
                    .find(|other| other.beside == Some(number));
                let sectors = plan.sectors + behind.map_or(0, |other| other.sectors);
                let disk = self.disks.len();
                let (seed, mutant) = (self.plan.seed, self.plan.mutant);
                self.disks.push(Arc::new(Mutex::new(Disk::new(
                    disk as u8, plan, sectors, seed, &self.bus, mutant,
                ))));
                (disk, 0)
            }
        };
        let store = SimStore::add(&self.disks[disk], plan.flush_interval_ms);
        self.disks[disk].lock().begin_export(base, plan.sectors);
        self.places.push(Place {
            disk,
            store,
            base,
            sectors: plan.sectors,
        });
    }

    /// Shows the oracles what has happened, and wakes who got a completion.
    pub(crate) fn settle(&mut self) {
        if self.bus.has_news() {
            let mut notes = self.bus.take_notes(std::mem::take(&mut self.notes));
            for note in notes.drain(..) {
                self.see(note);
            }
            self.notes = notes;
            let mut awake = self.bus.take_awake(std::mem::take(&mut self.awake));
            for worker in awake.drain(..) {
                self.wake(worker);
            }
            self.awake = awake;
        }
        let mut unsure = std::mem::take(&mut self.oracle.unsure);
        unsure.extend(&self.oracle.unanswered);
        for number in unsure {
            if let Some(process) = &self.process {
                let state = process.exports[number].persistent();
                self.oracle.resync(number, state);
            }
        }
    }

    fn see(&mut self, note: Note) {
        match note {
            Note::Sent(worker, bytes) => self.sent(worker, bytes),
            Note::Applied {
                disk,
                first,
                values,
                worker,
            } => self.oracle.applied(disk, first, &values, worker),
            Note::Lost { disk, sectors } => self.oracle.lost(disk, &sectors),
            Note::Broken(text) => self.oracle.broken(Promise::Overlap, text),
            Note::Said(line) => self.record.tell(self.bus.now_us(), &line),
        }
    }

    pub(crate) fn at(&self, worker: WorkerId, port: u8) -> At {
        let info = self.ports[usize::from(port)].info;
        At {
            worker,
            port,
            mac: info.mac,
            mtu: info.mtu_bytes,
        }
    }

    /// A worker has sent a frame.
    fn sent(&mut self, worker: WorkerId, bytes: Vec<u8>) {
        let Some(port) = self
            .process
            .as_ref()
            .and_then(|process| process.workers.get(&worker))
            .map(|worker| worker.port)
        else {
            return;
        };
        self.record.sent(self.bus.now_us(), &bytes);
        self.bus.say(|| crate::trace::reply(port, &bytes));
        self.oracle.sent(self.at(worker, port), &bytes);
        if self.is(Mutant::ReplyTwice) && self.random.one_in(100) {
            self.oracle.sent(self.at(worker, port), &bytes);
        }
        let everyone = bytes[0] & 1 != 0;
        let hears = |host: &u16| {
            let ours = everyone || bytes[..6] == mac_of(*host, port).0;
            ours && self.plan.hosts[usize::from(*host)].ports.contains(&port)
        };
        let mut hosts = (0..self.hosts.len() as u16).filter(hears);
        let Some(mut host) = hosts.next() else { return };
        let reply = |bytes| Frame {
            bytes,
            odd: false,
            sent_us: 0,
        };
        for next in hosts {
            self.network.to_host(host, port, reply(bytes.clone()));
            host = next;
        }
        // The last one, mostly the only one, gets the frame itself.
        self.network.to_host(host, port, reply(bytes));
    }

    /// A host has sent frames.
    fn sent_by(&mut self, host: u16) {
        let mut out = std::mem::take(&mut self.hosts[usize::from(host)].base().out);
        for (port, frame) in out.drain(..) {
            if self.tapped {
                if self.tap.len() >= TAP {
                    self.tap.remove(0);
                }
                self.tap.push((port, frame.clone()));
            }
            self.network.to_target(host, port, frame);
        }
        self.hosts[usize::from(host)].base().out = out;
    }

    /// Faults and load are over.
    fn quiet(&mut self) {
        if !self.quiet {
            self.quiet = true;
            self.network.calm = true;
            for number in 0..self.plan.faults.len() {
                self.fault(number, false);
            }
            self.hosts.iter_mut().for_each(|host| host.base().quiet = true);
            // What the network holds back is a fault until it has arrived: an old advertisement leads astray for a minute.
            let held = &self.plan.network;
            let held_us = if held.held > 0 { held.held_ms * 1000 } else { 0 };
            self.bus.after(held_us + BOUND_US, Event::End);
            self.say("load and faults are over");
        }
        self.operator();
        self.bus.after(1_000_000, Event::Quiet);
    }

    /// The operator accepts what was lost and lets everybody in; they hear of it, as from the daemon: who was shut out may not know
    /// the port's address of today.
    fn operator(&mut self) {
        for disk in &self.disks {
            disk.lock().accept();
        }
        let Some(process) = &self.process else { return };
        let mut changed = false;
        for (number, export) in process.exports.iter().enumerate() {
            let empty = Persistent::default();
            if self.oracle.exports[number].state != empty
                && export
                    .change_persistent(|state| state.clone_from(&empty), |_| {})
                    .is_ok()
            {
                self.state.put(export.address(), &empty);
                self.oracle.exports[number].state = empty;
                changed = true;
            }
        }
        if changed {
            (0..self.ports.len() as u8).for_each(|port| self.advertise(port));
        }
    }

    fn end(&mut self) {
        run::end(&mut self.oracle, &self.hosts);
        self.settle();
    }

    pub(crate) fn say(&mut self, line: &str) {
        self.bus.say(|| line.to_owned());
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.plan.mutant == Some(mutant)
    }
}

impl Run for World {
    fn step(&mut self) -> bool {
        let Some(event) = self.bus.next() else {
            return false;
        };
        self.oracle.set_now(self.bus.now_us());
        match event {
            Event::ToTarget(port, frame) => self.frame_arrives(port, frame),
            Event::ToHost(host, port, frame) => {
                self.hosts[usize::from(host)].receive(port, &frame);
                self.sent_by(host);
            }
            Event::Run(worker) => self.run_worker(worker),
            Event::Timer(host) => {
                self.hosts[usize::from(host)].timer();
                self.sent_by(host);
                self.bus.after(TIMER_US, Event::Timer(host));
            }
            Event::Load(host) => {
                let again = self.hosts[usize::from(host)].load(&self.tap);
                self.sent_by(host);
                if let Some(delay) = again {
                    self.bus.after(delay, Event::Load(host));
                }
            }
            Event::Disk(disk, operation) => {
                let disk = Arc::clone(&self.disks[usize::from(disk)]);
                disk.lock().event(operation);
            }
            Event::Saved(number) => self.state.event(number),
            Event::Fault(number, begins) => self.fault(number, begins),
            Event::Boot => self.boot(),
            Event::Drain => self.drain(),
            Event::Gateway(..) | Event::Ceph(_) | Event::OsdMap(..) | Event::Watch => {}
            Event::Quiet => self.quiet(),
            Event::End => {
                self.end();
                return false;
            }
        }
        self.settle();
        self.oracle.violation.is_none()
    }

    fn parts(&mut self) -> (&mut Oracle, &[Host], &mut Record) {
        (&mut self.oracle, &self.hosts, &mut self.record)
    }
}
