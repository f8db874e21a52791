//! What must hold of gateways, watched from outside.

use failover::GroupState;

use super::answer::ClientId;
use super::watch::TakeOver;
use super::world::Gateways;
use crate::bus::Event;
use crate::oracle::Promise;

/// How often gateways are looked at.
const PACE_US: u64 = 250_000;
/// A gateway that was well and heard for so long must not lose the group to another one.
const STEADY_US: u64 = 6_000_000;
/// Two gateways that do not hear each other take the group from each other at most this often.
const TURN_US: u64 = 60_000_000;
/// Where a gateway can serve and nothing has failed, one serves within this; a last try that failed puts the next one off.
const OUTAGE_US: [u64; 2] = [12_000_000, 50_000_000];

impl Gateways {
    /// A gateway has taken a frame.
    pub(super) fn served_frame(&mut self, gateway: u8, sent_us: u64) {
        let locked_us = self.watch.locked[usize::from(gateway)];
        if sent_us < locked_us {
            let text = format!(
                "gateway {gateway} takes a frame that was sent {} ms before it had the lock",
                (locked_us - sent_us) / 1000
            );
            self.oracle.broken(Promise::Quiet, text);
        }
    }

    /// A gateway has shut out this client of another one.
    pub(super) fn took(&mut self, by: u8, client: ClientId) {
        let now = self.ceph.lock().shut_out_us(client).unwrap_or_default();
        let taking = self.gateways[usize::from(by)]
            .life
            .as_ref()
            .and_then(|life| life.taking.as_ref());
        let ordered = taking.is_some_and(|taking| taking.from.is_none());
        let owner = |(number, gateway): (u8, &super::gateway::Gateway)| {
            let life = gateway.life.as_ref()?;
            (life.client.as_ref()?.id == client).then_some((
                number,
                gateway.lives,
                life.group.state().clone(),
            ))
        };
        let Some((from, life, state)) = (0..).zip(&self.gateways).find_map(owner) else {
            return;
        };
        if state == GroupState::Leaving {
            // It gives the group up anyhow.
            return;
        }
        let take = TakeOver {
            at_us: now,
            life,
            ordered,
        };
        let last = self.watch.takes.insert((by, from), take);
        let by_life = self.gateways[usize::from(by)].lives;
        let back = self.watch.takes.get(&(from, by)).copied();
        let back = back.filter(|take| take.life == by_life);
        // The operator's order is no turn of its own.
        let again = last.filter(|take| take.life == life && !take.ordered);
        if ordered {
            self.watch.begins_anew(by);
            return;
        }
        let turns = [back, again].into_iter().flatten().map(|take| take.at_us);
        if let Some(at) = turns.into_iter().find(|at| now < at + TURN_US) {
            let text = format!(
                "gateway {by} takes the group from gateway {from}, {} ms after the last time between the two",
                (now - at) / 1000
            );
            return self.oracle.broken(Promise::TakeOver, text);
        }
        // Who has just taken the lock has one chance to answer before it is given up: a lost frame, and it has none.
        let is_new = now < self.watch.locked[usize::from(from)] + STEADY_US;
        if is_new && self.plan.network.lost + self.plan.network.held > 0 {
            return;
        }
        let disturbed = self.watch.disturbed[usize::from(by)].max(self.watch.disturbed[usize::from(from)]);
        if disturbed.is_none_or(|at| now > at + STEADY_US) {
            let text = format!("gateway {by} takes the group from gateway {from}, which is well");
            self.oracle.broken(Promise::TakeOver, text);
        }
    }

    /// Looks whether the group is served, or could be.
    pub(super) fn look_around(&mut self) {
        let now = self.bus.now_us();
        self.bus.after(PACE_US, Event::Watch);
        self.look_after_lingering();
        let mut served = false;
        for number in 0..self.gateways.len() as u8 {
            let well = self.is_well(number);
            if self.is_disturbed(number) {
                self.watch.disturb(number, now);
            }
            served |= well && self.serves(number);
            let able = &mut self.watch.able[usize::from(number)];
            *able = well.then(|| able.unwrap_or(now));
        }
        let began = match served {
            true => None,
            false => Some(self.watch.outage.unwrap_or(now)),
        };
        self.watch.outage = began;
        let Some(began) = began else { return };
        for (number, able) in (0u8..).zip(self.watch.able.clone()) {
            let life = self.gateways[usize::from(number)].life.as_ref();
            let failed = life.is_some_and(|life| life.group.reason().is_some());
            let limit = OUTAGE_US[usize::from(failed)];
            if able.is_some_and(|since| since.max(began) + limit < now) {
                let states: Vec<_> = self
                    .gateways
                    .iter()
                    .map(|gateway| gateway.state().cloned())
                    .collect();
                let text = format!(
                    "nobody serves since {} s although gateway {number} could; {states:?}, the switch has the group at {:?}",
                    began / 1_000_000,
                    self.seen_at
                );
                return self.oracle.broken(Promise::Outage, text);
            }
        }
    }

    /// Whether a gateway has all that it needs to serve.
    fn is_well(&self, number: u8) -> bool {
        let gateway = &self.gateways[usize::from(number)];
        let clock = gateway.clock.now_us();
        let ceph = self.ceph.lock();
        let process = gateway
            .life
            .as_ref()
            .is_some_and(|life| !life.ending && life.group.held_until_us() <= clock);
        process
            && !gateway.is_stopped()
            && self.network.is_up(number)
            && !ceph.is_cut(number)
            && ceph.is_well()
    }

    /// Whether a gateway answers, and is reached.
    fn serves(&self, number: u8) -> bool {
        let gateway = &self.gateways[usize::from(number)];
        let client = gateway.life.as_ref().and_then(|life| life.client.as_ref());
        let silent = client.is_none_or(|client| client.is_shut_out() || client.has_lapsed());
        gateway.state() == Some(&GroupState::Active) && !silent && self.seen_at == Some(number)
    }

    fn is_disturbed(&self, number: u8) -> bool {
        let gateway = &self.gateways[usize::from(number)];
        if gateway.lives == 0 {
            return false;
        }
        let client = gateway.life.as_ref().and_then(|life| life.client.as_ref());
        let deaf = (0..self.gateways.len() as u8).any(|other| self.are_deaf(number, other));
        deaf || !self.is_well(number) || client.is_some_and(|client| client.has_lapsed())
    }
}
