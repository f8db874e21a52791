//! What the kernel half tells: counters, and who was denied.

use std::fmt;
use std::ops::Index;

use aoe_common::Mac;
use aoe_common::rules::{Counter, DeniedValue, Target, VlanClass};

/// Frames by row of the verdict table, over all CPUs, since the filter was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FilterCounters([u64; Counter::COUNT]);

impl FilterCounters {
    /// Each row with its number of frames.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::ALL.into_iter().zip(self.0)
    }

    /// Adds what another filter counted.
    pub(crate) fn add(&mut self, other: &FilterCounters) {
        for (total, count) in self.0.iter_mut().zip(other.0) {
            *total = total.wrapping_add(count);
        }
    }

    /// The sum of what each CPU counted.
    pub(super) fn sum<'a>(per_cpu: impl Iterator<Item = &'a [u64; Counter::COUNT]>) -> FilterCounters {
        let mut sum = [0u64; Counter::COUNT];
        for counters in per_cpu {
            for (total, count) in sum.iter_mut().zip(counters) {
                *total = total.wrapping_add(*count);
            }
        }
        FilterCounters(sum)
    }
}

impl fmt::Display for FilterCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (counter, frames) in self.iter().filter(|(_, frames)| *frames > 0) {
            write!(f, "{separator}{}={frames}", counter.name())?;
            separator = " ";
        }
        if separator.is_empty() {
            f.write_str("no frame yet")
        } else {
            Ok(())
        }
    }
}

impl Index<Counter> for FilterCounters {
    type Output = u64;

    fn index(&self, counter: Counter) -> &u64 {
        &self.0[counter as usize]
    }
}

/// A source that asked for what it may not use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// The source.
    pub source: Mac,
    /// What it asked for last: major address, 0xffff for every shelf.
    pub shelf: u16,
    /// Minor address, 0xff for every slot.
    pub slot: u8,
    /// The VLAN it asked on.
    pub(crate) vlan: VlanClass,
    /// Its frames since the last report.
    pub frames: u64,
}

impl Denied {
    pub(super) fn new(source: u64, value: DeniedValue) -> Denied {
        let [frames, target] = value;
        let target = Target(target);
        Denied {
            source: Mac::from_u64(source),
            shelf: target.shelf(),
            slot: target.slot(),
            vlan: target.vlan(),
            frames,
        }
    }
}

impl Denied {
    /// The export it asked for, as in `e1.2`, with `*` for every shelf or slot.
    pub(crate) fn wanted(&self) -> String {
        let shelf = match self.shelf {
            u16::MAX => "*".to_owned(),
            shelf => shelf.to_string(),
        };
        match self.slot {
            u8::MAX => format!("e{shelf}.*"),
            slot => format!("e{shelf}.{slot}"),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Denied {
            source,
            shelf,
            slot,
            frames,
            ..
        } = self;
        write!(
            f,
            "{frames} frames from {source}, the last for {shelf}.{slot}: not on its access list"
        )
    }
}
