//! A run with gateways: everything that is simulated, and the loop that goes from event to event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::PortInfo;
use failover::{GroupSettings, GroupState};
use parking_lot::Mutex;

use super::answer::ClientId;
use super::ceph::Ceph;
use super::gateway::{GROUP, Gateway, as_host, is_answer, is_unavailable, own_mac, rival};
use super::watch::Watch;
use crate::bus::{Bus, Control, Event, Note, WorkerId};
use crate::disk::Disk;
use crate::frame::{self, Frame, Header};
use crate::host::Host;
use crate::mutants::Mutant;
use crate::net::Network;
use crate::oracle::{At, Oracle, Promise};
use crate::plan::{GatewaysPlan, Plan};
use crate::random::Random;
use crate::run::{self, Outcome, Record, Run};

/// The tick of the hosts' timers.
const TIMER_US: u64 = 100_000;
/// After load and faults have ended, everything has so long to come to its end: a gateway that was shut out leaves the group to
/// others for a minute.
const BOUND_US: u64 = 150_000_000;

/// Everything.
pub(super) struct Gateways {
    pub(super) plan: Plan,
    pub(super) settings: GroupSettings,
    pub(super) bus: Bus,
    pub(super) random: Random,
    pub(super) network: Network,
    pub(super) ceph: Arc<Mutex<Ceph>>,
    pub(super) hosts: Vec<Host>,
    pub(super) oracle: Oracle,
    pub(super) watch: Watch,
    pub(super) gateways: Vec<Gateway>,
    /// Where the switch has seen the group's address.
    pub(super) seen_at: Option<u8>,
    pub(super) by_worker: BTreeMap<WorkerId, u8>,
    pub(super) workers: BTreeMap<ClientId, Vec<WorkerId>>,
    /// Of processes that are gone.
    pub(super) lingering: BTreeSet<WorkerId>,
    pub(super) next_worker: WorkerId,
    pub(super) next_client: ClientId,
    pub(super) quiet: bool,
    pub(super) active: BTreeSet<usize>,
    notes: Vec<Note>,
    record: Record,
}

/// Runs a plan to its end, or to the first broken promise.
pub fn run(plan: &Plan, trace: bool) -> Outcome {
    run::play(plan, || Gateways::new(plan, trace))
}

