//! What happens when a commit fails, or whoever carries it out.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engine::{Extent, LostWrites};

use super::Committer;
use crate::backing::short_file;
use crate::commit::dirty::Regions;
use crate::commit::machine::{Failed, hull};
use crate::io::threads::caught;

/// Why sectors are lost that were on the medium.
const CUT: &str = "the file was cut short";
/// Why sectors may be lost whose commit ended without a result.
const PANICKED: &str = "the thread that commits panicked, a bug in xblade: the log says where";
/// How long after a panic what is left is committed: this, times the panics so far.
const PAUSE: Duration = Duration::from_secs(1);

/// A commit that runs: what is lost if nobody learns how it ended.
#[derive(Debug)]
pub(super) struct UnderWay {
    /// Where acknowledged writes lie that it covers.
    covered: Regions,
    /// Sectors that it found cut off.
    cut: Option<Extent>,
}

impl UnderWay {
    pub(super) fn covering(covered: Regions) -> UnderWay {
        UnderWay { covered, cut: None }
    }
}

impl Committer {
    /// Does the work of a thread that everybody waits for. If it panics, they are told, and there is another one for those who come.
    pub(super) fn guarded(self: &Arc<Self>, work: impl FnOnce()) {
        if caught(work).is_err() {
            self.mend();
        }
    }

    /// Whoever commits has panicked. It is as if the commit had failed: who was in its group has been told, since dropped; who waits for
    /// the next one is told now, and what was acknowledged and is not known to be on the medium is lost. Nobody knows how the panic left
    /// the machine, so another takes its place.
    pub(super) fn mend(self: &Arc<Self>) {
        let panics = self.counters.count_panic();
        let mut state = self.state.lock();
        let stood = state.machine.lost().cloned();
        let waiting = state.machine.begin_anew(libc::EIO);
        // First: who enters from here on is not taken down, and who entered before finds out.
        self.publish(&state.machine);
        if let Some(UnderWay { covered, cut }) = state.under_way.take() {
            let uncommitted = self.uncommitted(&covered);
            let failed = Failed {
                errno: libc::EIO,
                cause: Some(PANICKED.to_owned()),
                lost: cut.map_or(uncommitted, |cut| Some(with(cut, uncommitted))),
            };
            // Nobody waits for the machine any more.
            state.machine.done(Vec::new(), Err(failed));
        }
        if !state.closed && self.noted.load(Ordering::SeqCst) {
            // What was acknowledged meanwhile. Later and later, so that a panic which comes back fills no log.
            let pause = PAUSE.saturating_mul(panics);
            state.machine.commit_at(self.time(Instant::now()), pause);
        }
        self.publish(&state.machine);
        let lost = state
            .machine
            .lost()
            .cloned()
            .filter(|lost| stood.as_ref() != Some(lost));
        drop(state);
        self.report(lost, waiting.len());
        drop(waiting);
        // Only now: whoever closes the store waits for this thread as long as it works.
        let mut state = self.state.lock();
        state.working.running = false;
        match state.machine.is_idle() {
            true => drop(self.ended.notify_all()),
            false => self.start(&mut state),
        }
    }

    /// Tells of a panic and what is lost by it.
    fn report(&self, lost: Option<LostWrites>, waiting: usize) {
        tracing::error!(
            "{}: {PANICKED}; {waiting} requests that waited for the next commit have failed",
            self.medium.name()
        );
        let told = caught(|| {
            lost.iter().for_each(|lost| self.log(lost));
            self.tell(lost);
        });
        if told.is_err() {
            tracing::error!(
                "{}: lost writes may be forgotten at a restart",
                self.medium.name()
            );
        }
    }

    /// Has a loss kept in mind.
    fn tell(&self, loss: Option<LostWrites>) {
        if let (Some(told), Some(lost)) = (&self.on_loss.0, loss) {
            told(&lost);
        }
    }

    /// A commit failed, or found the file cut short: finds out what is lost, and has it kept in mind before anybody is told.
    pub(super) fn failed(&self, error: Option<&io::Error>, cut: Option<Extent>) -> Failed {
        let errno = error.and_then(io::Error::raw_os_error).unwrap_or(libc::EIO);
        let mut state = self.state.lock();
        // First: who enters from here on is not taken down, and who entered before finds out.
        state.machine.fails(errno);
        self.publish(&state.machine);
        let under_way = state.under_way.as_mut();
        let uncommitted = under_way.and_then(|under_way| {
            under_way.cut = cut;
            self.uncommitted(&under_way.covered)
        });
        let failed = Failed {
            errno,
            cause: Some(match (error, cut) {
                (None, _) => CUT.to_owned(),
                (Some(error), None) => error.to_string(),
                (Some(error), Some(_)) => format!("{error}; {CUT}"),
            }),
            lost: match (cut, error) {
                // The rest is on the medium.
                (Some(cut), None) => Some(cut),
                (Some(cut), Some(_)) => Some(with(cut, uncommitted)),
                (None, _) => uncommitted,
            },
        };
        let (before, loss) = (state.machine.lost().cloned(), state.machine.loss_by(&failed));
        drop(state);
        // Logs; the answers are made one by one.
        let what = error.map_or_else(|| short_file().to_string(), io::Error::to_string);
        self.medium.fault(
            0,
            io::Error::other(format!("committing what was written: {what}")),
        );
        self.tell(loss.filter(|loss| before.as_ref() != Some(loss)));
        failed
    }

    /// Where acknowledged writes lie that the commit which just failed covered, or that came meanwhile.
    fn uncommitted(&self, covered: &Regions) -> Option<Extent> {
        covered
            .clone()
            .with(&self.dirty.look())
            .hull(self.medium.sectors())
    }

    pub(super) fn log(&self, lost: &LostWrites) {
        let then = match lost.stopped {
            true => "no writes are taken any more",
            false => "flushes fail, writes go on (on_lost_write = \"continue\")",
        };
        tracing::error!(
            "{}: {lost}; {then}, until `xblade state clear --lost-writes`",
            self.medium.describe()
        );
    }
}

/// The smallest extent around both, if there is another.
fn with(one: Extent, other: Option<Extent>) -> Extent {
    other.map_or(one, |other| hull(one, other))
}
