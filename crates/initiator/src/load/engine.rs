//! The loop that keeps requests outstanding.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use aoe_common::wire::ata::command;
use aoe_common::wire::{MIN_FRAME_BYTES, SECTOR_BYTES, aoe};
use arrayvec::ArrayVec;

use super::ledger::{Checked, Ledger};
use super::outcome::LoadOutcome;
use super::pattern::Pattern;
use super::rto::Rto;
use super::{LoadPlan, MAX_DEPTH};
use crate::frame::{self, AtaRequest, Reply};
use crate::transport::{BATCH, Transport};
use crate::{InitiatorError, stamp};

/// How long to spin for answers before sleeping: longer than any request that latency is measured for.
const SPIN: Duration = Duration::from_millis(1);
/// How often outstanding requests are looked through for late ones.
const TIMER: Duration = Duration::from_millis(1);
/// How often the caller hears of progress.
const PROGRESS: Duration = Duration::from_millis(200);
/// Bits of a tag that name the slot; the rest tells one use of the slot from the next.
const SLOT_BITS: u32 = MAX_DEPTH.trailing_zeros();

/// A request that may be outstanding. Its frame is the slot's part of [`LoadLoop::frames`].
struct Slot {
    busy: bool,
    write: bool,
    tag: u32,
    block: u64,
    generation: u32,
    tries: u32,
    sent: Instant,
    retransmit_at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Requests are made.
    Load,
    /// What is outstanding is waited for.
    Drain,
    /// Written blocks are read again, from this one on.
    ReadBack(u64),
}

struct LoadLoop<'a> {
    plan: &'a LoadPlan,
    pattern: Pattern,
    ledger: Ledger,
    rto: Rto,
    slots: Vec<Slot>,
    /// Slots that are free, and slots whose frame is to be sent.
    free: Vec<u16>,
    unsent: Vec<u16>,
    frames: Vec<u8>,
    frame_stride: usize,
    issued: u64,
    /// While it is measured.
    measurement: Option<Measurement>,
    outcome: LoadOutcome,
}

#[derive(Clone, Copy)]
struct Measurement {
    begin: Instant,
    /// How long the process had waited for a cpu by then.
    starved: Duration,
}

/// Runs the plan, telling `progress` a few times a second what was reached and how long it has run. It can end the run there;
/// what is outstanding then is not counted.
///
/// Errors of the target are counted in the outcome; only what keeps the load from running is an error here.
pub fn run(
    socket: &mut impl Transport,
    plan: &LoadPlan,
    mut progress: impl FnMut(&LoadOutcome, Duration) -> ControlFlow<()>,
) -> Result<LoadOutcome, InitiatorError> {
    if !plan.verify {
        socket.receive_heads(MIN_FRAME_BYTES);
    }
    let start = Instant::now();
    let mut load = LoadLoop::new(plan, start);
    let mut phase = Phase::Load;
    let (mut before, mut idle, mut last_event) = (start, false, start);
    let (mut timer_at, mut progress_at) = (start + TIMER, start + PROGRESS);
    loop {
        let now = Instant::now();
        if idle && load.measurement.is_some() {
            load.outcome.idle += now - before;
        }
        before = now;
        phase = load.measure(phase, start, now);
        match &mut phase {
            Phase::Load => load.issue_load(now),
            Phase::Drain if load.is_idle() && !plan.verify => break,
            Phase::Drain if load.is_idle() => phase = Phase::ReadBack(0),
            Phase::Drain => {}
            Phase::ReadBack(next) => {
                load.issue_read_back(next, now);
                if load.is_idle() {
                    break;
                }
            }
        }
        let sent = load.send(socket)?;
        let answered = load.receive(socket)?;
        idle = sent + answered == 0;
        if !idle {
            last_event = now;
        } else if now - last_event > SPIN {
            socket.wait(TIMER)?;
        }
        if now >= timer_at {
            load.retransmit(now);
            timer_at = now + TIMER;
        }
        if now >= progress_at {
            if progress(&load.outcome, now - start).is_break() {
                load.outcome.interrupted = true;
                load.end_measuring(now);
                break;
            }
            progress_at = now + PROGRESS;
        }
    }
    Ok(load.outcome)
}

