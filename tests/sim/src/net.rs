//! The networks between hosts and ports.

use std::collections::BTreeMap;

use crate::bus::{Bus, Event};
use crate::frame::Frame;
use crate::plan::NetworkPlan;
use crate::random::Random;

/// All networks.
#[derive(Debug)]
pub struct Network {
    bus: Bus,
    plan: NetworkPlan,
    random: Random,
    /// Only the latency is left.
    pub calm: bool,
    /// How often a host and a port do not reach each other.
    cuts: BTreeMap<(u16, u8), u32>,
    /// How often a port's link is down.
    down: BTreeMap<u8, u32>,
}

impl Network {
    /// The networks of a plan.
    pub fn new(plan: &NetworkPlan, seed: u64, bus: &Bus) -> Network {
        Network {
            bus: bus.clone(),
            plan: plan.clone(),
            random: Random::stream(seed, 0x6e65_7477),
            calm: false,
            cuts: BTreeMap::new(),
            down: BTreeMap::new(),
        }
    }

    /// Cuts a way, or mends one cut.
    pub fn cut(&mut self, host: u16, port: u8, cut: bool) {
        let cuts = self.cuts.entry((host, port)).or_default();
        *cuts = if cut { *cuts + 1 } else { cuts.saturating_sub(1) };
    }

    /// Whether a way is cut.
    pub fn is_cut(&self, host: u16, port: u8) -> bool {
        self.cuts.get(&(host, port)).is_some_and(|times| *times > 0)
    }

    /// Takes a link down, or up again.
    pub fn link(&mut self, port: u8, down: bool) {
        let times = self.down.entry(port).or_default();
        *times = if down { *times + 1 } else { times.saturating_sub(1) };
    }

    /// Whether a port has a link.
    pub fn is_up(&self, port: u8) -> bool {
        self.down.get(&port).is_none_or(|times| *times == 0)
    }

    /// Sends a frame from a host to a port.
    pub fn to_target(&mut self, host: u16, port: u8, frame: Frame) {
        let arrive = |port, frame| Event::ToTarget(port, frame);
        self.carry(host, port, frame, arrive, true);
    }

    /// Sends a frame from a port to a host.
    pub fn to_host(&mut self, host: u16, port: u8, frame: Frame) {
        self.carry(
            host,
            port,
            frame,
            |port, frame| Event::ToHost(host, port, frame),
            false,
        );
    }

    fn carry(
        &mut self,
        host: u16,
        port: u8,
        mut frame: Frame,
        arrive: impl Fn(u8, Frame) -> Event,
        harm: bool,
    ) {
        let cut = self.cuts.get(&(host, port)).is_some_and(|times| *times > 0);
        if cut || !self.is_up(port) {
            return;
        }
        let plan = if self.calm {
            NetworkPlan {
                latency_us: self.plan.latency_us,
                ..NetworkPlan::default()
            }
        } else {
            self.plan.clone()
        };
        let random = &mut self.random;
        if random.chance(plan.lost) {
            self.bus.say(|| format!("network: lost, host {host} port {port}"));
            return;
        }
        let time = |random: &mut Random| match random.chance(plan.held) {
            true => random.below(plan.held_ms * 1000 + 1),
            false => 1 + plan.latency_us + random.below(plan.latency_us / 2 + 2),
        };
        let delay = time(random);
        if random.chance(plan.doubled) {
            let delay = time(random);
            self.bus
                .say(|| format!("network: a second copy, host {host} port {port}, {delay} us later"));
            self.bus.after(delay, arrive(port, frame.clone()));
        }
        if harm && random.chance(plan.corrupted) {
            let at = random.below(frame.bytes.len() as u64) as usize;
            frame.bytes[at] ^= 1 << random.below(8);
            frame.odd = true;
        }
        if harm && random.chance(plan.cut) {
            let len = random.between(1, frame.bytes.len() as u64) as usize;
            frame.bytes.truncate(len);
            frame.odd = true;
        }
        self.bus.after(delay, arrive(port, frame));
    }
}
