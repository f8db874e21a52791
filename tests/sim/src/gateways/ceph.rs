//! A Ceph cluster with one image: monitors with their map, OSDs that learn of it late, the image's exclusive lock, and jobs that
//! take their time both ways.
//!
//! As in Ceph, a client that is shut out is shut out by an epoch of the map. An OSD refuses its jobs from the moment on that it has
//! that map: when it hears of it, or when a job comes from somebody who has it already.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use engine::Persistent;
use parking_lot::Mutex;

use super::answer::{Answer, ClientId};
use super::client::Client;
use super::parts::Parts;
use crate::bus::{Bus, Control, Event, WorkerId};
use crate::disk::Disk;
use crate::mutants::Mutant;
use crate::plan::GatewaysPlan;
use crate::random::Random;

/// Sectors of an object.
pub(super) const OBJECT: u64 = 8;

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// Sectors of one object.
    Read(u64, u64),
    /// Sectors of one object.
    Write(u64, Vec<u8>),
    /// Nothing but an answer.
    Nothing,
    /// Of the monitors: their map.
    Connect,
    /// Of the monitors: shut this client out.
    Blocklist(ClientId),
    /// Who has the lock.
    Owner,
    /// The lock, if nobody has it.
    Acquire,
    /// Nobody has the lock, if this client has it.
    Unlock(ClientId),
    /// The protocol state.
    Load,
    /// The protocol state is this.
    Save(Persistent),
}

/// Who waits for the answer.
#[derive(Debug)]
pub(super) enum To {
    /// An operation of a store: the place of this part in it.
    Parts(Arc<Mutex<Parts>>, u64),
    /// The control part of the client's gateway.
    Control,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Way,
    Queue,
    Back,
}

#[derive(Debug)]
struct Job {
    client: Arc<Client>,
    worker: WorkerId,
    work: Work,
    to: To,
    epoch: u64,
    /// By the client's clock.
    sent_us: u64,
    stage: Stage,
    answer: Answer,
}

#[derive(Debug, Default)]
struct Osd {
    epoch: u64,
    stalls: u32,
    /// The latest client that has used its objects.
    newest: ClientId,
    waiting: Vec<u64>,
}

/// The cluster.
#[derive(Debug)]
pub(super) struct Ceph {
    bus: Bus,
    random: Random,
    plan: GatewaysPlan,
    mutant: Option<Mutant>,
    disk: Arc<Mutex<Disk>>,
    osds: Vec<Osd>,
    epoch: u64,
    /// In which epoch, and when.
    blocklist: BTreeMap<ClientId, (u64, u64)>,
    lock: Option<ClientId>,
    state: Persistent,
    /// What a client asked to be saved last.
    asked: VecDeque<Persistent>,
    jobs: BTreeMap<u64, Job>,
    /// Jobs that wait for a gateway's way to the cluster.
    held: BTreeMap<u8, Vec<u64>>,
    cuts: BTreeMap<u8, u32>,
    stopped: BTreeSet<u8>,
    slow: u32,
    next_job: u64,
    /// Clients that were the first to use an OSD's objects after others.
    overtaken: Vec<(ClientId, usize)>,
    /// Nothing is late any more.
    pub calm: bool,
}

impl Ceph {
    /// A cluster whose image lies on `disk`.
    pub(super) fn new(
        plan: &GatewaysPlan,
        seed: u64,
        bus: &Bus,
        disk: Arc<Mutex<Disk>>,
        mutant: Option<Mutant>,
    ) -> Ceph {
        Ceph {
            bus: bus.clone(),
            random: Random::stream(seed, 0x6365_7068),
            plan: plan.clone(),
            mutant,
            disk,
            osds: (0..plan.osds.max(1)).map(|_| Osd::default()).collect(),
            epoch: 1,
            blocklist: BTreeMap::new(),
            lock: None,
            state: Persistent::default(),
            asked: VecDeque::new(),
            jobs: BTreeMap::new(),
            held: BTreeMap::new(),
            cuts: BTreeMap::new(),
            stopped: BTreeSet::new(),
            slow: 0,
            next_job: 0,
            overtaken: Vec::new(),
            calm: false,
        }
    }

    /// Starts a job.
    pub(super) fn submit(&mut self, client: &Arc<Client>, worker: WorkerId, work: Work, to: To) -> u64 {
        let number = self.next_job;
        self.next_job += 1;
        if let Work::Save(state) = &work {
            self.asked.push_back(state.clone());
        }
        let job = Job {
            client: Arc::clone(client),
            worker,
            work,
            to,
            epoch: client.epoch(),
            sent_us: client.now_us(),
            stage: Stage::Way,
            answer: Answer::Done,
        };
        self.jobs.insert(number, job);
        let is_data = matches!(self.jobs[&number].to, To::Parts(..));
        let late = is_data && !self.calm && self.random.chance(self.plan.late);
        let delay = match late {
            true => self.random.below(self.plan.late_ms * 1000 + 1),
            false => self.random.around(100) + 20,
        };
        self.bus.after(delay, Event::Ceph(number));
        number
    }

