//! Other targets on the network: two with one address make an initiator use both and corrupt the data of each.
//!
//! They are asked for whenever an export is about to be served on a link ([`search`]), and listened for while it is
//! ([`watch`]). Somebody counts as a target only when it answers IDENTIFY itself: what a stranger merely claims keeps no export
//! down.

pub(super) mod tie;
mod voice;
pub(super) mod watch;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aoe_common::Mac;

use crate::config::Vlan;
use crate::target::Address;
use tie::Serial;
use voice::HeardResponse;
pub(super) use voice::{Voices, wait};

/// How long others have to answer. A target that is awake takes well under a millisecond.
const PATIENCE: Duration = Duration::from_millis(300);
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

/// An export about to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sought {
    /// Its address.
    pub(crate) address: Address,
    /// The frames it answers.
    pub(crate) vlan: Vlan,
    /// Its serial number.
    pub(crate) serial: Serial,
}

impl Sought {
    /// The VLAN to ask on. Of an export for every VLAN the untagged network is asked.
    const fn asked_on(self) -> Option<u16> {
        match self.vlan {
            Vlan::Id(vid) => Some(vid),
            Vlan::Untagged | Vlan::Any => None,
        }
    }

    /// True when this target answers the same frames.
    pub(super) fn is(self, other: &OtherTarget) -> bool {
        self.address == other.address && self.asked_on() == other.vlan
    }
}

/// Asks on an interface which of these exports another target has, by wildcard and by each address, in the VLAN of each. Takes
/// [`PATIENCE`], twice where somebody claims one.
///
/// # Errors
/// When the interface cannot be asked on.
pub(super) fn search(interface: &str, sought: &[Sought]) -> Result<Vec<OtherTarget>> {
    let asked = || -> Result<Vec<OtherTarget>> {
        let mut voices = Voices::open(interface, sought)?;
        let claims = claims(&mut voices, sought)?;
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        confirmed(&mut voices, &claims)
    };
    asked().with_context(|| format!("cannot ask on {interface} who else is there"))
}

/// Whoever says that it has one of these addresses.
fn claims(voices: &mut Voices, sought: &[Sought]) -> Result<BTreeSet<OtherTarget>> {
    let own = own_addresses();
    let mut claims = BTreeSet::new();
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        voices.ask(sought)?;
        voices.hear_until(end.min(Instant::now() + ASK_AGAIN), |heard| {
            for claim in claimed(&heard, sought) {
                if !own.contains(&claim.mac) {
                    claims.insert(claim);
                }
            }
            true
        })?;
    }
    Ok(claims)
}

/// What a frame claims of the exports in question.
fn claimed(heard: &HeardResponse, sought: &[Sought]) -> Vec<OtherTarget> {
    let claim = |sought: &Sought| OtherTarget {
        address: sought.address,
        vlan: sought.asked_on(),
        mac: heard.mac,
    };
    sought
        .iter()
        .filter(|sought| sought.address == heard.address)
        .map(claim)
        .filter(|claim| heard.may_be_on(claim.vlan))
        .collect()
}

/// Those that answer IDENTIFY.
fn confirmed(voices: &mut Voices, claims: &BTreeSet<OtherTarget>) -> Result<Vec<OtherTarget>> {
    let mut confirmed = BTreeSet::new();
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && confirmed.len() < claims.len() {
        for claim in claims.difference(&confirmed.clone()) {
            voices.identify(claim)?;
        }
        voices.hear_until(end.min(Instant::now() + ASK_AGAIN), |heard| {
            confirmed.extend(heard.identified().filter(|other| claims.contains(other)));
            confirmed.len() < claims.len()
        })?;
    }
    Ok(confirmed.into_iter().collect())
}

/// The addresses of this host's interfaces. Who answers from one of them is this process by another path.
fn own_addresses() -> BTreeSet<Mac> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    addresses
        .filter_map(|entry| entry.address?.as_link_addr()?.addr().map(Mac))
        .collect()
}
