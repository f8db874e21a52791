//! A write with the reads that saw it, and when it took effect.

use aoe_common::Mac;

use crate::stamp::Value;

/// A moment: the number of a frame that arrived at the target, or left it.
pub type Tick = u64;

/// Not yet, or never.
pub(super) const NEVER: Tick = Tick::MAX;

/// A write and the reads that saw it.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// What was written.
    pub value: Value,
    /// Arrival of the first copy of the request.
    pub arrived: Tick,
    /// The reply that said it was done.
    pub answered: Tick,
    /// When it was answered, for its age at a power cut.
    pub answered_us: u64,
    /// When the last copy was given up without an answer; [`NEVER`] while one is there.
    pub left: Tick,
    /// The earliest reply in the cluster.
    pub first_reply: Tick,
    /// The latest arrival in the cluster.
    pub last_arrival: Tick,
    /// Its acknowledgement, or a flush after it, said that it survives a power cut.
    pub durable: bool,
    /// Who sent the first copy of it.
    pub source: Mac,
    /// Who else has sent one.
    pub others: Vec<Mac>,
    /// Its gateway was shut out then: it has happened by that moment, or never will; else [`NEVER`].
    pub barred: Tick,
    /// Tells requests apart that write the same.
    pub key: u64,
    /// A copy of it had arrived, and been answered or given up, before.
    pub repeats: bool,
}

impl Cluster {
    /// A write that arrives.
    pub fn new(value: Value, key: u64, arrived: Tick, source: Mac) -> Cluster {
        Cluster {
            value,
            arrived,
            answered: NEVER,
            answered_us: u64::MAX,
            left: NEVER,
            first_reply: NEVER,
            last_arrival: arrived,
            durable: false,
            source,
            others: Vec::new(),
            barred: NEVER,
            key,
            repeats: false,
        }
    }

    /// Everybody who has sent a copy of it.
    pub fn sources(&self) -> impl Iterator<Item = Mac> + '_ {
        std::iter::once(self.source).chain(self.others.iter().copied())
    }

    /// When it took effect at the earliest.
    pub fn low(&self) -> Tick {
        self.first_reply.min(self.last_arrival)
    }

    /// When it took effect at the latest.
    pub fn high(&self) -> Tick {
        self.first_reply.max(self.last_arrival)
    }

    /// Seen or answered: it has happened.
    pub fn happened(&self) -> bool {
        self.first_reply != NEVER
    }

    /// It has happened before the other one began.
    pub fn is_before(&self, other: &Cluster) -> bool {
        other.happened() && self.first_reply < other.low()
    }

    /// No order explains both.
    pub fn contradicts(&self, other: &Cluster) -> bool {
        if !self.happened() || !other.happened() {
            return false;
        }
        let lives = |cluster: &Cluster| cluster.first_reply < cluster.last_arrival;
        let inside = |life: &Cluster, room: &Cluster| life.low() < room.low() && room.high() < life.high();
        match (lives(self), lives(other)) {
            (true, true) => self.low() < other.high() && other.low() < self.high(),
            (true, false) => inside(self, other),
            (false, true) => inside(other, self),
            (false, false) => false,
        }
    }
}
