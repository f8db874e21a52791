//! The threads of an NBD store: one that connects and connects again, and a sender and a receiver for each connection.
//!
//! A worker only adds to the table; it never meets a socket. When one connection is lost all of them are closed, and the next server is
//! looked for; meanwhile nobody is answered.

use std::collections::HashMap;
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use arrayvec::ArrayVec;
use engine::Health;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::address::NbdAddress;
use super::handshake::{Granted, Refusal, negotiate};
use super::partial::Partial;
use super::stream::{Process, Stream};
use super::table::{End, Message, SHUTTING_DOWN, Session, Table, Told, Work};
use super::wire::{Chunk, ChunkKind, Head, NbdCommand, no_reply, read_chunk};
use crate::io::threads::caught;

/// Connections to a server that takes several.
const CONNECTIONS: usize = 4;
/// Requests that are sent in one system call.
const BATCH: usize = 16;
/// Bytes that a connection reads and writes at once.
const BUFFER_BYTES: usize = 256 << 10;
/// How long to wait before the next try to connect: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often it is asked whether a lost server is dead.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);
/// What operations end with when the store is closed.
const CLOSED: u32 = libc::ESHUTDOWN.cast_unsigned();

/// What store and threads share.
pub(super) struct Shared {
    pub(crate) address: NbdAddress,
    /// The store writes.
    writes: bool,
    /// Size of the export in bytes, as it was last heard.
    pub(crate) bytes: AtomicU64,
    state: Mutex<State>,
    /// For senders.
    work: Condvar,
    /// For the thread that connects.
    attend: Condvar,
}

#[derive(Default)]
struct State {
    table: Table,
    closed: bool,
    /// Why the connections of now are over.
    broken: Option<String>,
    /// The size is to be asked for.
    ask_size: bool,
    /// Why nobody is answered.
    silent: Option<String>,
    /// Why some writes wait.
    doubt: Option<String>,
    /// Connections of now.
    connections: usize,
    /// How often the connection was lost.
    lost: u64,
}

impl State {
    fn is_over(&self) -> bool {
        self.closed || self.broken.is_some()
    }
}

/// Connections to a server that takes requests.
#[derive(Debug)]
pub(super) struct Connected {
    streams: Vec<Stream>,
    pub(crate) granted: Granted,
    process: Option<Process>,
}

