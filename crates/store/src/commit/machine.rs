//! Which commit runs when, for whom, and what each is told: no thread, no file, no clock.
//!
//! The caller asks [`CommitMachine::poll`] what to do, does it, and says how it went with [`CommitMachine::done`]. The simulator runs the
//! same machine on a disk of its own.
//!
//! **Errors.** The kernel reports a failed write-back once and marks the pages clean, so nobody writes them again. A failure
//! therefore belongs to every write that was in the cache when the failed commit returned. A write is stamped with an [`Epoch`]
//! before it enters the cache; if a commit has failed since, it fails, in whatever group it waits. A write that was acknowledged and not yet
//! committed can be told nothing any more: it is lost, and the machine stays in that state until the operator accepts it.

use std::time::Duration;

use engine::{Extent, LostWrites};

/// Time since a start that the caller chooses.
pub type Time = Duration;

/// How many commits had failed when a write began to enter the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// What someone waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The commit of a write that is in the cache.
    Made(Epoch),
    /// The commit of a write or TRIM that whoever commits makes just before.
    Unmade,
    /// The commit of all that was acknowledged.
    Flush,
}

/// Someone who waits for a commit.
#[derive(Debug)]
pub struct Member<W> {
    /// Who.
    pub who: W,
    /// For what.
    pub wish: Wish,
}

/// What to do next.
#[derive(Debug)]
pub enum CommitAction<W> {
    /// Make what is [`Wish::Unmade`], commit, and call [`CommitMachine::done`].
    Commit(Vec<Member<W>>),
    /// Nothing before this time, or before something happens.
    Wait(Option<Time>),
    /// Nothing any more: it was closed, and all is committed.
    End,
}

/// Why someone's wish failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A commit failed with this OS error.
    Commit(i32),
    /// Acknowledged writes are lost.
    Lost(LostWrites),
}

/// How a wish ended.
#[derive(Debug)]
pub struct CommitAnswer<W> {
    /// Whose.
    pub who: W,
    /// Done, or why not.
    pub result: Result<(), Failure>,
}

/// How a commit ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// OS error.
    pub errno: i32,
    /// In words; none: those of the error.
    pub cause: Option<String>,
    /// Where acknowledged writes were that had not been committed, by the time the commit returned.
    pub lost: Option<Extent>,
}

/// What happens when acknowledged writes are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLostWrite {
    /// Writes, TRIMs and flushes are refused until the operator accepts the loss.
    #[default]
    Stop,
    /// Writes and TRIMs go on; flushes are refused until the operator accepts the loss.
    Continue,
}

