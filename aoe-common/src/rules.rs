//! The types of the eBPF maps: what the user half writes for the kernel half to decide by, and what it counts.
//!
//! Everything that crosses is packed into 64-bit numbers: both halves agree on a layout without `unsafe`, hashing
//! is quick, and a single store replaces [`FilterState`] as a whole.
//!
//! The filter looks a frame up twice. **Exports**: [`export_key`] (generation, VLAN, shelf, slot) gives an
//! [`ExportEntry`]; wildcards of the protocol, shelf 0xffff and slot 0xff, are entries like any other, which the user
//! half makes from all exports they stand for. **Sources**: unless that access is open to everyone, its list and
//! the source address ([`source_key`]) must have an entry. Exports with equal lists share one list id, so 4096
//! exports with one list of 16 384 addresses cost one list.
//!
//! Rules are replaced by generation: the new ones are written beside the old ones, [`FilterState`] changes over in one
//! store, and the old ones go when no frame can be under way with them any more.

use crate::Mac;

/// What happens to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the network stack of this host.
    Pass,
    /// It goes nowhere.
    Drop,
    /// It goes to the AF_XDP socket of its queue.
    Redirect,
}

/// The rows of the verdict table: why a frame went where it went. Each has a per-CPU counter of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Counter {
    /// Another EtherType.
    Foreign,
    /// An AoE response: an initiator may live on this host.
    Response,
    /// An address that no export here has: another target may live on this host.
    NotOurs,
    /// Too short for an AoE header.
    Runt,
    /// Another version of the protocol, to a wildcard or to everyone. (To one export it gets an answer.)
    BadVersion,
    /// The source is a group, zero or this port itself.
    BadSource,
    /// Neither to this port nor to everyone: for who is behind a bridge or has a macvlan over the interface.
    OtherDestination,
    /// The source is on no access list of what it asks for.
    Denied,
    /// The source is over its rate limit.
    RateLimited,
    /// No AF_XDP socket on the queue the frame came in by.
    NoSocket,
    /// Handed to user space.
    Redirected,
}

impl Counter {
    /// Every counter, at the index of its number.
    pub const ALL: [Counter; 11] = [
        Counter::Foreign,
        Counter::Response,
        Counter::NotOurs,
        Counter::Runt,
        Counter::BadVersion,
        Counter::BadSource,
        Counter::OtherDestination,
        Counter::Denied,
        Counter::RateLimited,
        Counter::NoSocket,
        Counter::Redirected,
    ];

    /// How many there are.
    pub const COUNT: usize = Counter::ALL.len();

    /// What becomes of the frames counted here.
    pub const fn verdict(self) -> Verdict {
        match self {
            Counter::Foreign | Counter::Response | Counter::NotOurs | Counter::OtherDestination => {
                Verdict::Pass
            }
            Counter::Redirected => Verdict::Redirect,
            _ => Verdict::Drop,
        }
    }

    /// A short name, as metrics have it.
    pub const fn name(self) -> &'static str {
        match self {
            Counter::Foreign => "foreign",
            Counter::Response => "response",
            Counter::NotOurs => "not_ours",
            Counter::Runt => "runt",
            Counter::BadVersion => "bad_version",
            Counter::BadSource => "bad_source",
            Counter::OtherDestination => "other_destination",
            Counter::Denied => "denied",
            Counter::RateLimited => "rate_limited",
            Counter::NoSocket => "no_socket",
            Counter::Redirected => "redirected",
        }
    }

    /// One line for people.
    pub const fn description(self) -> &'static str {
        match self {
            Counter::Foreign => "passed: not AoE",
            Counter::Response => "passed: AoE responses, for an initiator on this host",
            Counter::NotOurs => "passed: for a shelf, slot or VLAN that no export on this port has",
            Counter::Runt => "dropped: too short for an AoE header",
            Counter::BadVersion => "dropped: another AoE version, not addressed to one export",
            Counter::BadSource => "dropped: source address is a group, zero or this port's own",
            Counter::OtherDestination => "passed: addressed neither to this port nor to everyone",
            Counter::Denied => "dropped: the source is not on the access list",
            Counter::RateLimited => "dropped: the source is over its rate limit",
            Counter::NoSocket => "dropped: no AF_XDP socket on the receive queue",
            Counter::Redirected => "handed to xblade",
        }
    }
}

