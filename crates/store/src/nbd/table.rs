//! What is under way at an NBD server, and what becomes of it when the connection is lost: no thread, no socket, no clock.
//!
//! A write counts as done when a flush has covered it: a server may keep what it has answered in memory of its own, and may end while xblade
//! goes on. What was begun at a server that is lost is begun again at the next one, but for a write that no flush has covered: the old
//! server may still carry it out, or write it from its memory, after newer ones. It stays in doubt, and its sectors with it, until that
//! server is known to be dead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::wire::{Head, NbdCommand};

/// The server ends, and has not done what it answers so.
pub(super) const SHUTTING_DOWN: u32 = 108;

/// Bytes of one part of a READ VERIFY.
const VERIFY_BYTES: u64 = 1 << 20;

/// Bytes of one part of a TRIM.
const RELEASE_BYTES: u64 = 32 << 20;

/// What is to be done. All in bytes.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Read {
        at: u64,
        length: u32,
    },
    Write {
        at: u64,
        bytes: Arc<[u8]>,
    },
    /// TRIM: offsets and lengths, of which the first `done` have been answered.
    Release {
        parts: Arc<[(u64, u32)]>,
        done: usize,
    },
    /// Read and discard.
    Verify {
        at: u64,
        end: u64,
    },
}

/// A read's data, or an error number.
pub(super) type NbdOutcome = Result<Option<Box<[u8]>>, u32>;

/// Is told the outcome.
pub(super) type End = Box<dyn FnOnce(NbdOutcome) + Send>;

/// Names a connected server.
pub(super) type Session = u64;

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// To be sent.
    Queued,
    /// Sent, and not answered.
    Sent,
    /// Answered; a flush is still to cover it.
    Answered,
    /// Sent to a server that was lost, and not flushed: it may still reach the medium.
    InDoubt(Session),
}

struct Operation {
    work: Work,
    phase: Phase,
    end: End,
}

/// A flush of ours.
#[derive(Debug)]
struct Flush {
    cookie: u64,
    sent: bool,
    covers: Vec<u64>,
}

/// A request to be sent.
#[derive(Debug)]
pub(super) struct Message {
    pub(crate) head: Head,
    /// What a write carries.
    pub(crate) payload: Option<Arc<[u8]>>,
}

/// An end that is to be told, outside of all locks.
pub(super) type Told = (End, NbdOutcome);

/// All operations of a store.
#[derive(Default)]
pub(super) struct Table {
    operations: BTreeMap<u64, Operation>,
    queue: VecDeque<u64>,
    last: u64,
    /// Answered since the last flush began.
    answered: Vec<u64>,
    flush: Option<Flush>,
    /// The server has said that it shuts down: it gets no further requests, on no connection.
    is_ending: bool,
    /// Nothing is begun, so that the connections can be given up without a doubt.
    drains: bool,
    /// The server wants flushes.
    flushes: bool,
    /// How it gives space back.
    release: Option<NbdCommand>,
}

impl Table {
    /// A server is there from now on. `release` is its command for TRIM.
    pub(super) fn connected(&mut self, flushes: bool, release: Option<NbdCommand>) {
        (self.flushes, self.release) = (flushes, release);
    }

    /// Takes up an operation.
    pub(super) fn add(&mut self, work: Work, end: End) {
        self.last += 1;
        let phase = Phase::Queued;
        self.operations.insert(self.last, Operation { work, phase, end });
        self.queue.push_back(self.last);
    }

    /// The next request to be sent.
    pub(super) fn next(&mut self) -> Option<Message> {
        if self.is_ending {
            return None;
        }
        if let Some(flush) = self.flush.as_mut().filter(|flush| !flush.sent) {
            flush.sent = true;
            let (command, cookie) = (NbdCommand::Flush, flush.cookie);
            return Some(plain(command, cookie, (0, 0)));
        }
        let cookie = match self.drains {
            false => self.queue.pop_front()?,
            true => {
                let has_begun = |cookie: &u64| {
                    self.operations
                        .get(cookie)
                        .is_some_and(|one| one.work.has_begun())
                };
                self.queue.remove(self.queue.iter().position(has_begun)?)?
            }
        };
        let release = self.release.unwrap_or(NbdCommand::Trim);
        let operation = self.operations.get_mut(&cookie)?;
        operation.phase = Phase::Sent;
        Some(match &operation.work {
            Work::Read { at, length } => plain(NbdCommand::Read, cookie, (*at, *length)),
            Work::Write { at, bytes } => Message {
                payload: Some(Arc::clone(bytes)),
                ..plain(NbdCommand::Write, cookie, (*at, bytes.len() as u32))
            },
            Work::Release { parts, done } => {
                plain(release, cookie, parts.get(*done).copied().unwrap_or_default())
            }
            Work::Verify { at, end } => plain(NbdCommand::Read, cookie, piece((*at, *end), VERIFY_BYTES)),
        })
    }

