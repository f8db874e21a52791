//! The data path: one thread that owns one receive queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use rustix::event::{PollFd, PollFlags, poll};
use tracing::warn;

use crate::store::{Lane, Mailbox};
use crate::target::{Address, Exports, PortInfo, Session, SessionCounters};
use crate::xsk::{Frame, Socket, Statistics};

use super::{Nic, port_info};

/// Frames taken from the ring before anything else is looked at.
const BATCH: usize = 64;
/// Looks at the rings between two looks at the clock while spinning.
const SPINS_PER_CLOCK: u32 = 32;
/// How long a stopping worker waits for operations that the disk still owes it.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What control may ask of a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Serve these from now on.
    Exports(Arc<Exports>),
    /// The interface has changed.
    Port(PortInfo),
    /// Advertise these exports.
    Advertise(Vec<Address>),
    /// Finish what was received and end.
    Stop,
}

/// What a worker has done, readable at any time.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkerFigures {
    /// Times it slept in poll(2).
    pub sleeps: u64,
    /// Frames dropped between filter and worker, as AF_XDP counts them.
    pub dropped: u64,
}

/// Control's handle of a worker thread.
#[derive(Debug)]
pub(super) struct Worker {
    commands: Arc<SegQueue<Command>>,
    mailbox: Mailbox,
    shared: Arc<Shared>,
    counters: Arc<SessionCounters>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    sleeps: AtomicU64,
    dropped: AtomicU64,
}

impl Worker {
    /// Starts the thread that serves `socket`.
    pub(super) fn start(
        nic: &Nic,
        queue: usize,
        socket: Socket,
        exports: Arc<Exports>,
        spin: Duration,
        cpu: Option<usize>,
    ) -> io::Result<Worker> {
        let lane = Lane::new()?;
        let mailbox = lane.mailbox();
        let commands = Arc::new(SegQueue::new());
        let shared = Arc::new(Shared::default());
        let session = Session::new(exports, lane);
        let counters = session.counters();
        let data_path = DataPath {
            socket,
            session,
            port: port_info(nic),
            commands: Arc::clone(&commands),
            shared: Arc::clone(&shared),
            spin,
            start: Instant::now(),
        };
        let thread = std::thread::Builder::new().name(format!("{}/{queue}", nic.name)).spawn(move || {
            if let Some(cpu) = cpu {
                pin_to(cpu);
            }
            data_path.run();
        })?;
        Ok(Worker { commands, mailbox, shared, counters, thread: Some(thread) })
    }

    /// Hands the worker a command and wakes it.
    pub(super) fn tell(&self, command: Command) {
        self.commands.push(command);
        self.mailbox.wake();
    }

    /// What it has done so far.
    pub(super) fn figures(&self) -> WorkerFigures {
        WorkerFigures {
            sleeps: self.shared.sleeps.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }

    /// Waits for the thread to end.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("a worker ended by a panic; please report it with the log above");
        }
    }
}

/// What the thread owns.
struct DataPath {
    socket: Socket,
    session: Session<Socket>,
    port: PortInfo,
    commands: Arc<SegQueue<Command>>,
    shared: Arc<Shared>,
    spin: Duration,
    /// Zero of the engine's clock.
    start: Instant,
}

impl DataPath {
    fn run(mut self) {
        let mut last_work = Instant::now();
        let mut stopping: Option<Instant> = None;
        loop {
            let mut worked = self.round();
            while let Some(command) = self.commands.pop() {
                worked = true;
                if self.obey(command) {
                    stopping.get_or_insert_with(Instant::now);
                }
            }
            if let Some(since) = stopping
                && !worked
                && (self.session.pending() == 0 || since.elapsed() > DRAIN_LIMIT)
            {
                break;
            }
            if worked {
                last_work = Instant::now();
            } else if stopping.is_some() {
                self.sleep(Some(Duration::from_millis(10)));
            } else if !self.spin_until_work(last_work) {
                self.sleep(None);
                last_work = Instant::now();
            }
        }
    }

    /// Serves what is there now; false when there was nothing.
    fn round(&mut self) -> bool {
        let now_us = self.now_us();
        let mut received = false;
        for _ in 0..BATCH {
            let Some(frame) = self.socket.receive() else { break };
            received = true;
            self.session.frame(&mut self.socket, &self.port, frame, now_us);
        }
        let completed = self.session.completions(&mut self.socket, &self.port, now_us);
        self.session.lane().submit();
        self.socket.kick();
        received || completed
    }

    /// Looks at the rings until there is something to do or the spin time is over. Whoever waits for a disk does not
    /// spin: the thread that commits may need this very CPU.
    fn spin_until_work(&mut self, last_work: Instant) -> bool {
        if self.session.pending() > 0 {
            return false;
        }
        while last_work.elapsed() < self.spin {
            for _ in 0..SPINS_PER_CLOCK {
                if self.socket.is_readable() || self.session.lane().has_completed() || !self.commands.is_empty() {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        false
    }

    /// Sleeps until a frame, a completion or a command arrives.
    fn sleep(&mut self, limit: Option<Duration>) {
        self.shared.sleeps.fetch_add(1, Ordering::Relaxed);
        self.shared.dropped.store(dropped(&self.socket), Ordering::Relaxed);
        if !self.session.lane().prepare_sleep() {
            return;
        }
        if self.commands.is_empty() {
            let mut interest = PollFlags::IN;
            if self.socket.needs_kick() {
                interest |= PollFlags::OUT;
            }
            let limit = limit.and_then(|limit| limit.try_into().ok());
            let mut fds =
                [PollFd::from_borrowed_fd(self.socket.fd(), interest), PollFd::new(self.session.lane_ref(), PollFlags::IN)];
            // EINTR only makes the loop go round once more.
            let _ = poll(&mut fds, limit.as_ref());
        }
        self.session.lane().awake();
    }

    /// Carries out a command; true when it was the last.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Exports(exports) => self.session.set_exports(exports),
            Command::Port(port) => self.port = port,
            Command::Advertise(addresses) => {
                let now_us = self.now_us();
                for address in addresses {
                    self.session.advertise(&mut self.socket, &self.port, address, now_us);
                }
            }
            Command::Stop => return true,
        }
        false
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

fn dropped(socket: &Socket) -> u64 {
    let Statistics { rx_dropped, rx_ring_full, fill_ring_empty, .. } = socket.statistics();
    rx_dropped.saturating_add(rx_ring_full).saturating_add(fill_ring_empty)
}

/// Binds this thread to one CPU; a CPU that does not exist costs a warning, not the service.
fn pin_to(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        warn!("cannot pin a worker to CPU {cpu}: {error}");
    }
}