/// Where a frame belongs as far as VLANs go; 13 bits.
///
/// Exports for untagged frames have [`VlanClass::UNTAGGED`], which priority-tagged frames (VID 0) share; exports of
/// one VLAN have its id. Frames with two tags, with a service tag (IEEE 802.1ad: another space of ids) or with the
/// reserved VID 4095 are [`VlanClass::OTHER`]: only an export for any frame ([`VlanClass::ANY`]) can see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VlanClass(u16);

impl VlanClass {
    /// Untagged and priority-tagged frames.
    pub const UNTAGGED: VlanClass = VlanClass(0);
    /// Frames that no export of one VLAN takes.
    pub const OTHER: VlanClass = VlanClass(0x1000);
    /// Exports that take any frame; no frame is of this class.
    pub const ANY: VlanClass = VlanClass(0x1001);

    /// The class of VLAN `vid`, 1 to 4094; 0 is [`VlanClass::UNTAGGED`], others are [`VlanClass::OTHER`].
    pub const fn id(vid: u16) -> VlanClass {
        if vid < 4095 {
            VlanClass(vid)
        } else {
            VlanClass::OTHER
        }
    }

    /// The number, to be packed and shown.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The inverse of [`VlanClass::bits`].
    const fn from_bits(bits: u16) -> VlanClass {
        VlanClass(bits & 0x1fff)
    }
}

/// Which of two sets of rules is in force. Two are enough: the old one is removed before the next is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Generation(bool);

impl Generation {
    /// The one to write while this one is in force.
    pub const fn other(self) -> Generation {
        Generation(!self.0)
    }

    const fn bit(self) -> u64 {
        (self.0 as u64) << 63
    }
}

/// What the kernel half reads first for every request: one number, so that it changes as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterState(pub u64);

impl FilterState {
    const ANY_VLAN: u64 = 1 << 62;

    /// `any_vlan`: some export takes any frame, so a second look is needed where the first finds nothing.
    pub const fn new(generation: Generation, any_vlan: bool, own: Mac) -> FilterState {
        FilterState(generation.bit() | if any_vlan { FilterState::ANY_VLAN } else { 0 } | own.to_u64())
    }

    /// The rules in force.
    pub const fn generation(self) -> Generation {
        Generation(self.0 >> 63 != 0)
    }

    /// Whether some export takes frames of any VLAN.
    pub const fn any_vlan(self) -> bool {
        self.0 & FilterState::ANY_VLAN != 0
    }

    /// The port's address, as [`Mac::to_u64`] has it.
    pub const fn own(self) -> u64 {
        self.0 & MAC_BITS
    }
}

/// Where the map of the [`FilterState`] holds the mark of frames that user space has put back on the receive path; 0: there are none.
pub const RETURNED: u32 = 1;

/// Bytes of that mark, big-endian, at the end of such a frame.
pub const RETURNED_BYTES: usize = 8;

/// Bytes that the filter leaves in front of a frame for user space, as XDP metadata: [`STAMP_MARK`], then the time of arrival in
/// nanoseconds of `CLOCK_MONOTONIC`, both in the machine's byte order.
pub const STAMP_BYTES: usize = 16;

/// The first word of a stamp: a driver without room for metadata leaves anything there.
pub const STAMP_MARK: u64 = u64::from_be_bytes(*b"AoEstamp");

/// When the frame behind these bytes arrived, in nanoseconds of `CLOCK_MONOTONIC`; `None` where they are no stamp.
pub fn stamp_ns(bytes: &[u8; STAMP_BYTES]) -> Option<u64> {
    let (mark, time) = bytes.split_at(8);
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    (word(mark) == STAMP_MARK).then(|| word(time))
}

/// The low 48 bits of a key that holds an Ethernet address.
const MAC_BITS: u64 = (1 << 48) - 1;

/// The address an export is asked by: VLAN, shelf and slot in one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target(pub u64);