    /// A job goes on.
    pub(super) fn event(&mut self, number: u64) {
        let Some(job) = self.jobs.get(&number) else { return };
        let gateway = job.client.gateway;
        // What a stopped process has sent is on its way; what comes back waits for it.
        let waits = match job.stage {
            Stage::Way => self.is_cut(gateway),
            Stage::Queue => false,
            Stage::Back => self.is_cut(gateway) || self.stopped.contains(&gateway),
        };
        if waits {
            self.held.entry(gateway).or_default().push(number);
            return;
        }
        match job.stage {
            Stage::Way => {
                let slow = if self.slow > 0 { 3_000_000 } else { 0 };
                let delay = self.random.around(self.plan.osd_us) + self.random.below(slow + 1) + 1;
                self.on_to(number, Stage::Queue, delay);
            }
            Stage::Queue => self.carry_out(number),
            Stage::Back => self.deliver(number),
        }
    }

    fn on_to(&mut self, number: u64, stage: Stage, delay: u64) {
        if let Some(job) = self.jobs.get_mut(&number) {
            job.stage = stage;
            self.bus.after(delay, Event::Ceph(number));
        }
    }

    fn carry_out(&mut self, number: u64) {
        let Some(job) = self.jobs.get(&number) else { return };
        let osd = match &job.work {
            Work::Connect | Work::Blocklist(_) => None,
            Work::Read(first, _) | Work::Write(first, _) => Some(self.osd_of(*first)),
            _ => Some(0),
        };
        let (client, work) = (Arc::clone(&job.client), job.work.clone());
        let (worker, epoch) = (job.worker, job.epoch);
        let mut answer = Answer::Done;
        if let Some(osd) = osd.map(|osd| &mut self.osds[osd]) {
            if osd.stalls > 0 {
                return osd.waiting.push(number);
            }
            osd.epoch = osd.epoch.max(epoch);
            let knows = self
                .blocklist
                .get(&client.id)
                .is_some_and(|(shut, _)| *shut <= osd.epoch);
            if knows {
                answer = Answer::ShutOut;
            }
        }
        if answer == Answer::Done && matches!(work, Work::Read(..) | Work::Write(..)) {
            let osd = osd.unwrap_or_default();
            if self.osds[osd].newest < client.id {
                self.osds[osd].newest = client.id;
                self.overtaken.push((client.id, osd));
            }
        }
        if answer == Answer::Done {
            answer = self.do_work(&client, worker, work);
        }
        if let Some(job) = self.jobs.get_mut(&number) {
            job.answer = answer;
        }
        let delay = self.random.around(100) + 20;
        self.on_to(number, Stage::Back, delay);
    }

    fn do_work(&mut self, client: &Arc<Client>, worker: WorkerId, work: Work) -> Answer {
        match work {
            Work::Read(first, count) => return Answer::Bytes(self.disk.lock().bytes(first, count)),
            Work::Write(first, bytes) => self.disk.lock().put(first, &bytes, worker),
            Work::Nothing | Work::Connect => {}
            Work::Blocklist(other) => self.shut_out(other),
            Work::Owner => return Answer::Owner(self.lock),
            Work::Acquire => match self.lock {
                Some(owner) if owner != client.id => return Answer::Busy,
                _ => self.lock = Some(client.id),
            },
            Work::Unlock(owner) => self.lock = self.lock.filter(|has| *has != owner),
            Work::Load => return Answer::State(self.state.clone()),
            Work::Save(state) => self.state = state,
        }
        Answer::Done
    }

    fn shut_out(&mut self, client: ClientId) {
        self.epoch += 1;
        let epoch = self.epoch;
        let now = self.bus.now_us();
        self.blocklist.entry(client).or_insert((epoch, now));
        for osd in 0..self.osds.len() as u8 {
            let delay = self.random.below(self.plan.map_ms * 1000 + 1);
            self.bus.after(delay, Event::OsdMap(osd, epoch));
        }
        self.bus
            .say(|| format!("ceph: client {client} is shut out in epoch {epoch}"));
    }

    /// An OSD hears of a map.
    pub(super) fn map(&mut self, osd: u8, epoch: u64) {
        if let Some(osd) = self.osds.get_mut(usize::from(osd)) {
            osd.epoch = osd.epoch.max(epoch);
        }
    }

