//! The switch between gateways and hosts: it learns where the group's address was seen last.

use aoe_common::Mac;
use aoe_common::wire::aoe;

use super::gateway::{GROUP, as_host, own_mac};
use super::world::Gateways;
use crate::frame::{self, Frame};
use crate::host::mac_of;
use crate::oracle::SHELF;

impl Gateways {
    /// Where a frame to this address goes: the gateways.
    fn out_of(&self, to: Mac) -> Vec<u8> {
        let all = 0..self.gateways.len() as u8;
        match self.seen_at {
            Some(gateway) if to == GROUP => vec![gateway],
            _ if to == GROUP || to.is_group() => all.collect(),
            _ => all.filter(|gateway| own_mac(*gateway) == to).collect(),
        }
    }

    /// A host has sent frames.
    pub(super) fn sent_by(&mut self, host: u16) {
        let out = std::mem::take(&mut self.hosts[usize::from(host)].base().out);
        for (_, frame) in out {
            let to = frame::destination(&frame.bytes);
            for gateway in self.out_of(to) {
                self.network.to_target(host, gateway, frame.clone());
            }
        }
    }

    /// A gateway has sent a frame.
    pub(super) fn sent_from(&mut self, gateway: u8, bytes: &[u8]) {
        if !self.network.is_up(gateway) {
            return;
        }
        if frame::source(bytes) == GROUP && self.seen_at.replace(gateway) != Some(gateway) {
            self.bus
                .say(|| format!("switch: the group is at gateway {gateway}"));
        }
        let to = frame::destination(bytes);
        let frame = |bytes: &[u8]| Frame {
            bytes: bytes.to_vec(),
            odd: false,
            sent_us: self.bus.now_us(),
        };
        for host in 0..self.hosts.len() as u16 {
            if to == mac_of(host, 0) || to.is_group() {
                self.network.to_host(host, gateway, frame(bytes));
            }
        }
        for other in self.out_of(to) {
            if other != gateway {
                self.network.to_target(as_host(gateway), other, frame(bytes));
            }
        }
    }

    /// A gateway asks for the one that answers, or another one whether it has the group.
    pub(super) fn ask(&mut self, gateway: u8, to: Mac, tag: u32) {
        let argument = [0; 8];
        let bytes = frame::request(to, own_mac(gateway), SHELF, 0, aoe::CMD_QUERY, tag, &[&argument]);
        self.sent_from(gateway, &bytes);
    }
}
