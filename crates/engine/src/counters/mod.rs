//! What a session counts.
//!
//! One worker writes, anybody reads: plain stores, no locked instruction on the data path.

pub(crate) mod histogram;
pub(crate) mod initiators;
pub(crate) mod meter;

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread raises and others read.
#[derive(Debug, Default)]
pub struct EventCount(AtomicU64);

impl EventCount {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn add(&self, n: u64) {
        // Not fetch_add: only the session's own thread writes.
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn bump(&self) {
        self.add(1);
    }

    #[inline]
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// A session's counters.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])+ pub $name: EventCount,)+ }

        /// What sessions had counted at one moment, added up.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct CounterTotals { $($(#[$doc])+ pub $name: u64,)+ }

        impl Counters {
            /// The numbers now.
            pub fn totals(&self) -> CounterTotals {
                CounterTotals { $($name: self.$name.get(),)+ }
            }
        }

        impl CounterTotals {
            /// Adds what another session counted.
            pub fn add(&mut self, other: &CounterTotals) {
                $(self.$name = self.$name.saturating_add(other.$name);)+
            }

            /// All of them by name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)+]
            }
        }
    };
}

counters! {
    /// Frames given to the session.
    frames,
    /// READ commands of all kinds.
    reads,
    /// WRITE commands of all kinds.
    writes,
    /// Sectors sent in replies to reads.
    sectors_read,
    /// Sectors of writes that were acknowledged.
    sectors_written,
    /// FLUSH CACHE and the power commands that flush.
    flushes,
    /// DATA SET MANAGEMENT.
    trims,
    /// IDENTIFY DEVICE.
    identifies,
    /// Other ATA commands, supported or not.
    other_ata,
    /// Query Config.
    queries,
    /// MAC Mask List.
    masks,
    /// Reserve/Release.
    reserves,
    /// Unknown AoE commands to an export of ours.
    unknown_commands,
    /// Replies sent, errors included.
    replies,
    /// Advertisements sent.
    advertisements,
    /// Replies with an ATA error status.
    ata_errors,
    /// Replies with the AoE error flag.
    aoe_errors,
    /// Operations that the store finished later.
    deferred,
    /// Requests that waited for one that overlaps them.
    waited,
    /// Requests that were in flight already: run once, the newest requester is answered.
    duplicates,
    /// Frames that have less than their own headers say.
    cut,
    /// Late duplicates of writes that were answered, not run again.
    late_answered,
    /// Silent: no AoE frame, or a VLAN stack of more than two tags.
    silent_not_aoe,
    /// Silent: shorter than the command's fixed part.
    silent_runt,
    /// Silent: a response.
    silent_response,
    /// Silent: sent to an address that is not the port's.
    silent_destination,
    /// Silent: a source that is zero, a group or the port itself.
    silent_source,
    /// Silent: no export with this shelf, slot and VLAN.
    silent_no_export,
    /// Silent: source not on the access list or the MAC mask.
    silent_denied,
    /// Silent: not allowed with a wildcard address or to the broadcast MAC.
    silent_wildcard,
    /// Silent: Query Config test or prefix that does not match.
    silent_no_match,
    /// Silent: over the limit on answers to wildcards.
    silent_limited,
    /// Silent: the export has as many requests in flight as it takes.
    silent_full,
    /// Silent: no memory for the reply.
    silent_no_memory,
    /// Silent: replaced by a newer duplicate.
    silent_superseded,
    /// Silent: a late duplicate of a write whose sectors have been written again since.
    silent_stale,
    /// Silent: a write, TRIM or change that had waited for longer than `stale_after` before it was looked at.
    silent_old,
    /// Silent: a change that could not be saved.
    silent_unsaved,
    /// Silent: the operator has paused the export.
    silent_paused,
    /// Silent: another client has taken the store's place.
    silent_fenced,
}

/// Why a request gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    NotAoe,
    Runt,
    Response,
    Destination,
    Source,
    NoExport,
    Denied,
    Wildcard,
    NoMatch,
    Limited,
    Full,
    NoMemory,
    Superseded,
    Stale,
    Old,
    Unsaved,
    Paused,
    Fenced,
}

impl Counters {
    #[inline]
    pub(crate) fn silent(&self, why: Silence) {
        let counter = match why {
            Silence::NotAoe => &self.silent_not_aoe,
            Silence::Runt => &self.silent_runt,
            Silence::Response => &self.silent_response,
            Silence::Destination => &self.silent_destination,
            Silence::Source => &self.silent_source,
            Silence::NoExport => &self.silent_no_export,
            Silence::Denied => &self.silent_denied,
            Silence::Wildcard => &self.silent_wildcard,
            Silence::NoMatch => &self.silent_no_match,
            Silence::Limited => &self.silent_limited,
            Silence::Full => &self.silent_full,
            Silence::NoMemory => &self.silent_no_memory,
            Silence::Superseded => &self.silent_superseded,
            Silence::Stale => &self.silent_stale,
            Silence::Old => &self.silent_old,
            Silence::Unsaved => &self.silent_unsaved,
            Silence::Paused => &self.silent_paused,
            Silence::Fenced => &self.silent_fenced,
        };
        counter.bump();
    }
}
