//! A host that sends anything: garbage, others' frames again, with their address or its own, changed, cut and lengthened.

use aoe_common::Mac;
use aoe_common::wire::aoe;

use super::{Base, mac_of};
use crate::frame::{self, Frame};
use crate::oracle::SHELF;

/// Somebody who means no good, or knows no better.
#[derive(Debug)]
pub struct Adversary {
    pub(super) base: Base,
    sent: u32,
}

impl Adversary {
    pub(super) fn new(base: Base) -> Adversary {
        Adversary { base, sent: 0 }
    }

    pub(super) fn load(&mut self, tap: &[(u8, Frame)]) -> Option<u64> {
        if self.base.quiet || self.sent >= self.base.plan.requests {
            return None;
        }
        for _ in 0..self.base.random.between(1, self.base.plan.burst.into()) {
            self.sent += 1;
            let (port, bytes) = self.frame(tap);
            let sent_us = self.base.bus.now_us();
            self.base.out.push((
                port,
                Frame {
                    bytes,
                    odd: true,
                    sent_us,
                },
            ));
        }
        Some(self.base.random.around(self.base.plan.pause_us) + 1)
    }

    fn frame(&mut self, tap: &[(u8, Frame)]) -> (u8, Vec<u8>) {
        let random = &mut self.base.random;
        let port = *random.pick(&self.base.plan.ports);
        let own = mac_of(self.base.number, port);
        let (port, mut bytes) = match random.below(3) {
            0 if !tap.is_empty() => {
                let (port, frame) = random.pick(tap);
                (*port, frame.bytes.clone())
            }
            1 if !tap.is_empty() => {
                let (port, frame) = random.pick(tap);
                let mut bytes = frame.bytes.clone();
                if let Some(source) = bytes.get_mut(6..12) {
                    source.copy_from_slice(&mac_of(self.base.number, *port).0);
                }
                (*port, bytes)
            }
            _ => {
                let to = if random.one_in(3) {
                    Mac::BROADCAST
                } else {
                    Mac([2, 0, 0, 0, 0, port + 1])
                };
                let shelf = *random.pick(&[SHELF, SHELF, SHELF, aoe::SHELF_ANY, 0]);
                let slot = *random.pick(&[0, 1, 2, aoe::SLOT_ANY]);
                let command = *random.pick(&[0, 0, 0, 0, 1, 2, 3, 4, 0xf0]);
                let len = random.below(1500) as usize;
                let argument: Vec<u8> = (0..len)
                    .map(|_| random.any() as u8 & random.any() as u8)
                    .collect();
                let tag = random.any() as u32;
                (
                    port,
                    frame::request(to, own, shelf, slot, command, tag, &[&argument]),
                )
            }
        };
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(6) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes.extend(std::iter::repeat_n(0xed, at)),
                2 if bytes.len() > 14 => drop(bytes.splice(12..12, [0x81, 0, 0, *random.pick(&[0, 5])])),
                // The AoE header and the registers matter most.
                3 | 4 if bytes.len() > 36 => bytes[14 + at % 22] = random.any() as u8,
                _ => bytes[at] ^= 1 << random.below(8),
            }
        }
        (port, bytes)
    }
}