impl Gateways {
    fn new(plan: &Plan, trace: bool) -> Gateways {
        let bus = Bus::default();
        if trace {
            bus.trace();
        }
        let gateways = plan.gateways.clone().unwrap_or_else(GatewaysPlan::pair);
        let export = &plan.exports[0];
        let mut disk = Disk::new(0, export, export.sectors, plan.seed, &bus, None);
        disk.begin_export(0, export.sectors);
        let disk = Arc::new(Mutex::new(disk));
        let mut oracle = Oracle::new();
        oracle.add(export, &disk, 0, 0, BTreeMap::new());
        let ceph = Ceph::new(&gateways, plan.seed, &bus, disk, plan.mutant);
        let mut settings = GroupSettings::with_detect_us(gateways.detect_ms * 1000);
        if plan.mutant == Some(Mutant::NoQuietTime) {
            settings.quiet_us = 0;
        }
        let hosts = run::hosts(plan, &bus);
        let mut world = Gateways {
            settings,
            random: Random::stream(plan.seed, 0x6777_776f),
            network: Network::new(&plan.network, plan.seed, &bus),
            ceph: Arc::new(Mutex::new(ceph)),
            hosts,
            oracle,
            watch: Watch::new(gateways.count),
            gateways: (0..gateways.count).map(|_| Gateway::new(&bus)).collect(),
            seen_at: None,
            by_worker: BTreeMap::new(),
            workers: BTreeMap::new(),
            lingering: BTreeSet::new(),
            next_worker: 0,
            next_client: 1,
            quiet: false,
            active: BTreeSet::new(),
            notes: Vec::new(),
            record: Record::default(),
            plan: plan.clone(),
            bus,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for gateway in 0..self.gateways.len() as u8 {
            let delay = self.random.below(2_000_000);
            self.bus
                .after(delay, Event::Gateway(gateway, 0, Box::new(Control::Start)));
        }
        run::schedule(&self.plan, &self.bus);
        self.bus.after(1, Event::Watch);
    }

    /// Shows the oracles what has happened, and wakes who got a completion.
    pub(super) fn settle(&mut self) {
        self.overtake();
        let mut notes = self.bus.take_notes(std::mem::take(&mut self.notes));
        for note in notes.drain(..) {
            match note {
                Note::Sent(worker, bytes) => self.sent(worker, &bytes),
                Note::Applied {
                    disk,
                    first,
                    values,
                    worker,
                } => self.oracle.applied(disk, first, &values, worker),
                Note::Lost { .. } => {}
                Note::Broken(text) => self.oracle.broken(Promise::Overlap, text),
                Note::Said(line) => self.record.tell(self.bus.now_us(), &line),
            }
        }
        self.notes = notes;
        for worker in self.bus.take_awake(Vec::new()) {
            self.wake(worker);
        }
        let mut unsure = std::mem::take(&mut self.oracle.unsure);
        unsure.extend(&self.oracle.unanswered);
        if !unsure.is_empty() {
            let owner = self.ceph.lock().owner();
            let serving = self.gateways.iter().filter_map(|gateway| {
                let life = gateway.life.as_ref()?;
                let serves =
                    *life.group.state() == GroupState::Active && owner == Some(life.client.as_ref()?.id);
                life.process.as_ref().filter(|_| serves)
            });
            let states: Vec<_> = serving.map(|process| process.exports[0].persistent()).collect();
            for state in states {
                self.oracle.resync(0, state);
            }
        }
    }

    /// Where a client has used an object, those before it must not change it any more.
    fn overtake(&mut self) {
        let ceph = Arc::clone(&self.ceph);
        let mut ceph = ceph.lock();
        for (client, osd) in ceph.take_overtaken() {
            let before = self.workers.range(..client).flat_map(|(_, workers)| workers);
            let before: BTreeSet<WorkerId> = before.copied().collect();
            self.oracle
                .shut_out(&before, &|sector| ceph.osd_of(sector) == osd);
        }
    }

    /// The port of a gateway.
    pub(super) fn port(&self, gateway: u8) -> PortInfo {
        PortInfo {
            mac: own_mac(gateway),
            mtu_bytes: self.plan.ports[0].mtu,
        }
    }

    fn at(&self, worker: WorkerId, gateway: u8) -> At {
        At {
            worker,
            port: gateway,
            mac: GROUP,
            mtu: self.plan.ports[0].mtu,
        }
    }

    /// A worker has sent a frame.
    fn sent(&mut self, worker: WorkerId, bytes: &[u8]) {
        let Some(&gateway) = self.by_worker.get(&worker) else {
            return;
        };
        self.record.sent(self.bus.now_us(), bytes);
        self.bus.say(|| crate::trace::reply(gateway, bytes));
        let state = self.gateways[usize::from(gateway)].state().cloned();
        if state != Some(GroupState::Active) {
            let text = format!("gateway {gateway} has sent a frame while it was {state:?}");
            self.oracle.broken(Promise::Silence, text);
        }
        let count = self.gateways.len() as u8;
        let to_gateway =
            (0..count).any(|other| is_unavailable(bytes, other) || rival(bytes, other, count).is_some());
        if to_gateway && frame::source(bytes) == own_mac(gateway) {
            // For no initiator.
            return self.sent_from(gateway, bytes);
        }
        if let Some(state) = self.life(gateway).and_then(|life| life.unshown.take()) {
            let asked = self.ceph.lock().take_asked();
            self.oracle.booted(0, &state, &asked);
        }
        self.resync(gateway);
        self.oracle.sent(self.at(worker, gateway), bytes);
        self.sent_from(gateway, bytes);
    }

    /// Tells the oracle of a change that came into force without an answer.
    fn resync(&mut self, gateway: u8) {
        let Some(life) = self.life(gateway).filter(|life| life.unsaid) else {
            return;
        };
        life.unsaid = false;
        if let Some(process) = &life.process {
            let state = process.exports[0].persistent();
            self.oracle.resync(0, state);
        }
    }

    fn frame_arrives(&mut self, gateway: u8, frame: Frame) {
        let at = &self.gateways[usize::from(gateway)];
        let now = self.bus.now_us();
        if !self.network.is_up(gateway)
            || at.paused
            || frame.bytes.len() > self.plan.ports[0].mtu as usize + 18
        {
            return;
        }
        if is_answer(&frame.bytes, gateway) {
            if at.is_stopped() {
                return self.miss(gateway, Event::ToTarget(gateway, frame));
            }
            return self.heard(gateway);
        }
        if is_unavailable(&frame.bytes, gateway) {
            return match at.is_stopped() {
                true => self.miss(gateway, Event::ToTarget(gateway, frame)),
                false => self.heard_unavailable(gateway),
            };
        }
        if let Some(heard) = rival(&frame.bytes, gateway, self.gateways.len() as u8) {
            return match at.is_stopped() {
                true => self.miss(gateway, Event::ToTarget(gateway, frame)),
                false => self.told_of_rival(gateway, heard),
            };
        }
        if self.is(Mutant::TakesOnFrame) && at.state() == Some(&GroupState::Standby) {
            let of_host =
                Header::request(&frame.bytes, GROUP).is_some_and(|header| header.source.0[1] == 0xc1);
            let clock = at.clock.now_us();
            if let Some(life) = self.life(gateway).filter(|_| of_host) {
                life.group.take(clock);
                return self.poll(gateway);
            }
        }
        let plan = &self.plan.ports[0];
        let spread = match (plan.by_source, frame.bytes.get(11)) {
            (true, Some(last)) => u64::from(*last),
            _ => self.random.any(),
        };
        let queue = (spread % u64::from(plan.queues)) as u8;
        let Some(&id) = self.gateways[usize::from(gateway)].queues.get(&queue) else {
            return;
        };
        let at = self.at(id, gateway);
        let process = self.life(gateway).and_then(|life| life.process.as_mut());
        if let Some(worker) = process.and_then(|process| process.workers.get_mut(&id))
            && worker.has_room()
        {
            let sent_us = frame.sent_us;
            let tick = self.oracle.arrived(at, &frame);
            let process = self.life(gateway).and_then(|life| life.process.as_mut());
            if let Some(worker) = process.and_then(|process| process.workers.get_mut(&id)) {
                worker.take(tick, frame, now);
            }
            if tick.is_some() {
                self.served_frame(gateway, sent_us);
            }
            self.wake(id);
        }
    }

    fn wake(&mut self, id: WorkerId) {
        let Some(&gateway) = self.by_worker.get(&id) else {
            return;
        };
        self.see_off(gateway, id);
        let soon = self.random.between(1, 20);
        let process = self.life(gateway).and_then(|life| life.process.as_mut());
        if let Some(worker) = process.and_then(|process| process.workers.get_mut(&id))
            && !std::mem::replace(&mut worker.scheduled, true)
        {
            self.bus.after(soon, Event::Run(id));
        }
    }

    fn run_worker(&mut self, id: WorkerId) {
        let Some(&gateway) = self.by_worker.get(&id) else {
            return;
        };
        let info = self.port(gateway);
        let at = &self.gateways[usize::from(gateway)];
        if at.is_stopped() {
            return self.miss(gateway, Event::Run(id));
        }
        let clock = at.clock.now_us();
        let process = self.life(gateway).and_then(|life| life.process.as_mut());
        let Some(worker) = process.and_then(|process| process.workers.get_mut(&id)) else {
            return;
        };
        worker.scheduled = false;
        self.bus.set_current(id);
        if let Some(life) = self.life(gateway)
            && let Some(client) = &life.client
        {
            // Whoever is silent does not say that a change is in force.
            life.unsaid |= client.hears_of_save(id) && client.is_silent();
        }
        let process = self.life(gateway).and_then(|life| life.process.as_mut());
        let Some(worker) = process.and_then(|process| process.workers.get_mut(&id)) else {
            return;
        };
        let more = worker.round(&info, clock);
        let ((out, pending), due) = (worker.frames(), worker.due_us());
        if out != 0 {
            let text = format!("the engine has kept {out} frames; {pending} requests wait");
            self.oracle.broken(Promise::Frames, text);
        }
        self.settle();
        if more {
            self.wake(id);
        } else if pending == 0 {
            let life = self.gateways[usize::from(gateway)].life.as_ref();
            let worker = life.and_then(|life| life.process.as_ref()?.workers.get(&id));
            if let Some(worker) = worker {
                self.oracle.idle(id, &|tick| worker.has_in_ring(tick));
            }
        }
        if let Some(due) = due {
            self.bus.after(due.saturating_sub(clock).max(1), Event::Run(id));
        }
    }

    /// Faults and load are over.
    fn quiet(&mut self) {
        self.quiet = true;
        self.network.calm = true;
        self.ceph.lock().calm = true;
        for number in 0..self.plan.faults.len() {
            self.fault(number, false);
        }
        self.hosts.iter_mut().for_each(|host| host.base().quiet = true);
        self.bus.after(BOUND_US, Event::End);
        self.bus.say(|| "load and faults are over".to_owned());
    }

    fn end(&mut self) {
        run::end(&mut self.oracle, &self.hosts);
        self.settle();
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.plan.mutant == Some(mutant)
    }

    /// Whether a host and a gateway, or two gateways, are cut from each other.
    pub(super) fn are_deaf(&self, gateway: u8, other: u8) -> bool {
        self.network.is_cut(as_host(gateway), other) || self.network.is_cut(as_host(other), gateway)
    }
}

impl Run for Gateways {
    fn step(&mut self) -> bool {
        let Some(event) = self.bus.next() else {
            return false;
        };
        self.oracle.set_now(self.bus.now_us());
        match event {
            Event::ToTarget(gateway, frame) => self.frame_arrives(gateway, frame),
            Event::ToHost(host, _, frame) => {
                if let Some(at) = self.hosts.get_mut(usize::from(host)) {
                    at.receive(0, &frame);
                    self.sent_by(host);
                }
            }
            Event::Run(worker) => self.run_worker(worker),
            Event::Timer(host) => {
                self.hosts[usize::from(host)].timer();
                self.sent_by(host);
                self.bus.after(TIMER_US, Event::Timer(host));
            }
            Event::Load(host) => {
                let again = self.hosts[usize::from(host)].load(&[]);
                self.sent_by(host);
                if let Some(delay) = again {
                    self.bus.after(delay, Event::Load(host));
                }
            }
            Event::Gateway(gateway, life, control) => self.control(gateway, life, *control),
            Event::Ceph(number) => self.ceph.lock().event(number),
            Event::OsdMap(osd, epoch) => self.ceph.lock().map(osd, epoch),
            Event::Fault(number, begins) => self.fault(number, begins),
            Event::Watch => self.look_around(),
            Event::Quiet => self.quiet(),
            Event::End => {
                self.end();
                return false;
            }
            Event::Disk(..) | Event::Saved(_) | Event::Boot | Event::Drain => {}
        }
        self.settle();
        self.oracle.violation.is_none()
    }

    fn parts(&mut self) -> (&mut Oracle, &[Host], &mut Record) {
        (&mut self.oracle, &self.hosts, &mut self.record)
    }
}
