//! A limit on answers to wildcards: one small broadcast asks every export, and its source may be forged.

use std::collections::HashMap;

use aoe_common::{Address, Mac};

/// Sources remembered; when there are more, those that asked for nothing lately are forgotten.
const MAX_SOURCES: usize = 1024;

/// How many times a port answers for all of its exports at once, and twice as long as that takes it to be ready to do so again.
const PORT_TIMES: u64 = 16;
/// What a port with few exports answers at once.
const PORT_LEAST: u64 = 1024;

/// Least time between two calls to advertise what the same question is about in the place of answers.
const ADVERTISING_US: u64 = 2 * SECOND_US;

/// Questions whose pace is remembered, a few for each shelf and VLAN; where more are asked all have one pace.
const MAX_QUESTIONS: usize = 64;

const SECOND_US: u64 = 1_000_000;

/// What a wildcard asks for: its address, and its VLAN as far as it has one.
type Question = (Address, Option<u16>);

/// What becomes of a question by a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Introduction {
    /// An answer to it.
    Answer,
    /// None, but the exports that it asks for are to be advertised: once, however many have asked.
    Advertise,
    /// None, but all exports are to be advertised, since too many different questions have been asked.
    AdvertiseAll,
    /// Silence.
    Silence,
}

#[derive(Debug)]
struct Bucket {
    left: u64,
    since_us: u64,
}

impl Bucket {
    fn full(size: u64, now_us: u64) -> Bucket {
        Bucket {
            left: size,
            since_us: now_us,
        }
    }

    /// Adds what has become due and takes one, if more than `kept` are there. A bucket fills in two seconds.
    fn take(&mut self, size: u64, kept: u64, now_us: u64) -> bool {
        let elapsed = now_us
            .saturating_sub(self.since_us)
            .min(SECOND_US.saturating_mul(4));
        let due = elapsed
            .saturating_mul(size)
            .div_euclid(SECOND_US.saturating_mul(2));
        if due > 0 {
            self.left = self.left.saturating_add(due).min(size);
            self.since_us = now_us;
        }
        let may_go = self.left > kept;
        if may_go {
            self.left = self.left.saturating_sub(1);
        }
        may_go
    }
}

/// Token buckets, one for the port and one for each source: a source may discover everything four times at once
/// and twice a second after that (at least 64 and 32 answers). All sources together get what a port can spare; half of it is for
/// those that an access list or mask names, since anybody can make up others. Where there is no answer, the exports that were asked
/// for are advertised instead, now and then, so that nobody is kept from discovering them. Each question has a pace of its own: who asks for
/// one shelf again and again must not keep the others from being advertised.
#[derive(Debug)]
pub(crate) struct Limiter {
    size: u64,
    port_size: u64,
    port: Bucket,
    sources: HashMap<Mac, Bucket>,
    swept_us: u64,
    advertised_us: HashMap<Question, u64>,
    all_advertised_us: Option<u64>,
}

impl Limiter {
    /// For a port with this many exports.
    pub(crate) fn new(exports: usize) -> Limiter {
        let port_size = port_size(exports);
        Limiter {
            size: (exports as u64).saturating_mul(4).max(64),
            port_size,
            port: Bucket::full(port_size, 0),
            sources: HashMap::new(),
            swept_us: 0,
            advertised_us: HashMap::new(),
            all_advertised_us: None,
        }
    }

    /// What all sources together get in the long run, of a port with this many exports.
    pub(crate) fn a_second(exports: usize) -> u64 {
        port_size(exports).div_euclid(2)
    }

    /// Whether one more answer goes to `source`, which somebody has named or not.
    pub(crate) fn take(
        &mut self,
        source: Mac,
        is_named: bool,
        question: Question,
        now_us: u64,
    ) -> Introduction {
        if self.has_its_share(source, now_us) {
            let kept = if is_named { 0 } else { self.port_size.div_euclid(2) };
            if self.port.take(self.port_size, kept, now_us) {
                return Introduction::Answer;
            }
        }
        self.in_place_of_an_answer(question, now_us)
    }

    fn in_place_of_an_answer(&mut self, question: Question, now_us: u64) -> Introduction {
        let is_recent = |last: &u64| now_us.saturating_sub(*last) < ADVERTISING_US;
        let last = self.advertised_us.get(&question);
        if last.is_some_and(is_recent) || self.all_advertised_us.as_ref().is_some_and(is_recent) {
            return Introduction::Silence;
        }
        if self.advertised_us.len() >= MAX_QUESTIONS {
            self.advertised_us.retain(|_, last| is_recent(last));
        }
        if self.advertised_us.len() >= MAX_QUESTIONS {
            self.advertised_us.clear();
            self.all_advertised_us = Some(now_us);
            return Introduction::AdvertiseAll;
        }
        self.advertised_us.insert(question, now_us);
        Introduction::Advertise
    }

