//! How a gateway leaves the group, and how its process ends.

use super::answer::ClientId;
use super::ceph::{To, Work};
use super::world::Gateways;
use crate::bus::{Control, WorkerId};
use crate::mutants::Mutant;

/// How often it is looked whether everything is closed.
const CLOSE_US: u64 = 10_000;

impl Gateways {
    /// Nobody is answered any more; what waits is dropped, what Ceph has begun is waited for.
    pub(super) fn leave(&mut self, gateway: u8) {
        if self.is(Mutant::LeavesTalking) {
            return self.later(gateway, CLOSE_US, Control::Close);
        }
        self.stop_answering(gateway);
        self.later(gateway, 1, Control::Close);
    }

    fn stop_answering(&mut self, gateway: u8) {
        let Some(life) = self.life(gateway) else { return };
        life.taking = None;
        if let Some(client) = &life.client {
            client.silence();
        }
        let workers: Vec<WorkerId> = life
            .process
            .as_ref()
            .map(|process| process.workers.keys().copied().collect())
            .unwrap_or_default();
        self.gateways[usize::from(gateway)].queues.clear();
        for id in workers {
            let Some(process) = self.life(gateway).and_then(|life| life.process.as_mut()) else {
                continue;
            };
            let Some(worker) = process.workers.remove(&id) else {
                continue;
            };
            let (left, remains) = worker.close();
            process.remains.insert(id, remains);
            if left > 0 {
                let text = format!("{left} frames are left of a gateway that left");
                self.oracle.broken(crate::oracle::Promise::Frames, text);
            }
            self.see_off(gateway, id);
        }
        self.settle();
    }

    /// Goes on with what a worker left behind.
    pub(super) fn see_off(&mut self, gateway: u8, id: WorkerId) {
        self.bus.set_current(id);
        let Some(process) = self.life(gateway).and_then(|life| life.process.as_mut()) else {
            return;
        };
        let Some(remains) = process.remains.get_mut(&id) else {
            return;
        };
        remains.completions();
        if remains.pending() == 0 {
            process.remains.remove(&id);
            self.bus.end_worker(id);
            self.oracle.idle(id, &|_| false);
        }
    }

    /// Looks whether everything is closed; then the lock is given back.
    pub(super) fn close(&mut self, gateway: u8) {
        let Some(life) = self.life(gateway) else { return };
        if *life.group.state() != failover::GroupState::Leaving || life.unlocking.is_some() {
            return;
        }
        if self.is(Mutant::LeavesTalking) {
            self.stop_answering(gateway);
        }
        let Some(life) = self.life(gateway) else { return };
        let remains = life.process.as_ref().map_or(0, |process| process.remains.len());
        let Some(client) = life.client.clone() else {
            return self.unlocked(gateway);
        };
        if remains > 0 || self.ceph.lock().in_flight(client.id) > 0 {
            return self.later(gateway, CLOSE_US, Control::Close);
        }
        if client.is_shut_out() {
            return self.unlocked(gateway);
        }
        let job = self
            .ceph
            .lock()
            .submit(&client, WorkerId::MAX, Work::Unlock(client.id), To::Control);
        if let Some(life) = self.life(gateway) {
            life.unlocking = Some(job);
        }
    }

    /// Everything is closed.
    pub(super) fn unlocked(&mut self, gateway: u8) {
        let clock = self.gateways[usize::from(gateway)].clock.now_us();
        let Some(life) = self.life(gateway) else { return };
        life.unlocking = None;
        (life.client, life.process, life.unshown) = (None, None, None);
        life.group.left(clock);
        if life.ending {
            self.kill(gateway);
        }
    }

    /// A gateway's process is gone. What it has handed to the cluster goes on.
    pub(super) fn kill(&mut self, gateway: u8) {
        let at = &mut self.gateways[usize::from(gateway)];
        let Some(life) = at.life.take() else { return };
        at.queues.clear();
        (at.stopped_us, at.paused) = (0, false);
        at.missed.clear();
        self.bus
            .say(|| format!("gateway {gateway}: the process has ended"));
        self.ceph.lock().stop(gateway, false);
        self.ceph.lock().process_gone(gateway);
        if let Some(process) = life.process {
            let workers = process.workers.keys().chain(process.remains.keys());
            for id in workers.copied().collect::<Vec<_>>() {
                self.bus.end_worker(id);
                self.lingering.insert(id);
            }
        }
        self.settle();
        self.look_after_lingering();
    }

    /// Workers of processes that are gone, whose writes may still land: they are over when those are.
    pub(super) fn look_after_lingering(&mut self) {
        let ceph = self.ceph.lock();
        let over: Vec<WorkerId> = self
            .lingering
            .iter()
            .copied()
            .filter(|id| ceph.of_worker(*id) == 0)
            .collect();
        drop(ceph);
        for id in over {
            self.lingering.remove(&id);
            self.by_worker.remove(&id);
            self.oracle.idle(id, &|_| false);
        }
    }

    /// A gateway has shut this client out, Ceph says.
    pub(super) fn shut_out(&mut self, by: u8, client: ClientId) {
        self.took(by, client);
    }
}