impl Target {
    /// Packs the address; wildcards stay as they are on the wire.
    pub const fn new(vlan: VlanClass, shelf: u16, slot: u8) -> Target {
        Target((vlan.bits() as u64) << 24 | (shelf as u64) << 8 | slot as u64)
    }

    /// The VLAN it was asked on.
    pub const fn vlan(self) -> VlanClass {
        VlanClass::from_bits((self.0 >> 24) as u16)
    }

    /// Major address.
    pub const fn shelf(self) -> u16 {
        (self.0 >> 8) as u16
    }

    /// Minor address.
    pub const fn slot(self) -> u8 {
        self.0 as u8
    }
}

/// Key of an export (or wildcard) in the map of exports; the value is [`ExportEntry::to_u64`].
pub const fn export_key(generation: Generation, target: Target) -> u64 {
    generation.bit() | target.0
}

/// Who may use an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExportEntry {
    /// The list of sources, 1 to [`ExportEntry::MAX_LIST`]; 0: everyone.
    pub list: u16,
    /// Time that each frame takes of a source without a rate of its own; 0: no limit.
    pub interval_ns: u32,
}

impl ExportEntry {
    /// The largest list id: it shares 16 bits with the generation.
    pub const MAX_LIST: u16 = 0x7fff;

    /// The value in the map of exports.
    pub const fn to_u64(self) -> u64 {
        (self.list as u64) << 32 | self.interval_ns as u64
    }

    /// The inverse of [`ExportEntry::to_u64`].
    pub const fn from_u64(value: u64) -> ExportEntry {
        ExportEntry {
            list: (value >> 32) as u16,
            interval_ns: value as u32,
        }
    }
}

/// In place of a list in the map of sources: its members are the addresses besides the port's own that frames may be sent to.
pub const STATIONS: u16 = 0;

/// Key of a member in the map of sources; the value is its own interval in ns, 0 where it has none.
///
/// `source` as [`Mac::to_u64`] has it.
pub const fn source_key(generation: Generation, list: u16, source: u64) -> u64 {
    generation.bit() | (list as u64) << 48 | source
}

/// A source may be this far ahead of its rate: bursts are how initiators work.
const BURST_NS: u64 = 50_000_000;

/// And this many frames ahead, however low its rate: Linux sends up to 64 requests at once.
const BURST_FRAMES: u64 = 64;

/// The time between frames at `rate` frames a second.
///
/// Rounded up, so that a source never gets more than was written; a rate of 0 is one frame in four seconds.
pub const fn interval_ns(rate: u32) -> u32 {
    if rate == 0 {
        u32::MAX
    } else {
        1_000_000_000u32.div_ceil(rate)
    }
}

/// The token bucket: when a source, whose bucket is spent until `spent_until_ns`, sends a frame at `now_ns`.
///
/// Every frame moves the time until which the bucket is spent on by `interval_ns`; a frame that would come too far
/// ahead of its time is refused. Frames to exports with different limits draw on the same bucket, each with the
/// interval that holds there. Sources are told apart by address alone: who forges addresses has as many buckets, and
/// only an access list helps. Gives the new time, or `None` to refuse.
pub const fn admit(spent_until_ns: u64, now_ns: u64, interval_ns: u32) -> Option<u64> {
    let interval = interval_ns as u64;
    let slack = interval * BURST_FRAMES;
    let slack = if slack > BURST_NS { slack } else { BURST_NS };
    let from = if spent_until_ns > now_ns {
        spent_until_ns
    } else {
        now_ns
    };
    if from - now_ns >= slack {
        None
    } else {
        Some(from + interval)
    }
}

