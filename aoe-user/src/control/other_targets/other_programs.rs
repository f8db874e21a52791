//! Other programs of this host that speak AoE on an interface that is served. They answer from the same address as xblade, so that what is
//! heard does not tell of them; the kernel's list of sockets does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::ProbedExport;
use crate::config::Vlan;
use crate::host::{aoe_sockets_of_others, programs_with};

/// Between two looks. Only what was there twice is told of: programs that ask a question or two have ended by then.
const LOOK_EVERY: Duration = Duration::from_secs(8);

/// What is known of them on one interface.
#[derive(Debug)]
pub(super) struct OtherPrograms {
    next: Instant,
    /// Sockets of the last look → they were told of.
    known: BTreeMap<u64, bool>,
}

impl OtherPrograms {
    pub(super) fn new(now: Instant) -> OtherPrograms {
        OtherPrograms {
            next: now,
            known: BTreeMap::new(),
        }
    }

    /// When to look.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time, and warns of those who have come to stay where these exports are served.
    pub(super) fn look(&mut self, interface: &str, served: &[ProbedExport], now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + LOOK_EVERY;
        if served.is_empty() {
            return self.known.clear();
        }
        let matters = |vlan| {
            served
                .iter()
                .any(|export| matches!(export.vlan, Vlan::Any) || export.vlan == Vlan::Id(vlan))
        };
        let new = self.new_of(aoe_sockets_of_others(interface, matters));
        if new.is_empty() {
            return;
        }
        let holders = programs_with(&new);
        if holders.may_only_ask {
            // Once that one has ended it is known who is left.
            self.ask_again(&new);
        }
        if let Some(who) = speakers(&holders.programs) {
            tracing::warn!("{interface}: {}", warning(&who));
        }
    }

    /// These were not told of.
    fn ask_again(&mut self, sockets: &BTreeSet<u64>) {
        let known = self.known.iter_mut();
        known
            .filter(|(inode, _)| sockets.contains(inode))
            .for_each(|(_, told)| *told = false);
    }

    /// Those of these sockets that were there at the look before and were not told of.
    fn new_of(&mut self, seen: BTreeSet<u64>) -> BTreeSet<u64> {
        let before = std::mem::take(&mut self.known);
        let new = |inode: &u64| before.get(inode) == Some(&false);
        let told: BTreeSet<u64> = seen.iter().copied().filter(new).collect();
        self.known = seen
            .into_iter()
            .map(|inode| (inode, before.contains_key(&inode)))
            .collect();
        told
    }
}

/// Who speaks, in few words however many they are; `None`: nobody but other xblades, which ask.
fn speakers(programs: &[Option<String>]) -> Option<String> {
    let first = programs.first()?;
    let first = first
        .as_deref()
        .unwrap_or("another program (`ss -0p` lists them)");
    Some(match programs.len() - 1 {
        0 => first.to_owned(),
        1 => format!("{first} and another one"),
        more => format!("{first} and {more} others"),
    })
}

fn warning(who: &str) -> String {
    format!(
        "AoE is also spoken on this interface by {who}. With an address that xblade serves, too, both answer, and the data of both is \
         corrupted: other shelves and slots there, or stop it"
    )
}

/// A warning of other programs that speak AoE on an interface now, where they are known.
pub(crate) fn other_aoe_programs(interface: &str) -> Option<String> {
    let mut programs = programs_with(&aoe_sockets_of_others(interface, |_| true)).programs;
    // It may be xblade itself, which serves.
    programs.retain(Option::is_some);
    speakers(&programs).map(|who| warning(&who))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_told_of_once_and_only_when_it_stays() {
        let mut programs = OtherPrograms::new(Instant::now());
        let look = |seen: &[u64]| -> Vec<u64> {
            programs
                .new_of(seen.iter().copied().collect())
                .into_iter()
                .collect()
        };
        let rounds: [&[u64]; 8] = [&[1], &[2], &[2, 3], &[2, 3], &[2, 3], &[], &[2], &[2]];
        let told = rounds.map(look);
        // 1 has gone before the second look; 2 comes again at the end.
        let expected: [&[u64]; 8] = [&[], &[], &[2], &[3], &[], &[], &[], &[2]];
        assert_eq!(told.each_ref().map(Vec::as_slice), expected);
    }

    #[test]
    fn a_socket_that_could_not_be_told_is_asked_for_again() {
        let mut programs = OtherPrograms::new(Instant::now());
        let seen: BTreeSet<u64> = [1].into();
        assert!(programs.new_of(seen.clone()).is_empty());
        for _ in 0..3 {
            assert_eq!(programs.new_of(seen.clone()), seen);
            programs.ask_again(&seen);
        }
        assert_eq!(programs.new_of(seen.clone()), seen);
        assert!(programs.new_of(seen).is_empty());
    }

    #[test]
    fn many_speakers_are_one_line() {
        let vblade = |pid: u32| Some(format!("vblade (pid {pid})"));
        assert_eq!(speakers(&[]), None);
        assert_eq!(speakers(&[vblade(7)]).unwrap(), "vblade (pid 7)");
        let three = [vblade(7), vblade(8), None];
        assert_eq!(speakers(&three).unwrap(), "vblade (pid 7) and 2 others");
        assert!(speakers(&[None]).unwrap().contains("ss -0p"));
    }
}
