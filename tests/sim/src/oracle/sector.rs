//! One sector's history, judged while it is made: is there an order of its writes and reads, each at some moment between its
//! arrival and its reply, in which every read sees the latest write?
//!
//! The criterion is Gibbons' and Korach's for registers ("Testing shared memories", 1997): a write and the reads that saw it are a
//! cluster. A value lives at least from the first reply in its cluster to the last arrival (a life), or has room for a moment
//! somewhere between the last arrival and the first reply. No two lives overlap, and no cluster has its only room inside
//! another's life.
//!
//! Time is the oracle's count of frames that arrived and left.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use aoe_common::Mac;

use super::cluster::{Cluster, NEVER, Tick};

use crate::stamp::{INITIAL, Value};

/// A request that may have just been carried out at a sector.
#[derive(Debug, Clone)]
pub struct Copy {
    /// What the sector holds now.
    pub value: Value,
    /// What tells the write from others.
    pub key: u64,
    /// When the request arrived.
    pub arrived: Tick,
    /// Whose it is.
    pub source: Mac,
}

/// The history of one sector.
#[derive(Debug, Clone)]
pub struct Sector {
    /// Oldest first by arrival.
    pub clusters: Vec<Cluster>,
    /// Pruned, with their first replies: what a power cut may still bring back.
    past: Vec<(Value, Tick)>,
    /// All writes that have arrived since the process began: it may answer a late copy without carrying it out.
    arrived: BTreeSet<u64>,
    /// A failed commit took something of it: anything may be read until the next write that is answered.
    pub damaged: bool,
    /// When the medium put other contents there, or a write ended the damage. A read that arrived before may have seen either.
    settled: Tick,
}

impl Default for Sector {
    fn default() -> Sector {
        Sector::holding(INITIAL, 0, Mac::ZERO)
    }
}

impl Sector {
    /// A sector that holds this value for certain.
    pub fn holding(value: Value, tick: Tick, source: Mac) -> Sector {
        let mut cluster = Cluster::new(value, value, tick, source);
        (
            cluster.answered,
            cluster.first_reply,
            cluster.durable,
            cluster.answered_us,
        ) = (tick, tick, true, 0);
        Sector {
            clusters: vec![cluster],
            past: Vec::new(),
            arrived: BTreeSet::new(),
            damaged: false,
            settled: 0,
        }
    }

    /// The medium holds this value from now on, whatever was written; writes under way go on.
    pub fn settle(&mut self, value: Value, tick: Tick) {
        let under_way: Vec<_> = self.under_way().collect();
        let arrived = std::mem::take(&mut self.arrived);
        *self = Sector::holding(value, tick, Mac::ZERO);
        self.clusters.extend(under_way);
        (self.arrived, self.settled) = (arrived, tick);
    }

    /// The process is gone, and with it what it knew of earlier writes: a new one carries out every copy that it answers.
    pub fn process_gone(&mut self) {
        self.arrived.clear();
    }

    /// A write arrives. A copy of one that has not been answered is the same write; `key` tells that.
    pub fn write_arrives(&mut self, value: Value, key: u64, tick: Tick, source: Mac) {
        let open =
            |cluster: &&mut Cluster| cluster.key == key && cluster.answered == NEVER && cluster.left == NEVER;
        match self.clusters.iter_mut().rev().find(open) {
            None => {
                let mut cluster = Cluster::new(value, key, tick, source);
                cluster.repeats = !self.arrived.insert(key);
                self.clusters.push(cluster);
            }
            Some(cluster) if cluster.sources().any(|other| other == source) => {}
            Some(cluster) => cluster.others.push(source),
        }
    }

    /// A copy of a write is carried out. If the write has happened before, this is another one, however early the copy arrived:
    /// no target can tell the two apart, as long as the copy is young.
    pub fn carried_out(&mut self, copy: &Copy) {
        let mut same = self
            .clusters
            .iter()
            .filter(|cluster| cluster.key == copy.key)
            .peekable();
        let is_known = same.peek().is_some();
        if is_known && same.all(|cluster| cluster.happened() || cluster.left != NEVER) {
            self.clusters
                .push(Cluster::new(copy.value, copy.key, copy.arrived, copy.source));
        }
    }

