//! Other targets on the network: asked for before anything is served, because two targets with one address make an
//! initiator use both and corrupt the data of each.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result};
use aoe_common::Mac;

use crate::config::interfaces::Interface;
use crate::initiator::Client;
use crate::target::Address;

/// How long others have to answer. A target that is awake takes well under a millisecond.
const PATIENCE: Duration = Duration::from_millis(300);

/// A target that answered.
#[derive(Debug)]
pub(super) struct Neighbour {
    /// Its address.
    pub address: Address,
    /// The port that answered.
    pub mac: Mac,
}

/// An export about to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sought {
    /// Its address.
    pub address: Address,
}

/// Asks on an interface which of these addresses another target has; answers from `own` addresses do not count. Blocks.
///
/// Only untagged frames are sent: targets on other VLANs are not found.
///
/// # Errors
/// When the interface cannot be asked on.
pub(super) fn search(interface: &Interface, sought: &[Sought], own: &HashSet<Mac>) -> Result<Vec<Neighbour>> {
    let asked = || -> Result<_> { Ok(Client::open(&interface.name)?.discover(None, PATIENCE)?) };
    let answers = asked().with_context(|| format!("cannot ask on {} who else is there", interface.name))?;
    let sought: HashSet<Address> = sought.iter().map(|sought| sought.address).collect();
    let neighbours = answers.into_iter().map(|found| Neighbour {
        address: Address {
            shelf: found.shelf,
            slot: found.slot,
        },
        mac: found.mac,
    });
    Ok(neighbours
        .filter(|neighbour| sought.contains(&neighbour.address) && !own.contains(&neighbour.mac))
        .collect())
}
