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
    /// Where it was heard.
    pub interface: Interface,
}

/// Asks on all interfaces at the same time who is there; answers from `own` addresses do not count.
///
/// Only untagged frames are sent: targets on other VLANs are not found.
pub(super) fn look_around(interfaces: &[Interface], own: &HashSet<Mac>) -> Result<Vec<Neighbour>> {
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        let asking: Vec<_> = interfaces
            .iter()
            .filter(|i| i.up)
            .map(|interface| (interface, scope.spawn(|| ask(interface))))
            .collect();
        for (interface, thread) in asking {
            let answers = thread.join().expect("asking does not panic");
            let answers =
                answers.with_context(|| format!("cannot ask on {} who else is there", interface.name))?;
            found.extend(
                answers
                    .into_iter()
                    .filter(|neighbour| !own.contains(&neighbour.mac)),
            );
        }
        Ok(found)
    })
}

fn ask(interface: &Interface) -> Result<Vec<Neighbour>> {
    let answers = Client::open(&interface.name)?.discover(None, PATIENCE)?;
    let neighbour = |found: crate::initiator::Found| Neighbour {
        address: Address {
            shelf: found.shelf,
            slot: found.slot,
        },
        mac: found.mac,
        interface: interface.clone(),
    };
    Ok(answers.into_iter().map(neighbour).collect())
}
