//! What is gained when a payload need not be copied into a frame, because the memory that it lies in is registered with the socket:
//! `from_image NETIF [PAYLOAD_BYTES [BATCH]]` sends payloads from random places of an image in memory in three ways by turns, and prints
//! what a frame costs in each: the median of the batches, which others on the same CPU hardly move.
//!
//! `straight`: the image's pages are chunks of the socket, and a frame is sent as it lies there. `copied`: from an image beside them
//! into chunks that were sent lately, which are in the CPU's cache. `prefetched`: the same, after a batch's memory was asked for, so
//! that many places are on their way at a time: one byte of each cache line was read, of payloads over 1 KiB one of each page.
//!
//! NETIF needs an MTU that holds a payload and 22 bytes. The frames go to nobody: from a locally administered address, with the
//! EtherType for local experiments (IEEE 802).

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use xsk::{Frame, Socket, SocketConfig};

/// Ethernet, and as many further bytes as AoE has in front of its sectors.
const HEADER_BYTES: usize = 36;
/// The Ethernet header.
const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
/// The image: far more than a cache holds.
const IMAGE_BYTES: usize = 512 << 20;
/// Chunks that are no part of the image: to copy into, and for the kernel to receive into.
const OTHER_CHUNKS: u32 = 4096;
const ROUNDS: usize = 11;
const CACHE_LINE: usize = 64;
const PAGE: usize = 4096;
/// How long frames may be under way.
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: from_image NETIF [PAYLOAD_BYTES [BATCH]]";
    let interface = arguments.next().ok_or(usage)?;
    let payload: usize = arguments.next().map_or(Ok(8192), |text| text.parse())?;
    let batch: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;
    if payload == 0 {
        return Err(usage.into());
    }
    let ifindex = if_nametoindex(interface.as_str()).map_err(|error| format!("{interface}: {error}"))?;

    let mut bench = Bench::open(ifindex, payload, batch)?;
    let mode = if bench.socket.is_zerocopy() {
        "zero-copy"
    } else {
        "copy"
    };
    println!("{payload} bytes a frame, {batch} frames a system call, {mode} mode; ns a frame");
    println!("{:>10} {:>10} {:>10}", "straight", "copied", "prefetched");
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let round = [bench.straight()?, bench.copied(false)?, bench.copied(true)?];
        println!("{:>10.0} {:>10.0} {:>10.0}", round[0], round[1], round[2]);
        rounds.push(round);
    }
    let copied = median(rounds.iter().map(|round| round[1] / round[0]).collect());
    let prefetched = median(rounds.iter().map(|round| round[2] / round[0]).collect());
    println!(
        "straight is {copied:.2} times as fast as copied, {prefetched:.2} times as prefetched (medians of the rounds)"
    );
    Ok(())
}

/// A socket that has an image in its chunks, and one beside it.
struct Bench {
    socket: Socket,
    image: Vec<u8>,
    payload: usize,
    batch: usize,
    /// Frames of a round.
    frames: usize,
    random: u64,
}

impl Bench {
    fn open(ifindex: u32, payload: usize, batch: usize) -> Result<Bench, Box<dyn Error>> {
        let mtu = u32::try_from(payload + HEADER_BYTES - ETHERNET.len())?;
        let mut config = SocketConfig::for_mtu(ifindex, 0, mtu);
        config.chunk_bytes = 4096;
        config.chunks = OTHER_CHUNKS + (IMAGE_BYTES / 4096) as u32;
        let mut socket = Socket::open(&config)?;
        let one = socket
            .allocate(HEADER_BYTES + payload)
            .ok_or("the payload is too long for a frame")?;
        let frames = (IMAGE_BYTES / 4096) / one.chunks() as usize;
        socket.free(one);
        Ok(Bench {
            socket,
            image: vec![0x5a; IMAGE_BYTES],
            payload,
            batch: batch.clamp(1, 256),
            frames,
            random: 1,
        })
    }

