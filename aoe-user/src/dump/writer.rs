//! The thread of a reader: empties the workers' rings into its socket.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::record::{FrameHead, take};
use super::{DumpSession, Source, pcapng};
use crate::host::clock;

/// How long to wait before the next look at the rings: where there was nothing, and where there was something.
const IDLE: Duration = Duration::from_millis(10);
const BUSY: Duration = Duration::from_millis(1);
/// Bytes that are put in order and written at a time.
const ROUND_BYTES: usize = 1 << 20;
/// Rounds in which all is read that a ring can hold.
const LAST_ROUNDS: u32 = 8;
/// How long a reader may take nothing at all.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between two blocks of statistics.
const STATISTICS_EVERY: Duration = Duration::from_secs(1);
/// So far behind the data path in the scheduler's eyes.
const NICE: i32 = 10;

/// Starts the thread. It ends, and with it the session, when the reader closes the connection or says something, or stalls for a minute.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn send(session: DumpSession, to: UnixStream) -> io::Result<()> {
    to.set_nonblocking(false)?;
    to.set_write_timeout(Some(TIMEOUT))?;
    let thread = std::thread::Builder::new().name("dump".into());
    thread.spawn(move || {
        // Refused in some sandboxes, and not needed.
        let _ = rustix::process::setpriority_process(None, NICE);
        let mut writer = Writer {
            session,
            to,
            sources: Vec::new(),
            interfaces: BTreeMap::new(),
            told: Instant::now(),
        };
        if let Err(error) = writer.run() {
            tracing::debug!("a dump ends: {error}");
        }
    })?;
    Ok(())
}

/// An interface in the stream.
#[derive(Debug, Default)]
struct Interface {
    number: u32,
    shown: u64,
    /// By workers that have ended.
    lost: u64,
    /// As it was told last.
    told: Option<(u64, u64)>,
}

struct Writer {
    session: DumpSession,
    to: UnixStream,
    sources: Vec<Source>,
    interfaces: BTreeMap<Arc<str>, Interface>,
    /// When statistics were written last.
    told: Instant,
}

/// A frame on its way.
struct Taken {
    head: FrameHead,
    bytes: Vec<u8>,
    place: (u32, u32),
}

impl Writer {
    fn run(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        let mut rounds_left = None;
        pcapng::section(&mut out);
        loop {
            let taken = self.take(&mut out);
            let pause = if taken.is_empty() { IDLE } else { BUSY };
            let to_real_ns = real_minus_monotonic();
            for Taken { head, bytes, place } in &taken {
                let ns = head.ns.wrapping_add(to_real_ns);
                pcapng::frame(&mut out, *place, ns, head, bytes);
            }
            if rounds_left.is_some() || self.told.elapsed() >= STATISTICS_EVERY {
                self.tell(&mut out);
            }
            if !out.is_empty() {
                self.to.write_all(&out)?;
                out.clear();
            }
            // Whoever has said that it is over still gets what lay in the rings by then.
            match &mut rounds_left {
                Some(left) if *left == 0 || taken.is_empty() => return Ok(()),
                Some(left) => *left -= 1,
                None if self.is_over(pause)? => rounds_left = Some(LAST_ROUNDS),
                None => {}
            }
        }
    }

    /// What lies in the rings, by time; describes interfaces that are new.
    fn take(&mut self, out: &mut Vec<u8>) -> Vec<Taken> {
        let reader = &self.session.reader;
        self.sources.append(&mut reader.new_sources.lock());
        let mut all = Vec::new();
        let mut bytes = 0;
        for source in &mut self.sources {
            let count = self.interfaces.len() as u32;
            let interface = self
                .interfaces
                .entry(Arc::clone(&source.interface))
                .or_insert_with(|| {
                    pcapng::interface(out, &source.interface, reader.wanted.frame_bytes);
                    Interface {
                        number: count,
                        ..Interface::default()
                    }
                });
            let mut of_this = 0;
            while of_this < ROUND_BYTES
                && let Some((head, frame)) = take(&mut source.ring)
            {
                // At least something, however little of a frame is wanted.
                of_this += frame.len().max(1);
                interface.shown += 1;
                all.push(Taken {
                    head,
                    bytes: frame,
                    place: (interface.number, source.queue),
                });
            }
            bytes += of_this;
        }
        if bytes > 0 {
            all.sort_by_key(|taken| taken.head.ns);
        }
        self.let_go();
        all
    }

    /// Of workers that have ended and whose frames are all written.
    fn let_go(&mut self) {
        let interfaces = &mut self.interfaces;
        self.sources.retain(|source| {
            // In this order: what it left before it went must be seen.
            let is_over = source.ring.is_abandoned() && source.ring.is_empty();
            if is_over && let Some(interface) = interfaces.get_mut(&source.interface) {
                interface.lost += source.lost.load(Ordering::Relaxed);
            }
            !is_over
        });
    }

    /// Writes what has changed.
    fn tell(&mut self, out: &mut Vec<u8>) {
        self.told = Instant::now();
        let ns = clock::since_1970_ns();
        for (name, interface) in &mut self.interfaces {
            let of_it = self.sources.iter().filter(|source| source.interface == *name);
            let lost: u64 = of_it.map(|source| source.lost.load(Ordering::Relaxed)).sum();
            let lost = lost + interface.lost;
            let now = (interface.shown, lost);
            if interface.told != Some(now) {
                interface.told = Some(now);
                pcapng::statistics(out, interface.number, ns, interface.shown, lost);
            }
        }
    }

    /// Waits for a moment; true when the reader has gone, or has closed its half, or has said something.
    fn is_over(&self, pause: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(pause).unwrap_or_default();
        let wanted = PollFlags::IN | PollFlags::RDHUP;
        let mut fds = [PollFd::from_borrowed_fd(self.to.as_fd(), wanted)];
        match poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => Ok(false),
            ready => Ok(ready? > 0),
        }
    }
}

/// What is to be added to a time of the one clock for the same on the other.
fn real_minus_monotonic() -> u64 {
    clock::since_1970_ns().wrapping_sub(clock::monotonic_ns())
}
