//! How a gateway takes the lock, opens the image, and begins to answer.

use std::sync::Arc;

use engine::{Exports, Options, StateStore, Store};
use failover::Holder;

use super::answer::Answer;
use super::ceph::{To, Work};
use super::client::Client;
use super::control::name;
use super::gateway::{GROUP, Stage, Taking, own_mac};
use super::store::{Image, Metadata};
use super::world::Gateways;
use crate::bus::{CompletionQueue, Control, Event, WorkerId};
use crate::mutants::Mutant;
use crate::process::{Process, options};

impl Gateways {
    /// Begins to take the lock; `from`: whose may be broken.
    pub(super) fn take(&mut self, gateway: u8, from: Option<Holder>) {
        let client = self.client(gateway);
        let clock = self.gateways[usize::from(gateway)].clock.now_us();
        let Some(life) = self.life(gateway) else { return };
        life.client = Some(Arc::clone(&client));
        life.taking = Some(Taking {
            from,
            stage: Stage::Connect,
        });
        life.without_lock = 0;
        life.taken_ms = clock / 1000;
        self.go_on_with(&client, Work::Connect);
    }

    fn go_on_with(&mut self, client: &Arc<Client>, work: Work) {
        self.bus.say(|| {
            format!(
                "gateway {}: asks Ceph as client {}: {work:?}",
                client.gateway, client.id
            )
        });
        self.ceph.lock().submit(client, WorkerId::MAX, work, To::Control);
    }

    /// The next step, after the answer to the one before.
    pub(super) fn go_on_taking(&mut self, gateway: u8, client: &Arc<Client>, answer: Answer) {
        let no_lock = self.is(Mutant::BothActive);
        let clock = self.gateways[usize::from(gateway)].clock.now_us();
        let Some(life) = self.life(gateway) else { return };
        let Some(taking) = &mut life.taking else { return };
        let (stage, next) = match (taking.stage, answer) {
            (Stage::Connect, Answer::Done) if no_lock => (Stage::Load, Work::Load),
            (Stage::Connect, Answer::Done) => (Stage::Owner, Work::Owner),
            (Stage::Owner, Answer::Owner(Some(owner))) => {
                let holder = Holder::Known(name(owner));
                if taking.from.as_ref().is_some_and(|from| *from != holder) {
                    life.taking = None;
                    return life.group.refused(format!("{} has the lock", name(owner)), clock);
                }
                (Stage::Break(owner), Work::Blocklist(owner))
            }
            (Stage::Break(owner), Answer::Done) => {
                taking.stage = Stage::Unlock;
                self.shut_out(gateway, owner);
                return self.go_on_with(client, Work::Unlock(owner));
            }
            (Stage::Owner | Stage::Unlock, _) => (Stage::Acquire, Work::Acquire),
            (Stage::Acquire, Answer::Done) => (Stage::Load, Work::Load),
            (Stage::Load, Answer::State(state)) => {
                let state = life.early.clone().unwrap_or(state);
                return self.taken(gateway, client, &state);
            }
            (Stage::Acquire, Answer::Busy) => {
                life.taking = None;
                return life.group.refused("somebody else was faster".into(), clock);
            }
            // The fence is told by itself.
            _ => return,
        };
        taking.stage = stage;
        self.go_on_with(client, next);
    }

    /// The lock is held, and the state read.
    fn taken(&mut self, gateway: u8, client: &Arc<Client>, state: &engine::Persistent) {
        let clock = self.gateways[usize::from(gateway)].clock.now_us();
        let image = Image {
            client: Arc::clone(client),
            ceph: Arc::clone(&self.ceph),
            sectors: self.plan.exports[0].sectors,
        };
        let keeper: Arc<dyn StateStore<CompletionQueue>> = Arc::new(Metadata {
            client: Arc::clone(client),
            ceph: Arc::clone(&self.ceph),
        });
        let stores: Vec<Arc<dyn Store<CompletionQueue>>> = vec![Arc::new(image)];
        let taken_ms = self.life(gateway).map_or(0, |life| life.taken_ms);
        let alone = options(0, &self.plan.exports[0], &std::collections::BTreeMap::new());
        let options = vec![Options {
            gateway: Some(engine::Gateway {
                mac: GROUP,
                peers: (0..self.gateways.len() as u8).map(own_mac).collect(),
                standing: failover::standing_text(taken_ms, "rbd:rbd/vm").into(),
            }),
            ..alone
        }];
        let process = Process::start(&self.bus, stores, options, |_| state.clone(), &keeper);
        let Some(life) = self.life(gateway) else { return };
        life.taking = None;
        life.process = Some(process);
        life.unshown = Some(state.clone());
        life.group.taken(clock);
        self.watch.locked(gateway, self.bus.now_us());
        self.later(gateway, 1, Control::Keep(client.id));
    }

    /// Begins to answer.
    pub(super) fn serve(&mut self, gateway: u8) {
        let plan = self.plan.ports[0].clone();
        let Some(life) = self.life(gateway) else { return };
        life.active_from = life.question + 1;
        life.rivals.clear();
        let Some(client) = life.client.clone() else { return };
        for queue in 0..plan.queues {
            let id = self.next_worker;
            self.next_worker += 1;
            if let Some(process) = self.life(gateway).and_then(|life| life.process.as_mut()) {
                process.start_worker(id, gateway, queue, &plan);
            }
            self.gateways[usize::from(gateway)].queues.insert(queue, id);
            self.by_worker.insert(id, gateway);
            self.workers.entry(client.id).or_default().push(id);
        }
        self.announce(gateway);
    }

    /// Says unasked which gateway answers: for the hosts, and for the switches between, which may have seen another one since.
    pub(super) fn announce(&mut self, gateway: u8) {
        let clock = self.gateways[usize::from(gateway)].clock.now_us();
        let info = self.port(gateway);
        let Some(life) = self.life(gateway) else { return };
        let Some(process) = &mut life.process else { return };
        let served: Arc<Exports<CompletionQueue>> = Arc::clone(&process.served);
        let Some((id, worker)) = process.workers.iter_mut().next() else {
            return;
        };
        worker.advertise(&info, &served, clock);
        let (id, due) = (*id, worker.due_us());
        if let Some(due) = due {
            self.bus.after(due.saturating_sub(clock).max(1), Event::Run(id));
        }
        self.settle();
    }
}
