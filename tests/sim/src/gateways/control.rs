//! A gateway's control part: it does what the group's machine says, as the daemon does.

use std::sync::Arc;

use failover::{ASK_EVERY_US, GroupState, GroupStep, Holder};

use super::answer::{Answer, ClientId};
use super::ceph::{To, Work};
use super::client::{Client, LEASE_US};
use super::gateway::{GROUP, Life};
use super::world::Gateways;
use crate::bus::{Control, Event, WorkerId};
use crate::mutants::Mutant;

/// How often a gateway asks whether the lock is still its own.
const KEEP_US: u64 = LEASE_US / 3;
/// The same when it has not heard for too long.
const KEEP_SOON_US: u64 = KEEP_US / 8;
/// A question about the lock that has no answer after this counts as failed.
const LOOK_US: u64 = 10_000_000;

/// What a client is called where the machine sees it.
pub(super) fn name(client: ClientId) -> String {
    format!("client.{client}")
}

impl Gateways {
    /// Something for a gateway's control part.
    pub(super) fn control(&mut self, gateway: u8, life: u32, control: Control) {
        let at = &self.gateways[usize::from(gateway)];
        if matches!(control, Control::Start) {
            return self.start(gateway);
        }
        if at.life.is_none() || at.lives != life {
            return;
        }
        if at.is_stopped() {
            return self.miss(gateway, Event::Gateway(gateway, life, Box::new(control)));
        }
        let clock = at.clock.now_us();
        match control {
            Control::Ask => self.ask_around(gateway, clock),
            Control::Keep(client) => self.keep(gateway, client),
            Control::Fenced(client, reason) => self.fenced(gateway, client, reason),
            Control::Answer(client, job, answer) => self.answer(gateway, client, job, answer),
            Control::Late(job) => {
                if let Some(life) = self.life(gateway).filter(|life| life.look == Some(job)) {
                    life.look = None;
                    life.group.looked(Err("Ceph does not answer".into()), clock);
                }
            }
            Control::Close => self.close(gateway),
            Control::Operator(here) => {
                if let Some(life) = self.life(gateway) {
                    let done = if here {
                        life.group.take(clock)
                    } else {
                        life.group.release(clock)
                    };
                    if done && !here {
                        self.watch.begins_anew(gateway);
                    }
                    self.bus
                        .say(|| format!("gateway {gateway}: the operator's order is {done}"));
                }
            }
            Control::Terminate => self.terminate(gateway, clock),
            Control::Start | Control::Poll => {}
        }
        self.poll(gateway);
    }

    /// Something happens to a gateway that is stopped.
    pub(super) fn miss(&mut self, gateway: u8, event: Event) {
        self.gateways[usize::from(gateway)].missed.push(event);
    }

    pub(super) fn life(&mut self, gateway: u8) -> Option<&mut Life> {
        self.gateways[usize::from(gateway)].life.as_mut()
    }

    fn start(&mut self, gateway: u8) {
        if self.gateways[usize::from(gateway)].life.is_some() {
            return;
        }
        let at = &mut self.gateways[usize::from(gateway)];
        at.lives += 1;
        let life = at.lives;
        let asks = self.client(gateway);
        let settings = self.settings;
        let at = &mut self.gateways[usize::from(gateway)];
        at.start(settings, Arc::clone(&asks));
        self.bus.say(|| format!("gateway {gateway}: the process starts"));
        let mut ceph = self.ceph.lock();
        ceph.submit(&asks, WorkerId::MAX, Work::Connect, To::Control);
        if self.is(Mutant::StateFromBefore) {
            ceph.submit(&asks, WorkerId::MAX, Work::Load, To::Control);
        }
        drop(ceph);
        let delay = self.random.below(ASK_EVERY_US);
        self.bus
            .after(delay, Event::Gateway(gateway, life, Box::new(Control::Ask)));
    }

    /// A new instance of a client.
    pub(super) fn client(&mut self, gateway: u8) -> Arc<Client> {
        let id = self.next_client;
        self.next_client += 1;
        let at = &self.gateways[usize::from(gateway)];
        let client = Client::new(id, (gateway, at.lives), &at.clock, &self.bus);
        Arc::new(client.with(self.plan.mutant))
    }

    fn ask_around(&mut self, gateway: u8, clock: u64) {
        let is_up = self.network.is_up(gateway);
        let Some(life) = self.life(gateway) else { return };
        if std::mem::take(&mut life.heard_unavailable) {
            life.group.heard_unavailable(clock);
        }
        if life.group.is_asking() && is_up {
            life.group.asked(clock);
            life.question += 1;
            let question = life.question;
            self.ask(gateway, GROUP, question);
        }
        self.ask_rivals(gateway, clock);
        self.later(gateway, ASK_EVERY_US, Control::Ask);
    }

    pub(super) fn later(&self, gateway: u8, delay: u64, control: Control) {
        let life = self.gateways[usize::from(gateway)].lives;
        self.bus
            .after(delay, Event::Gateway(gateway, life, Box::new(control)));
    }

