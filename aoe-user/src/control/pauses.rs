//! Which exports the operator has paused, for how long, and which are on their way there or back. Decides only, without threads or clocks.
//!
//! An export is named by what it is to the operator, not by its store: it may be opened anew meanwhile, and must stay silent then.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::config::Vlan;
use crate::target::Address;

/// An export, whatever store it has.
pub(super) type Key = (Address, Vlan);

/// What the operator has made of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// It is silent, and on its way to the medium.
    Pausing,
    /// It is silent and on the medium, and stays so.
    Paused,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    paused: HashSet<Key>,
    /// When pauses end by themselves.
    until: HashMap<Key, Instant>,
    /// What is under way. One change at a time: two for one export would end in an order that nobody has chosen.
    changing: HashMap<Key, Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Pausing,
    Resuming,
}

impl Pauses {
    /// What the export is now. One that is being served again is paused until that is over.
    pub(super) fn of(&self, key: Key) -> Option<Pause> {
        match (self.paused.contains(&key), self.changing.get(&key)) {
            (true, _) => Some(Pause::Paused),
            (false, Some(Change::Pausing)) => Some(Pause::Pausing),
            (false, _) => None,
        }
    }

    /// Whether a store that is opened now is to answer nobody.
    pub(super) fn keeps_silent(&self, key: Key) -> bool {
        match self.changing.get(&key) {
            Some(change) => *change == Change::Pausing,
            None => self.paused.contains(&key),
        }
    }

    /// Begins to pause exports; those that are paused already are put on the medium once more.
    ///
    /// # Errors
    /// When one of them is changing already.
    pub(super) fn pause(&mut self, keys: &[Key]) -> Result<(), String> {
        self.begin(keys, Change::Pausing)
    }

    /// Everything is silent and on the medium: until this time, or until it is resumed, whatever was said before.
    pub(super) fn are_paused(&mut self, keys: &[Key], until: Option<Instant>) {
        self.paused.extend(keys);
        self.until.retain(|key, _| !keys.contains(key));
        self.until.extend(
            until
                .into_iter()
                .flat_map(|until| keys.iter().map(move |key| (*key, until))),
        );
        self.end(keys);
    }

    /// Time until a pause ends by itself.
    pub(super) fn left(&self, key: Key, now: Instant) -> Option<Duration> {
        let until = self.until.get(&key)?;
        Some(until.saturating_duration_since(now))
    }