    /// Where the data that answers a request lies, and how much it is; `None` for a request that is not waiting for an answer.
    pub(super) fn expects(&self, cookie: u64) -> Option<(u64, u32)> {
        if self
            .flush
            .as_ref()
            .is_some_and(|flush| flush.cookie == cookie && flush.sent)
        {
            return Some((0, 0));
        }
        let operation = self.operations.get(&cookie)?;
        (operation.phase == Phase::Sent).then(|| match &operation.work {
            Work::Read { at, length } => (*at, *length),
            Work::Verify { at, end } => piece((*at, *end), VERIFY_BYTES),
            Work::Write { .. } | Work::Release { .. } => (0, 0),
        })
    }

    /// A request was answered. Gives who is to be told of an end.
    pub(super) fn answered(&mut self, cookie: u64, outcome: NbdOutcome) -> Vec<Told> {
        if self.flush.as_ref().is_some_and(|flush| flush.cookie == cookie) {
            return self.flushed(outcome.map(drop));
        }
        let Some(operation) = self.operations.get_mut(&cookie) else {
            return Vec::new();
        };
        if outcome == Err(SHUTTING_DOWN) {
            operation.phase = Phase::Queued;
            self.queue.push_back(cookie);
            self.is_ending = true;
            return Vec::new();
        }
        let goes_on = outcome.is_ok() && operation.work.advance();
        let writes = matches!(operation.work, Work::Write { .. } | Work::Release { .. });
        if goes_on {
            operation.phase = Phase::Queued;
            self.queue.push_back(cookie);
        } else if outcome.is_ok() && writes && self.flushes {
            operation.phase = Phase::Answered;
            self.answered.push(cookie);
            self.flush_if_idle();
        } else {
            let discards = matches!(operation.work, Work::Verify { .. });
            let outcome = if discards { outcome.map(|_| None) } else { outcome };
            let ended = self.operations.remove(&cookie);
            return Vec::from_iter(ended.map(|operation| (operation.end, outcome)));
        }
        Vec::new()
    }

    /// A flush covers what was answered before it is sent.
    fn flush_if_idle(&mut self) {
        if self.flush.is_none() && !self.answered.is_empty() {
            self.last += 1;
            self.flush = Some(Flush {
                cookie: self.last,
                sent: false,
                covers: std::mem::take(&mut self.answered),
            });
        }
    }

    fn flushed(&mut self, result: Result<(), u32>) -> Vec<Told> {
        let Some(flush) = self.flush.take() else {
            return Vec::new();
        };
        if result == Err(SHUTTING_DOWN) {
            // The connection is lost with it.
            self.is_ending = true;
            self.answered.extend(flush.covers);
            return Vec::new();
        }
        let covered = flush
            .covers
            .iter()
            .filter_map(|cookie| self.operations.remove(cookie));
        let told = covered
            .map(|operation| (operation.end, result.map(|()| None)))
            .collect();
        self.flush_if_idle();
        told
    }

    /// Begins nothing until the connection is lost.
    pub(super) fn drain(&mut self) {
        self.drains = true;
    }

    /// Whether it has been told to drain, and the connection can be lost without a doubt.
    pub(super) fn is_drained(&self) -> bool {
        let rests = |operation: &Operation| match operation.phase {
            Phase::Queued => !operation.work.has_begun(),
            Phase::Sent | Phase::Answered => false,
            Phase::InDoubt(_) => true,
        };
        self.drains && self.flush.is_none() && self.operations.values().all(rests)
    }