    /// The gateway that answers was heard.
    pub(super) fn heard(&mut self, gateway: u8) {
        let clock = self.gateways[usize::from(gateway)].clock.now_us();
        if let Some(life) = self.life(gateway) {
            life.heard_unavailable = false;
            life.group.heard(clock);
            self.poll(gateway);
        }
    }

    /// The gateway that has the group says that it does not hear Ceph: it counts when no other one answers this question.
    pub(super) fn heard_unavailable(&mut self, gateway: u8) {
        if let Some(life) = self.life(gateway) {
            life.heard_unavailable = life.group.is_asking();
        }
    }

    /// Does what there is to do.
    pub(super) fn poll(&mut self, gateway: u8) {
        let clock = self.gateways[usize::from(gateway)].clock.now_us();
        self.note_state(gateway);
        while let Some(step) = self.life(gateway).and_then(|life| life.group.poll(clock)) {
            self.bus.say(|| format!("gateway {gateway}: {step:?}"));
            self.note_state(gateway);
            match step {
                GroupStep::Look => self.look(gateway),
                GroupStep::Take { from } => self.take(gateway, from),
                GroupStep::Serve => self.serve(gateway),
                GroupStep::Announce if self.is(Mutant::AnnouncesOnce) => {}
                GroupStep::Announce => self.announce(gateway),
                GroupStep::Leave => {
                    self.look_for_doubt(gateway);
                    self.leave(gateway);
                }
            }
        }
        self.note_state(gateway);
        if let Some(next) = self.life(gateway).and_then(|life| life.group.next_us()) {
            self.later(gateway, next.saturating_sub(clock).max(1), Control::Poll);
        }
    }

    fn note_state(&mut self, gateway: u8) {
        let Some(life) = self.life(gateway) else { return };
        let state = life.group.state().clone();
        if std::mem::replace(&mut life.said, state.clone()) != state {
            let reason = life.group.reason().map(str::to_owned);
            self.bus
                .say(|| format!("gateway {gateway}: {state:?} {}", reason.unwrap_or_default()));
        }
    }

    fn look(&mut self, gateway: u8) {
        let Some(life) = self.life(gateway) else { return };
        let asks = Arc::clone(&life.asks);
        let job = self
            .ceph
            .lock()
            .submit(&asks, WorkerId::MAX, Work::Owner, To::Control);
        if let Some(life) = self.life(gateway) {
            life.look = Some(job);
        }
        self.later(gateway, LOOK_US, Control::Late(job));
    }

    fn answer(&mut self, gateway: u8, client: ClientId, job: u64, answer: Answer) {
        let clock = self.gateways[usize::from(gateway)].clock.now_us();
        let no_lock = self.is(Mutant::BothActive);
        let Some(life) = self.life(gateway) else { return };
        if life.look == Some(job) {
            life.look = None;
            let found = match answer {
                Answer::Owner(Some(owner)) => Ok(Holder::Known(name(owner))),
                Answer::Owner(None) => Ok(Holder::Nobody),
                _ => Err("shut out".to_owned()),
            };
            return life.group.looked(found, clock);
        }
        if let (Answer::State(state), true) = (&answer, life.asks.id == client) {
            life.early = Some(state.clone());
        }
        let Some(own) = life.client.clone().filter(|own| own.id == client) else {
            return;
        };
        if life.unlocking == Some(job) {
            return self.unlocked(gateway);
        }
        if life.taking.is_some() {
            return self.go_on_taking(gateway, &own, answer);
        }
        // What the keeper asked.
        match answer {
            Answer::Owner(Some(owner)) if owner == client => life.without_lock = 0,
            Answer::Owner(_) if no_lock => {}
            Answer::Owner(_) if life.without_lock == 0 => life.without_lock = 1,
            Answer::Owner(_) => own.fence("its lock is gone"),
            _ => {}
        }
    }

    /// The image's keeper asks whether the lock is there, and so whether Ceph is.
    fn keep(&mut self, gateway: u8, client: ClientId) {
        let Some(own) = self.life(gateway).and_then(|life| life.client.clone()) else {
            return;
        };
        let gives_back = self.life(gateway).is_some_and(|life| life.unlocking.is_some());
        if own.id != client || own.is_shut_out() || gives_back {
            return;
        }
        own.look_at_lease();
        self.ceph
            .lock()
            .submit(&own, WorkerId::MAX, Work::Owner, To::Control);
        let pace = if own.has_lapsed() { KEEP_SOON_US } else { KEEP_US };
        self.later(gateway, pace, Control::Keep(client));
    }

    fn fenced(&mut self, gateway: u8, client: ClientId, reason: &str) {
        let clock = self.gateways[usize::from(gateway)].clock.now_us();
        if let Some(life) = self.life(gateway)
            && life.client.as_ref().is_some_and(|own| own.id == client)
        {
            life.group.fenced(reason.to_owned(), clock);
        }
    }

    fn terminate(&mut self, gateway: u8, clock: u64) {
        let Some(life) = self.life(gateway) else { return };
        life.ending = true;
        life.group.release(clock);
        if *life.group.state() == GroupState::Standby {
            self.kill(gateway);
        }
    }
}