impl<'a> LoadLoop<'a> {
    fn new(plan: &'a LoadPlan, now: Instant) -> LoadLoop<'a> {
        let depth = plan.depth.clamp(1, MAX_DEPTH);
        let longest = AtaRequest {
            opcode: command::WRITE_EXT,
            sectors: plan.sectors,
            lba: 0,
        };
        let frame_stride = longest.frame_bytes().next_multiple_of(64);
        let mut frames = vec![0; frame_stride * usize::from(depth)];
        // writes carry data that neither compress nor repeat
        for (at, bytes) in (u64::from(plan.seed) << 32..).zip(frames.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&stamp::mix(at).to_le_bytes());
        }
        let slot = |index: u16| Slot {
            busy: false,
            write: false,
            // tags of two runs differ
            tag: aoe::TAG_OF_USER_SPACE
                | stamp::mix(u64::from(plan.seed)) as u32 & !(u32::from(MAX_DEPTH) - 1)
                | u32::from(index),
            block: 0,
            generation: 0,
            tries: 0,
            sent: now,
            retransmit_at: now,
        };
        LoadLoop {
            plan,
            pattern: Pattern::new(plan),
            ledger: Ledger::new(plan),
            rto: Rto::default(),
            slots: (0..depth).map(slot).collect(),
            free: (0..depth).rev().collect(),
            unsent: Vec::with_capacity(usize::from(depth)),
            frames,
            frame_stride,
            issued: 0,
            measurement: None,
            outcome: LoadOutcome::default(),
        }
    }

    /// Begins to measure after the warm-up of a run that began at `start`, and ends that when it is time. Gives the phase that it
    /// is now.
    fn measure(&mut self, phase: Phase, start: Instant, now: Instant) -> Phase {
        let plan = self.plan;
        if phase == Phase::Load && self.measurement.is_none() && now >= start + plan.warmup {
            self.measurement = Some(Measurement {
                begin: now,
                starved: waited_for_cpu(),
            });
        }
        let enough = plan.count.is_some_and(|count| self.issued >= count);
        let late = self
            .measurement
            .is_some_and(|measurement| now - measurement.begin >= plan.duration);
        let phase = match phase {
            Phase::Load if enough || late => Phase::Drain,
            phase => phase,
        };
        if phase == Phase::Drain && (late || self.is_idle()) {
            self.end_measuring(now);
        }
        phase
    }

