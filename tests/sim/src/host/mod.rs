//! The other ends of the wire.

mod adversary;
mod ipxe;
mod linux;
mod rtt;
mod wants;

use aoe_common::Mac;

pub use self::adversary::Adversary;
pub use self::ipxe::Ipxe;
pub use self::linux::Linux;
use crate::bus::Bus;
use crate::frame::Frame;
use crate::plan::{HostKind, HostPlan};
use crate::random::Random;

/// Address of a host on a port's network.
pub fn mac_of(host: u16, port: u8) -> Mac {
    let [high, low] = host.to_be_bytes();
    Mac([2, 0xc1, 0, port, high, low])
}

/// What every host has.
#[derive(Debug)]
pub struct Base {
    /// Its number.
    pub number: u16,
    /// What it is to do.
    pub plan: HostPlan,
    /// Its own randomness.
    pub random: Random,
    /// The clock.
    pub bus: Bus,
    /// Frames to be sent: port and frame.
    pub out: Vec<(u8, Frame)>,
    /// Load has ended.
    pub quiet: bool,
}

impl Base {
    fn send(&mut self, port: u8, bytes: Vec<u8>) {
        let sent_us = self.bus.now_us();
        self.out.push((
            port,
            Frame {
                bytes,
                odd: false,
                sent_us,
            },
        ));
    }

    fn slot(&self) -> u8 {
        self.plan.export as u8
    }
}

/// A host.
#[derive(Debug)]
pub enum Host {
    /// Linux's driver with its users.
    Linux(Box<Linux>),
    /// iPXE.
    Ipxe(Box<Ipxe>),
    /// Anything.
    Adversary(Box<Adversary>),
}

impl Host {
    /// The host of a plan.
    pub fn new(number: u16, plan: &HostPlan, seed: u64, bus: &Bus) -> Host {
        let base = Base {
            number,
            plan: plan.clone(),
            random: Random::stream(seed, 0x686f_7374_0000 + u64::from(number)),
            bus: bus.clone(),
            out: Vec::new(),
            quiet: false,
        };
        match plan.kind {
            HostKind::Linux => Host::Linux(Box::new(Linux::new(base))),
            HostKind::Ipxe => Host::Ipxe(Box::new(Ipxe::new(base))),
            HostKind::Adversary => Host::Adversary(Box::new(Adversary::new(base))),
        }
    }

    /// What it has in common with others.
    pub fn base(&mut self) -> &mut Base {
        match self {
            Host::Linux(host) => &mut host.base,
            Host::Ipxe(host) => &mut host.base,
            Host::Adversary(host) => &mut host.base,
        }
    }

    /// A frame arrives.
    pub fn receive(&mut self, port: u8, frame: &Frame) {
        match self {
            Host::Linux(host) => host.receive(port, &frame.bytes),
            Host::Ipxe(host) => host.receive(port, &frame.bytes),
            Host::Adversary(_) => {}
        }
    }

    /// A tenth of a second has passed.
    pub fn timer(&mut self) {
        match self {
            Host::Linux(host) => host.timer(),
            Host::Ipxe(host) => host.timer(),
            Host::Adversary(_) => {}
        }
    }

    /// Its users want something; in how many microseconds they will again.
    pub fn load(&mut self, tap: &[(u8, Frame)]) -> Option<u64> {
        match self {
            Host::Linux(host) => host.load(),
            Host::Ipxe(_) => None,
            Host::Adversary(host) => host.load(tap),
        }
    }

    /// What it still waits for, in words; `None`: nothing.
    pub fn waits_for(&self) -> Option<String> {
        match self {
            Host::Linux(host) => host.waits_for(),
            Host::Ipxe(host) => host.waits_for(),
            Host::Adversary(_) => None,
        }
    }

    /// Requests that were answered.
    pub fn done(&self) -> u64 {
        match self {
            Host::Linux(host) => host.done,
            Host::Ipxe(host) => host.done,
            Host::Adversary(_) => 0,
        }
    }
}
