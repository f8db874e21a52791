//! What all parts of a run share: the virtual clock with its queue of events, the workers' completions, and notes of
//! what the target did, in order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use engine::{Completion, CompletionHandle, Completions};
use parking_lot::Mutex;

use crate::frame::Frame;
use crate::gateways::Answer;
use crate::stamp::Value;

/// A worker of one life of the process: a port's queue. Never used again.
pub type WorkerId = u32;

/// Something that happens at its time.
#[derive(Debug)]
pub enum Event {
    /// A frame reaches a port of the target.
    ToTarget(u8, Frame),
    /// A frame reaches an initiator by a port's network.
    ToHost(u16, u8, Frame),
    /// A worker runs a round.
    Run(WorkerId),
    /// An initiator looks at its timers.
    Timer(u16),
    /// An initiator's users ask for something.
    Load(u16),
    /// A disk goes on with the operation of this number.
    Disk(u8, u64),
    /// The state store has saved.
    Saved(u64),
    /// A fault of the plan begins, or ends.
    Fault(usize, bool),
    /// The process starts.
    Boot,
    /// The process looks whether it has drained.
    Drain,
    /// Something for a gateway's control part, of this life. Boxed, because events are moved often and these are rare.
    Gateway(u8, u32, Box<Control>),
    /// Ceph goes on with the job of this number.
    Ceph(u64),
    /// An OSD hears of the map of this epoch.
    OsdMap(u8, u64),
    /// Whoever watches gateways looks.
    Watch,
    /// Faults and load end.
    Quiet,
    /// Everything must have ended.
    End,
}

/// What a gateway's control part has to do.
#[derive(Debug)]
pub enum Control {
    /// The process starts.
    Start,
    /// It asks for the gateway that answers.
    Ask,
    /// It looks what there is to do.
    Poll,
    /// It shows Ceph, and itself, that the image is its own.
    Keep(u32),
    /// This client is shut out, and why.
    Fenced(u32, &'static str),
    /// Ceph answers this client's job.
    Answer(u32, u64, Answer),
    /// Ceph has not answered this job in time.
    Late(u64),
    /// It looks whether everything is closed.
    Close,
    /// The operator wants the group here, or (false) elsewhere.
    Operator(bool),
    /// SIGTERM.
    Terminate,
}

/// The events to come: the earliest first, and of equal ones the one that was asked for first.
#[derive(Debug, Default)]
struct Queue {
    /// When, the how manieth that was asked for, and where it lies. The heap moves its entries often, so they are small.
    order: BinaryHeap<Reverse<(u64, u64, u32)>>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    scheduled: u64,
}

impl Queue {
    fn push(&mut self, at_us: u64, event: Event) {
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place as usize] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                self.events.len() as u32 - 1
            }
        };
        self.order.push(Reverse((at_us, self.scheduled, place)));
        self.scheduled += 1;
    }

    fn pop(&mut self) -> Option<(u64, Event)> {
        let Reverse((at_us, _, place)) = self.order.pop()?;
        self.free.push(place);
        Some((at_us, self.events[place as usize].take()?))
    }
}

/// What the target did that the oracles must see, in order.
#[derive(Debug)]
pub enum Note {
    /// A worker sent a frame.
    Sent(WorkerId, Vec<u8>),
    /// Sectors of a disk were changed where reads see it.
    Applied {
        /// The disk.
        disk: u8,
        /// The first sector.
        first: u64,
        /// What they hold from then on: by the time that this is read, they may hold something else.
        values: Vec<Value>,
        /// For whom.
        worker: WorkerId,
    },
    /// A commit failed and these sectors are not what was acknowledged any more.
    Lost {
        /// The disk.
        disk: u8,
        /// Its sectors.
        sectors: Vec<u64>,
    },
    /// Something that must never happen was seen where it happened.
    Broken(String),
    /// For the trace only.
    Said(String),
}

#[derive(Debug, Default)]
struct Inner {
    queue: Queue,
    mail: BTreeMap<WorkerId, VecDeque<Completion>>,
    awake: Vec<WorkerId>,
    notes: Vec<Note>,
}

/// What is asked for at every step lies beside the lock. One thread has all of a run.
#[derive(Debug, Default)]
struct Shared {
    now_us: AtomicU64,
    current: AtomicU32,
    trace: AtomicBool,
    /// There are notes, or workers to be woken.
    news: AtomicBool,
    inner: Mutex<Inner>,
}