    /// The server is lost. What may be begun again is; gives how many writes are in doubt.
    pub(super) fn lost(&mut self, session: Session) -> usize {
        (self.is_ending, self.drains) = (false, false);
        self.flush = None;
        self.answered.clear();
        self.queue.clear();
        let mut doubts = 0;
        for (cookie, operation) in &mut self.operations {
            if matches!(operation.phase, Phase::InDoubt(_)) {
                continue;
            }
            if operation.may_come_late(self.flushes) {
                operation.phase = Phase::InDoubt(session);
                doubts += 1;
            } else {
                operation.phase = Phase::Queued;
                self.queue.push_back(*cookie);
            }
            operation.work.restart();
        }
        doubts
    }

    /// How many writes a server may still carry out, or write from its memory.
    pub(super) fn unfinished(&self) -> usize {
        let is_unfinished = |operation: &&Operation| operation.may_come_late(self.flushes);
        self.operations.values().filter(is_unfinished).count()
    }

    /// A lost server is dead: what was in doubt is begun again.
    pub(super) fn dead(&mut self, session: Session) {
        for (cookie, operation) in &mut self.operations {
            if operation.phase == Phase::InDoubt(session) {
                operation.phase = Phase::Queued;
                self.queue.push_back(*cookie);
            }
        }
    }

    /// Nothing is carried out any more.
    pub(super) fn end(&mut self, error: u32) -> Vec<Told> {
        let operations = std::mem::take(self).operations;
        operations
            .into_values()
            .map(|operation| (operation.end, Err(error)))
            .collect()
    }
}

impl Operation {
    /// Whether it changes something, and a server may do that later than it is asked to: it has not answered, or keeps it in memory.
    fn may_come_late(&self, flushes: bool) -> bool {
        let writes = matches!(self.work, Work::Write { .. } | Work::Release { .. });
        writes
            && match self.phase {
                Phase::Sent | Phase::Answered | Phase::InDoubt(_) => true,
                Phase::Queued => flushes && self.work.has_begun(),
            }
    }
}

impl Work {
    /// A TRIM of these places, each from an offset to an end; `None` when there is nothing in them.
    pub(super) fn release(places: impl IntoIterator<Item = (u64, u64)>) -> Option<Work> {
        let pieces = |(at, end): (u64, u64)| {
            let starts = (at..end).step_by(RELEASE_BYTES as usize);
            starts.map(move |at| piece((at, end), RELEASE_BYTES))
        };
        let parts: Arc<[(u64, u32)]> = places.into_iter().flat_map(pieces).collect();
        (!parts.is_empty()).then_some(Work::Release { parts, done: 0 })
    }

    /// Whether some parts of a change have been answered, and others not.
    fn has_begun(&self) -> bool {
        matches!(self, Work::Release { done: 1.., .. })
    }

    /// A change is to be carried out by another server, which need not have what the first one kept in memory.
    fn restart(&mut self) {
        if let Work::Release { done, .. } = self {
            *done = 0;
        }
    }

    /// A part of it is done; true while parts are left.
    fn advance(&mut self) -> bool {
        match self {
            Work::Read { .. } | Work::Write { .. } => false,
            Work::Release { parts, done } => {
                *done += 1;
                *done < parts.len()
            }
            Work::Verify { at, end } => {
                *at = end_of((*at, *end), VERIFY_BYTES);
                *at < *end
            }
        }
    }
}

fn end_of((at, end): (u64, u64), most: u64) -> u64 {
    end.min(at.saturating_add(most))
}

/// Offset and length of the first part.
fn piece(part: (u64, u64), most: u64) -> (u64, u32) {
    (part.0, (end_of(part, most) - part.0) as u32)
}

