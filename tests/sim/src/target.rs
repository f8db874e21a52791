//! The target's side of a run: frames to workers, rounds, and the lives of the process.

use std::sync::Arc;

use engine::{StateStore, Store};

use crate::bus::{CompletionQueue, Event, WorkerId};
use crate::disk::SimStore;
use crate::frame::Frame;
use crate::mutants::Mutant;
use crate::oracle::Promise;
use crate::process::{Process, Stage, Worker, options};
use crate::world::World;

/// How long a worker that ends waits for what the disk owes it.
const DRAIN_US: u64 = 5_000_000;
/// How often it looks.
const DRAIN_PAUSE_US: u64 = 10_000;
/// After this a service manager kills what does not end.
const KILL_US: u64 = 90_000_000;

impl World {
    /// A frame has reached a port.
    pub(crate) fn frame_arrives(&mut self, port: u8, frame: Frame) {
        let at = &self.ports[usize::from(port)];
        // Header and a tag come on top of the MTU.
        if !self.network.is_up(port) || frame.bytes.len() > at.info.mtu_bytes as usize + 18 {
            return;
        }
        let plan = &self.plan.ports[usize::from(port)];
        let spread = match (plan.by_source, frame.bytes.get(11)) {
            (true, Some(last)) => u64::from(*last),
            _ => self.random.any(),
        };
        let queue = (spread % u64::from(plan.queues)) as u8;
        let Some(&id) = self.by_queue.get(&(port, queue)) else {
            return;
        };
        let at = self.at(id, port);
        let Some(worker) = self
            .process
            .as_mut()
            .and_then(|process| process.workers.get_mut(&id))
        else {
            return;
        };
        if worker.has_room() {
            let tick = self.oracle.arrived(at, &frame);
            worker.take(tick, frame, self.bus.now_us());
            self.wake(id);
        }
    }

    /// Has a worker run soon.
    pub(crate) fn wake(&mut self, id: WorkerId) {
        let now = self.bus.now_us();
        self.see_off(id);
        let Some(worker) = self
            .process
            .as_mut()
            .and_then(|process| process.workers.get_mut(&id))
        else {
            return;
        };
        if !std::mem::replace(&mut worker.scheduled, true) {
            let soon = self.random.between(1, 20);
            let stalled = worker.stalled_until.saturating_sub(now);
            self.bus.after(soon.max(stalled), Event::Run(id));
        }
    }

    /// A round of a worker.
    pub(crate) fn run_worker(&mut self, id: WorkerId) {
        let now = self.bus.now_us();
        let Some(worker) = self
            .process
            .as_mut()
            .and_then(|process| process.workers.get_mut(&id))
        else {
            return;
        };
        worker.scheduled = false;
        if worker.stalled_until > now {
            return self.wake(id);
        }
        if worker.stage == Stage::Closing {
            return;
        }
        let port = self.ports[usize::from(worker.port)].info;
        self.bus.set_current(id);
        if self.plan.mutant == Some(Mutant::CompletionLost) && self.random.one_in(200) {
            self.bus.lose_completion(id);
        }
        let more = worker.round(&port, now);
        let (out, pending) = worker.frames();
        let idle = pending == 0;
        let due = worker.due_us();
        if out != 0 {
            let text = format!("the engine has kept {out} frames; {pending} requests wait");
            self.oracle.broken(Promise::Frames, text);
        }
        self.settle();
        if more {
            self.wake(id);
        } else if idle {
            self.idle(id);
        }
        if let Some(due) = due {
            self.bus.after(due.saturating_sub(now).max(1), Event::Run(id));
        }
    }

    fn idle(&mut self, id: WorkerId) {
        let Some(worker) = self.process.as_ref().and_then(|process| process.workers.get(&id)) else {
            return;
        };
        self.oracle.idle(id, &|tick| worker.has_in_ring(tick));
    }

    /// A process starts.
    pub(crate) fn boot(&mut self) {
        if self.process.is_some() {
            return;
        }
        self.say("the process starts");
        let open = |place: &crate::world::Place| {
            let store = SimStore::open(&self.disks[place.disk], place.store, place.base, place.sectors);
            Arc::new(store) as Arc<dyn Store<CompletionQueue>>
        };
        let stores = self.places.iter().map(open).collect();
        let keeper: Arc<dyn StateStore<CompletionQueue>> = Arc::new(self.state.clone());
        let load = |address| self.state.load(address);
        let process = Process::start(&self.bus, stores, self.options(), load, &keeper);
        let asked = std::mem::take(&mut self.asked);
        for (number, export) in process.exports.iter().enumerate() {
            let asked = asked.get(&export.address()).map_or(&[][..], Vec::as_slice);
            self.oracle.booted(number, &export.persistent(), asked);
        }
        self.process = Some(process);
        for port in 0..self.ports.len() as u8 {
            self.open_port(port);
        }
    }

    pub(crate) fn options(&self) -> Vec<engine::Options> {
        let plans = self.plan.exports.iter().zip(&self.access).enumerate();
        plans
            .map(|(slot, (plan, access))| options(slot, plan, access))
            .collect()
    }

    fn open_port(&mut self, port: u8) {
        for queue in 0..self.plan.ports[usize::from(port)].queues {
            self.open_queue(port, queue);
        }
        self.advertise(port);
    }

