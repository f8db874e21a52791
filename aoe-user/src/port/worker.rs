//! The data path: one thread that owns one receive queue.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use crossbeam_queue::SegQueue;
use rustix::event::{PollFd, PollFlags, poll};
use tracing::warn;

use crate::host::clock::monotonic_ns;
use crate::metrics::{Chunks, QueueTotals, Registration, Registry, WorkerCounters};
use crate::store::limits::refused;
use crate::store::{CompletionQueue, Completions as _, QueueHandle};
use crate::target::{Counters, Export, Exports, PortInfo, Session};
use crate::xsk::{Frame, QueueRelease, Statistics};

use super::ending::{Ending, WorkerEnd, see_off};
use super::prove::Proof;
use super::spin::{Cpu, Spinner};
use super::trace::{self, Trace};
use super::{Alarm, Nic, SocketLink, port_info};

/// Frames taken from the ring before anything else is looked at.
const BATCH: usize = 32;
/// Bytes of a received frame to have brought in before they are asked for: all of an ordinary one.
const HINT_BYTES: usize = 1536;
/// How long a stopping worker waits for operations that the disk still owes it, as nobody is served meanwhile.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);
/// What has been with its disk for longer than this when a worker is told to stop hangs: healthy disks answer sooner.
const HUNG: Duration = Duration::from_millis(100);
/// How often it looks meanwhile.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);
/// When to ask the kernel again to send what it would not send yet.
const KICK_AGAIN: Duration = Duration::from_millis(1);
/// How long to leave a descriptor alone that poll(2) calls dead.
const DEAD_PAUSE: Duration = Duration::from_millis(10);
/// A disk whose last answer is older is slow.
const SOON: Duration = Duration::from_millis(1);

/// What control may ask of a worker.
#[derive(Debug)]
pub(super) enum WorkerCommand {
    /// Serve these from now on.
    Exports(Arc<Exports>),
    /// The interface has changed.
    Port(PortInfo),
    /// Advertise these exports.
    Advertise(Vec<Arc<Export>>),
    /// Use the CPU like this from now on.
    Pace(CpuUse),
    /// Show that a frame gets out.
    Prove(Proof),
    /// Finish what was received and end.
    Stop(Drain),
}

/// What a worker waits for that is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drain {
    /// All that disks may answer within a few seconds: nobody is served after it.
    All,
    /// The same without what hangs already: others wait until the queue is served again.
    Healthy,
}

/// How a worker uses the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuUse {
    /// How long it spins before it sleeps.
    pub(crate) spin: Duration,
    /// CPUs that the workers have among them.
    pub(crate) cpus: usize,
    /// The CPU to be pinned to; `None`: the scheduler decides.
    pub(crate) cpu: Option<usize>,
}

/// Control's handle of a worker thread.
#[derive(Debug)]
pub(super) struct Worker {
    commands: Arc<SegQueue<WorkerCommand>>,
    handle: QueueHandle,
    totals: Totals,
    queue: QueueRelease,
    ending: Ending,
}

/// What a worker counts.
#[derive(Debug, Clone)]
struct Totals {
    engine: Arc<Counters>,
    worker: Arc<WorkerCounters>,
}

