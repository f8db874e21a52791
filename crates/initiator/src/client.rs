//! One request at a time: discovery and IDENTIFY, with retransmission.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aoe_common::Mac;
use aoe_common::wire::ata::command;
use aoe_common::wire::{SECTOR_BYTES, aoe, sectors_per_frame};

use super::frame::{self, AtaRequest, Reply, Route};
use super::socket::PacketSocket;
use super::transport::{BATCH, Transport};
use super::{DiskIdentity, InitiatorError};

/// How long the first copy of a request may stay unanswered; every further copy waits twice as long.
const FIRST_RETRANSMIT: Duration = Duration::from_millis(200);

/// A discovery asks this often: a question or an answer may be lost, and nobody would notice.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// A target that answered Query Config.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Major address.
    pub shelf: u16,
    /// Minor address.
    pub slot: u8,
    /// The port that answered.
    pub mac: Mac,
    /// Requests that the target queues.
    pub buffers: u16,
    /// Firmware version of the target.
    pub(crate) firmware: u16,
    /// Most sectors in a request: what target and this interface's MTU allow.
    pub sectors: u8,
    /// The config string.
    pub config: Vec<u8>,
}

/// A synchronous initiator on one interface.
pub struct Client {
    socket: PacketSocket,
    tag: u32,
}

impl Client {
    /// Opens a socket on the interface. Needs `CAP_NET_RAW`.
    pub fn open(interface: &str) -> Result<Client, InitiatorError> {
        // tags of two runs differ, so that a late answer to the first is not taken for one to the second
        let tag = aoe::TAG_OF_USER_SPACE | std::process::id() << 12;
        Ok(Client {
            socket: PacketSocket::open(interface)?,
            tag,
        })
    }

    /// The socket, for a load of one's own.
    pub fn into_socket(self) -> PacketSocket {
        self.socket
    }

    /// The socket.
    pub fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    /// A route from this interface to a target.
    pub fn route(&self, target: &Found) -> Route {
        Route {
            source: self.socket.mac(),
            destination: target.mac,
            shelf: target.shelf,
            slot: target.slot,
        }
    }

    /// Asks everybody, or everybody with an address, and lists who answered within `timeout`, by address.
    pub fn discover(
        &mut self,
        address: Option<(u16, u8)>,
        timeout: Duration,
    ) -> Result<Vec<Found>, InitiatorError> {
        self.query(address, timeout, usize::MAX)
    }

    /// The first port that answers for an address; `None` when none does within `timeout`.
    pub fn find(&mut self, shelf: u16, slot: u8, timeout: Duration) -> Result<Option<Found>, InitiatorError> {
        Ok(self.query(Some((shelf, slot)), timeout, 1)?.pop())
    }

    fn query(
        &mut self,
        address: Option<(u16, u8)>,
        timeout: Duration,
        enough: usize,
    ) -> Result<Vec<Found>, InitiatorError> {
        let (shelf, slot) = address.unwrap_or((aoe::SHELF_ANY, aoe::SLOT_ANY));
        let route = Route {
            source: self.socket.mac(),
            destination: Mac::BROADCAST,
            shelf,
            slot,
        };
        let tag = self.next_tag();
        let most_sectors = sectors_per_frame(self.socket.mtu_bytes());
        let mut found = BTreeSet::new();
        let end = Instant::now() + timeout;
        while Instant::now() < end && found.len() < enough {
            self.socket.send(&[&frame::query_read(&route, tag)])?;
            let until = end.min(Instant::now() + ASK_AGAIN);
            while Instant::now() < until && found.len() < enough {
                self.socket
                    .wait(until.saturating_duration_since(Instant::now()))?;
                self.socket.receive(BATCH, |bytes, _| {
                    let Some(reply) = Reply::parse(bytes).filter(|reply| reply.tag == tag) else {
                        return;
                    };
                    let asked = address.is_none_or(|address| address == (reply.shelf, reply.slot));
                    if let Some(config) = reply.config().filter(|_| asked && reply.error.is_none()) {
                        found.insert(Found {
                            shelf: reply.shelf,
                            slot: reply.slot,
                            mac: reply.source,
                            buffers: config.buffers,
                            firmware: config.firmware,
                            sectors: config.sectors.min(most_sectors),
                            config: config.string.to_vec(),
                        });
                    }
                })?;
            }
        }
        Ok(found.into_iter().collect())
    }

    /// IDENTIFY DEVICE.
    pub fn identify(&mut self, target: &Found, timeout: Duration) -> Result<DiskIdentity, InitiatorError> {
        let request = AtaRequest {
            opcode: command::IDENTIFY,
            sectors: 1,
            lba: 0,
        };
        let data = self.ata(target, request, timeout)?;
        let block = data.first_chunk().ok_or_else(|| InitiatorError::Short {
            what: describe(target),
            got: data.len(),
            wanted: SECTOR_BYTES,
        })?;
        Ok(DiskIdentity::parse(block))
    }

    fn ata(
        &mut self,
        target: &Found,
        request: AtaRequest,
        timeout: Duration,
    ) -> Result<Vec<u8>, InitiatorError> {
        let route = self.route(target);
        let tag = self.next_tag();
        let mut bytes = vec![0; request.frame_bytes()];
        frame::put_ata(&mut bytes, &route, tag, request);
        let start = Instant::now();
        let mut retransmit = FIRST_RETRANSMIT;
        let mut answer = None;
        while answer.is_none() && start.elapsed() < timeout {
            self.socket.send(&[&bytes])?;
            let until = Instant::now() + retransmit.min(timeout);
            while answer.is_none() && Instant::now() < until {
                self.socket
                    .wait(until.saturating_duration_since(Instant::now()))?;
                self.socket.receive(BATCH, |received, _| {
                    let reply = Reply::parse(received);
                    let ours = |r: &Reply<'_>| {
                        (r.tag, r.shelf, r.slot, r.destination)
                            == (tag, target.shelf, target.slot, route.source)
                    };
                    if let Some(reply) = reply.filter(ours) {
                        answer = Some(outcome(&reply, target));
                    }
                })?;
            }
            retransmit *= 2;
        }
        answer.unwrap_or_else(|| {
            Err(InitiatorError::Timeout {
                what: describe(target),
                seconds: start.elapsed().as_secs_f64(),
            })
        })
    }

    fn next_tag(&mut self) -> u32 {
        self.tag = self.tag.wrapping_add(1) | aoe::TAG_OF_USER_SPACE;
        self.tag
    }
}

fn outcome(reply: &Reply<'_>, target: &Found) -> Result<Vec<u8>, InitiatorError> {
    let what = || describe(target);
    if let Some(code) = reply.error {
        return Err(InitiatorError::Aoe { what: what(), code });
    }
    match reply.ata() {
        Some(ata) if ata.is_ok() => Ok(ata.data.to_vec()),
        Some(ata) => Err(InitiatorError::Ata {
            what: what(),
            status: ata.status,
            error: ata.error,
        }),
        None => Err(InitiatorError::Short {
            what: what(),
            got: 0,
            wanted: SECTOR_BYTES,
        }),
    }
}

fn describe(target: &Found) -> String {
    format!("{}.{}: IDENTIFY", target.shelf, target.slot)
}
