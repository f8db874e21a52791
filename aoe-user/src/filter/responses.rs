//! The load generator's program: answers go to its sockets, everything else to the network stack.

use std::os::fd::BorrowedFd;

use aoe_common::Mac;
use aoe_common::rules::{FilterState, Generation};
use aya::Ebpf;
use aya::maps::{Array, MapData, XskMap};
use aya::programs::links::FdLink;

use super::{Attach, FilterError, link, load_small, map};

pub(super) const PROGRAM: &str = "aoe_responses";

/// Takes the answers on one interface out of the network stack, for as long as it is attached: untagged AoE responses to the
/// interface's address whose tag has [`TAG_OF_USER_SPACE`](aoe_common::wire::aoe::TAG_OF_USER_SPACE).
///
/// The interface is an ordinary one again as soon as this is dropped, or its process ended in whatever way.
pub(crate) struct Responses {
    // First, so that it is dropped first.
    link: Option<FdLink>,
    pub(super) ebpf: Ebpf,
    sockets: XskMap<MapData>,
}

impl Responses {
    /// Loads the program for an interface with address `mac`. Nothing is attached yet.
    ///
    /// Needs what [`Filter::load`](super::Filter::load) needs.
    pub(crate) fn load(mac: Mac) -> Result<Responses, FilterError> {
        let mut ebpf = load_small(PROGRAM, &[])?;
        let mut state: Array<MapData, u64> = map(&mut ebpf, "STATE", "state")?;
        let own = FilterState::new(Generation::default(), false, mac);
        state.set(0, own.0, 0).map_err(FilterError::map("state"))?;
        Ok(Responses {
            link: None,
            sockets: map(&mut ebpf, "SOCKETS", "sockets")?,
            ebpf,
        })
    }

    /// Answers on receive queue `queue` go to this AF_XDP socket, which must be bound to that queue. Those on a queue without
    /// a socket go to the network stack.
    pub(crate) fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), FilterError> {
        self.sockets
            .set(queue, socket, 0)
            .map_err(FilterError::map("sockets"))
    }

    /// Attaches the program, as [`Filter::attach`](super::Filter::attach) does.
    pub(crate) fn attach(
        &mut self,
        interface: &str,
        ifindex: u32,
        attach: Attach,
    ) -> Result<(), FilterError> {
        self.link = Some(link(&mut self.ebpf, PROGRAM, interface, ifindex, attach)?);
        Ok(())
    }
}