fn plain(command: NbdCommand, cookie: u64, (offset, length): (u64, u32)) -> Message {
    Message {
        head: Head {
            command,
            cookie,
            offset,
            length,
        },
        payload: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another connection to the same server may be quicker than the one that was told.
    #[test]
    fn a_server_that_shuts_down_gets_nothing_more_on_any_connection() {
        let mut table = Table::default();
        table.connected(true, None);
        let write = |at| Work::Write {
            at,
            bytes: Arc::new([1; 512]),
        };
        table.add(write(0), Box::new(|_| {}));
        let cookie = table.next().unwrap().head.cookie;
        assert!(table.answered(cookie, Err(SHUTTING_DOWN)).is_empty());
        table.add(write(512), Box::new(|_| {}));
        assert!(table.next().is_none());
        assert_eq!(table.lost(1), 0, "nothing is in doubt");
        table.connected(true, None);
        let sent: Vec<u64> = std::iter::from_fn(|| table.next())
            .map(|message| message.head.cookie)
            .collect();
        assert_eq!(sent, [cookie, cookie + 1]);
    }

    fn write(at: u64) -> Work {
        Work::Write {
            at,
            bytes: Arc::new([1; 512]),
        }
    }

    fn sent(table: &mut Table) -> Vec<Head> {
        std::iter::from_fn(|| table.next())
            .map(|message| message.head)
            .collect()
    }

    /// A server may keep what it has answered in its memory, and write that later.
    #[test]
    fn what_was_answered_and_not_flushed_waits_until_its_server_is_dead() {
        let mut table = Table::default();
        table.connected(true, None);
        table.add(write(0), Box::new(|_| {}));
        let cookie = sent(&mut table)[0].cookie;
        assert!(table.answered(cookie, Ok(None)).is_empty());
        assert_eq!(table.unfinished(), 1);
        assert_eq!(table.lost(1), 1);
        table.connected(true, None);
        assert!(sent(&mut table).is_empty(), "the old server may live");
        assert_eq!(table.lost(2), 0, "it has not got to the second server");
        table.connected(true, None);
        table.dead(2);
        assert!(sent(&mut table).is_empty());
        table.dead(1);
        let again = sent(&mut table);
        assert_eq!((again.len(), again[0].cookie), (1, cookie));
    }

    #[test]
    fn what_is_answered_by_a_server_without_flush_is_done() {
        let mut table = Table::default();
        table.connected(false, None);
        table.add(write(0), Box::new(|_| {}));
        let cookie = sent(&mut table)[0].cookie;
        assert_eq!(table.answered(cookie, Ok(None)).len(), 1);
        assert_eq!((table.unfinished(), table.lost(1)), (0, 0));
    }

    /// The parts that were answered can be lost with the server's memory.
    #[test]
    fn a_trim_in_parts_begins_anew_at_another_server() {
        let mut table = Table::default();
        let release = Some(NbdCommand::WriteZeroes);
        table.connected(true, release);
        let work = Work::release([(0, RELEASE_BYTES + 512)]).unwrap();
        table.add(work, Box::new(|_| {}));
        let first = sent(&mut table)[0];
        assert_eq!((first.offset, u64::from(first.length)), (0, RELEASE_BYTES));
        assert!(table.answered(first.cookie, Ok(None)).is_empty());
        assert_eq!(table.lost(1), 1, "the first part is in the old server's memory");
        table.connected(true, release);
        assert!(sent(&mut table).is_empty());
        table.dead(1);
        let again = sent(&mut table)[0];
        assert_eq!((again.offset, u64::from(again.length)), (0, RELEASE_BYTES));
    }

    #[test]
    fn a_table_that_drains_ends_what_has_begun_and_leaves_no_doubt() {
        let mut table = Table::default();
        table.connected(true, Some(NbdCommand::WriteZeroes));
        let work = Work::release([(0, RELEASE_BYTES + 512)]).unwrap();
        table.add(work, Box::new(|_| {}));
        let cookie = sent(&mut table)[0].cookie;
        table.add(write(0), Box::new(|_| {}));
        table.drain();
        assert!(!table.is_drained());
        assert!(table.answered(cookie, Ok(None)).is_empty());
        assert!(!table.is_drained(), "half of a TRIM");
        assert_eq!(sent(&mut table).len(), 1, "the other half, and not the write");
        assert!(table.answered(cookie, Ok(None)).is_empty());
        let flush = sent(&mut table);
        assert_eq!((flush.len(), flush[0].command), (1, NbdCommand::Flush));
        assert_eq!(table.answered(flush[0].cookie, Ok(None)).len(), 1);
        assert!(table.is_drained());
        assert_eq!(table.lost(1), 0);
        table.connected(true, None);
        assert_eq!(sent(&mut table).len(), 1, "the write");
    }
}