/// The shared part. Cloning gives another handle.
#[derive(Debug, Clone, Default)]
pub struct Bus(Arc<Shared>);

impl Bus {
    /// Microseconds since the start of the run.
    pub fn now_us(&self) -> u64 {
        self.0.now_us.load(Ordering::Relaxed)
    }

    /// Has an event happen after a delay.
    pub fn after(&self, delay_us: u64, event: Event) {
        let at_us = self.now_us() + delay_us;
        self.0.inner.lock().queue.push(at_us, event);
    }

    /// The next event; the clock goes on to its time.
    pub fn next(&self) -> Option<Event> {
        let (at_us, event) = self.0.inner.lock().queue.pop()?;
        self.0.now_us.store(at_us, Ordering::Relaxed);
        Some(event)
    }

    /// Whether there are notes, or workers that got a completion, since the last call.
    pub fn has_news(&self) -> bool {
        self.0.news.load(Ordering::Relaxed) && self.0.news.swap(false, Ordering::Relaxed)
    }

    /// Leaves a note for the oracles.
    pub fn note(&self, note: Note) {
        self.0.news.store(true, Ordering::Relaxed);
        self.0.inner.lock().notes.push(note);
    }

    /// Leaves a line for the trace, if there is one.
    pub fn say(&self, line: impl FnOnce() -> String) {
        if self.0.trace.load(Ordering::Relaxed) {
            self.note(Note::Said(line()));
        }
    }

    /// Keeps lines for the trace from now on.
    pub fn trace(&self) {
        self.0.trace.store(true, Ordering::Relaxed);
    }

    /// The notes so far; leaves `empty` in their place.
    pub fn take_notes(&self, empty: Vec<Note>) -> Vec<Note> {
        std::mem::replace(&mut self.0.inner.lock().notes, empty)
    }

    /// Workers that got a completion since the last call; leaves `empty` in their place.
    pub fn take_awake(&self, empty: Vec<WorkerId>) -> Vec<WorkerId> {
        std::mem::replace(&mut self.0.inner.lock().awake, empty)
    }

    /// The completions of a new worker.
    pub fn completions(&self, worker: WorkerId) -> CompletionQueue {
        self.0.inner.lock().mail.insert(worker, VecDeque::new());
        CompletionQueue(Handle {
            worker,
            bus: self.clone(),
        })
    }

    /// Drops what still comes for a worker that has ended.
    pub fn end_worker(&self, worker: WorkerId) {
        self.0.inner.lock().mail.remove(&worker);
    }

    /// Loses a worker's oldest completion (a planted defect).
    pub fn lose_completion(&self, worker: WorkerId) {
        if let Some(mail) = self.0.inner.lock().mail.get_mut(&worker) {
            mail.pop_front();
        }
    }

    /// Whose round this is.
    pub fn set_current(&self, worker: WorkerId) {
        self.0.current.store(worker, Ordering::Relaxed);
    }

    /// The worker whose round this is.
    pub fn current(&self) -> WorkerId {
        self.0.current.load(Ordering::Relaxed)
    }
}

/// One worker's completions.
#[derive(Debug)]
pub struct CompletionQueue(Handle);

impl Completions for CompletionQueue {
    type Handle = Handle;

    fn handle(&self) -> Handle {
        self.0.clone()
    }

    fn next(&mut self) -> Option<Completion> {
        self.0
            .bus
            .0
            .inner
            .lock()
            .mail
            .get_mut(&self.0.worker)?
            .pop_front()
    }
}

/// Where to post for one worker.
#[derive(Debug, Clone)]
pub struct Handle {
    worker: WorkerId,
    bus: Bus,
}

impl Handle {
    /// Whose it is.
    pub fn worker(&self) -> WorkerId {
        self.worker
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Handle) -> bool {
        self.worker == other.worker
    }
}

impl Eq for Handle {}

impl CompletionHandle for Handle {
    fn post(&self, completion: Completion) {
        let mut inner = self.bus.0.inner.lock();
        let worker = self.worker;
        if let Some(mail) = inner.mail.get_mut(&worker) {
            mail.push_back(completion);
            inner.awake.push(worker);
            self.bus.0.news.store(true, Ordering::Relaxed);
        }
    }
}