impl Worker {
    /// Starts the thread that serves `link`.
    pub(super) fn start(
        nic: &Nic,
        queue: usize,
        link: SocketLink,
        exports: Arc<Exports>,
        pace: CpuUse,
        (alarm, metrics): (&Alarm, &Arc<Registry>),
    ) -> io::Result<Worker> {
        let completions = CompletionQueue::new()?;
        let handle = completions.handle();
        let commands = Arc::new(SegQueue::new());
        let session = Session::new(exports, completions);
        let totals = Totals {
            engine: session.counters(),
            worker: Arc::default(),
        };
        let start = Instant::now();
        let registration = metrics.add_queue(
            (&nic.name, queue),
            Arc::clone(&totals.engine),
            Arc::clone(&totals.worker),
            session.meters(),
            start,
        );
        let release = link.socket.queue_release();
        let data_path = DataPath {
            link,
            session,
            batch: ArrayVec::new(),
            port: port_info(nic),
            commands: Arc::clone(&commands),
            counters: Arc::clone(&totals.worker),
            metrics: Arc::clone(metrics),
            spinner: Spinner::new(pace.spin),
            pace: CpuUse { cpu: None, ..pace },
            start,
            start_us: monotonic_ns() / 1000,
            trace: Trace::default(),
            next_advertisement_us: None,
            last_completion: start,
        };
        let (end, ending) = WorkerEnd::new(alarm);
        // Not joined: it may go on for what a disk still owes it when its queue is free for others.
        std::thread::Builder::new()
            .name(format!("{}/{queue}", nic.name))
            .spawn(move || data_path.run(pace, end, registration))
            .map_err(|error| refused(&error))?;
        Ok(Worker {
            commands,
            handle,
            totals,
            queue: release,
            ending,
        })
    }

    /// Hands the worker a command and wakes it.
    pub(super) fn tell(&self, command: WorkerCommand) {
        self.commands.push(command);
        self.handle.wake();
    }

    /// What it has done so far.
    pub(super) fn totals(&self) -> QueueTotals {
        QueueTotals::of(&self.totals.engine, &self.totals.worker)
    }

    /// What changes as long as it does not hang: `None` while it sleeps.
    pub(super) fn progress(&self) -> Option<u64> {
        self.totals.worker.progress()
    }

    /// Frees its receive queue when it hangs.
    pub(super) fn queue_release(&self) -> QueueRelease {
        self.queue.clone()
    }

    /// Whether it serves no more, and why not.
    pub(super) fn has_panicked(&self) -> bool {
        self.ending.has_panicked()
    }

    /// Waits until its queue is free.
    pub(super) fn join(&mut self) {
        self.ending.wait();
    }
}

/// What the thread owns.
struct DataPath {
    link: SocketLink,
    session: Session<SocketLink>,
    /// Frames of this round; empty between rounds.
    batch: ArrayVec<Frame, BATCH>,
    port: PortInfo,
    commands: Arc<SegQueue<WorkerCommand>>,
    counters: Arc<WorkerCounters>,
    metrics: Arc<Registry>,
    spinner: Spinner,
    pace: CpuUse,
    /// Zero of the engine's clock, and the same as the kernel counts it, in microseconds.
    start: Instant,
    start_us: u64,
    trace: Trace,
    /// When the engine wants to advertise again, on that clock.
    next_advertisement_us: Option<u64>,
    /// When a store last ended something that it had put off.
    last_completion: Instant,
}