    /// The write that an answer to a request that arrived at `arrived` is about.
    fn written(&mut self, key: u64, arrived: Tick) -> Option<usize> {
        self.clusters
            .iter()
            .rposition(|cluster| cluster.key == key && cluster.arrived <= arrived)
    }

    /// A write is answered with success. `optional`: it may have been answered for an earlier copy. False: it may not have been carried
    /// out again.
    ///
    /// # Errors
    /// What it contradicts.
    pub fn write_answered(
        &mut self,
        key: u64,
        arrived: Tick,
        tick: Tick,
        now_us: u64,
        optional: bool,
    ) -> Result<bool, Value> {
        let Some(at) = self.written(key, arrived) else {
            return Ok(false);
        };
        let cluster = &mut self.clusters[at];
        let again = optional && cluster.repeats;
        if cluster.answered != NEVER {
            return Ok(false);
        }
        (cluster.answered, cluster.answered_us) = (tick, now_us);
        if again {
            return Ok(false);
        }
        cluster.first_reply = cluster.first_reply.min(tick).min(cluster.barred);
        if std::mem::take(&mut self.damaged) {
            // From here on only what may come after this write counts.
            let kept = self.clusters[at].clone();
            let past = &mut self.past;
            self.clusters.retain(|cluster| {
                // It may be on the medium still, for a power cut before the next commit to bring back.
                if cluster.happened() {
                    past.push((cluster.value, cluster.first_reply));
                }
                !cluster.happened()
            });
            self.clusters.push(kept);
            self.settled = tick;
            return Ok(true);
        }
        self.judge(at).map(|()| true)
    }

    fn judge(&self, at: usize) -> Result<(), Value> {
        let cluster = &self.clusters[at];
        let against = self
            .clusters
            .iter()
            .enumerate()
            .find(|(other, one)| *other != at && one.contradicts(cluster));
        against.map_or(Ok(()), |(_, one)| Err(one.value))
    }

    /// A read is answered with this value.
    ///
    /// # Errors
    /// When no order explains it: the value that should have been seen, or that nobody wrote what was.
    pub fn read_answered(&mut self, value: Value, arrived: Tick, tick: Tick) -> Result<(), Option<Value>> {
        if self.damaged || arrived < self.settled {
            return Ok(());
        }
        let mut against = None;
        for at in 0..self.clusters.len() {
            let cluster = &mut self.clusters[at];
            if cluster.value != value || cluster.arrived > tick {
                continue;
            }
            let before = (cluster.first_reply, cluster.last_arrival);
            cluster.first_reply = before.0.min(tick).min(cluster.barred);
            cluster.last_arrival = before.1.max(arrived);
            match self.judge(at) {
                Ok(()) => return Ok(()),
                Err(value) => against = Some(value),
            }
            (self.clusters[at].first_reply, self.clusters[at].last_arrival) = before;
        }
        Err(against)
    }

    /// No copy of any write is there any more: those without an answer have happened by now or never will.
    pub fn all_left(&mut self, key: u64, tick: Tick) {
        for cluster in self
            .clusters
            .iter_mut()
            .filter(|cluster| cluster.key == key && cluster.left == NEVER)
        {
            cluster.left = tick;
        }
    }

    /// The gateway that has this write is shut out: it has happened by now or never will, and what comes of it elsewhere is another.
    pub fn bar(&mut self, key: u64, tick: Tick) {
        let open = |cluster: &&mut Cluster| cluster.key == key && cluster.answered == NEVER;
        for cluster in self.clusters.iter_mut().filter(open) {
            cluster.left = cluster.left.min(tick);
            cluster.barred = cluster.barred.min(tick);
        }
    }

    /// Whether a write with this value that is carried out now was answered before newer ones were; the newer one.
    pub fn is_stale(&self, value: Value) -> Option<Value> {
        if self.damaged {
            return None;
        }
        let mut newer = None;
        for cluster in self.clusters.iter().filter(|cluster| cluster.value == value) {
            let end = cluster.first_reply.min(cluster.barred);
            if cluster.answered == NEVER && cluster.barred == NEVER {
                return None;
            }
            let overwritten = self
                .clusters
                .iter()
                .find(|other| other.answered != NEVER && other.happened() && end < other.low());
            newer = Some(overwritten?.value);
        }
        newer
    }

