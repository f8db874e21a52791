//! What the driver of an interface says of itself, over the generic netlink families `ethtool` and `netdev`.

use serde::Serialize;

use super::genetlink::{Genetlink, attribute, each, find};

/// The attribute that tells a request to the family `ethtool` its interface.
pub(super) fn ethtool_header(index: u32) -> Vec<u8> {
    const HEADER: u16 = 1;
    const NESTED: u16 = 0x8000;
    const HEADER_INDEX: u16 = 1;
    attribute(HEADER | NESTED, &attribute(HEADER_INDEX, &index.to_ne_bytes()))
}

/// Family `ethtool`, command FEATURES_GET: the offloads that are on, and those that can be switched.
pub(crate) fn offloads(index: u32) -> Option<(Vec<String>, Vec<String>)> {
    const FEATURES_GET: u8 = 11;
    const SWITCHABLE: u16 = 2;
    const ACTIVE: u16 = 4;
    let mut netlink = Genetlink::open().ok()?;
    let family = netlink.family("ethtool").ok()?;
    let answer = netlink.ask(family, FEATURES_GET, &ethtool_header(index)).ok()?;
    Some((names(find(&answer, ACTIVE)?), names(find(&answer, SWITCHABLE)?)))
}

/// The names of the bits that are set in an ethtool bit set.
fn names(bitset: &[u8]) -> Vec<String> {
    const BITS: u16 = 3;
    const BIT_NAME: u16 = 2;
    let bits = find(bitset, BITS).unwrap_or_default();
    let name = |bit| {
        Some(
            String::from_utf8_lossy(find(bit, BIT_NAME)?)
                .trim_end_matches('\0')
                .to_owned(),
        )
    };
    each(bits).filter_map(|(_, bit)| name(bit)).collect()
}

/// The bits of `NETDEV_A_DEV_XDP_FEATURES` (Documentation/netlink/specs/netdev.yaml), and how many pieces of a frame
/// zero-copy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct XdpFeatures {
    /// The bits.
    #[serde(rename = "feature_bits")]
    pub(crate) bits: u64,
    /// Pieces of a frame in zero-copy mode; 1: no multi-buffer there.
    pub(crate) zero_copy_pieces: u32,
}

impl XdpFeatures {
    /// Native programs run, and their verdicts PASS, DROP and ABORTED hold.
    pub(crate) const fn basic(self) -> bool {
        self.bits & 1 != 0
    }
    /// Native programs can redirect, to AF_XDP sockets for example.
    pub(crate) const fn redirect(self) -> bool {
        self.bits & 2 != 0
    }
    /// Native programs run, and what they redirect is dropped.
    pub(crate) const fn lacks_redirect(self) -> bool {
        self.basic() && !self.redirect()
    }
    /// AF_XDP without a copy.
    pub(crate) const fn zero_copy(self) -> bool {
        self.bits & 8 != 0
    }
    /// Frames of several buffers can be received.
    pub(crate) const fn multi_buffer(self) -> bool {
        self.bits & 32 != 0
    }
}

/// Family `netdev` (kernel 6.3), command DEV_GET: what the driver says of XDP.
pub(crate) fn xdp_features(index: u32) -> Option<XdpFeatures> {
    const DEV_GET: u8 = 1;
    const IFINDEX: u16 = 1;
    const XDP_FEATURES: u16 = 3;
    const ZERO_COPY_PIECES: u16 = 4;
    let mut netlink = Genetlink::open().ok()?;
    let family = netlink.family("netdev").ok()?;
    let answer = netlink
        .ask(family, DEV_GET, &attribute(IFINDEX, &index.to_ne_bytes()))
        .ok()?;
    let bits = u64::from_ne_bytes(find(&answer, XDP_FEATURES)?.try_into().ok()?);
    let pieces = find(&answer, ZERO_COPY_PIECES).and_then(|value| value.try_into().ok());
    Some(XdpFeatures {
        bits,
        zero_copy_pieces: pieces.map_or(1, u32::from_ne_bytes),
    })
}
