//! An initiator that behaves as Linux's driver does: windows, an estimate of the round-trip time, retransmission under new tags,
//! another path when one has been silent for ten seconds, probes with a payload to get a path back, and an end after three
//! minutes.

use std::collections::{BTreeMap, VecDeque};

use aoe_common::Mac;
use aoe_common::wire::{aoe, ata, query as query_wire};

use super::rtt::{Rtt, Window};
use super::wants::{self, Ask};
use super::{Base, mac_of};
use crate::frame::{self, Reply};
use crate::oracle::SHELF;

/// A path is avoided after a frame has waited for so long on it.
const SCORN_US: u64 = 10_000_000;
/// A device is given up after this.
const DEAD_US: u64 = 180_000_000;
/// Between two queries.
const DISCOVERY_US: u64 = 60_000_000;
/// Between two probes of a path.
const PROBE_US: u64 = 5_000_000;

/// A way to the device: a port and the address that answered there.
#[derive(Debug)]
struct Path {
    port: u8,
    target: Option<Mac>,
    sectors: u8,
    window: Window,
    tainted: bool,
    probed_us: u64,
}

/// A request of a user's.
#[derive(Debug)]
struct Request {
    ask: Ask,
    /// How long frames of it have waited.
    waited_us: u64,
    asked_us: u64,
}

#[derive(Debug)]
struct Sent {
    tag: u32,
    /// `None`: the driver's own, a probe or IDENTIFY.
    request: Option<u64>,
    path: usize,
    at_us: u64,
}

/// The driver with its users.
#[derive(Debug)]
pub struct Linux {
    pub(super) base: Base,
    paths: Vec<Path>,
    next_path: usize,
    rtt: Rtt,
    requests: BTreeMap<u64, Request>,
    /// To be sent.
    ready: VecDeque<u64>,
    sent: Vec<Sent>,
    asked: u64,
    counter: u32,
    /// Sectors of the device; `None`: not there, or down.
    size: Option<u64>,
    discovered_us: Option<u64>,
    /// Requests that were answered.
    pub done: u64,
    /// When the device was given up, if ever since load ended.
    given_up: Option<u64>,
}

impl Linux {
    pub(super) fn new(base: Base) -> Linux {
        let path = |port: &u8| Path {
            port: *port,
            target: None,
            sectors: 2,
            window: Window::new(2),
            tainted: false,
            probed_us: 0,
        };
        Linux {
            paths: base.plan.ports.iter().map(path).collect(),
            base,
            next_path: 0,
            rtt: Rtt::new(),
            requests: BTreeMap::new(),
            ready: VecDeque::new(),
            sent: Vec::new(),
            asked: 0,
            counter: 0,
            size: None,
            discovered_us: None,
            done: 0,
            given_up: None,
        }
    }

    fn tag(&mut self) -> u32 {
        self.counter = (self.counter + 1) & 0x7fff;
        self.counter << 16 | (self.base.bus.now_us() / 4000) as u32 & 0xffff
    }

    fn transmit(&mut self, path: usize, request: Option<u64>, ask: &Ask) {
        let Some(target) = self.paths[path].target else {
            return;
        };
        let tag = self.tag();
        let (port, number, slot) = (self.paths[path].port, self.base.number, self.base.slot());
        let bytes = frame::request(
            target,
            mac_of(number, port),
            SHELF,
            slot,
            ask.command,
            tag,
            &[&ask.argument],
        );
        let at_us = self.base.bus.now_us();
        self.base.bus.say(|| {
            format!(
                "host {number} asks by port {port}: {} (tag {tag:08x})",
                ask.text()
            )
        });
        self.paths[path].window.out += 1;
        self.sent.push(Sent {
            tag,
            request,
            path,
            at_us,
        });
        self.base.send(port, bytes);
    }

    /// The next path with room, tainted ones only when there is no other.
    fn free_path(&mut self) -> Option<usize> {
        let count = self.paths.len();
        for tainted in [false, true] {
            if tainted
                && self
                    .paths
                    .iter()
                    .any(|path| path.target.is_some() && !path.tainted)
            {
                return None;
            }
            for step in 1..=count {
                let at = (self.next_path + step) % count;
                let path = &self.paths[at];
                if path.target.is_some() && path.tainted == tainted && path.window.has_room() {
                    self.next_path = at;
                    return Some(at);
                }
            }
        }
        None
    }

    fn pump(&mut self) {
        while self.size.is_some()
            && let Some(&number) = self.ready.front()
        {
            let Some(request) = self.requests.get_mut(&number) else {
                self.ready.pop_front();
                continue;
            };
            // Not copied: it may be large.
            let ask = std::mem::take(&mut request.ask);
            let path = self.free_path();
            if let Some(path) = path {
                self.ready.pop_front();
                self.transmit(path, Some(number), &ask);
            }
            if let Some(request) = self.requests.get_mut(&number) {
                request.ask = ask;
            }
            if path.is_none() {
                return;
            }
        }
    }

    pub(super) fn load(&mut self) -> Option<u64> {
        if self.base.quiet || self.asked >= self.base.plan.requests.into() {
            return None;
        }
        if let Some(size) = self.size {
            let most = self
                .paths
                .iter()
                .filter(|path| path.target.is_some())
                .map(|path| path.sectors)
                .min();
            let burst = self.base.random.between(1, self.base.plan.burst.into());
            for _ in 0..burst {
                // As much as users wait for at a time.
                if self.requests.len() >= self.base.plan.burst as usize {
                    break;
                }
                self.asked += 1;
                let stamp = (u64::from(self.base.number) + 1) << 32 | self.asked;
                let ask = self.base.draw(stamp, size, most.unwrap_or(2));
                let asked_us = self.base.bus.now_us();
                self.requests.insert(
                    self.asked,
                    Request {
                        ask,
                        waited_us: 0,
                        asked_us,
                    },
                );
                self.ready.push_back(self.asked);
            }
            self.pump();
        }
        Some(self.base.random.around(self.base.plan.pause_us) + 1)
    }

