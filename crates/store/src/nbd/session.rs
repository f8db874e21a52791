//! The threads of an NBD store: one that connects and connects again, and a sender and a receiver for each connection.
//!
//! A worker only adds to the table; it never meets a socket. When one connection is lost all of them are closed, and the next server is
//! looked for; meanwhile nobody is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use engine::Health;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::address::NbdAddress;
use super::connecting;
use super::handshake::{Granted, Refusal, negotiate};
use super::promises::{Promises, release_command};
use super::sockets::Sockets;
use super::stream::{Process, Stream};
use super::table::{End, Session, Table, Told, Work};
use crate::io::threads::caught;

/// Connections to a server that takes several.
const CONNECTIONS: usize = 4;
/// How long to wait before the next try to connect: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often it is asked whether a lost server is dead.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether a server is still at what clients that have ended have left.
const LEFTOVER_PAUSE: Duration = Duration::from_millis(50);
/// How many looks go by until it is told that there are any.
const LEFTOVER_LOOKS: u32 = 10;
/// How long the end of the thread is waited for. Nothing ends the search for the address of a server's name.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// What operations end with when the store is closed. No initiator hears of it: the store is silenced before.
const CLOSED: u32 = libc::ESHUTDOWN.cast_unsigned();

/// What store and threads share.
pub(super) struct Shared {
    pub(crate) address: NbdAddress,
    pub(crate) promises: Promises,
    /// Size of the export in bytes, the largest that a connected server had: a disk does not shrink under its initiators.
    pub(crate) bytes: AtomicU64,
    /// Nobody may be answered any more.
    silenced: AtomicBool,
    sockets: Sockets,
    pub(super) state: Mutex<State>,
    /// For senders.
    pub(super) work: Condvar,
    /// For the thread that connects.
    pub(super) attend: Condvar,
}

/// What changes while a store is served.
#[derive(Default)]
pub(super) struct State {
    pub(super) table: Table,
    pub(super) closed: bool,
    /// The thread that connects has ended.
    ended: bool,
    /// Why the connections of now are over.
    broken: Option<String>,
    /// The size is to be asked for.
    ask_size: bool,
    /// Why nobody is answered.
    silent: Option<String>,
    /// Why some writes wait.
    doubt: Option<String>,
    /// What is wrong with the size of the export.
    smaller: Option<String>,
    /// Connections of now.
    connections: usize,
    /// How often the connection was lost.
    lost: u64,
}

impl State {
    pub(super) fn is_over(&self) -> bool {
        self.closed || self.broken.is_some()
    }
}

/// Connections to a server that takes requests.
#[derive(Debug)]
pub(super) struct Connected {
    streams: Vec<Arc<Stream>>,
    pub(crate) granted: Granted,
    process: Option<Process>,
}

/// Connects to the server, as often as it likes.
///
/// # Errors
/// When there is none, or it refuses.
pub(super) fn connect(address: &NbdAddress, sockets: &Sockets) -> Result<Connected, Refusal> {
    let one = || -> Result<(Arc<Stream>, Granted), Refusal> {
        let stream = connecting::connect(&address.server, sockets)?;
        let granted = negotiate(&*stream, &address.export, true)?;
        stream.wait_for_ever()?;
        sockets.ready(&stream);
        Ok((stream, granted))
    };
    let (first, granted) = one()?;
    let process = first.process();
    let mut streams = vec![first];
    while granted.takes_several() && streams.len() < CONNECTIONS {
        // It may take fewer.
        match one() {
            Ok((stream, other)) if other == granted => streams.push(stream),
            _ => break,
        }
    }
    Ok(Connected {
        streams,
        granted,
        process,
    })
}

/// Asks what the server says of the export, by a connection that takes no requests: a server that ends with its last client goes on.
///
/// # Errors
/// When there is none, or it refuses.
pub(super) fn ask(address: &NbdAddress, sockets: &Sockets) -> Result<Granted, Refusal> {
    let stream = connecting::connect(&address.server, sockets)?;
    negotiate(&*stream, &address.export, false)
}

impl Shared {
    pub(super) fn new(address: NbdAddress, promises: Promises, bytes: u64, sockets: Sockets) -> Shared {
        Shared {
            address,
            promises,
            bytes: AtomicU64::new(bytes),
            silenced: AtomicBool::new(false),
            sockets,
            state: Mutex::default(),
            work: Condvar::new(),
            attend: Condvar::new(),
        }
    }

