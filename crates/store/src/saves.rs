//! Which protocol state of which export is written when, for whom, and what each is told: no thread, no file, no clock.
//!
//! The caller asks [`SaveMachine::poll`] what to do, does it, and says how it went with [`SaveMachine::done`]. The simulator runs the
//! same machine on a disk of its own.
//!
//! Of each export only the newest state waits: whoever changes it thousands of times a second costs one write at a time and no
//! memory. All that waited is written in one round and synced together. A change that comes while a round is under way is in the
//! next one: the round may have passed its export already.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;

use engine::Persistent;

pub use crate::commit::machine::Time;
use crate::pace::Pace;

/// How long the end of the process waits for a state disk.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Saves of one export that wait for the same write. The engine has one at a time under way.
const WAITING_MAX: usize = 256;

/// A state to be written, and who waits for that.
pub struct Save<K, W> {
    /// Whose state.
    pub key: K,
    /// The newest one.
    pub state: Persistent,
    who: Vec<W>,
}

/// What to do next.
#[derive(Debug)]
pub enum SaveAction<K, W> {
    /// Put these on the medium and call [`SaveMachine::done`].
    Write(Vec<Save<K, W>>),
    /// Nothing, before something happens.
    Wait,
    /// Nothing any more: it was closed, and everything is written.
    End,
}

/// How a save ended.
#[derive(Debug)]
pub struct SaveAnswer<W> {
    /// Whose.
    pub who: W,
    /// On the medium, or why not.
    pub result: io::Result<()>,
}

/// What comes of a round.
#[derive(Debug)]
pub struct SaveOutcome<K, W> {
    /// For everybody who waited for it.
    pub answers: Vec<SaveAnswer<W>>,
    /// A failure that the log is to show, and how many there have been since the last that it was to show.
    pub report: Option<(K, io::Error, u64)>,
}

/// Decides for one medium. `K` tells exports apart.
pub struct SaveMachine<K, W> {
    waiting: BTreeMap<K, (Persistent, Vec<W>)>,
    /// A round is under way.
    writing: bool,
    closed: bool,
    /// Any host that sees an open export can have states written: a full disk must not fill the log.
    failures: Pace<Time>,
}

impl<K: Ord, W> SaveMachine<K, W> {
    /// Nothing waits.
    pub fn new() -> SaveMachine<K, W> {
        SaveMachine {
            waiting: BTreeMap::new(),
            writing: false,
            closed: false,
            failures: Pace::new(),
        }
    }

    /// A state is to be written, in place of one that waits for the same export; an answer if it will not be.
    pub fn save(&mut self, key: K, state: &Persistent, who: W) -> Option<SaveAnswer<W>> {
        if self.closed {
            return Some(refused(who, "the state writer has ended"));
        }
        let (newest, waiting) = self
            .waiting
            .entry(key)
            .or_insert_with(|| (Persistent::default(), Vec::new()));
        if waiting.len() == WAITING_MAX {
            return Some(refused(who, "too many changes wait for the disk"));
        }
        newest.clone_from(state);
        waiting.push(who);
        None
    }

    /// What to do now. While a round is under way there is nothing to do.
    pub fn poll(&mut self) -> SaveAction<K, W> {
        if self.writing {
            SaveAction::Wait
        } else if !self.waiting.is_empty() {
            self.writing = true;
            let round = std::mem::take(&mut self.waiting).into_iter();
            SaveAction::Write(
                round
                    .map(|(key, (state, who))| Save { key, state, who })
                    .collect(),
            )
        } else if self.closed {
            SaveAction::End
        } else {
            SaveAction::Wait
        }
    }

    /// How the round went that [`SaveMachine::poll`] asked for: a result for each of its saves, in their order. One that is missing is
    /// a failure.
    pub fn done(
        &mut self,
        round: Vec<Save<K, W>>,
        results: impl IntoIterator<Item = io::Result<()>>,
        now: Time,
    ) -> SaveOutcome<K, W> {
        self.writing = false;
        let missing = || Err(io::Error::other("it was not written"));
        let results = results.into_iter().chain(std::iter::repeat_with(missing));
        let mut outcome = SaveOutcome {
            answers: Vec::new(),
            report: None,
        };
        for (save, result) in round.into_iter().zip(results) {
            let answer = |who| SaveAnswer {
                who,
                result: result.as_ref().copied().map_err(again),
            };
            outcome.answers.extend(save.who.into_iter().map(answer));
            if let Err(error) = result
                && let Some(count) = self.failures.happened(now)
            {
                outcome.report = Some((save.key, error, count));
            }
        }
        outcome
    }

    /// The round that is under way has ended without a result, by a panic, and who waited for it was told of that.
    pub fn round_is_lost(&mut self) {
        self.writing = false;
    }

    /// Takes no more; [`SaveAction::End`] follows when all that waits is written. Gives the time until which the end of the process
    /// waits for that.
    pub fn close(&mut self, now: Time) -> Time {
        self.closed = true;
        now + TIMEOUT
    }
}

impl<K: Ord, W> Default for SaveMachine<K, W> {
    fn default() -> SaveMachine<K, W> {
        SaveMachine::new()
    }
}

fn refused<W>(who: W, why: &str) -> SaveAnswer<W> {
    SaveAnswer {
        who,
        result: Err(io::Error::other(why)),
    }
}

/// The same error for another one.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(
        || io::Error::other(error.to_string()),
        io::Error::from_raw_os_error,
    )
}

impl<K: fmt::Debug, W> fmt::Debug for Save<K, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Save")
            .field("key", &self.key)
            .field("state", &self.state)
            .field("who", &self.who.len())
            .finish()
    }
}