    /// Sends the image from where it lies, every frame once and in an order drawn at random.
    fn straight(&mut self) -> Result<f64, Box<dyn Error>> {
        let mut frames = self.all_frames()?;
        for last in (1..frames.len()).rev() {
            let other = self.below(last + 1);
            frames.swap(last, other);
        }
        let cost = self.send_all(frames)?;
        // What was sent comes back last chunk first. Once more, and each frame's chunks follow each other again, as an image's do.
        let frames = self.all_frames()?;
        self.send_all(frames)?;
        Ok(cost)
    }

    /// Frames of all chunks that belong to the image.
    fn all_frames(&mut self) -> Result<Vec<Frame>, Box<dyn Error>> {
        let mut frames = Vec::with_capacity(self.frames);
        for _ in 0..self.frames {
            let mut frame = self.frame()?;
            for piece in self.socket.pieces_mut(&mut frame) {
                piece.fill(0x5a);
            }
            self.put_header(&mut frame);
            frames.push(frame);
        }
        Ok(frames)
    }

    fn send_all(&mut self, mut frames: Vec<Frame>) -> Result<f64, Box<dyn Error>> {
        let mut costs = Vec::new();
        while !frames.is_empty() {
            let (started, before) = (Instant::now(), frames.len());
            for frame in frames.drain(frames.len().saturating_sub(self.batch)..) {
                self.socket.transmit(frame);
            }
            self.send()?;
            costs.push(each(started, before - frames.len()));
        }
        Ok(median(costs))
    }

    /// Sends as many frames with copies of places drawn at random.
    fn copied(&mut self, ask_beforehand: bool) -> Result<f64, Box<dyn Error>> {
        let places: Vec<usize> = (0..self.frames)
            .map(|_| self.below(self.image.len() / self.payload) * self.payload)
            .collect();
        let step = if self.payload <= 1024 { CACHE_LINE } else { PAGE };
        let mut costs = Vec::new();
        for batch in places.chunks(self.batch) {
            let started = Instant::now();
            if ask_beforehand {
                for &at in batch {
                    let lines = self.image[at..at + self.payload].chunks(step);
                    black_box(lines.fold(0, |sum, line| sum ^ line[0]));
                }
            }
            for &at in batch {
                let mut frame = self.frame()?;
                self.put_header(&mut frame);
                let (mut skip, mut data) = (HEADER_BYTES, &self.image[at..at + self.payload]);
                for piece in self.socket.pieces_mut(&mut frame) {
                    let (now, later) = data.split_at(piece.len() - skip);
                    piece[skip..].copy_from_slice(now);
                    (skip, data) = (0, later);
                }
                self.socket.transmit(frame);
            }
            self.send()?;
            costs.push(each(started, batch.len()));
        }
        Ok(median(costs))
    }

    fn frame(&mut self) -> Result<Frame, Box<dyn Error>> {
        let frame = self.socket.allocate(HEADER_BYTES + self.payload);
        frame.ok_or_else(|| "no chunk is free".into())
    }

    fn put_header(&mut self, frame: &mut Frame) {
        if let Some(first) = self.socket.pieces_mut(frame).first_mut() {
            first[..ETHERNET.len()].copy_from_slice(&ETHERNET);
        }
    }

    /// Until the batch is out.
    fn send(&mut self) -> Result<(), Box<dyn Error>> {
        self.socket.kick();
        let started = Instant::now();
        while self.socket.chunk_counts().tx != 0 {
            self.socket.kick();
            if started.elapsed() > TIMEOUT {
                return Err("frames are still under way after 10 s: is the interface up?".into());
            }
        }
        Ok(())
    }

    /// A number below `limit`, by the xorshift of Marsaglia.
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % limit as u64) as usize
    }
}

/// Nanoseconds a frame.
fn each(started: Instant, frames: usize) -> f64 {
    started.elapsed().as_nanos() as f64 / frames as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