    fn deliver(&mut self, number: u64) {
        let Some(job) = self.jobs.remove(&number) else {
            return;
        };
        // The break returns when the client has the map; whoever connects has the latest.
        let learns = match job.work {
            Work::Connect => true,
            Work::Blocklist(_) => self.mutant != Some(Mutant::BreaksWithoutNewEpoch),
            _ => false,
        };
        if learns {
            job.client.learn(self.epoch);
        }
        job.client.answered(&job.answer, job.sent_us);
        if matches!(job.work, Work::Save(_)) {
            job.client.saved(job.worker);
        }
        match job.to {
            To::Parts(parts, at) => parts.lock().end(at, job.answer),
            To::Control => {
                let control = Control::Answer(job.client.id, number, job.answer);
                self.bus.after(
                    1,
                    Event::Gateway(job.client.gateway, job.client.life, Box::new(control)),
                );
            }
        }
    }

    /// Jobs of a client that are not over.
    pub(super) fn in_flight(&self, client: ClientId) -> usize {
        self.jobs.values().filter(|job| job.client.id == client).count()
    }

    /// Jobs of a worker that may still change something.
    pub(super) fn of_worker(&self, worker: WorkerId) -> usize {
        let of = |job: &&Job| job.worker == worker && matches!(job.work, Work::Write(..) | Work::Save(_));
        self.jobs.values().filter(of).count()
    }

    /// A gateway's process is gone: what it had not sent never comes, what is on its way does.
    pub(super) fn process_gone(&mut self, gateway: u8) {
        for number in self.held.remove(&gateway).unwrap_or_default() {
            self.jobs.remove(&number);
        }
    }

    /// Whether a gateway does not reach the cluster.
    pub(super) fn is_cut(&self, gateway: u8) -> bool {
        self.cuts.get(&gateway).is_some_and(|times| *times > 0)
    }

    /// Whether all of the cluster answers in time.
    pub(super) fn is_well(&self) -> bool {
        self.slow == 0 && self.osds.iter().all(|osd| osd.stalls == 0)
    }

    /// Cuts a gateway's way to the cluster, or mends one cut.
    pub(super) fn cut(&mut self, gateway: u8, cut: bool) {
        let cuts = self.cuts.entry(gateway).or_default();
        *cuts = if cut { *cuts + 1 } else { cuts.saturating_sub(1) };
        if *cuts == 0 {
            // Lost connections are taken up again, and everything is sent once more, in order.
            let delay = self.random.between(1000, 200_000);
            self.go_on(gateway, delay);
        }
    }

    fn go_on(&mut self, gateway: u8, mut delay: u64) {
        for number in self.held.remove(&gateway).unwrap_or_default() {
            delay += self.random.between(1, 50);
            self.bus.after(delay, Event::Ceph(number));
        }
    }

    /// A gateway's process is stopped, or goes on.
    pub(super) fn stop(&mut self, gateway: u8, stopped: bool) {
        if stopped {
            self.stopped.insert(gateway);
        } else if self.stopped.remove(&gateway) {
            let delay = self.random.below(2000);
            self.go_on(gateway, delay);
        }
    }

    /// Everything takes seconds, or not any more.
    pub(super) fn slow(&mut self, slow: bool) {
        self.slow = if slow {
            self.slow + 1
        } else {
            self.slow.saturating_sub(1)
        };
    }

    /// An OSD does nothing, or goes on.
    pub(super) fn stall(&mut self, osd: u8, stalls: bool) {
        let count = self.osds.len();
        let osd = &mut self.osds[usize::from(osd) % count];
        osd.stalls = if stalls {
            osd.stalls + 1
        } else {
            osd.stalls.saturating_sub(1)
        };
        if osd.stalls == 0 {
            for number in std::mem::take(&mut osd.waiting) {
                let delay = self.random.between(1, 20_000);
                self.bus.after(delay, Event::Ceph(number));
            }
        }
    }

    /// Clients that were the first to use an OSD's objects after others, since the last call.
    pub(super) fn take_overtaken(&mut self) -> Vec<(ClientId, usize)> {
        std::mem::take(&mut self.overtaken)
    }

    /// The OSD of a sector.
    pub(super) fn osd_of(&self, sector: u64) -> usize {
        ((sector / OBJECT) % self.osds.len() as u64) as usize
    }

    /// Who has the lock.
    pub(super) fn owner(&self) -> Option<ClientId> {
        self.lock
    }

    /// When this client was shut out.
    pub(super) fn shut_out_us(&self, client: ClientId) -> Option<u64> {
        Some(self.blocklist.get(&client)?.1)
    }

    /// The state may be any of these, besides what was answered: they were asked for since the last call.
    pub(super) fn take_asked(&mut self) -> Vec<Persistent> {
        std::mem::take(&mut self.asked).into()
    }
}