impl DataPath {
    /// The thread: serves until it is to stop, or panics; frees the queue, and sees to the end of what is with the disks.
    /// What was counted passes into the sums with `registration`.
    fn run(mut self, pace: CpuUse, mut end: WorkerEnd, registration: Registration) {
        let serving = self.metrics.begin_to_serve();
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(pace)));
        drop(serving);
        if served.is_err() {
            self.counters.panicked();
        }
        self.publish();
        let remains = self.session.close(&mut self.link);
        drop(self.link);
        drop(registration);
        end.tell(served.is_err());
        see_off(remains);
    }

    fn serve(&mut self, pace: CpuUse) {
        self.set_pace(pace);
        // The socket has just been opened: what it holds is new.
        self.link.arrivals().rested(self.start_us);
        let mut last_work = Instant::now();
        let mut stopping: Option<(Instant, Drain)> = None;
        loop {
            // The only look at the clock in a round: several would cost a lone request more than its engine does.
            let now = Instant::now();
            self.counters.turn();
            let mut worked = self.round(now);
            while !self.commands.is_empty()
                && let Some(command) = self.commands.pop()
            {
                worked = true;
                if let Some(drain) = self.obey(command) {
                    stopping.get_or_insert((now, drain));
                }
            }
            if worked {
                last_work = now;
                continue;
            }
            match stopping {
                Some((since, drain)) if !self.expects_answers(since, drain) => break,
                Some((since, _)) if since.elapsed() > DRAIN_LIMIT => {
                    let pending = self.session.pending();
                    let name = std::thread::current().name().unwrap_or_default().to_owned();
                    warn!(
                        "{name}: {pending} operations that have not ended in {DRAIN_LIMIT:?} are no longer waited for"
                    );
                    break;
                }
                Some(_) => self.sleep(Some(DRAIN_PAUSE)),
                None if self.spin_until_work(last_work, now) => {}
                None => self.sleep(None),
            }
            let rested_us = self.start_us + self.now_us();
            self.link.arrivals().rested(rested_us);
        }
    }

    /// Whether a disk may answer soon what this worker has left with it.
    fn expects_answers(&self, stopping_since: Instant, drain: Drain) -> bool {
        let hung_us = HUNG.as_micros().try_into().unwrap_or(u64::MAX);
        let since_us = self.us(stopping_since).saturating_sub(hung_us);
        match drain {
            Drain::All => self.session.pending() > 0,
            Drain::Healthy => self.session.is_working_on(since_us),
        }
    }

    /// Serves what is there now; false when there was nothing.
    fn round(&mut self, now: Instant) -> bool {
        let now_us = self.us(now);
        let is_watched = self.link.look_for_readers();
        let mut worked = self.session.completions(&mut self.link, now_us);
        if worked {
            self.last_completion = now;
        }
        let waiting = self.link.socket.readable();
        self.link.arrivals().look(waiting, self.start_us + now_us);
        while !self.batch.is_full()
            && let Some(frame) = self.link.socket.receive()
        {
            self.link.arrivals().took(frame.chunks());
            self.link.socket.prefetch(&frame, HINT_BYTES);
            self.batch.push(frame);
        }
        if !self.batch.is_empty() {
            worked = true;
            self.counters.batch();
            if trace::is_on() {
                self.show_batch(now_us);
            }
            if is_watched {
                self.link.show(&self.batch);
            }
            self.session
                .batch(&mut self.link, &self.port, &mut self.batch, now_us);
        }
        if worked {
            self.session.completion_queue().submit(now);
        }
        // What is asked for by a wildcard and not answered is advertised: see the engine's limit on such answers.
        let is_due = match self.next_advertisement_us {
            Some(due) => due <= now_us,
            None => self.session.has_to_advertise(),
        };
        if is_due {
            self.next_advertisement_us = self.session.tick(&mut self.link, &self.port, now_us);
        }
        self.link.socket.kick();
        worked
    }

    fn show_batch(&mut self, now_us: u64) {
        for frame in &self.batch {
            let pieces = self.link.socket.pieces(frame);
            self.trace.received(now_us, frame.bytes(), &pieces);
        }
    }

    /// Waits awake for work for a while. Whoever waits for a disk that answers soon does not: the thread that commits may need this very
    /// CPU. One that has been silent for longer needs none, and is no reason to answer others later.
    fn spin_until_work(&mut self, last_work: Instant, now: Instant) -> bool {
        let waits = self.session.pending() > 0;
        if waits && now.duration_since(self.last_completion) < SOON {
            return false;
        }
        let cpu = if self.metrics.serving() > self.pace.cpus {
            Cpu::Shared
        } else {
            Cpu::Own
        };
        let (socket, commands) = (&self.link.socket, &self.commands);
        let completions = self.session.completion_queue();
        self.spinner.spin(cpu, last_work, now, || {
            socket.is_readable() || !commands.is_empty() || (waits && completions.has_news())
        })
    }

    /// Sleeps until a frame, a completion or a command arrives, an advertisement is due, or `limit` is over.
    fn sleep(&mut self, limit: Option<Duration>) {
        self.publish();
        if !self.session.completion_queue().prepare_sleep() {
            return;
        }
        if self.commands.is_empty() {
            self.counters.falls_asleep();
            self.poll(limit);
            self.counters.wakes_up();
        }
        self.session.completion_queue().awake();
    }

    fn poll(&mut self, limit: Option<Duration>) {
        let now_us = self.now_us();
        let until_advertisement = self
            .next_advertisement_us
            .map(|due| Duration::from_micros(due.saturating_sub(now_us) + 1));
        let until_kick = self.link.socket.needs_kick().then_some(KICK_AGAIN);
        let timeout = [limit, until_advertisement, until_kick]
            .into_iter()
            .flatten()
            .min();
        let timeout = timeout.and_then(|limit| limit.try_into().ok());
        let completions = self.session.completion_queue();
        let mut fds =
            [self.link.socket.fd(), completions.fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        // EINTR only makes the loop go round once more.
        let _ = poll(&mut fds, timeout.as_ref());
        if fds[0]
            .revents()
            .intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
        {
            // Poll returns at once for ever: the socket was led nowhere (`QueueRelease::release`) for the end of the process. Of a
            // socket that lost its queue poll tells nothing; the port's thread looks for those (`QueueRelease::is_bound`).
            std::thread::sleep(DEAD_PAUSE);
        }
    }

    /// Leaves what only this thread knows where others read it.
    fn publish(&self) {
        let Statistics {
            rx_dropped,
            rx_ring_full,
            fill_ring_empty,
            ..
        } = self.link.socket.statistics();
        let dropped = rx_dropped
            .saturating_add(rx_ring_full)
            .saturating_add(fill_ring_empty);
        let chunks = self.link.socket.chunk_counts();
        self.counters.publish(
            dropped,
            Chunks {
                total: chunks.total.into(),
                pool: chunks.pool.into(),
                fill: chunks.fill.into(),
                in_use: chunks.in_use.into(),
                tx: chunks.tx.into(),
            },
        );
    }

    /// Carries out a command; the last one says what is waited for.
    fn obey(&mut self, command: WorkerCommand) -> Option<Drain> {
        match command {
            WorkerCommand::Exports(exports) => self.session.set_exports(exports),
            WorkerCommand::Port(port) => self.port = port,
            WorkerCommand::Advertise(exports) => {
                let now_us = self.now_us();
                self.next_advertisement_us =
                    self.session
                        .advertise(&mut self.link, &self.port, &exports, now_us);
                self.link.socket.kick();
            }
            WorkerCommand::Pace(pace) => self.set_pace(pace),
            WorkerCommand::Prove(proof) => proof.of(&mut self.link.socket),
            WorkerCommand::Stop(drain) => return Some(drain),
        }
        None
    }

    fn set_pace(&mut self, pace: CpuUse) {
        if self.pace.cpu != pace.cpu {
            pin_to(pace.cpu);
        }
        self.spinner = Spinner::new(pace.spin);
        self.pace = pace;
    }

    fn now_us(&self) -> u64 {
        self.us(Instant::now())
    }

    /// A time on the engine's clock.
    fn us(&self, time: Instant) -> u64 {
        u64::try_from(time.duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }
}

/// Binds this thread to one CPU, or to all that the process may use; one that does not exist costs a warning, not the service.
fn pin_to(cpu: Option<usize>) {
    // The process's first thread is never pinned.
    let all = || rustix::thread::sched_getaffinity(Some(rustix::process::getpid()));
    let set = match cpu {
        Some(cpu) => {
            let mut one = rustix::thread::CpuSet::new();
            one.set(cpu);
            Ok(one)
        }
        None => all(),
    };
    if let Err(error) = set.and_then(|set| rustix::thread::sched_setaffinity(None, &set)) {
        match cpu {
            Some(cpu) => warn!("cannot pin a worker to CPU {cpu}: {error}"),
            None => warn!("cannot unpin a worker: {error}"),
        }
    }
}
