//! Other targets on the network: two with one address make an initiator use both and corrupt the data of each.
//!
//! They are asked for whenever an export is about to be served on a link ([`search`]), and listened for while it is
//! ([`watch`]). Somebody counts as a target only when it answers IDENTIFY itself: what a stranger merely claims keeps no export
//! down.

mod other_programs;
pub(super) mod own;
mod probe_sockets;
pub(super) mod tie;
pub(super) mod watch;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aoe_common::Mac;

use crate::config::Vlan;
use crate::target::Address;
pub(crate) use other_programs::other_aoe_programs;
use own::OwnAddresses;
pub(super) use probe_sockets::{HeardResponse, ProbeSockets, wait};
use tie::Serial;

/// How long others have to answer. A target that is awake takes well under a millisecond.
const TIMEOUT: Duration = Duration::from_millis(300);
/// Questions and answers may be lost: each is sent again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A target that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OtherTarget {
    /// Its address.
    pub(crate) address: Address,
    /// The VLAN it was heard on; `None`: untagged.
    pub(crate) vlan: Option<u16>,
    /// The port that answered.
    pub(crate) mac: Mac,
}

/// An export that other targets are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProbedExport {
    /// Its address.
    pub(crate) address: Address,
    /// The frames it answers.
    pub(crate) vlan: Vlan,
    /// Its serial number.
    pub(crate) serial: Serial,
}

impl ProbedExport {
    /// The VLANs to ask in (`None`: untagged). An export for every VLAN has no list of them: those that have a device on the interface.
    fn asked_in(self, with_device: &[u16]) -> Vec<Option<u16>> {
        match self.vlan {
            Vlan::Id(vid) => vec![Some(vid)],
            Vlan::Untagged => vec![None],
            Vlan::Any => {
                let tagged = with_device.iter().copied().map(Some);
                std::iter::once(None).chain(tagged).collect()
            }
        }
    }

    /// True when this target answers the same frames.
    pub(super) fn is(self, other: &OtherTarget) -> bool {
        let is_on = match self.vlan {
            Vlan::Id(vid) => other.vlan == Some(vid),
            Vlan::Untagged => other.vlan.is_none(),
            Vlan::Any => true,
        };
        self.address == other.address && is_on
    }
}

/// Asks on an interface which of these exports another target has, by wildcard and by each address, in the VLAN of each; of an export
/// for every VLAN untagged and in those that have a device on the interface. `own` are no others. Takes [`TIMEOUT`], twice where
/// somebody claims one.
///
/// # Errors
/// When the interface cannot be asked on.
pub(super) fn search(
    interface: &str,
    probed: &[ProbedExport],
    own: &OwnAddresses,
) -> Result<Vec<OtherTarget>> {
    let asked = || -> Result<Vec<OtherTarget>> {
        let mut sockets = ProbeSockets::open(interface, probed)?;
        let claims = claims(&mut sockets, probed, own)?;
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        confirmed(&mut sockets, &claims)
    };
    asked().with_context(|| format!("cannot ask on {interface} who else is there"))
}

/// Whoever says that it has one of these addresses.
fn claims(
    sockets: &mut ProbeSockets,
    probed: &[ProbedExport],
    own: &OwnAddresses,
) -> Result<BTreeSet<OtherTarget>> {
    let with_device = sockets.with_device().to_vec();
    let mut claims = BTreeSet::new();
    let end = Instant::now() + TIMEOUT;
    while Instant::now() < end {
        sockets.ask(probed)?;
        sockets.receive_until(end.min(Instant::now() + ASK_AGAIN), |heard| {
            let others = claimed(&heard, probed, &with_device);
            claims.extend(others.into_iter().filter(|claim| !own.contains(claim.mac)));
            true
        })?;
    }
    Ok(claims)
}

/// What a frame claims of the exports in question.
fn claimed(heard: &HeardResponse, probed: &[ProbedExport], with_device: &[u16]) -> Vec<OtherTarget> {
    let claim = |vlan| OtherTarget {
        address: heard.address,
        vlan,
        mac: heard.mac,
    };
    probed
        .iter()
        .filter(|probed| probed.address == heard.address)
        .flat_map(|probed| probed.asked_in(with_device))
        .map(claim)
        .filter(|claim| heard.may_be_on(claim.vlan))
        .collect()
}

/// Those that answer IDENTIFY.
fn confirmed(sockets: &mut ProbeSockets, claims: &BTreeSet<OtherTarget>) -> Result<Vec<OtherTarget>> {
    let mut confirmed = BTreeSet::new();
    let end = Instant::now() + TIMEOUT;
    while Instant::now() < end && confirmed.len() < claims.len() {
        for claim in claims.difference(&confirmed.clone()) {
            sockets.identify(claim)?;
        }
        sockets.receive_until(end.min(Instant::now() + ASK_AGAIN), |heard| {
            confirmed.extend(heard.identified().filter(|other| claims.contains(other)));
            confirmed.len() < claims.len()
        })?;
    }
    Ok(confirmed.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_asked_for_where_its_frames_are() {
        let address = Address { shelf: 7, slot: 3 };
        let heard_in = |vlan| OtherTarget {
            address,
            vlan,
            mac: Mac([2, 0, 0, 0, 0, 9]),
        };
        for (vlan, asked, others) in [
            (Vlan::Untagged, vec![None], [true, false, false]),
            (Vlan::Id(5), vec![Some(5)], [false, true, false]),
            (Vlan::Any, vec![None, Some(5), Some(9)], [true, true, true]),
        ] {
            let probed = ProbedExport {
                address,
                vlan,
                serial: Serial::from("x"),
            };
            assert_eq!(probed.asked_in(&[5, 9]), asked, "{vlan:?}");
            let is = [None, Some(5), Some(6)].map(|vlan| probed.is(&heard_in(vlan)));
            assert_eq!(is, others, "{vlan:?}");
        }
    }
}