    /// When the next pause ends by itself. What is changing is looked at when that is over.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let still = self
            .until
            .iter()
            .filter(|(key, _)| !self.changing.contains_key(key));
        still.map(|(_, until)| *until).min()
    }

    /// Begins to serve again what was paused until now, and returns it.
    pub(super) fn resume_due(&mut self, now: Instant) -> Vec<Key> {
        let is_due = |(key, until): &(&Key, &Instant)| **until <= now && !self.changing.contains_key(key);
        let due: Vec<Key> = self.until.iter().filter(is_due).map(|(key, _)| *key).collect();
        self.changing
            .extend(due.iter().map(|key| (*key, Change::Resuming)));
        due
    }

    /// It has failed. Those that were not paused before are to be served again, and are returned; the others stay paused.
    pub(super) fn pause_failed(&mut self, keys: &[Key]) -> Vec<Key> {
        self.end(keys);
        let (_, back): (Vec<Key>, Vec<Key>) = keys.iter().partition(|key| self.paused.contains(key));
        self.changing
            .extend(back.iter().map(|key| (*key, Change::Resuming)));
        back
    }

    /// What is paused, or on its way there or back.
    pub(super) fn known(&self) -> impl Iterator<Item = Key> {
        self.paused.iter().chain(self.changing.keys()).copied()
    }

    /// Begins to serve again what is chosen and paused, which is returned.
    ///
    /// # Errors
    /// When one that is chosen is changing already, or none is paused.
    pub(super) fn resume(&mut self, is_chosen: impl Fn(Key) -> bool) -> Result<Vec<Key>, String> {
        let mut chosen: Vec<Key> = self.known().filter(|key| is_chosen(*key)).collect();
        // Never in the order of a hash table: it is told to the operator.
        chosen.sort_unstable_by_key(|(address, _)| (address.shelf, address.slot));
        chosen.dedup();
        if chosen.is_empty() {
            return Err("no export that is paused has such a name".into());
        }
        self.begin(&chosen, Change::Resuming)?;
        Ok(chosen)
    }

    /// They are served again.
    pub(super) fn are_resumed(&mut self, keys: &[Key]) {
        self.paused.retain(|key| !keys.contains(key));
        self.until.retain(|key, _| !keys.contains(key));
        self.end(keys);
    }

    /// Forgets what is not wanted any more. What is under way ends all the same.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&Key) -> bool) {
        self.paused.retain(&is_wanted);
        self.until.retain(|key, _| is_wanted(key));
    }

    fn begin(&mut self, keys: &[Key], change: Change) -> Result<(), String> {
        let busy = keys.iter().find_map(|key| Some((key, self.changing.get(key)?)));
        if let Some(((address, _), change)) = busy {
            let what = match change {
                Change::Pausing => "paused",
                Change::Resuming => "resumed",
            };
            return Err(format!(
                "{address} is being {what} right now; try again when that is over"
            ));
        }
        self.changing.extend(keys.iter().map(|key| (*key, change)));
        Ok(())
    }

    fn end(&mut self, keys: &[Key]) {
        self.changing.retain(|key, _| !keys.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn key(slot: u8) -> Key {
        (Address { shelf: 1, slot }, Vlan::Untagged)
    }

    fn paused(keys: &[Key]) -> Pauses {
        let mut pauses = Pauses::default();
        pauses.pause(keys).unwrap();
        pauses.are_paused(keys, None);
        pauses
    }

    #[test]
    fn a_pause_with_a_time_ends_by_itself_unless_something_else_was_said() {
        let start = Instant::now();
        let end = start + Duration::from_secs(30);
        let mut pauses = paused(&[key(1)]);
        assert_eq!((pauses.next_time(), pauses.left(key(1), start)), (None, None));
        pauses.pause(&[key(1), key(2)]).unwrap();
        pauses.are_paused(&[key(1), key(2)], Some(end));
        assert_eq!(pauses.next_time(), Some(end));
        assert_eq!(pauses.left(key(1), start), Some(Duration::from_secs(30)));
        assert_eq!(pauses.resume_due(start), []);
        // Without an end from now on.
        pauses.pause(&[key(2)]).unwrap();
        pauses.are_paused(&[key(2)], None);
        assert_eq!(pauses.resume_due(end), [key(1)]);
        assert_eq!(pauses.next_time(), None, "it is under way");
        pauses.are_resumed(&[key(1)]);
        assert_eq!(pauses.of(key(1)), None);
        assert_eq!(pauses.of(key(2)), Some(Pause::Paused));
        assert_eq!(pauses.resume_due(end), []);
    }

    #[test]
    fn what_is_being_paused_anew_does_not_end_meanwhile() {
        let end = Instant::now();
        let mut pauses = Pauses::default();
        pauses.pause(&[key(1)]).unwrap();
        pauses.are_paused(&[key(1)], Some(end));
        pauses.pause(&[key(1)]).unwrap();
        assert_eq!((pauses.next_time(), pauses.resume_due(end)), (None, vec![]));
        // As before, then.
        assert_eq!(pauses.pause_failed(&[key(1)]), []);
        assert_eq!(pauses.resume_due(end), [key(1)]);
    }

    #[test]
    fn a_pause_that_fails_leaves_paused_what_was_paused_before() {
        let mut pauses = paused(&[key(1)]);
        pauses.pause(&[key(1), key(2)]).unwrap();
        assert_eq!(pauses.of(key(1)), Some(Pause::Paused));
        assert_eq!(pauses.of(key(2)), Some(Pause::Pausing));
        assert_eq!(pauses.pause_failed(&[key(1), key(2)]), [key(2)]);
        assert!(pauses.keeps_silent(key(1)));
        assert!(!pauses.keeps_silent(key(2)));
        pauses.are_resumed(&[key(2)]);
        assert_eq!(
            (pauses.of(key(1)), pauses.of(key(2))),
            (Some(Pause::Paused), None)
        );
    }

    #[test]
    fn what_is_opened_while_it_is_being_paused_is_silent_from_the_start() {
        let mut pauses = Pauses::default();
        pauses.pause(&[key(1)]).unwrap();
        assert!(pauses.keeps_silent(key(1)));
        // Nor does a configuration without it let another change begin beside this one.
        pauses.retain(|_| false);
        assert!(pauses.keeps_silent(key(1)));
        pauses.pause(&[key(1)]).unwrap_err();
    }

    #[test]
    fn one_change_at_a_time() {
        let mut pauses = Pauses::default();
        pauses.pause(&[key(1)]).unwrap();
        let busy = pauses.pause(&[key(2), key(1)]).unwrap_err();
        assert!(busy.contains("e1.1 is being paused"), "{busy}");
        assert_eq!(pauses.of(key(2)), None, "nothing of it has begun");
        pauses.resume(|_| true).unwrap_err();
        pauses.are_paused(&[key(1)], None);
        assert_eq!(pauses.resume(|_| true).unwrap(), [key(1)]);
        // It is served again when that is over, and told so then.
        assert_eq!(pauses.of(key(1)), Some(Pause::Paused));
        assert!(!pauses.keeps_silent(key(1)), "what opens now is served");
        let busy = pauses.pause(&[key(1)]).unwrap_err();
        assert!(busy.contains("e1.1 is being resumed"), "{busy}");
        pauses.are_resumed(&[key(1)]);
        assert_eq!(pauses.of(key(1)), None);
        pauses.resume(|_| true).unwrap_err();
    }
}