    fn open_queue(&mut self, port: u8, queue: u8) {
        let Some(process) = &mut self.process else { return };
        let id = self.next_worker;
        self.next_worker += 1;
        process.start_worker(id, port, queue, &self.plan.ports[usize::from(port)]);
        self.by_queue.insert((port, queue), id);
    }

    /// Advertises everything on a port.
    pub(crate) fn advertise(&mut self, port: u8) {
        let info = self.ports[usize::from(port)].info;
        let now = self.bus.now_us();
        let Some(process) = &mut self.process else { return };
        let served = Arc::clone(&process.served);
        let worker = process
            .workers
            .iter_mut()
            .find(|(_, worker)| worker.port == port && worker.stage == Stage::Serving);
        if let Some((id, worker)) = worker {
            worker.advertise(&info, &served, now);
            if let Some(due) = worker.due_us() {
                self.bus.after(due.saturating_sub(now).max(1), Event::Run(*id));
            }
        }
        self.settle();
    }

    /// Ends workers: they drain, then close.
    pub(crate) fn end_workers(&mut self, which: impl Fn(&Worker) -> bool, at_once: bool) {
        let now = self.bus.now_us();
        let Some(process) = &mut self.process else { return };
        for worker in process
            .workers
            .values_mut()
            .filter(|worker| worker.stage == Stage::Serving && which(worker))
        {
            worker.stage = if at_once {
                Stage::Closing
            } else {
                Stage::Draining(now + DRAIN_US)
            };
        }
        self.bus.after(1, Event::Drain);
    }

    /// SIGTERM.
    pub(crate) fn terminate(&mut self) {
        let Some(process) = &mut self.process else { return };
        process.terminating = true;
        self.say("SIGTERM");
        self.end_workers(|_| true, false);
    }

    /// Looks who has drained.
    pub(crate) fn drain(&mut self) {
        let now = self.bus.now_us();
        let Some(process) = &mut self.process else { return };
        let mut closing = Vec::new();
        for (id, worker) in &mut process.workers {
            if let Stage::Draining(until) = worker.stage
                && (now >= until || (worker.pending() == 0 && worker.waiting() == 0))
            {
                worker.stage = Stage::Closing;
            }
            if worker.stage == Stage::Closing {
                closing.push(*id);
            }
        }
        for id in closing {
            self.close_worker(id);
        }
        let Some(process) = &self.process else { return };
        let ends = process
            .workers
            .values()
            .any(|worker| worker.stage != Stage::Serving);
        if process.terminating && process.workers.is_empty() {
            return self.ended();
        }
        if ends || process.terminating {
            self.bus.after(DRAIN_PAUSE_US, Event::Drain);
        }
    }

    fn close_worker(&mut self, id: WorkerId) {
        let Some(process) = &mut self.process else { return };
        let Some(worker) = process.workers.remove(&id) else {
            return;
        };
        let (port, queue, terminating) = (worker.port, worker.queue, process.terminating);
        let (left, remains) = worker.close();
        self.oracle.idle(id, &|_| false);
        if self.is(Mutant::OrderGivenUpEarly) {
            self.bus.end_worker(id);
            drop(remains);
        } else if self.is(Mutant::BlockClosedForEver) {
            self.bus.end_worker(id);
            drop(remains);
            self.disks.iter().for_each(|disk| disk.lock().forget_worker(id));
        } else if let Some(process) = &mut self.process {
            process.remains.insert(id, remains);
            self.see_off(id);
        }
        if left > 0 {
            self.oracle.broken(
                Promise::Frames,
                format!("{left} frames are left of a worker that ended"),
            );
        }
        self.settle();
        if !terminating {
            self.by_queue.remove(&(port, queue));
            self.open_queue(port, queue);
            self.advertise(port);
        }
    }

    /// Goes on with what a worker that has ended left with the stores.
    fn see_off(&mut self, id: WorkerId) {
        let Some(process) = &mut self.process else { return };
        let Some(remains) = process.remains.get_mut(&id) else {
            return;
        };
        self.bus.set_current(id);
        remains.completions();
        if remains.pending() == 0 {
            process.remains.remove(&id);
            self.bus.end_worker(id);
        }
    }

    /// The orderly end of a process.
    fn ended(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        for store in &process.stores {
            // An error is in the log.
            let _ = store.close();
        }
        self.state.close();
        self.settle();
        self.say("the process has ended");
        self.gone(false);
    }

    /// SIGKILL, or the power fails.
    pub(crate) fn kill(&mut self, power: bool) {
        let Some(process) = self.process.take() else {
            return;
        };
        self.say(if power { "the power fails" } else { "SIGKILL" });
        let workers: Vec<WorkerId> = process
            .workers
            .keys()
            .chain(process.remains.keys())
            .copied()
            .collect();
        workers.into_iter().for_each(|id| self.bus.end_worker(id));
        drop(process);
        for disk in &self.disks {
            let mut disk = disk.lock();
            if power { disk.power_cut() } else { disk.killed() }
        }
        self.settle();
        self.gone(power);
    }

    fn gone(&mut self, power: bool) {
        self.by_queue.clear();
        for (address, states) in self.state.process_gone() {
            self.asked.entry(address).or_default().extend(states);
        }
        self.oracle.process_gone();
        self.oracle.survived(power);
    }

    /// After this a process that does not end is killed.
    pub(crate) fn kill_limit_us() -> u64 {
        KILL_US
    }
}