    /// Whether one more is in the pace of `source` itself. Sources that find no place here are bounded by the port's pace alone.
    fn has_its_share(&mut self, source: Mac, now_us: u64) -> bool {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            // Two seconds fill any bucket: such a source is as good as new. Not for each frame of a flood.
            let filled = SECOND_US.saturating_mul(2);
            if now_us.saturating_sub(self.swept_us) >= SECOND_US.div_euclid(10) {
                self.swept_us = now_us;
                self.sources
                    .retain(|_, bucket| now_us.saturating_sub(bucket.since_us) < filled);
            }
            if self.sources.len() >= MAX_SOURCES {
                return true;
            }
        }
        let size = self.size;
        let bucket = self
            .sources
            .entry(source)
            .or_insert_with(|| Bucket::full(size, now_us));
        bucket.take(size, 0, now_us)
    }
}

/// What a port with this many exports answers at once.
fn port_size(exports: usize) -> u64 {
    (exports as u64).saturating_mul(PORT_TIMES).max(PORT_LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: Question = (
        Address {
            shelf: 0xffff,
            slot: 0xff,
        },
        Some(0),
    );

    fn mac(n: u64) -> Mac {
        Mac::from_u64(0x0200_0000_0000 | n)
    }

    fn answers(limiter: &mut Limiter, source: Mac, is_named: bool, now_us: u64) -> bool {
        limiter.take(source, is_named, EVERYTHING, now_us) == Introduction::Answer
    }

    #[test]
    fn a_source_gets_its_burst_then_its_rate() {
        let mut limiter = Limiter::new(1);
        let burst = (0..1000)
            .filter(|_| answers(&mut limiter, mac(1), false, 5))
            .count();
        assert_eq!(burst, 64);
        assert!(
            answers(&mut limiter, mac(2), false, 5),
            "another source has its own"
        );
        let later = (0..1000)
            .filter(|i| answers(&mut limiter, mac(1), false, 5 + SECOND_US + i))
            .count();
        assert_eq!(later, 32);
    }

    #[test]
    fn forged_sources_share_half_of_the_port_and_leave_the_other_half_to_named_ones() {
        let mut limiter = Limiter::new(1001);
        let at_once = (0..100_000)
            .filter(|&i| answers(&mut limiter, mac(i), false, 7))
            .count();
        assert_eq!(at_once, 1001 * 8);
        let named = mac(1 << 20);
        let of_one = (0..1001)
            .filter(|_| answers(&mut limiter, named, true, 8))
            .count();
        assert_eq!(
            of_one, 1001,
            "one that is named discovers everything all the same"
        );
        let later = (0..100_000u64)
            .filter(|&i| answers(&mut limiter, mac(i), false, SECOND_US + i))
            .count();
        assert!(later <= 1001 * 8, "{later} in a second");
        assert!(limiter.sources.len() <= MAX_SOURCES);
        assert!(
            answers(&mut limiter, mac(200_000), false, 10 * SECOND_US),
            "recovers"
        );
    }

    #[test]
    fn who_gets_no_answer_is_advertised_to_now_and_then() {
        let mut limiter = Limiter::new(1001);
        let mut advertised = |now_us| {
            let turns = (0..50_000).map(|i| limiter.take(mac(i), false, EVERYTHING, now_us));
            turns.filter(|turn| *turn == Introduction::Advertise).count()
        };
        assert_eq!(advertised(5), 1);
        assert_eq!(advertised(SECOND_US), 0);
        assert_eq!(advertised(3 * SECOND_US), 1);
    }

    #[test]
    fn who_asks_for_one_shelf_keeps_nobody_from_hearing_of_the_others() {
        let mut limiter = Limiter::new(1);
        let mut ask = |shelf, now_us| {
            let question = (Address { shelf, slot: 0xff }, Some(0));
            limiter.in_place_of_an_answer(question, now_us)
        };
        assert_eq!(ask(1, 5), Introduction::Advertise);
        assert_eq!(ask(1, 6), Introduction::Silence);
        assert_eq!(ask(0xffff, 7), Introduction::Advertise);
        let turns: Vec<_> = (2..1000).map(|shelf| ask(shelf, 8)).collect();
        let of = |wanted| turns.iter().filter(|turn| **turn == wanted).count();
        assert_eq!(
            (of(Introduction::Advertise), of(Introduction::AdvertiseAll)),
            (MAX_QUESTIONS - 2, 1)
        );
        assert_eq!(ask(1, 3 * SECOND_US), Introduction::Advertise);
    }
}