impl OnLostWrite {
    /// Every value by its name.
    pub const NAMES: [(&'static str, OnLostWrite); 2] =
        [("stop", OnLostWrite::Stop), ("continue", OnLostWrite::Continue)];
}

/// Decides for one store.
#[derive(Debug)]
pub struct CommitMachine<W> {
    flush_interval: Duration,
    on_lost_write: OnLostWrite,
    waiting: Vec<Member<W>>,
    /// A commit is under way.
    running: bool,
    /// When the oldest acknowledged write was acknowledged that the running commit covers.
    oldest_running: Option<Time>,
    /// The same of those that no commit covers yet.
    oldest: Option<Time>,
    /// When a commit must begin although nobody waits.
    due: Option<Time>,
    failures: u64,
    /// Of the last failed commit.
    last_errno: i32,
    /// The running commit is known to have failed.
    failing: bool,
    lost: Option<LostWrites>,
    closed: bool,
    /// Members of the last group.
    last_group: usize,
}

impl<W> CommitMachine<W> {
    /// Nothing written yet. `lost` is a loss that is known from an earlier process.
    pub fn new(
        flush_interval: Duration,
        on_lost_write: OnLostWrite,
        lost: Option<LostWrites>,
    ) -> CommitMachine<W> {
        CommitMachine {
            flush_interval,
            on_lost_write,
            waiting: Vec::new(),
            running: false,
            oldest_running: None,
            oldest: None,
            due: None,
            failures: 0,
            last_errno: 0,
            failing: false,
            lost,
            closed: false,
            last_group: 0,
        }
    }

    /// The stamp for a write that begins to enter the cache now.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.failures)
    }

    /// The loss that stands.
    pub fn lost(&self) -> Option<&LostWrites> {
        self.lost.as_ref()
    }

    /// Writes and TRIMs are refused.
    pub fn is_stopped(&self) -> bool {
        self.lost.as_ref().is_some_and(|lost| lost.stopped)
    }

    /// The operator accepts the loss.
    pub fn accept(&mut self) {
        self.lost = None;
    }

    /// From this time on a write is answered when it is committed, not before: the oldest acknowledged one has waited for the flush
    /// interval. So what can be lost was all acknowledged within that time.
    pub fn late_at(&self) -> Option<Time> {
        Some(self.oldest_uncommitted()? + self.flush_interval)
    }

    /// When the oldest acknowledged write was acknowledged that is not on the medium yet. What is [lost](CommitMachine::lost) is none of
    /// them: it never will be.
    pub(crate) fn oldest_uncommitted(&self) -> Option<Time> {
        self.oldest_running.or(self.oldest)
    }

    /// Nobody waits, nothing runs and nothing will be due.
    pub(crate) fn is_idle(&self) -> bool {
        !self.running && self.waiting.is_empty() && self.due.is_none()
    }

    /// Nobody waits and nothing runs, and nobody came meanwhile the last time.
    pub fn is_quiet(&self) -> bool {
        !self.running && self.waiting.is_empty() && self.last_group <= 1
    }

    /// A write was acknowledged that is not committed: the first one since the last commit began; later ones need not be told.
    ///
    /// The commit begins after half of the flush interval, so that the medium has the other half for it.
    pub fn acknowledged(&mut self, now: Time) {
        self.oldest.get_or_insert(now);
        self.due.get_or_insert(now + self.flush_interval / 2);
    }

    /// What an earlier process left in the cache is committed at once.
    pub fn commit_leftovers(&mut self, now: Time) {
        self.commit_at(now, Duration::ZERO);
    }

    /// Someone waits for the next commit; an answer if it cannot end well.
    pub fn join(&mut self, who: W, wish: Wish) -> Option<CommitAnswer<W>> {
        match self.refusal(wish) {
            None => {
                self.waiting.push(Member { who, wish });
                None
            }
            Some(failure) => Some(CommitAnswer {
                who,
                result: Err(failure),
            }),
        }
    }

    fn refusal(&self, wish: Wish) -> Option<Failure> {
        match &self.lost {
            Some(lost) if lost.stopped || wish == Wish::Flush => Some(Failure::Lost(lost.clone())),
            _ => match wish {
                Wish::Made(epoch) if epoch != self.epoch() => Some(Failure::Commit(self.last_errno)),
                _ => None,
            },
        }
    }

    /// Who waits for the next commit.
    pub fn waiting(&self) -> impl Iterator<Item = &W> {
        self.waiting.iter().map(|member| &member.who)
    }

    /// Commits what there is, then [`CommitAction::End`]; or, with false, works on.
    pub(crate) fn close(&mut self, closed: bool) {
        self.closed = closed;
    }

    /// Nobody will write any more.
    #[cfg(test)]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether a commit is to begin now, unless one runs.
    pub fn wants_commit(&self, now: Time) -> bool {
        !self.waiting.is_empty() || self.due.is_some_and(|due| due <= now || self.closed)
    }

    /// What to do now. While a commit runs there is nothing to do.
    pub fn poll(&mut self, now: Time) -> CommitAction<W> {
        if self.running {
            CommitAction::Wait(None)
        } else if self.wants_commit(now) {
            self.begin()
        } else if self.closed {
            CommitAction::End
        } else {
            CommitAction::Wait(self.due)
        }
    }

    /// Begins a commit whether or not one is due.
    pub(crate) fn begin(&mut self) -> CommitAction<W> {
        self.running = true;
        self.due = None;
        self.oldest_running = self.oldest.take();
        let group = std::mem::take(&mut self.waiting);
        self.last_group = group.len();
        CommitAction::Commit(group)
    }

    /// How the commit went that [`CommitMachine::poll`] asked for, and who of its group still waits for that. Gives the answers, also
    /// of others that the failure took down.
    pub fn done(&mut self, group: Vec<Member<W>>, result: Result<(), Failed>) -> Vec<CommitAnswer<W>> {
        self.running = false;
        self.oldest_running = None;
        let failure = result.err().map(|failed| self.fail(&failed));
        self.failing = false;
        let lost = self.lost.clone();
        let end = |member: Member<W>| {
            let result = match (&lost, &failure) {
                (Some(lost), _) if member.wish == Wish::Flush => Err(Failure::Lost(lost.clone())),
                (_, Some(errno)) => Err(Failure::Commit(*errno)),
                _ => Ok(()),
            };
            CommitAnswer {
                who: member.who,
                result,
            }
        };
        let mut answers: Vec<CommitAnswer<W>> = group.into_iter().map(end).collect();
        for Member { who, wish } in std::mem::take(&mut self.waiting) {
            answers.extend(self.join(who, wish));
        }
        answers
    }

    /// The running commit has failed: what enters from here on is not taken down by it. [`CommitMachine::done`] follows, or has it done.
    pub(crate) fn fails(&mut self, errno: i32) {
        self.failures += 1;
        self.last_errno = errno;
        self.failing = true;
    }

    /// Nobody knows how a panic left the machine: it begins anew, as one whose running commit has [failed](CommitMachine::fails). Gives
    /// who waited; [`CommitMachine::done`] may follow.
    pub(crate) fn begin_anew(&mut self, errno: i32) -> Vec<Member<W>> {
        let mut anew = CommitMachine::new(self.flush_interval, self.on_lost_write, self.lost.take());
        anew.closed = self.closed;
        anew.failures = self.failures;
        anew.fails(errno);
        std::mem::replace(self, anew).waiting
    }

    /// A commit begins after this time, also where nobody comes: something was acknowledged of which the machine does not know.
    pub(crate) fn commit_at(&mut self, now: Time, pause: Duration) {
        self.oldest.get_or_insert(now);
        self.due = Some(now + pause);
    }

    /// The loss that stands when [`CommitMachine::done`] is told of this failure.
    pub(crate) fn loss_by(&self, failed: &Failed) -> Option<LostWrites> {
        let extent = failed.lost?;
        Some(LostWrites {
            extent: match &self.lost {
                Some(before) => hull(before.extent, extent),
                None => extent,
            },
            cause: self.cause_with(failed),
            stopped: self.on_lost_write == OnLostWrite::Stop,
        })
    }

    /// Why writes are lost: all that went wrong, the first of it first.
    fn cause_with(&self, failed: &Failed) -> String {
        let of_errno = || std::io::Error::from_raw_os_error(failed.errno).to_string();
        let cause = failed.cause.clone().unwrap_or_else(of_errno);
        match &self.lost {
            Some(before) if before.cause.contains(&cause) => before.cause.clone(),
            Some(before) if !cause.contains(&before.cause) => format!("{}; {cause}", before.cause),
            _ => cause,
        }
    }

    /// Returns the error for whoever waited for it.
    fn fail(&mut self, failed: &Failed) -> i32 {
        if !std::mem::take(&mut self.failing) {
            self.fails(failed.errno);
            self.failing = false;
        }
        self.lost = self.loss_by(failed).or(self.lost.take());
        failed.errno
    }
}

/// The smallest extent around both.
pub(super) fn hull(one: Extent, other: Extent) -> Extent {
    let lba = one.lba.min(other.lba);
    Extent {
        lba,
        count: one.end().max(other.end()) - lba,
    }
}
