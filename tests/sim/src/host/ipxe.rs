//! An initiator that behaves as iPXE does: one request at a time, the same tag for every copy, waits that double, and an end.

use aoe_common::Mac;
use aoe_common::wire::{aoe, ata};

use super::wants::{self, Ask};
use super::{Base, mac_of};
use crate::frame::{self, Reply};
use crate::oracle::SHELF;

const FIRST_WAIT_US: u64 = 250_000;
const LONGEST_WAIT_US: u64 = 10_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Query,
    Identify,
    Read,
}

/// A machine that boots.
#[derive(Debug)]
pub struct Ipxe {
    pub(super) base: Base,
    stage: Stage,
    target: Mac,
    sectors: u64,
    index: u16,
    ask: Option<Ask>,
    sent_us: u64,
    wait_us: u64,
    /// Requests that were answered.
    pub done: u64,
}

impl Ipxe {
    pub(super) fn new(base: Base) -> Ipxe {
        Ipxe {
            base,
            stage: Stage::Query,
            target: Mac::BROADCAST,
            sectors: 0,
            index: 0,
            ask: None,
            sent_us: 0,
            wait_us: FIRST_WAIT_US,
            done: 0,
        }
    }

    fn tag(&self) -> u32 {
        0x18ae_0000 | u32::from(self.index)
    }

    fn next(&mut self) {
        if self.base.quiet || self.done >= self.base.plan.requests.into() {
            self.ask = None;
            return;
        }
        self.index = self.index.wrapping_add(1);
        self.wait_us = FIRST_WAIT_US;
        let ask = match self.stage {
            Stage::Query => wants::query(0, &[]),
            Stage::Identify => wants::identify(),
            Stage::Read => {
                let area = self.base.plan.area.min(self.sectors).max(1);
                let count = self.base.random.between(1, area.min(2));
                wants::read(self.base.random.below(area - count + 1), count as u8, &[])
            }
        };
        self.ask = Some(ask);
        self.send();
    }

    fn send(&mut self) {
        let Some(ask) = self.ask.clone() else { return };
        // Always the last device opened.
        let Some(&port) = self.base.plan.ports.last() else {
            return;
        };
        let to = if self.stage == Stage::Query {
            Mac::BROADCAST
        } else {
            self.target
        };
        let from = mac_of(self.base.number, port);
        let bytes = frame::request(
            to,
            from,
            SHELF,
            self.base.slot(),
            ask.command,
            self.tag(),
            &[&ask.argument],
        );
        self.sent_us = self.base.bus.now_us();
        let (number, tag) = (self.base.number, self.tag());
        self.base.bus.say(|| {
            format!(
                "host {number} asks by port {port}: {} (tag {tag:08x})",
                ask.text()
            )
        });
        self.base.send(port, bytes);
    }

    pub(super) fn timer(&mut self) {
        if self.ask.is_none() {
            self.stage = Stage::Query;
            return self.next();
        }
        if self.base.bus.now_us() < self.sent_us + self.wait_us {
            return;
        }
        self.wait_us *= 2;
        if self.wait_us > LONGEST_WAIT_US {
            // It gives up; somebody will boot it again.
            self.ask = None;
        } else {
            self.send();
        }
    }

    pub(super) fn receive(&mut self, _: u8, bytes: &[u8]) {
        let Some(reply) = Reply::parse(bytes) else { return };
        let ours = reply.tag == self.tag() && reply.shelf == SHELF && reply.slot == self.base.slot();
        let Some(ask) = self
            .ask
            .as_ref()
            .filter(|ask| ours && ask.command == reply.command)
        else {
            return;
        };
        let failed = reply.error != 0
            || (ask.is_ata()
                && reply
                    .argument
                    .get(ata::COMMAND)
                    .is_none_or(|status| status & 1 != 0));
        self.done += 1;
        if failed {
            self.ask = None;
            return;
        }
        match self.stage {
            Stage::Query if reply.command == aoe::CMD_QUERY => {
                self.target = reply.from;
                self.stage = Stage::Identify;
            }
            Stage::Identify => {
                let words = reply.data().get(200..).and_then(|bytes| bytes.first_chunk());
                self.sectors = words.map_or(0, |bytes| u64::from_le_bytes(*bytes));
                self.stage = Stage::Read;
            }
            _ => {}
        }
        self.next();
    }

    pub(super) fn waits_for(&self) -> Option<String> {
        let ask = self.ask.as_ref().filter(|_| self.base.quiet)?;
        Some(format!(
            "host {} still waits for {}",
            self.base.number,
            ask.text()
        ))
    }
}
