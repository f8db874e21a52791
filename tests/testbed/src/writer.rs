//! An initiator that writes everywhere, remembers what it was told, and can say afterwards whether it was the truth.
//!
//! Many writes are under way at once, never two to a sector; every sector of every write has a value of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aoe_common::Mac;

use crate::frame::{Address, Reply, Request, ata};
use crate::image::{Random, SECTOR};
use crate::initiator::Initiator;
use crate::values::{sector, value};

/// What to write where.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Seed of addresses and pauses.
    pub seed: u64,
    /// The export.
    pub address: Address,
    /// The port that serves it.
    pub target: Mac,
    /// Sectors to write to, from the first on; all must be zeros at first.
    pub sectors: u64,
    /// Sectors of one write.
    pub per_write: u8,
    /// Writes under way at once.
    pub depth: usize,
    /// Wait before a write is sent again.
    pub patience: Duration,
}

/// A write under way.
#[derive(Debug, Clone)]
struct Flight {
    lba: u64,
    values: Vec<u64>,
    first_sent: Instant,
    sent: Instant,
}

/// An acknowledged value.
#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    value: u64,
    at: Instant,
}

/// The writer and its ledger.
#[derive(Debug)]
pub struct Writer {
    options: Options,
    socket: Initiator,
    random: Random,
    flights: HashMap<u32, Flight>,
    /// For each sector what it was since it was last judged, oldest first.
    ledger: Vec<Vec<Acknowledged>>,
    next_tag: u32,
    next_value: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Writes sent again.
    pub retransmissions: u64,
    /// The longest that any write waited for its acknowledgement since this was last set to zero.
    pub longest_wait: Duration,
}

/// What became of the sectors.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Sectors that hold what was acknowledged last.
    pub kept: usize,
    /// Sectors that hold what was under way.
    pub unanswered: usize,
    /// When each lost value was acknowledged, for every acknowledged value newer than what its sector holds.
    pub lost: Vec<(u64, Instant)>,
    /// Sectors that hold a part of what was under way.
    pub torn: Vec<u64>,
    /// Sectors that hold anything else: misplaced, or from before the last judgement, or torn although nothing was under way.
    pub foreign: Vec<u64>,
}

impl Verdict {
    /// Everything acknowledged is there.
    ///
    /// # Errors
    /// When it is not; the message says what is missing.
    pub fn nothing_lost(&self) -> Result<()> {
        ensure!(
            self.foreign.is_empty(),
            "sectors {:?} hold what was never acknowledged nor under way",
            self.foreign
        );
        ensure!(self.torn.is_empty(), "sectors {:?} are torn", self.torn);
        ensure!(
            self.lost.is_empty(),
            "{} acknowledged writes are gone, the first of sector {}",
            self.lost.len(),
            self.lost[0].0
        );
        Ok(())
    }
}

impl Writer {
    /// Starts with an empty ledger.
    pub fn new(socket: Initiator, options: Options) -> Writer {
        let start = Acknowledged {
            value: 0,
            at: Instant::now(),
        };
        Writer {
            options,
            socket,
            random: Random::new(options.seed),
            flights: HashMap::new(),
            ledger: vec![vec![start]; options.sectors as usize],
            next_tag: 1,
            next_value: 1,
            acknowledged: 0,
            retransmissions: 0,
            longest_wait: Duration::ZERO,
        }
    }

