//! The load on the exports whose disk is bad.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use aoe_common::Mac;
use lab::frame::ata;
use lab::image::SECTOR;
use lab::{Address, Initiator, Reply, Request};

use super::{Served, bad};

/// Sources of a load, and what each keeps outstanding, as initiators do that behave well.
pub(super) const SOURCES: usize = 24;
pub(super) const OUTSTANDING: usize = 64;

pub(super) fn source(n: usize) -> Mac {
    Mac::from_u64(0x0200_0000_1000 | n as u64)
}
const PAGE: usize = 4096;

/// What a source asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Reads,
    Writes,
    /// By turns, with some writes to the same sectors, of which the first is in the disk and the others wait for it.
    All,
    /// Reads, by 256 of a run of sectors that nobody has read before, in an order that nothing is read ahead by.
    Fresh,
}

/// A request: a write to the sectors that all share, one to sectors of its own, or a read.
fn request(kind: Ask, address: Address, n: usize, sectors: u8, last: u64) -> Request {
    let to = lab::link::target_mac(0);
    let lba = 64 + (n as u64 * 7919 * u64::from(sectors)) % (last - 128);
    // No two are one and the same write.
    let mut data = vec![0; usize::from(sectors) * SECTOR];
    data[..8].copy_from_slice(&(n as u64).to_le_bytes());
    let write = |lba| Request::ata(to, address, ata::WRITE_EXT, lba, sectors, &data);
    let fresh = (n / 256 * 19 % 48 * 512 + n * 37 % 256 * 2) as u64 % last;
    match (kind, n % 4) {
        (Ask::Fresh, _) => Request::ata(to, address, ata::READ_EXT, fresh, sectors, &[]),
        (Ask::All, 0) => write(0),
        (Ask::All, 1 | 2) | (Ask::Writes, _) => write(lba),
        (Ask::All, _) | (Ask::Reads, _) => Request::ata(to, address, ata::READ_EXT, lba, sectors, &[]),
    }
}

impl Served {
    /// All that many sources may have outstanding at each of the exports, once.
    pub(super) fn press(&self, kind: Ask, each: usize, salt: usize) -> Result<()> {
        let last = (self.site.mib << 11) as u64;
        let mut frames = Vec::new();
        for n in 0..each {
            for export in 0..self.site.exports {
                let mut request = request(kind, bad(export), n + salt * each, self.sectors(), last);
                (request.src, request.tag) = (source(n % SOURCES), 0x8200_0000 + frames.len() as u32);
                frames.push(request.bytes());
            }
        }
        self.lab.open(0)?.send_many(&frames)
    }
}

/// A source sends a request again that has not been answered in the time that the disk needs for so many.
const AGAIN: u32 = 100;

/// Sources that ask the first of the exports all the time, each as fast as it is answered.
pub(super) struct Sources {
    initiator: Initiator,
    kind: Ask,
    /// What each may have outstanding.
    windows: Vec<usize>,
    /// The time of a request at the disk.
    takes: Duration,
    sectors: u8,
    last: u64,
    outstanding: Vec<HashMap<u32, (Instant, Vec<u8>)>>,
    pub(super) answered: Vec<u32>,
    next: u32,
}

impl Sources {
    pub(super) fn new(served: &Served, kind: Ask, windows: &[usize], takes: Duration) -> Result<Sources> {
        Ok(Sources {
            initiator: served.lab.open(0)?,
            kind,
            windows: windows.to_vec(),
            takes,
            sectors: served.sectors(),
            last: (served.site.mib << 11) as u64,
            outstanding: vec![HashMap::new(); windows.len()],
            answered: vec![0; windows.len()],
            next: 0,
        })
    }

    /// Forgets what is outstanding and what was answered.
    pub(super) fn begin_anew(&mut self) -> Result<()> {
        self.outstanding.iter_mut().for_each(HashMap::clear);
        self.answered.fill(0);
        self.initiator.drain()
    }

    /// Sends what their windows allow, and takes in what is answered within `time`.
    pub(super) fn go_on(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            self.send()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let Some(frame) = self.initiator.receive(left)? else {
                return Ok(());
            };
            // The target's own questions are no replies.
            let Ok(reply) = Reply::parse(&frame) else {
                continue;
            };
            for n in 0..self.windows.len() {
                if reply.dst == source(n) && self.outstanding[n].remove(&reply.tag).is_some() {
                    ensure!(reply.status() == 0x40, "{reply:?}");
                    self.answered[n] += 1;
                }
            }
        }
    }

    fn send(&mut self) -> Result<()> {
        let mut frames = Vec::new();
        for (n, &window) in self.windows.iter().enumerate() {
            for (sent, frame) in self.outstanding[n].values_mut() {
                if sent.elapsed() > self.takes * AGAIN {
                    *sent = Instant::now();
                    frames.push(frame.clone());
                }
            }
            while self.outstanding[n].len() < window {
                self.next += 1;
                let mut request = request(self.kind, bad(0), self.next as usize, self.sectors, self.last);
                (request.src, request.tag) = (source(n), 0x8300_0000 + self.next);
                frames.push(request.bytes());
                self.outstanding[n].insert(request.tag, (Instant::now(), request.bytes()));
            }
        }
        self.initiator.send_many(&frames)
    }

    /// Each has between half and twice its part.
    pub(super) fn are_even(&self) -> Result<()> {
        let fair = self.answered.iter().sum::<u32>() / self.answered.len() as u32;
        let is_even = |&answered: &u32| answered * 2 >= fair && answered <= fair * 2;
        ensure!(
            self.answered.iter().all(is_even),
            "answered for each source: {:?}",
            self.answered
        );
        Ok(())
    }
}

/// Uses the disk beside xblade, one request after the other, each as large as a frame's, until it is dropped.
pub(super) struct OtherUser {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl OtherUser {
    /// It writes, or else reads.
    pub(super) fn new(served: &Served, kind: Ask) -> Result<OtherUser> {
        let device = File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_DIRECT)
            .open(&served.device)?;
        let bytes = usize::from(served.sectors()) * SECTOR;
        let places = (served.site.mib << 20) / bytes;
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            // As O_DIRECT wants it.
            let mut room = vec![0; bytes + PAGE];
            let begin = room.as_ptr().align_offset(PAGE);
            let buffer = &mut room[begin..][..bytes];
            for n in (0..).take_while(|_| !ends.load(Ordering::Relaxed)) {
                let at = (n * 7919 % places * bytes) as u64;
                match kind {
                    Ask::Writes => device.write_all_at(buffer, at),
                    _ => device.read_exact_at(buffer, at),
                }
                .expect("the disk works");
            }
        });
        Ok(OtherUser {
            is_over,
            thread: Some(thread),
        })
    }
}

impl Drop for OtherUser {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Ended with an error it has said so.
            let _ = thread.join();
        }
    }
}
