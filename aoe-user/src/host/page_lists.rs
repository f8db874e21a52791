//! The kernel's lists of free pages, one for each CPU: how long they may become.
//!
//! A driver that takes a page for each frame, and gives it back, takes it from there. A list that is longer than the CPU's cache gives it
//! pages that are cold, frame after frame.

use std::fs;

use serde::Serialize;

/// What a list should hold: 4 MiB in pages of 4 KiB, which most processors have room for.
const WANTED_PAGES: u64 = 1000;
/// Beyond this nothing of a list is in the cache any more: 64 MiB.
const TOO_MANY_PAGES: u64 = 16_384;
/// The least that `vm.percpu_pagelist_high_fraction` takes but 0.
const LEAST_FRACTION: u64 = 8;

/// The longest lists of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct PageLists {
    /// Pages that a CPU's list may hold.
    pub(crate) pages: u64,
    /// What `vm.percpu_pagelist_high_fraction` would have to be for short lists; `None` where they are short enough.
    pub(crate) wanted_fraction: Option<u64>,
}

/// Asks the kernel; `None` where it does not tell.
pub(crate) fn page_lists() -> Option<PageLists> {
    longest(&fs::read_to_string("/proc/zoneinfo").ok()?)
}

/// Of the zone with the longest lists.
fn longest(zoneinfo: &str) -> Option<PageLists> {
    let zones = zoneinfo.split("\nNode ");
    let (pages, managed, cpus) = zones.filter_map(zone).max()?;
    let fraction = managed / cpus / WANTED_PAGES;
    Some(PageLists {
        pages,
        wanted_fraction: (pages > TOO_MANY_PAGES).then(|| round(fraction).max(LEAST_FRACTION)),
    })
}

/// The longest list of a zone, its pages, and the CPUs that have lists.
fn zone(text: &str) -> Option<(u64, u64, u64)> {
    let values = |name: &'static str| {
        let lines = text.lines().filter_map(move |line| {
            let (key, value) = line.trim().split_once([' ', ':'])?;
            (key == name).then(|| value.trim_start_matches(':').trim().parse::<u64>().ok())?
        });
        lines.collect::<Vec<u64>>()
    };
    let managed = *values("managed").first()?;
    let cpus = values("cpu").len() as u64;
    // From Linux 6.7 on a list grows with use, up to this; before it is as long as it says. The zone's own mark has the same
    // name, and comes first.
    let most = values("high_max")
        .into_iter()
        .chain(values("high").into_iter().skip(1))
        .max();
    Some((most?, managed, cpus)).filter(|_| cpus > 0)
}

/// To two digits, downwards.
fn round(value: u64) -> u64 {
    let unit = 10u64.pow(value.max(1).ilog10().saturating_sub(1));
    value / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "Node 0, zone      DMA
        high     17
        managed  3840
    cpu: 0
              high:     0
              high_max: 240
Node 0, zone   Normal
  pages free     1000
        high     24576
        managed  4980736
  pagesets
    cpu: 0
              count:    2764
              high:     10472
              high_min: 9798
              high_max: 311296
    cpu: 1
              high:     44963
              high_max: 311296
Node 0, zone  Movable
        high     32
        managed  0
";

    #[test]
    fn the_longest_list_is_found_in_either_form() {
        let lists = PageLists {
            pages: 311_296,
            wanted_fraction: Some(2400),
        };
        assert_eq!(longest(NEW), Some(lists));
        let old: String = NEW
            .lines()
            .filter(|line| !line.contains("high_m"))
            .fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(longest(&old).map(|lists| lists.pages), Some(44_963));
        assert_eq!(longest("nothing of it"), None);
    }

    #[test]
    fn short_lists_are_left_alone() {
        let short = NEW
            .replace("311296", "830")
            .replace("44963", "829")
            .replace("10472", "1");
        let lists = longest(&short).unwrap();
        assert_eq!((lists.pages, lists.wanted_fraction), (830, None));
    }

    #[test]
    fn this_machine_tells() {
        assert!(page_lists().is_some_and(|lists| lists.pages > 0));
    }
}
