//! An initiator that retransmits as Linux's driver does: a new tag for every try, the next path each time, and only
//! the answer to the newest tag counts.

use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use aoe_common::Mac;

use super::network::{Network, Parcel};
use lab::frame::{Address, Reply, Request, ata};
use lab::image::SECTOR;

/// A way to the target: from an address of the client's to a port.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    /// Number of the port.
    pub port: usize,
    /// The port's address.
    pub target: Mac,
    /// The client's address on that link.
    pub own: Mac,
}

/// One initiator.
#[derive(Debug)]
pub struct Client {
    address: Address,
    paths: Vec<Path>,
    next_path: usize,
    counter: u16,
    born: Instant,
    outbox: Sender<Parcel>,
    arrivals: Receiver<Vec<u8>>,
    /// How long to wait before the first retransmission; doubled by each one, to half a second at most.
    pub patience: Duration,
    /// Give up after this.
    pub deadline: Duration,
    /// Retransmissions so far.
    pub retransmissions: u64,
}

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The reply; `None`: none came in time.
    pub reply: Option<Reply>,
    /// How often the request was sent.
    pub sent: u32,
}

impl Client {
    /// Attaches to the network with an address on each path.
    pub fn new(network: &Network, address: Address, paths: Vec<Path>) -> Client {
        let macs: Vec<Mac> = paths.iter().map(|path| path.own).collect();
        let (outbox, arrivals) = network.attach(&macs);
        Client {
            address,
            paths,
            next_path: 0,
            counter: 0,
            born: Instant::now(),
            outbox,
            arrivals,
            patience: Duration::from_millis(30),
            deadline: Duration::from_secs(30),
            retransmissions: 0,
        }
    }

    /// Reads sectors.
    pub fn read(&mut self, lba: u64, count: u8) -> Answer {
        self.exchange(ata::READ_EXT, lba, count, &[], u32::MAX)
    }

    /// Writes sectors; sends the request at most so often.
    pub fn write(&mut self, lba: u64, data: &[u8], most: u32) -> Answer {
        let count = u8::try_from(data.len() / SECTOR).expect("what fits a frame");
        self.exchange(ata::WRITE_EXT, lba, count, data, most)
    }

    /// Waits till every port has taken what reached each of its queues before: asks all of them something that the
    /// network does nothing to, again and again till they answer.
    ///
    /// Returns false when they do not before the deadline.
    pub fn fence(&mut self, queues: usize) -> bool {
        let end = Instant::now() + self.deadline;
        for path in self.paths.clone() {
            for queue in 0..queues {
                loop {
                    let tag = self.tag();
                    let mut query = Request::query(path.target, self.address, 0, b"");
                    (query.src, query.tag) = (path.own, tag);
                    let parcel = Parcel::Escorted {
                        port: path.port,
                        queue,
                        frame: query.bytes(),
                    };
                    if self.outbox.send(parcel).is_err() || Instant::now() > end {
                        return false;
                    }
                    if self
                        .await_reply(tag, Instant::now() + Duration::from_millis(250))
                        .is_some()
                    {
                        break;
                    }
                }
            }
        }
        true
    }

    fn exchange(&mut self, command: u8, lba: u64, count: u8, data: &[u8], most: u32) -> Answer {
        let end = Instant::now() + self.deadline;
        let mut patience = self.patience;
        let mut sent = 0;
        loop {
            let path = self.paths[self.next_path % self.paths.len()];
            self.next_path += 1;
            let tag = self.tag();
            let mut request = Request::ata(path.target, self.address, command, lba, count, data);
            (request.src, request.tag) = (path.own, tag);
            if self
                .outbox
                .send(Parcel::ToTarget {
                    port: path.port,
                    frame: request.bytes(),
                })
                .is_err()
            {
                return Answer { reply: None, sent };
            }
            sent += 1;
            self.retransmissions += u64::from(sent > 1);
            let until = if sent < most {
                end.min(Instant::now() + patience)
            } else {
                end
            };
            let reply = self.await_reply(tag, until);
            if reply.is_some() || Instant::now() >= end {
                return Answer { reply, sent };
            }
            patience = (patience * 2).min(Duration::from_millis(500));
        }
    }

    /// The reply with this tag. An AoE error ends nothing: Linux waits for a better answer.
    fn await_reply(&mut self, tag: u32, until: Instant) -> Option<Reply> {
        loop {
            let left = until.checked_duration_since(Instant::now())?;
            let frame = self.arrivals.recv_timeout(left).ok()?;
            let reply = Reply::parse(&frame).expect("a target sends well-formed replies");
            if reply.tag == tag && reply.aoe_error().is_none() {
                return Some(reply);
            }
        }
    }

    /// The next tag, made as Linux makes them: 15 bits of a counter, 16 of the time in ticks of 4 ms.
    fn tag(&mut self) -> u32 {
        self.counter = (self.counter + 1) & 0x7fff;
        let ticks = self.born.elapsed().as_millis() / 4;
        u32::from(self.counter) << 16 | (ticks as u32 & 0xffff)
    }
}