impl<K, W> fmt::Debug for SaveMachine<K, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("waiting", &self.waiting.len())
            .field("writing", &self.writing)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Round = Vec<Save<u8, u32>>;

    fn state(text: &str) -> Persistent {
        Persistent {
            string: text.into(),
            ..Persistent::default()
        }
    }

    fn round(machine: &mut SaveMachine<u8, u32>) -> Round {
        match machine.poll() {
            SaveAction::Write(round) => round,
            other => panic!("{other:?}"),
        }
    }

    fn texts(round: &Round) -> Vec<(u8, &[u8])> {
        round
            .iter()
            .map(|save| (save.key, save.state.string.as_slice()))
            .collect()
    }

    fn told(outcome: SaveOutcome<u8, u32>) -> Vec<(u32, bool)> {
        let told = |answer: SaveAnswer<u32>| (answer.who, answer.result.is_ok());
        outcome.answers.into_iter().map(told).collect()
    }

    fn at(seconds: f64) -> Time {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_flood_of_changes_of_one_export_waits_in_one_place() {
        let mut machine = SaveMachine::new();
        let flood = 10_000;
        let refused: Vec<u32> = (0..flood)
            .filter_map(|who| machine.save(1, &state(&who.to_string()), who))
            .map(|answer| {
                answer.result.unwrap_err();
                answer.who
            })
            .collect();
        let first_refused = WAITING_MAX as u32;
        assert_eq!(refused, (first_refused..flood).collect::<Vec<u32>>());
        let round = round(&mut machine);
        // What was refused is not written.
        assert_eq!(texts(&round), [(1, b"255".as_slice())]);
        let told = told(machine.done(round, [Ok(())], Time::ZERO));
        let each_once: Vec<(u32, bool)> = (0..first_refused).map(|who| (who, true)).collect();
        assert_eq!(told, each_once);
    }

    #[test]
    fn the_newest_of_each_export_is_written_and_all_who_wait_are_told() {
        let mut machine = SaveMachine::new();
        for (who, (key, text)) in (0..).zip([(2, "a"), (1, "b"), (2, "c")]) {
            assert!(machine.save(key, &state(text), who).is_none());
        }
        let round = round(&mut machine);
        assert_eq!(texts(&round), [(1, b"b".as_slice()), (2, b"c")]);
        let full = io::Error::from_raw_os_error(28);
        let outcome = machine.done(round, [Ok(()), Err(full)], Time::ZERO);
        let errno = |answer: &SaveAnswer<u32>| answer.result.as_ref().err().and_then(io::Error::raw_os_error);
        let told: Vec<_> = outcome
            .answers
            .iter()
            .map(|answer| (answer.who, errno(answer)))
            .collect();
        assert_eq!(told, [(1, None), (0, Some(28)), (2, Some(28))]);
        assert!(matches!(machine.poll(), SaveAction::Wait));
    }

    #[test]
    fn a_change_that_comes_while_a_round_is_under_way_is_in_the_next() {
        let mut machine = SaveMachine::new();
        machine.save(1, &state("old"), 1);
        let first = round(&mut machine);
        machine.save(1, &state("new"), 2);
        machine.save(2, &state("other"), 3);
        assert!(matches!(machine.poll(), SaveAction::Wait), "one round at a time");
        let failed = || Err(io::Error::other("no disk"));
        assert_eq!(told(machine.done(first, [failed()], Time::ZERO)), [(1, false)]);
        let second = round(&mut machine);
        assert_eq!(texts(&second), [(1, b"new".as_slice()), (2, b"other")]);
        let told = told(machine.done(second, [Ok(()), Ok(())], Time::ZERO));
        assert_eq!(told, [(2, true), (3, true)]);
    }

    #[test]
    fn who_gets_no_result_is_told_of_a_failure() {
        let mut machine = SaveMachine::new();
        machine.save(1, &state("a"), 1);
        machine.save(2, &state("b"), 2);
        let round = round(&mut machine);
        assert_eq!(
            told(machine.done(round, [Ok(())], Time::ZERO)),
            [(1, true), (2, false)]
        );
    }

    #[test]
    fn the_end_comes_when_all_is_written_and_nothing_is_taken_after_the_close() {
        let mut machine = SaveMachine::new();
        machine.save(1, &state("a"), 1);
        let first = round(&mut machine);
        machine.save(2, &state("b"), 2);
        assert_eq!(machine.close(at(10.0)), at(15.0));
        let refused = machine.save(3, &state("c"), 3).unwrap();
        assert_eq!((refused.who, refused.result.is_err()), (3, true));
        assert!(matches!(machine.poll(), SaveAction::Wait), "a round is under way");
        machine.done(first, [Ok(())], at(11.0));
        let second = round(&mut machine);
        assert_eq!(texts(&second), [(2, b"b".as_slice())]);
        machine.done(second, [Ok(())], at(12.0));
        assert!(matches!(machine.poll(), SaveAction::End));
    }

    #[test]
    fn a_disk_that_fails_for_a_day_does_not_fill_the_log() {
        let mut machine = SaveMachine::new();
        let failed = || Err(io::Error::other("no disk"));
        let (mut reports, mut failures) = (0, 0);
        for second in 0..86_400 {
            machine.save(1, &state("a"), 1);
            machine.save(2, &state("b"), 2);
            let round = round(&mut machine);
            let outcome = machine.done(round, [failed(), failed()], at(f64::from(second)));
            if let Some((key, _, count)) = outcome.report {
                assert!(second > 0 || (key, count) == (1, 1), "the first is told at once");
                (reports, failures) = (reports + 1, failures + count);
            }
        }
        assert!(reports < 160, "{reports} reports");
        assert!(failures > 2 * 86_400 - 2 * 600, "{failures} told of");
    }
}
