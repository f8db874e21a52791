//! Gateways that have the group ask each other whether they do. All have one image behind them here, so that nobody may ever find that two have it.

use failover::{ASK_EVERY_US, ASK_RIVALS_EVERY_US, GroupState, Standing};

use super::gateway::own_mac;
use super::world::Gateways;
use crate::oracle::Promise;

/// Rounds for the gateway that answers in one round for others that do as well.
const PACE: u32 = (ASK_RIVALS_EVERY_US / ASK_EVERY_US) as u32;

impl Gateways {
    /// The end of a round of questions to the other gateways, and the next one.
    pub(super) fn ask_rivals(&mut self, gateway: u8, clock: u64) {
        let is_up = self.network.is_up(gateway);
        let count = self.gateways.len() as u8;
        let Some(life) = self.life(gateway).filter(|life| life.group.asks_rivals()) else {
            return;
        };
        let hears_storage = life.client.as_ref().is_some_and(|client| !client.is_silent());
        if !hears_storage {
            life.rivals.clear();
            life.group.forget_rivals();
        }
        life.question += 1;
        let question = life.question;
        if question % PACE != 0 {
            return;
        }
        let own = Standing {
            since_ms: life.taken_ms,
            mac: own_mac(gateway).0,
        };
        for (other, since_ms) in std::mem::take(&mut life.rivals) {
            let other = Standing {
                since_ms,
                mac: own_mac(other).0,
            };
            life.group.heard_rival(own, other, clock, |leaves| {
                format!("two are active; leaves: {leaves}")
            });
        }
        if let (GroupState::Active | GroupState::Leaving, Some(reason)) =
            (life.group.state(), life.group.reason())
            && reason.starts_with("two are active")
        {
            let text = format!("gateway {gateway} takes another one's image for another image: {reason}");
            return self.oracle.broken(Promise::TakeOver, text);
        }
        for other in (0..count).filter(|other| is_up && *other != gateway) {
            self.ask(gateway, own_mac(other), question);
        }
    }

    /// Another gateway says that it has the group.
    pub(super) fn told_of_rival(&mut self, gateway: u8, (other, since_ms, question): (u8, u64, u32)) {
        if let Some(life) = self.life(gateway)
            && life.group.asks_rivals()
            && question >= life.active_from
        {
            life.rivals.entry(other).or_insert(since_ms);
        }
    }

    /// A gateway leaves: not because another one answers although the lock is here.
    pub(super) fn look_for_doubt(&mut self, gateway: u8) {
        let Some(life) = self.life(gateway) else { return };
        if life
            .group
            .reason()
            .is_some_and(|reason| reason.contains("goes on answering"))
        {
            let text = format!("gateway {gateway} has the lock, and gives it up since another one is heard");
            self.oracle.broken(Promise::TakeOver, text);
        }
    }
}
