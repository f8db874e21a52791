//! Which exports the operator has paused, and which are on their way there or back. Decides only, without threads or clocks.
//!
//! An export is named by what it is to the operator, not by its store: it may be opened anew meanwhile, and must stay silent then.

use std::collections::{HashMap, HashSet};

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

    /// Everything is silent and on the medium.
    pub(super) fn are_paused(&mut self, keys: &[Key]) {
        self.paused.extend(keys);
        self.end(keys);
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
        self.end(keys);
    }

    /// Forgets what is not wanted any more. What is under way ends all the same.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&Key) -> bool) {
        self.paused.retain(is_wanted);
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
        pauses.are_paused(keys);
        pauses
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
        pauses.are_paused(&[key(1)]);
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