    /// Has something done. `end` is called by another thread.
    pub(super) fn add(&self, work: Work, end: End) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            return end(Err(CLOSED));
        }
        state.table.add(work, end);
        drop(state);
        self.work.notify_one();
    }

    /// Asks the server how large the export is now, some time soon.
    pub(super) fn ask_size(&self) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.ask_size, true) {
            self.attend.notify_all();
        }
    }

    /// Whether the server is there, and whether it owes answers that an earlier one took along.
    pub(super) fn health(&self) -> Health {
        let state = self.state.lock();
        match (&state.silent, state.doubt.as_ref().or(state.smaller.as_ref())) {
            (Some(why), _) => Health::Silent(why.clone()),
            (None, Some(why)) => Health::Degraded(why.clone()),
            (None, None) => Health::Healthy,
        }
    }

    /// Figures for the operator, by name.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64)> {
        let state = self.state.lock();
        vec![
            ("nbd_connections", state.connections as u64),
            ("nbd_lost_connections", state.lost),
        ]
    }

    /// Whether nobody may be answered: what is under way ends without having been carried out.
    pub(super) fn is_silenced(&self) -> bool {
        self.silenced.load(Ordering::Acquire)
    }

    /// Ends all that is under way, unanswered, and the threads.
    pub(super) fn close(&self) {
        // Before anything ends: nobody is to hear of it.
        self.silenced.store(true, Ordering::Release);
        let mut state = self.state.lock();
        state.closed = true;
        let unfinished = state.table.unfinished();
        let told = state.table.end(CLOSED);
        drop(state);
        if unfinished > 0 {
            tracing::warn!(
                "{}: {unfinished} writes, none of which was acknowledged, are left to the server, which may still carry them out. \
                 A server on a socket of this host is waited for when the export is served again; restart any other before that",
                self.address
            );
        }
        tell(told);
        self.work.notify_all();
        self.attend.notify_all();
        self.sockets.close();
    }

    /// Waits for the end of the thread that connects; false: it goes on until its next step without any connection, and changes nothing
    /// any more.
    pub(super) fn has_ended(&self) -> bool {
        let end = Instant::now() + END_TIMEOUT;
        let mut state = self.state.lock();
        while !state.ended && !self.attend.wait_until(&mut state, end).timed_out() {}
        let ended = state.ended;
        drop(state);
        if !ended {
            self.sockets.end();
        }
        ended
    }

    /// The connections are over.
    pub(super) fn broken(&self, why: String) {
        let mut state = self.state.lock();
        state.broken.get_or_insert(why);
        drop(state);
        self.work.notify_all();
        self.attend.notify_all();
    }

    /// Work for a connection. A panic ends the connection: what is under way is begun again by the next.
    fn guarded(&self, work: impl FnOnce()) {
        if caught(work).is_err() {
            self.broken("a thread of it panicked, a bug in xblade: the log says where".into());
        }
    }

    /// Serves until the store is closed. `connected` is the first server. After a panic nobody connects again, and nobody is answered.
    pub(super) fn run(&self, connected: Connected) {
        if caught(|| self.sessions(connected)).is_err() {
            self.close();
            let why = "its thread panicked, a bug in xblade: the log says where; nobody is answered until the export is opened anew";
            self.state.lock().silent = Some(why.to_owned());
        }
        self.state.lock().ended = true;
        self.attend.notify_all();
    }

    /// Connects again and again, and serves.
    fn sessions(&self, connected: Connected) {
        let mut doubts = Vec::new();
        let mut next = Some(connected);
        for session in 1.. {
            let connected = match next.take() {
                Some(connected) => connected,
                None => match self.connect_again(&mut doubts) {
                    Some(connected) => connected,
                    None => return,
                },
            };
            if session == 1 {
                self.wait_for_leftovers(&connected);
            }
            self.serve(&connected, &mut doubts);
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            let why = state.broken.take().unwrap_or_default();
            let renewed = state.table.is_drained();
            let in_doubt = state.table.lost(session);
            if renewed {
                tracing::info!("{}: the export has grown: connecting again", self.address);
                state.connections = 0;
                continue;
            }
            let silent = format!("the connection is lost ({why}); silent until it is back");
            tracing::warn!("{}: {silent}", self.address);
            (state.silent, state.connections) = (Some(silent), 0);
            state.lost += 1;
            if in_doubt > 0 {
                let doubt = doubt(in_doubt, connected.process.as_ref());
                tracing::warn!("{}: {doubt}", self.address);
                state.doubt = Some(doubt);
                doubts.push((session, connected.process));
            }
        }
    }

    fn connect_again(&self, doubts: &mut Vec<(Session, Option<Process>)>) -> Option<Connected> {
        let (mut pause, longest) = PAUSES;
        let mut told = String::new();
        loop {
            let failure = match connect(&self.address, &self.sockets) {
                Ok(connected) => {
                    let bytes = self.bytes.load(Ordering::Acquire);
                    let Some(broken) = self.promises.broken_by(&connected.granted, bytes) else {
                        tracing::info!("{}: connected again", self.address);
                        return Some(connected);
                    };
                    unfit(&broken)
                }
                Err(refusal) => format!("the connection is lost ({refusal}); silent until it is back"),
            };
            if self.state.lock().closed {
                return None;
            }
            if failure != told {
                tracing::warn!("{}: cannot connect again: {failure}", self.address);
                told.clone_from(&failure);
            }
            let mut state = self.state.lock();
            state.silent = Some(failure);
            // An end that came meanwhile is seen in the next round.
            if !state.closed {
                self.attend.wait_for(&mut state, pause);
            }
            drop(state);
            self.bury(doubts);
            pause = longest.min(pause * 2);
        }
    }

    /// Waits until the server has ended what it was asked by clients that are gone, among them, perhaps, an xblade that was killed: their
    /// writes must not come after ours.
    fn wait_for_leftovers(&self, connected: &Connected) {
        let Some(stream) = connected.streams.first().filter(|_| self.promises.writes) else {
            return;
        };
        for look in 0u32.. {
            let leftovers = stream.leftovers();
            let mut state = self.state.lock();
            if leftovers == 0 || state.is_over() {
                return;
            }
            let silent = format!(
                "the server still has {leftovers} connections of clients that have ended, and may be writing what they asked for; \
                 silent until it has closed them (if it never does, restart it)"
            );
            // A look at an export leaves one, too, for a moment.
            if look == LEFTOVER_LOOKS {
                tracing::warn!("{}: {silent}", self.address);
            }
            state.silent = Some(silent);
            self.attend.wait_for(&mut state, LEFTOVER_PAUSE);
        }
    }

    /// What dead servers have left in doubt is begun again.
    fn bury(&self, doubts: &mut Vec<(Session, Option<Process>)>) {
        let is_dead =
            |(_, process): &mut (Session, Option<Process>)| process.as_ref().is_some_and(Process::is_dead);
        for (session, _) in doubts.extract_if(.., is_dead) {
            self.state.lock().table.dead(session);
            self.work.notify_all();
        }
        if doubts.is_empty() {
            self.state.lock().doubt = None;
        }
    }

    /// Serves until the connections end, or the store is closed.
    fn serve(&self, connected: &Connected, doubts: &mut Vec<(Session, Option<Process>)>) {
        let granted = &connected.granted;
        self.bytes.fetch_max(granted.bytes, Ordering::AcqRel);
        self.bury(doubts);
        let mut state = self.state.lock();
        state.smaller = None;
        state
            .table
            .connected(granted.can_flush(), release_command(granted));
        (state.silent, state.connections) = (None, connected.streams.len());
        drop(state);
        thread::scope(|scope| {
            for stream in &connected.streams {
                let send = || self.guarded(|| self.send(stream));
                let receive = || self.guarded(|| self.receive(stream));
                let sending = thread::Builder::new().spawn_scoped(scope, send);
                let receiving = thread::Builder::new().spawn_scoped(scope, receive);
                if let Err(error) = sending.and(receiving) {
                    self.broken(format!("no thread for the connection: {error}"));
                }
            }
            self.guarded(|| self.attend(granted, doubts));
            connected.streams.iter().for_each(|stream| stream.shut_down());
        });
    }

    fn attend(&self, granted: &Granted, doubts: &mut Vec<(Session, Option<Process>)>) {
        let mut state = self.state.lock();
        while !state.is_over() {
            if state.table.is_drained() {
                state.broken = Some(String::new());
                self.work.notify_all();
                return;
            }
            if std::mem::take(&mut state.ask_size) && granted.takes_several() {
                // By a connection of its own: the others take requests only.
                MutexGuard::unlocked(&mut state, || self.learn_size(granted.bytes));
                continue;
            }
            let known = doubts.iter().any(|(_, process)| process.is_some());
            if known {
                self.attend.wait_for(&mut state, DOUBT_PAUSE);
                MutexGuard::unlocked(&mut state, || self.bury(doubts));
            } else {
                self.attend.wait(&mut state);
            }
        }
    }

    /// Asks for the size. Connections may know only the one from when they began, so that a larger export takes new ones.
    fn learn_size(&self, known: u64) {
        let Ok(granted) = ask(&self.address, &self.sockets) else {
            return;
        };
        let mut state = self.state.lock();
        let bytes = granted.bytes;
        if bytes > known {
            state.table.drain();
        }
        state.smaller = (bytes < known).then(|| {
            format!(
                "the server has cut the export short, from {known} bytes to {bytes}: what was there is lost"
            )
        });
    }
}

pub(super) fn tell(told: Vec<Told>) {
    told.into_iter().for_each(|(end, outcome)| end(outcome));
}

fn unfit(broken: &str) -> String {
    format!(
        "the server that is there now cannot take the place of the one that was lost: {broken}; silent until there is one that can. \
         If this is what is to be served, take the export out and in again (`xblade export rm` and `add`) or restart xblade"
    )
}

fn doubt(writes: usize, process: Option<&Process>) -> String {
    let until = match process {
        Some(process) => format!("until that process ({}) ends", process.pid),
        None => {
            "until xblade is told, by `xblade export rm` and `add` or a restart, that that server is gone"
                .to_owned()
        }
    };
    format!(
        "{writes} writes had no answer or were not flushed, and the server that was lost may still carry them out; they wait, and who \
         overlaps them, {until}"
    )
}