/// Connects to the server, as often as it likes.
///
/// # Errors
/// When there is none, or it refuses.
pub(super) fn connect(address: &NbdAddress) -> Result<Connected, Refusal> {
    let one = || -> Result<(Stream, Granted), Refusal> {
        let stream = Stream::connect(&address.server)?;
        let granted = negotiate(&stream, &address.export, true)?;
        stream.wait_for_ever()?;
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
pub(super) fn ask(address: &NbdAddress) -> Result<Granted, Refusal> {
    let stream = Stream::connect(&address.server)?;
    negotiate(&stream, &address.export, false)
}

/// How a server gives space back.
pub(super) fn release_command(granted: &Granted) -> Option<NbdCommand> {
    if granted.can_write_zeroes() {
        Some(NbdCommand::WriteZeroes)
    } else {
        granted.can_trim().then_some(NbdCommand::Trim)
    }
}

impl Shared {
    pub(super) fn new(address: NbdAddress, writes: bool, bytes: u64) -> Shared {
        Shared {
            address,
            writes,
            bytes: AtomicU64::new(bytes),
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
            self.attend.notify_one();
        }
    }

    /// Whether the server is there, and whether it owes answers that an earlier one took along.
    pub(super) fn health(&self) -> Health {
        let state = self.state.lock();
        match (&state.silent, &state.doubt) {
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

    /// Ends all that is under way, and the threads.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let told = state.table.end(CLOSED);
        drop(state);
        tell(told);
        self.work.notify_all();
        self.attend.notify_all();
    }

    fn broken(&self, why: String) {
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

    /// Serves until the store is closed. `connected` is the first server. After a panic nobody connects again: all fail.
    pub(super) fn run(&self, connected: Connected) {
        if caught(|| self.sessions(connected)).is_err() {
            self.close();
            let why = "its thread panicked, a bug in xblade: the log says where; every request fails";
            self.state.lock().silent = Some(why.to_owned());
        }
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
            self.serve(&connected, &mut doubts);
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            let why = state.broken.take().unwrap_or_default();
            let in_doubt = state.table.lost(session);
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
            let failure = match connect(&self.address) {
                Ok(connected) => match self.unfit(&connected.granted) {
                    None => {
                        tracing::info!("{}: connected again", self.address);
                        return Some(connected);
                    }
                    Some(unfit) => unfit.to_owned(),
                },
                Err(refusal) => refusal.to_string(),
            };
            if failure != told {
                tracing::warn!("{}: cannot connect again: {failure}; trying on", self.address);
                told = failure;
            }
            let mut state = self.state.lock();
            if !state.closed {
                self.attend.wait_for(&mut state, pause);
            }
            if state.closed {
                return None;
            }
            drop(state);
            self.bury(doubts);
            pause = longest.min(pause * 2);
        }
    }

    /// Why a server cannot go on where another one ended.
    fn unfit(&self, granted: &Granted) -> Option<&'static str> {
        if self.writes && granted.is_read_only() {
            return Some("the export is read-only now");
        }
        (u64::from(granted.least_block) > engine::SECTOR_BYTES).then_some("it wants larger blocks now")
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
        self.bytes.store(granted.bytes, Ordering::Release);
        self.bury(doubts);
        let mut state = self.state.lock();
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
            self.guarded(|| self.attend(granted.takes_several(), doubts));
            connected.streams.iter().for_each(Stream::shut_down);
        });
    }

    fn attend(&self, can_ask: bool, doubts: &mut Vec<(Session, Option<Process>)>) {
        let mut state = self.state.lock();
        while !state.is_over() {
            if std::mem::take(&mut state.ask_size) && can_ask {
                // By a connection of its own: the others take requests only.
                MutexGuard::unlocked(&mut state, || self.learn_size());
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

    fn learn_size(&self) {
        if let Ok(granted) = ask(&self.address) {
            self.bytes.store(granted.bytes, Ordering::Release);
        }
    }

    fn send(&self, stream: &Stream) {
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, stream);
        loop {
            let mut batch = ArrayVec::<Message, BATCH>::new();
            let mut state = self.state.lock();
            while batch.is_empty() && !state.is_over() {
                batch.extend(std::iter::from_fn(|| state.table.next()).take(BATCH));
                if batch.is_empty() {
                    self.work.wait(&mut state);
                }
            }
            if state.is_over() {
                let closed = state.closed;
                drop(state);
                // So that it does not take the end for a failure.
                let goodbye = Head {
                    command: NbdCommand::Disconnect,
                    cookie: 0,
                    offset: 0,
                    length: 0,
                };
                let _ = closed.then(|| {
                    writer
                        .write_all(&goodbye.to_bytes())
                        .and_then(|()| writer.flush())
                });
                return;
            }
            drop(state);
            let sent = batch.iter().try_for_each(|message| {
                writer.write_all(&message.head.to_bytes())?;
                message
                    .payload
                    .iter()
                    .try_for_each(|payload| writer.write_all(payload))
            });
            if let Err(error) = sent.and_then(|()| writer.flush()) {
                return self.broken(error.to_string());
            }
        }
    }

    fn receive(&self, stream: &Stream) {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut partial = HashMap::new();
        loop {
            let received =
                read_chunk(&mut reader).and_then(|chunk| self.take(chunk, &mut reader, &mut partial));
            match received {
                Ok(true) => {}
                Ok(false) => return self.broken("the server shuts down".into()),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return self.broken("the server ended it".into());
                }
                Err(error) => return self.broken(error.to_string()),
            }
        }
    }

    /// Takes a part of a reply; false when the server is about to end.
    fn take(
        &self,
        chunk: Chunk,
        reader: &mut BufReader<&Stream>,
        partial: &mut HashMap<u64, Partial>,
    ) -> io::Result<bool> {
        let cookie = chunk.cookie;
        let unasked = || no_reply(format!("a reply to request {cookie}, which waits for none"));
        let expected = self.state.lock().table.expects(cookie).ok_or_else(unasked)?;
        let mut reply = partial.remove(&cookie).unwrap_or_else(|| Partial::new(expected));
        match chunk.kind {
            ChunkKind::None => {}
            ChunkKind::Simple => reader.read_exact(reply.part(reply.at, expected.1)?)?,
            ChunkKind::Data { offset, length } => reader.read_exact(reply.part(offset, length)?)?,
            ChunkKind::Hole { offset, length } => reply.part(offset, length)?.fill(0),
            ChunkKind::Error(error) => reply.error = Some(error),
        }
        if !chunk.last {
            partial.insert(cookie, reply);
            return Ok(true);
        }
        let outcome = reply.outcome()?;
        let goes_on = outcome != Err(SHUTTING_DOWN);
        let mut state = self.state.lock();
        let told = state.table.answered(cookie, outcome);
        drop(state);
        // A flush, or the next part, may have become due.
        self.work.notify_one();
        tell(told);
        Ok(goes_on)
    }
}

fn tell(told: Vec<Told>) {
    told.into_iter().for_each(|(end, outcome)| end(outcome));
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
        "{writes} writes had no answer, and the server that was lost may still carry them out; they wait, and who overlaps them, {until}"
    )
}