    fn end_measuring(&mut self, now: Instant) {
        if let Some(Measurement { begin, starved }) = self.measurement.take() {
            self.outcome.elapsed = now - begin;
            self.outcome.starved = waited_for_cpu().saturating_sub(starved);
        }
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Makes requests until the depth is reached.
    fn issue_load(&mut self, now: Instant) {
        while !self.free.is_empty() && self.plan.count.is_none_or(|count| self.issued < count) {
            // with verification a block can be taken; a few draws find a free one, or the next round does
            let found = (0..16).find_map(|_| {
                let (block, write) = self.pattern.draw();
                self.ledger
                    .take(block, write)
                    .map(|generation| (block, write, generation))
            });
            let Some((block, write, generation)) = found else {
                return;
            };
            self.issued += 1;
            self.issue(block, write, generation, now);
        }
    }

    /// Makes reads of the blocks written, from `next` on, until the depth is reached.
    fn issue_read_back(&mut self, next: &mut u64, now: Instant) {
        while !self.free.is_empty() {
            let Some(block) = self.ledger.next_written(*next) else {
                *next = self.plan.blocks();
                return;
            };
            *next = block + 1;
            let generation = self.ledger.take(block, false).unwrap_or_default();
            self.outcome.read_back += 1;
            self.issue(block, false, generation, now);
        }
    }

    fn issue(&mut self, block: u64, write: bool, generation: u32, now: Instant) {
        let Some(index) = self.free.pop() else { return };
        let plan = self.plan;
        let slot = &mut self.slots[usize::from(index)];
        let tag = slot.tag.wrapping_add(1 << SLOT_BITS) | aoe::TAG_OF_USER_SPACE;
        let retransmit_at = now + self.rto.after(1);
        *slot = Slot {
            busy: true,
            write,
            tag,
            block,
            generation,
            tries: 1,
            sent: now,
            retransmit_at,
        };
        let opcode = if write {
            command::WRITE_EXT
        } else {
            command::READ_EXT
        };
        let request = AtaRequest {
            opcode,
            sectors: plan.sectors,
            lba: plan.lba(block),
        };
        let at = usize::from(index) * self.frame_stride;
        let bytes = &mut self.frames[at..at + request.frame_bytes()];
        frame::put_ata(bytes, &plan.route, tag, request);
        if write && plan.verify {
            for (lba, sector) in (request.lba..).zip(bytes[frame::ATA_DATA..].chunks_exact_mut(SECTOR_BYTES))
            {
                stamp::put(sector, lba, generation, plan.seed);
            }
        }
        self.unsent.push(index);
    }

    /// Sends what is due; says how many went. What a full device queue refuses stays due.
    fn send(&mut self, socket: &mut impl Transport) -> Result<usize, InitiatorError> {
        let mut done = 0;
        while done < self.unsent.len() {
            let batch: ArrayVec<&[u8], BATCH> = self.unsent[done..]
                .iter()
                .take(BATCH)
                .map(|&index| {
                    let bytes = self.slots[usize::from(index)].request(self.plan).frame_bytes();
                    let at = usize::from(index) * self.frame_stride;
                    &self.frames[at..at + bytes]
                })
                .collect();
            let sent = socket.send(&batch)?;
            done += sent;
            if sent == 0 {
                break;
            }
        }
        self.unsent.drain(..done);
        Ok(done)
    }

    fn receive(&mut self, socket: &mut impl Transport) -> Result<usize, InitiatorError> {
        let outstanding = self.slots.len() - self.free.len();
        let mut now = None;
        socket.receive(outstanding.max(1), |bytes, length| {
            let now = *now.get_or_insert_with(Instant::now);
            self.answer(bytes, length, now);
        })
    }

    fn answer(&mut self, bytes: &[u8], length: usize, now: Instant) {
        let Some(reply) = Reply::parse(bytes) else { return };
        // a packet socket in a promiscuous network hears answers to others, too
        if reply.destination != self.plan.route.source {
            return;
        }
        let index = (reply.tag & (u32::from(MAX_DEPTH) - 1)) as usize;
        let Some(slot) = self
            .slots
            .get(index)
            .filter(|slot| slot.busy && slot.tag == reply.tag)
        else {
            self.outcome.stale += 1;
            return;
        };
        let (block, write, tries, generation) = (slot.block, slot.write, slot.tries, slot.generation);
        let latency = now.saturating_duration_since(slot.sent);
        if tries == 1 {
            self.rto.sample(latency);
        }
        let good = self.check(&reply, length.saturating_sub(frame::ATA_DATA), block, write);
        if write && good {
            self.ledger.written(block, generation);
        } else if write {
            self.ledger.unknown(block);
        }
        if self.measurement.is_some() {
            self.outcome.requests += 1;
            self.outcome.reads += u64::from(!write);
            self.outcome.bytes += u64::from(good) * u64::from(self.plan.sectors) * SECTOR_BYTES as u64;
            self.outcome.record(latency);
        }
        self.finish(index);
    }

    /// Counts what is wrong with an answer; true when nothing is.
    fn check(&mut self, reply: &Reply<'_>, data_bytes: usize, block: u64, write: bool) -> bool {
        let lba = self.plan.lba(block);
        let wanted = usize::from(self.plan.sectors) * SECTOR_BYTES;
        let ata = reply.ata();
        let complaint = match (reply.error, &ata) {
            (Some(code), _) => Some(format!(
                "LBA {lba}: AoE error {code} ({})",
                frame::error_text(code)
            )),
            (None, None) => Some(format!("LBA {lba}: an answer without ATA registers")),
            (None, Some(ata)) if !ata.is_ok() => Some(format!(
                "LBA {lba}: ATA status {:#04x}, error {:#04x}",
                ata.status, ata.error
            )),
            (None, Some(_)) if !write && data_bytes < wanted => Some(format!(
                "LBA {lba}: an answer with {data_bytes} bytes of data instead of {wanted}"
            )),
            _ => None,
        };
        if let Some(text) = complaint {
            self.outcome.errors += 1;
            self.outcome.note(|| text);
            return false;
        }
        if let Some(ata) = ata.filter(|_| self.plan.verify && !write) {
            match self.ledger.check(self.plan, block, &ata.data[..wanted]) {
                Checked::Right => self.outcome.verified += 1,
                Checked::Unstamped => self.outcome.unstamped += 1,
                Checked::Wrong(lba) => {
                    self.outcome.mismatches += 1;
                    self.outcome
                        .note(|| format!("LBA {lba}: not the data that were written there last"));
                    return false;
                }
            }
        }
        true
    }

    fn retransmit(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            // what the device queue has not taken yet is not late
            if !slot.busy || now < slot.retransmit_at || self.unsent.contains(&(index as u16)) {
                continue;
            }
            let (block, write) = (slot.block, slot.write);
            if now - slot.sent >= self.plan.give_up {
                let (lba, seconds) = (self.plan.lba(block), self.plan.give_up.as_secs_f64());
                self.outcome.timeouts += 1;
                self.outcome
                    .note(|| format!("LBA {lba}: no answer within {seconds:.1} s"));
                if write {
                    self.ledger.unknown(block);
                }
                self.finish(index);
                continue;
            }
            slot.tries += 1;
            slot.retransmit_at = now + self.rto.after(slot.tries);
            if write {
                self.ledger.freeze(block);
            }
            self.outcome.retransmits += 1;
            self.unsent.push(index as u16);
        }
    }

    fn finish(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.busy = false;
        self.ledger.release(slot.block);
        // an answer may come between a retransmission's decision and its sending
        self.unsent.retain(|&unsent| usize::from(unsent) != index);
        self.free.push(index as u16);
    }
}

impl Slot {
    fn request(&self, plan: &LoadPlan) -> AtaRequest {
        let opcode = if self.write {
            command::WRITE_EXT
        } else {
            command::READ_EXT
        };
        AtaRequest {
            opcode,
            sectors: plan.sectors,
            lba: plan.lba(self.block),
        }
    }
}

/// How long this process has been ready to run without a cpu.
fn waited_for_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    Duration::from_nanos(
        text.split_whitespace()
            .nth(1)
            .and_then(|ns| ns.parse().ok())
            .unwrap_or(0),
    )
}