    /// Whether a copy that arrived at this moment is of a write that was answered after it, and overwritten since; by what.
    pub fn overwritten(&self, key: u64, arrived: Tick) -> Option<Value> {
        let of = |cluster: &&Cluster| {
            cluster.key == key && cluster.arrived <= arrived && arrived < cluster.answered
        };
        let cluster = self.clusters.iter().rfind(of)?;
        let newer = |other: &&Cluster| {
            other.answered != NEVER && cluster.answered != NEVER && cluster.is_before(other)
        };
        self.clusters.iter().find(newer).map(|other| other.value)
    }

    /// Whose write it is that is carried out now, if none who sent it may write.
    pub fn refused(&self, value: Value, may_write: impl Fn(Mac) -> bool) -> Option<Mac> {
        let mut refused = None;
        for cluster in self.clusters.iter().filter(|cluster| cluster.value == value) {
            if cluster.answered != NEVER || cluster.sources().any(&may_write) {
                return None;
            }
            refused = Some(cluster.source);
        }
        refused
    }

    /// Writes that have not been answered and may yet be.
    pub fn under_way(&self) -> impl Iterator<Item = Cluster> + '_ {
        let open = |cluster: &&Cluster| cluster.answered == NEVER && cluster.left == NEVER;
        self.clusters.iter().filter(open).cloned()
    }

    /// Forgets what no later read can see: overwritten, for certain, before `horizon`, the earliest arrival that still waits.
    pub fn prune(&mut self, horizon: Tick) {
        if self.clusters.len() < 3 {
            return;
        }
        let ends = |cluster: &Cluster| {
            if cluster.happened() {
                cluster.first_reply
            } else {
                cluster.left
            }
        };
        // The latest beginning among those that are over.
        let newest = self
            .clusters
            .iter()
            .filter(|cluster| cluster.happened() && cluster.high() < horizon)
            .map(Cluster::low)
            .max()
            .unwrap_or(0);
        let past = &mut self.past;
        self.clusters.retain(|cluster| {
            let keeps = ends(cluster) >= newest || (!cluster.happened() && cluster.left == NEVER);
            if !keeps {
                past.push((cluster.value, ends(cluster)));
            }
            keeps
        });
    }

    /// Everything that was answered before `tick` survives a power cut.
    pub fn harden(&mut self, tick: Tick) {
        let mut floor = 0;
        for cluster in self.clusters.iter_mut().filter(|cluster| cluster.answered < tick) {
            cluster.durable = true;
            floor = floor.max(cluster.low());
        }
        self.past.retain(|(_, first_reply)| *first_reply >= floor);
    }

    /// The write with this value was answered as durable.
    pub fn hardened(&mut self, key: u64) {
        let written = self
            .clusters
            .iter_mut()
            .rev()
            .find(|cluster| cluster.key == key && cluster.answered != NEVER);
        let Some(written) = written else { return };
        written.durable = true;
        let floor = written.low();
        self.past.retain(|(_, first_reply)| *first_reply >= floor);
    }

    /// Judges what a power cut, or the end of the process, has left: `None` when it is older than what had to survive.
    /// `must` says which writes had to.
    pub fn survives(&self, value: Value, must: impl Fn(&Cluster) -> bool) -> Result<(), Option<Value>> {
        if self.damaged {
            return Ok(());
        }
        let mut missing = None;
        let now = self.clusters.iter().filter(|cluster| cluster.value == value);
        let ends = now.map(|cluster| cluster.first_reply.min(cluster.barred));
        let past = self
            .past
            .iter()
            .filter(|(past, _)| *past == value)
            .map(|(_, first_reply)| *first_reply);
        for first_reply in ends.chain(past) {
            match self
                .clusters
                .iter()
                .find(|cluster| cluster.happened() && must(cluster) && first_reply < cluster.low())
            {
                None => return Ok(()),
                Some(newer) => missing = Some(newer.value),
            }
        }
        Err(missing)
    }
}
