//! A short memory of writes done, to know late duplicates of them (the `late_duplicates` option).
//!
//! A network that delays a frame for longer than the initiator waits can deliver an old copy of a write after a newer
//! write to the same sectors was answered. Inside xblade the order table rules that out; for the network's part this
//! is a heuristic: it knows retransmissions by equal content and by the counter in the tags of Linux's driver.

use std::collections::VecDeque;

use aoe_common::Mac;
use aoe_common::wire::aoe;

use crate::mutants::{self, Mutant};
use crate::order::scope::{Fingerprint, Span};

/// Writes remembered.
const MAX_WRITES: usize = 1024;

/// How long.
const MEMORY_US: u64 = 2_000_000;

/// Width of the counter in bits 30 to 16.
const COUNTER_MASK: u32 = 0x7fff;

/// One write as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub at_us: u64,
    pub source: Mac,
    pub tag: u32,
    pub span: Span,
    pub digest: u128,
}

/// What to do with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    Execute,
    /// It is done already: answer.
    Answer,
    /// Its sectors have been written again since: drop.
    Drop,
}

/// The log of one export; empty unless the option is on.
#[derive(Debug, Default)]
pub(crate) struct LateLog(VecDeque<Written>);

impl LateLog {
    /// Judges a write that is not in flight.
    pub(crate) fn judge(&self, write: &Written) -> Treatment {
        let mut overwritten = false;
        for done in self.0.iter().rev() {
            if write.at_us.saturating_sub(done.at_us) > MEMORY_US {
                break;
            }
            if done.span == write.span && done.digest == write.digest {
                if mutants::is(Mutant::StaleDuplicateAnswered) {
                    return Treatment::Answer;
                }
                if done.tag == write.tag && done.source == write.source {
                    return Treatment::Answer;
                }
                if overwritten && is_behind(write.tag, done.tag) {
                    return Treatment::Drop;
                }
            } else if done.span.overlaps(write.span) {
                overwritten = true;
            }
        }
        Treatment::Execute
    }

    /// Remembers a write that succeeded.
    pub(crate) fn record(&mut self, write: Written) {
        if self.0.len() >= MAX_WRITES {
            self.0.pop_front();
        }
        self.0.push_back(write);
    }
}

impl Written {
    /// A write request's entry.
    pub(crate) fn new(
        at_us: u64,
        source: Mac,
        tag: [u8; 4],
        span: Span,
        fingerprint: &Fingerprint,
    ) -> Written {
        Written {
            at_us,
            source,
            tag: u32::from_be_bytes(tag),
            span,
            digest: fingerprint.digest,
        }
    }
}

/// True when both tags are the Linux driver's and `tag` was given out before `other`.
fn is_behind(tag: u32, other: u32) -> bool {
    if (tag | other) & aoe::TAG_OF_USER_SPACE != 0 {
        return false;
    }
    let counter = |tag: u32| tag >> 16;
    let ahead = counter(other).wrapping_sub(counter(tag)) & COUNTER_MASK;
    (1..=COUNTER_MASK / 2).contains(&ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(at_us: u64, tag: u32, first: u64, digest: u128) -> Written {
        let span = Span {
            first,
            end: first.saturating_add(2),
        };
        Written {
            at_us,
            source: Mac([2, 0, 0, 0, 0, 1]),
            tag,
            span,
            digest,
        }
    }

    #[test]
    fn an_old_copy_is_dropped_only_after_a_newer_write() {
        let mut log = LateLog::default();
        log.record(write(0, 0x0005_0000, 10, 1)); // the resent W1, counter 5
        let late = write(100, 0x0004_0000, 10, 1); // the first W1, counter 4
        assert_eq!(
            log.judge(&late),
            Treatment::Execute,
            "harmless: nothing newer was written"
        );
        log.record(write(50, 0x0006_0000, 11, 2));
        assert_eq!(log.judge(&late), Treatment::Drop);
        assert_eq!(
            log.judge(&write(100, 0x0007_0000, 10, 1)),
            Treatment::Execute,
            "A, B, A is legal"
        );
        assert_eq!(
            log.judge(&write(100, 0x8004_0000, 10, 1)),
            Treatment::Execute,
            "no Linux tag"
        );
        assert_eq!(
            log.judge(&write(3_000_000, 0x0004_0000, 10, 1)),
            Treatment::Execute,
            "too long ago"
        );
    }

    #[test]
    fn the_same_frame_again_is_answered() {
        let mut log = LateLog::default();
        log.record(write(0, 7, 10, 1));
        log.record(write(1, 8, 10, 2));
        assert_eq!(log.judge(&write(2, 7, 10, 1)), Treatment::Answer);
        assert_eq!(
            log.judge(&write(2, 7, 10, 3)),
            Treatment::Execute,
            "other content"
        );
        assert_eq!(
            log.judge(&write(2, 7, 12, 1)),
            Treatment::Execute,
            "other sectors"
        );
    }

    #[test]
    fn the_counter_wraps() {
        assert!(is_behind(0x7fff_0000, 0x0000_0000));
        assert!(!is_behind(0x0000_0000, 0x7fff_0000));
        assert!(!is_behind(0x0001_0000, 0x0001_0000));
    }

    #[test]
    fn memory_is_bounded() {
        let mut log = LateLog::default();
        for i in 0..5000 {
            log.record(write(0, i, 0, 0));
        }
        assert_eq!(log.0.len(), MAX_WRITES);
    }
}