    /// Writes for this long, whether anybody answers or not.
    ///
    /// # Errors
    /// When the target answers with an error, or malformed.
    pub fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.fill();
            self.repeat();
            let wait = end
                .saturating_duration_since(Instant::now())
                .min(Duration::from_millis(5));
            if let Some(frame) = self.socket.receive(wait)? {
                self.take(&frame)?;
            }
        }
        Ok(())
    }

    /// Writes till this many more writes have been acknowledged.
    ///
    /// # Errors
    /// As [`Writer::run_for`], or when it takes longer than `limit`.
    pub fn run_till(&mut self, more: u64, limit: Duration) -> Result<()> {
        let (goal, end) = (self.acknowledged + more, Instant::now() + limit);
        while self.acknowledged < goal {
            self.run_for(Duration::from_millis(10))?;
            ensure!(
                Instant::now() < end,
                "only {} of {goal} writes acknowledged after {limit:?}",
                self.acknowledged
            );
        }
        Ok(())
    }

    /// Takes the replies that have arrived and sends nothing.
    ///
    /// # Errors
    /// As [`Writer::run_for`].
    pub fn drain(&mut self) -> Result<()> {
        while let Some(frame) = self.socket.receive(Duration::ZERO)? {
            self.take(&frame)?;
        }
        Ok(())
    }

    /// Waits till nothing is under way.
    ///
    /// # Errors
    /// As [`Writer::run_for`], or when it takes longer than `limit`.
    pub fn settle(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while !self.flights.is_empty() {
            ensure!(
                Instant::now() < end,
                "{} writes are unanswered after {limit:?}",
                self.flights.len()
            );
            self.repeat();
            if let Some(frame) = self.socket.receive(Duration::from_millis(5))? {
                self.take(&frame)?;
            }
        }
        Ok(())
    }

    /// Compares all sectors with the ledger, and takes what they hold as what they are from now on.
    ///
    /// # Errors
    /// When a sector cannot be read.
    pub fn judge(&mut self, mut read: impl FnMut(u64) -> Result<Vec<u8>>) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        let under_way: HashMap<u64, u64> = self
            .flights
            .values()
            .flat_map(|flight| (flight.lba..).zip(flight.values.iter().copied()))
            .collect();
        for (lba, entries) in (0..).zip(&mut self.ledger) {
            let bytes = read(lba).with_context(|| format!("reading sector {lba}"))?;
            let found = value(lba, &bytes);
            let place = entries.iter().rposition(|entry| Some(entry.value) == found);
            let last = entries[entries.len() - 1];
            match (found, place) {
                (Some(value), None) if under_way.get(&lba) == Some(&value) => verdict.unanswered += 1,
                (None, _) if under_way.contains_key(&lba) => verdict.torn.push(lba),
                (_, None) => verdict.foreign.push(lba),
                (_, Some(place)) if place + 1 == entries.len() => verdict.kept += 1,
                (_, Some(place)) => verdict
                    .lost
                    .extend(entries[place + 1..].iter().map(|entry| (lba, entry.at))),
            }
            *entries = vec![Acknowledged {
                value: found.unwrap_or(last.value),
                at: last.at,
            }];
        }
        Ok(verdict)
    }

    /// Reads all sectors through the target and judges them.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn judge_by_reading(&mut self) -> Result<Verdict> {
        let mut contents = Vec::new();
        for lba in 0..self.options.sectors {
            contents.push(self.read(lba)?);
        }
        self.judge(|lba| Ok(contents[lba as usize].clone()))
    }

    /// FLUSH CACHE EXT, asked for again till it succeeds; returns when the one that did was sent.
    ///
    /// # Errors
    /// When it fails, or nobody answers.
    pub fn flush(&mut self) -> Result<Instant> {
        for _ in 0..20 {
            let mut request = Request::ata(
                self.options.target,
                self.options.address,
                ata::FLUSH_EXT,
                0,
                0,
                &[],
            );
            (request.src, request.tag) = (self.socket.mac(), self.tag());
            let sent = Instant::now();
            let _ = self.socket.send(&request.bytes());
            let until = sent + Duration::from_secs(2);
            while let Some(frame) = self
                .socket
                .receive(until.saturating_duration_since(Instant::now()))?
            {
                if frame.len() > 23 && frame[14] & 0x08 != 0 && frame[20..24] == request.tag.to_be_bytes() {
                    let reply = Reply::parse(&frame)?;
                    ensure!(
                        reply.status() & 0xa9 == 0,
                        "flush: status {:#04x}",
                        reply.status()
                    );
                    return Ok(sent);
                }
                self.take(&frame)?;
            }
        }
        bail!("nobody answers a flush")
    }

    /// One sector, asked for again till it comes.
    fn read(&mut self, lba: u64) -> Result<Vec<u8>> {
        for _ in 0..300 {
            let mut request = Request::ata(
                self.options.target,
                self.options.address,
                ata::READ_EXT,
                lba,
                1,
                &[],
            );
            (request.src, request.tag) = (self.socket.mac(), self.tag());
            let _ = self.socket.send(&request.bytes());
            let until = Instant::now() + Duration::from_millis(200);
            while let Some(frame) = self
                .socket
                .receive(until.saturating_duration_since(Instant::now()))?
            {
                match Reply::parse(&frame) {
                    Ok(reply) if reply.tag == request.tag && reply.aoe_error().is_none() => {
                        ensure!(
                            reply.status() & 0xa9 == 0,
                            "reading {lba}: status {:#04x}",
                            reply.status()
                        );
                        return Ok(reply.data()[..SECTOR].to_vec());
                    }
                    _ => {}
                }
            }
        }
        bail!("nobody answers a read of sector {lba}")
    }

    /// Starts writes till enough are under way.
    fn fill(&mut self) {
        let count = u64::from(self.options.per_write);
        let mut tries = 0;
        while self.flights.len() < self.options.depth && tries < self.options.depth * 4 {
            tries += 1;
            let lba = self.random.below(self.options.sectors - count + 1);
            let busy =
                |flight: &Flight| flight.lba < lba + count && lba < flight.lba + flight.values.len() as u64;
            if !self.flights.values().any(busy) {
                let values: Vec<u64> = (self.next_value..self.next_value + count).collect();
                self.next_value += count;
                let now = Instant::now();
                self.send(Flight {
                    lba,
                    values,
                    first_sent: now,
                    sent: now,
                });
            }
        }
    }

    /// Sends again what has waited too long, as Linux does: with a new tag.
    fn repeat(&mut self) {
        let late = |flight: &Flight| flight.sent.elapsed() > self.options.patience;
        let late: Vec<u32> = self
            .flights
            .iter()
            .filter(|(_, flight)| late(flight))
            .map(|(tag, _)| *tag)
            .collect();
        for tag in late {
            if let Some(flight) = self.flights.remove(&tag) {
                self.retransmissions += 1;
                self.send(flight);
            }
        }
    }

    fn send(&mut self, mut flight: Flight) {
        let data: Vec<u8> = (flight.lba..)
            .zip(&flight.values)
            .flat_map(|(lba, value)| sector(lba, *value))
            .collect();
        let Options {
            target,
            address,
            per_write,
            ..
        } = self.options;
        let mut request = Request::ata(target, address, ata::WRITE_EXT, flight.lba, per_write, &data);
        (request.src, request.tag) = (self.socket.mac(), self.tag());
        flight.sent = Instant::now();
        // What a link that is down does not take is sent again later.
        let _ = self.socket.send(&request.bytes());
        self.flights.insert(request.tag, flight);
    }

    fn take(&mut self, frame: &[u8]) -> Result<()> {
        if frame.get(14).is_none_or(|flags| flags & 0x08 == 0) {
            return Ok(()); // a target looking for its own address
        }
        let reply = Reply::parse(frame)?;
        if reply.aoe_error().is_some() {
            return Ok(()); // not ready, Linux waits as well
        }
        if let Some(flight) = self.flights.remove(&reply.tag) {
            ensure!(
                reply.status() & 0xa9 == 0,
                "write of sector {}: status {:#04x}, error {:#04x}",
                flight.lba,
                reply.status(),
                reply.ata_error()
            );
            let at = Instant::now();
            self.longest_wait = self.longest_wait.max(flight.first_sent.elapsed());
            self.acknowledged += 1;
            for (lba, value) in (flight.lba..).zip(flight.values) {
                self.ledger[lba as usize].push(Acknowledged { value, at });
            }
        }
        Ok(())
    }

    fn tag(&mut self) -> u32 {
        self.next_tag = (self.next_tag + 1) & 0x7fff_ffff;
        self.next_tag
    }
}
