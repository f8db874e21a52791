//! Persistent copies that could not be opened while a new image was made: their machines may be off, and nobody else would look again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::super::RECENT;
use super::super::naming::DiskName;
use super::Maker;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(4);

/// See the module.
#[derive(Debug)]
pub(super) struct Again {
    names: BTreeSet<DiskName>,
    looked: Instant,
}

impl Again {
    pub(super) fn new() -> Again {
        Again {
            names: BTreeSet::new(),
            looked: Instant::now(),
        }
    }

    pub(super) fn add(&mut self, name: &DiskName) {
        self.names.insert(name.clone());
    }

    /// When to look the next time; `None`: there is nothing.
    pub(super) fn next_look(&self) -> Option<Duration> {
        (!self.names.is_empty()).then(|| LOOK.saturating_sub(self.looked.elapsed()))
    }
}

impl Maker {
    /// Opens what there is of them, as at the start; whoever has no copy yet gets it when it asks.
    pub(super) fn open_again(&mut self) {
        if self.again.next_look() != Some(Duration::ZERO) {
            return;
        }
        self.again.looked = Instant::now();
        for name in std::mem::take(&mut self.again.names) {
            if self.leaving.contains(&name) || self.instance(&name).is_some() {
                continue;
            }
            let opened = match self.copies.left(&name) {
                Ok(None) if !self.start.listed.has(&name) => {
                    let heard = self.heard(&name, Instant::now());
                    match heard.is_some_and(|ago| ago < RECENT) {
                        true => self.again.add(&name),
                        false => self.forget_disk(&name),
                    }
                    continue;
                }
                // It is told why not.
                Ok(_) => self.open(&name),
                Err(error) => Err(error),
            };
            match opened {
                Ok(()) => {
                    self.said.remove(&name);
                    (self.start.announce)();
                }
                Err(error) => self.failed(&name, &error),
            }
        }
    }
}