/// What the program counts of a denied source until user space takes it: frames, and the last [`Target`] asked for.
pub type DeniedValue = [u64; 2];

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::collections::HashSet;

    #[test]
    fn counters_stand_at_their_numbers_and_have_names_of_their_own() {
        let mut names = HashSet::new();
        for (i, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, i);
            assert!(names.insert(counter.name()));
            let starts = match counter.verdict() {
                Verdict::Pass => "passed: ",
                Verdict::Drop => "dropped: ",
                Verdict::Redirect => "handed to",
            };
            assert!(counter.description().starts_with(starts), "{counter:?}");
        }
    }

    #[test]
    fn vlan_classes_do_not_meet() {
        assert_eq!(VlanClass::id(0), VlanClass::UNTAGGED);
        assert_eq!(VlanClass::id(4095), VlanClass::OTHER);
        let step = if cfg!(miri) { 91 } else { 1 };
        let ids = (0..4095).step_by(step);
        let all: HashSet<u16> = ids.clone().map(|vid| VlanClass::id(vid).bits()).collect();
        assert_eq!(all.len(), ids.len());
        for special in [VlanClass::OTHER, VlanClass::ANY] {
            assert!(!all.contains(&special.bits()));
            assert_eq!(VlanClass::from_bits(special.bits()), special);
        }
    }

    #[test]
    fn keys_keep_their_parts_apart() {
        let old = Generation::default();
        let mut keys = HashSet::new();
        for generation in [old, old.other()] {
            for vlan in [
                VlanClass::UNTAGGED,
                VlanClass::id(1),
                VlanClass::OTHER,
                VlanClass::ANY,
            ] {
                for (shelf, slot) in [(0, 0), (0, 1), (1, 0), (0xffff, 0), (0, 0xff), (0xffff, 0xff)] {
                    let target = Target::new(vlan, shelf, slot);
                    assert_eq!(
                        (target.vlan(), target.shelf(), target.slot()),
                        (vlan, shelf, slot)
                    );
                    assert!(keys.insert(export_key(generation, target)));
                }
            }
        }
        let mut keys = HashSet::new();
        for generation in [old, old.other()] {
            for list in [STATIONS, 1, 2, ExportEntry::MAX_LIST] {
                for source in [1, 2, MAC_BITS] {
                    assert!(keys.insert(source_key(generation, list, source)));
                }
            }
        }
    }

    #[test]
    fn state_and_access_survive_packing() {
        let own = Mac([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
        for generation in [Generation::default(), Generation::default().other()] {
            for any in [false, true] {
                let state = FilterState::new(generation, any, own);
                assert_eq!(
                    (state.generation(), state.any_vlan(), state.own()),
                    (generation, any, own.to_u64())
                );
            }
        }
        let access = ExportEntry {
            list: ExportEntry::MAX_LIST,
            interval_ns: u32::MAX,
        };
        assert_eq!(ExportEntry::from_u64(access.to_u64()), access);
    }

    #[test]
    fn intervals_never_give_more_than_the_rate() {
        assert_eq!(interval_ns(0), u32::MAX);
        assert_eq!(interval_ns(1), 1_000_000_000);
        assert_eq!(interval_ns(50_000), 20_000);
        assert_eq!(interval_ns(3), 333_333_334);
        assert_eq!(interval_ns(u32::MAX), 1);
    }

    /// Frames that a source gets through when it sends without pause for `duration_ns`.
    fn admitted(rate: u32, duration_ns: u64, step_ns: u64) -> u64 {
        let start = 1_000_000_000_000;
        let (mut spent, mut now, mut count) = (0, start, 0);
        while now < start + duration_ns {
            if let Some(until) = admit(spent, now, interval_ns(rate)) {
                spent = until;
                count += 1;
            }
            now += step_ns;
        }
        count
    }

    #[test]
    fn a_bucket_holds_its_rate_and_its_burst() {
        // 10 s at four times the rate of 1000/s: the rate, and the burst of 64 frames at the start.
        let count = admitted(1000, 10_000_000_000, 250_000);
        assert!((10_000..=10_066).contains(&count), "{count}");
        // Fast links: 50 ms ahead.
        let parts = if cfg!(miri) { 100 } else { 1 };
        let count = admitted(1_000_000, 1_000_000_000 / parts, 500);
        let expected = 1_000_000 / parts;
        assert!((expected..=expected + 50_002).contains(&count), "{count}");
        // Below its rate a source loses nothing.
        assert_eq!(admitted(1000, 1_000_000_000, 1_000_000), 1000);
        // An idle hour saves no tokens beyond the burst: what is past is past.
        assert_eq!(admit(5, 3_600_000_000_000, 1000), Some(3_600_000_001_000));
    }
}