    pub(super) fn receive(&mut self, port: u8, bytes: &[u8]) {
        let Some(reply) = Reply::parse(bytes) else { return };
        if reply.shelf != SHELF || reply.slot != self.base.slot() {
            return;
        }
        if reply.command == aoe::CMD_QUERY && reply.error == 0 {
            self.discovered(port, &reply);
        }
        let Some(at) = self.sent.iter().position(|sent| sent.tag == reply.tag) else {
            return;
        };
        // An AoE error to an ATA command is not an answer to Linux.
        if reply.error != 0 && reply.command == aoe::CMD_ATA {
            return;
        }
        let sent = self.sent.swap_remove(at);
        self.rtt.answered(self.base.bus.now_us() - sent.at_us);
        let path = &mut self.paths[sent.path];
        path.window.answered();
        path.tainted = false;
        match sent.request {
            Some(number) => self.done += u64::from(self.requests.remove(&number).is_some()),
            None if reply.argument.get(ata::COMMAND) == Some(&0x40) => self.identified(&reply),
            None => {}
        }
        self.pump();
    }

    fn discovered(&mut self, port: u8, reply: &Reply<'_>) {
        let (Some(buffers), Some(sectors)) = (
            reply
                .argument
                .get(query_wire::BUFFERS..)
                .and_then(|bytes| bytes.first_chunk()),
            reply.argument.get(query_wire::SECTORS),
        ) else {
            return;
        };
        let buffers = u16::from_be_bytes(*buffers);
        let Some(at) = self.paths.iter().position(|path| path.port == port) else {
            return;
        };
        let path = &mut self.paths[at];
        path.sectors = (*sectors).max(1);
        if path.target != Some(reply.from) || path.window.frames != u32::from(buffers).min(64) {
            let out = path.window.out;
            path.window = Window::new(buffers);
            path.window.out = out;
        }
        path.target = Some(reply.from);
        path.tainted = false;
        if self.size.is_none() {
            self.transmit(at, None, &wants::identify());
        }
        self.pump();
    }

    fn identified(&mut self, reply: &Reply<'_>) {
        let words = |at: usize| reply.data().get(2 * at..)?.first_chunk::<8>().copied();
        if reply.data().len() >= 512
            && let Some(size) = words(100)
        {
            let size = u64::from_le_bytes(size);
            // A probe's answer is data, not an IDENTIFY block.
            if self.size.is_none() && size > 0 && size < 1 << 20 {
                self.size = Some(size);
            }
        }
    }

    pub(super) fn timer(&mut self) {
        let now = self.base.bus.now_us();
        let again = if self.size.is_none() {
            1_000_000
        } else {
            DISCOVERY_US
        };
        if self.discovered_us.is_none_or(|at| now >= at + again) {
            self.discovered_us = Some(now);
            self.discover();
        }
        let timeout = self.rtt.timeout_us();
        let (late, in_time) = std::mem::take(&mut self.sent)
            .into_iter()
            .partition(|sent| now >= sent.at_us + timeout);
        self.sent = in_time;
        let late: Vec<Sent> = late;
        if !late.is_empty() {
            self.rtt.timed_out();
        }
        for sent in late {
            self.timed_out(&sent, now);
        }
        self.probe(now);
        self.pump();
    }

    fn discover(&mut self) {
        let ask = wants::query(0, &[]);
        for port in self.base.plan.ports.clone() {
            let tag = self.tag();
            let from = mac_of(self.base.number, port);
            let bytes = frame::request(
                Mac::BROADCAST,
                from,
                aoe::SHELF_ANY,
                aoe::SLOT_ANY,
                aoe::CMD_QUERY,
                tag,
                &[&ask.argument],
            );
            self.base.send(port, bytes);
        }
    }

    fn timed_out(&mut self, sent: &Sent, now: u64) {
        let path = &mut self.paths[sent.path];
        path.window.timed_out();
        let Some(request) = sent.request.and_then(|number| self.requests.get_mut(&number)) else {
            return;
        };
        request.waited_us += now - sent.at_us;
        if request.waited_us >= DEAD_US {
            return self.give_up(now);
        }
        if request.waited_us >= SCORN_US {
            self.paths[sent.path].tainted = true;
        }
        self.ready.push_front(sent.request.unwrap_or(0));
    }

    /// The device is down: everybody gets an error.
    fn give_up(&mut self, now: u64) {
        self.requests.clear();
        self.ready.clear();
        self.sent.clear();
        self.paths.iter_mut().for_each(|path| path.window.out = 0);
        self.size = None;
        if self.base.quiet {
            self.given_up = Some(now);
        }
    }

    fn probe(&mut self, now: u64) {
        for at in 0..self.paths.len() {
            let path = &mut self.paths[at];
            if path.tainted && now >= path.probed_us + PROBE_US {
                path.probed_us = now;
                let sectors = path.sectors;
                let ask = wants::read(0, sectors, &vec![0; usize::from(sectors) * 512]);
                self.transmit(at, None, &ask);
            }
        }
    }

    pub(super) fn waits_for(&self) -> Option<String> {
        let number = self.base.number;
        if let Some(at) = self.given_up {
            return Some(format!(
                "host {number} gave its device up at {} s, long after all faults",
                at / 1_000_000
            ));
        }
        let request = self.requests.values().next()?;
        let asked = request.asked_us / 1000;
        Some(format!(
            "host {number} has waited since {asked} ms for {}",
            request.ask.text()
        ))
    }
}
