//! Proves that frames get through in both directions before a port calls itself ready.
//!
//! Drivers promise more than they hold. A bond takes native XDP and runs it on its slaves, whose frames the kernel gives to no
//! socket of the bond: the filter counts them as redirected, and nothing arrives. So each way is tried out with frames of our own.
//!
//! In: a request that the rules in force let through is given to the program as a frame of the interface that real ones will come
//! from (`BPF_F_TEST_XDP_LIVE_FRAMES`); it must lie in the socket's ring afterwards, and is taken out there unanswered. By copy
//! only: for zero-copy the driver itself has taken the socket's queue, and may hold all of its chunks.
//!
//! Out: a frame from the interface's address to the same address, of an EtherType for local experiments (0x88b5, IEEE 802), goes
//! out on each queue, and its chunk must come back. A switch does not pass it on: it knows that address to be where the frame came
//! from. Only while there is a carrier: many drivers take the link down to attach a program, and on copper it stays away for
//! seconds. What could not be proved at the opening is proved by the port itself, once the cable is in.
//!
//! What only the wire can tell, [`super::watch`] looks for later.

use std::fmt;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use aoe_common::Mac;
use aoe_common::wire::{MIN_FRAME_BYTES, aoe, eth, query};
use tracing::debug;

use super::{Nic, Obtained, PortError};
use crate::config::Vlan;
use crate::filter::{ExportRule, Filter, Rules};
use crate::host::has_carrier;
use crate::xsk::Socket;

/// How long a frame may take to get out. A driver that works takes microseconds; one whose link is just coming up, milliseconds.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How often to look.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// "Local experimental EtherType 1" of IEEE 802: no protocol's.
const TYPE_EXPERIMENT: u16 = 0x88b5;

/// The way that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofDirection {
    /// From the interface with this number to the socket.
    Receive {
        /// Its number.
        from: u32,
    },
    /// From the process to the network.
    Transmit,
    /// From the network to the process, as real frames showed.
    Arriving {
        /// Frames that the filter redirected.
        redirected: u64,
    },
    /// From the card to the filter, as real frames showed.
    Past {
        /// AoE frames that the network stack got and the filter has not seen.
        frames: u64,
    },
}

impl fmt::Display for ProofDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProofDirection::Receive { from: 0 } => {
                f.write_str("its frames are those of slaves, and it has none yet that could bring any")
            }
            ProofDirection::Receive { from } => {
                write!(f, "a frame of {} did not reach the socket", name_of(*from))
            }
            ProofDirection::Transmit => f.write_str("a frame handed to it was not sent within a second"),
            ProofDirection::Arriving { redirected } => {
                write!(f, "{redirected} requests arrived, and none reached a socket")
            }
            ProofDirection::Past { frames } => write!(
                f,
                "{frames} AoE frames went to the network stack past the XDP program, which saw none: the driver has lost it"
            ),
        }
    }
}

fn name_of(ifindex: u32) -> String {
    match nix::net::if_::if_indextoname(ifindex) {
        Ok(name) if !name.is_empty() => name.to_string_lossy().into_owned(),
        _ => format!("interface {ifindex}"),
    }
}

/// Shows that a frame of this NIC gets through the filter to the socket of queue 0. To be called before the filter is attached.
///
/// # Errors
/// [`PortError::Silent`] when it does not; whatever else is wrong with the filter.
pub(super) fn receives(
    nic: &Nic,
    obtained: Obtained,
    filter: &mut Filter,
    socket: &mut Socket,
    rules: &Rules,
) -> Result<(), PortError> {
    let silent = |from| PortError::Silent {
        nic: nic.name.clone(),
        obtained,
        direction: ProofDirection::Receive { from },
    };
    let own = [nic.index];
    let sources: &[u32] = if obtained.native { &nic.xdp_runs_on } else { &own };
    if sources.is_empty() {
        return Err(silent(0));
    }
    let Some(frame) = rules.exports.iter().find_map(|rule| request(rule, nic.mac)) else {
        // Nobody may ask anything: there is nothing to get through.
        return sources
            .iter()
            .find(|from| **from != nic.index)
            .map_or(Ok(()), |from| Err(silent(*from)));
    };
    for &from in sources {
        if let Err(error) = filter.inject(&frame, from) {
            // A kernel that is not to be asked this way. Frames of others than the NIC never match, which needs no proof.
            debug!("{}: the way in cannot be tried out: {error:?}", nic.name);
            if from != nic.index {
                return Err(silent(from));
            }
            continue;
        }
        let mut arrived = false;
        while let Some(frame) = socket.receive() {
            socket.free(frame);
            arrived = true;
        }
        if !arrived {
            return Err(silent(from));
        }
    }
    socket.kick();
    Ok(filter.forget_counts()?)
}

/// For a worker: shows it of its own socket, and tells what [`sends`] gives.
#[derive(Debug)]
pub(super) struct Proof {
    /// The NIC.
    pub(crate) nic: Nic,
    /// The mode.
    pub(crate) obtained: Obtained,
    /// Who wants to know.
    pub(crate) answer: Sender<Result<bool, PortError>>,
}

impl Proof {
    /// Tries it out. The worker does nothing else meanwhile, where it fails for a second.
    pub(super) fn of(self, socket: &mut Socket) {
        let sends = sends(&self.nic, self.obtained, std::slice::from_mut(socket));
        // Who has stopped waiting does not want to know.
        let _ = self.answer.send(sends);
    }
}

/// Shows that a frame on each queue gets out; false where that cannot be told, for want of a carrier. To be called with the filter
/// attached: drivers rebuild their queues for it.
///
/// # Errors
/// [`PortError::Silent`] when one does not.
pub(super) fn sends(nic: &Nic, obtained: Obtained, sockets: &mut [Socket]) -> Result<bool, PortError> {
    let has_carrier = || has_carrier(nic.index).unwrap_or(nic.carrier);
    if !has_carrier() {
        return Ok(false);
    }
    let bytes = to_itself(nic.mac);
    for socket in sockets.iter_mut() {
        let Some(mut frame) = socket.allocate(bytes.len()) else {
            continue;
        };
        let mut rest = bytes.as_slice();
        for piece in socket.pieces_mut(&mut frame) {
            let (now, later) = rest.split_at(piece.len());
            piece.copy_from_slice(now);
            rest = later;
        }
        socket.transmit(frame);
    }
    let deadline = Instant::now() + TIMEOUT;
    loop {
        sockets.iter_mut().for_each(Socket::kick);
        if sockets.iter().all(|socket| socket.chunk_counts().tx == 0) {
            return Ok(true);
        }
        // It may have gone meanwhile.
        if !has_carrier() {
            return Ok(false);
        }
        if Instant::now() >= deadline {
            return Err(PortError::Silent {
                nic: nic.name.clone(),
                obtained,
                direction: ProofDirection::Transmit,
            });
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// A frame that nobody gets and nobody cares about.
fn to_itself(mac: Mac) -> [u8; MIN_FRAME_BYTES] {
    let mut bytes = [0; MIN_FRAME_BYTES];
    put_addresses(&mut bytes, mac, mac);
    bytes[eth::TYPE..eth::HEADER_LEN].copy_from_slice(&TYPE_EXPERIMENT.to_be_bytes());
    bytes
}

/// A Query Config request that the rule lets through; `None` where it lets nobody.
fn request(rule: &ExportRule, own: Mac) -> Option<Vec<u8>> {
    let Mac([first, rest @ ..]) = own;
    let [b1, b2, b3, b4, b5] = rest;
    // Another station's address, whoever's: the answer is never sent.
    let anybody = Mac([first ^ 2, b1, b2, b3, b4, b5]);
    let source = match &rule.allow {
        None => anybody,
        Some(list) => list.iter().map(|(mac, _)| *mac).find(|mac| *mac != own)?,
    };
    let mut header = match rule.vlan {
        Vlan::Untagged | Vlan::Any => Vec::new(),
        Vlan::Id(id) => [eth::TYPE_VLAN.to_be_bytes(), id.to_be_bytes()].concat(),
    };
    header.extend(eth::TYPE_AOE.to_be_bytes());
    let mut argument = [0; aoe::HEADER_LEN + query::HEADER_LEN];
    argument[aoe::VER_FLAGS] = aoe::VERSION << 4;
    argument[aoe::SHELF..aoe::SLOT].copy_from_slice(&rule.shelf.to_be_bytes());
    argument[aoe::SLOT] = rule.slot;
    argument[aoe::COMMAND] = aoe::CMD_QUERY;
    let mut bytes = vec![0; eth::TYPE];
    put_addresses(&mut bytes, own, source);
    bytes.extend(header);
    bytes.extend(argument);
    bytes.resize(bytes.len().max(MIN_FRAME_BYTES), 0);
    Some(bytes)
}

fn put_addresses(bytes: &mut [u8], destination: Mac, source: Mac) {
    bytes[eth::DST..eth::SRC].copy_from_slice(&destination.0);
    bytes[eth::SRC..eth::TYPE].copy_from_slice(&source.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const ALICE: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn rule(allow: Option<&[Mac]>, vlan: Vlan) -> ExportRule {
        ExportRule {
            shelf: 0x0102,
            slot: 3,
            vlan,
            allow: allow.map(|list| list.iter().map(|mac| (*mac, None)).collect()),
            rate_limit: None,
        }
    }

    #[test]
    fn the_request_comes_from_somebody_who_may_ask() {
        let source = |allow| {
            let bytes = request(&rule(allow, Vlan::Untagged), OWN)?;
            assert_eq!(bytes.len(), MIN_FRAME_BYTES);
            assert_eq!(bytes[..6], OWN.0);
            assert_eq!(bytes[12..20], [0x88, 0xa2, 0x10, 0, 1, 2, 3, 1]);
            Some(bytes[6..12].to_vec())
        };
        assert_eq!(source(Some(&[OWN, ALICE])), Some(ALICE.0.to_vec()));
        assert_eq!(source(Some(&[])), None);
        let anybody = source(None).unwrap();
        assert!(anybody != OWN.0 && anybody[0] & 1 == 0);
    }

    #[test]
    fn the_request_of_a_vlan_has_its_tag() {
        let bytes = request(&rule(None, Vlan::Id(100)), OWN).unwrap();
        assert_eq!(bytes[12..20], [0x81, 0, 0, 100, 0x88, 0xa2, 0x10, 0]);
    }

    #[test]
    fn the_frame_to_itself_is_of_no_protocol() {
        let bytes = to_itself(OWN);
        assert_eq!((&bytes[..6], &bytes[6..12]), (&OWN.0[..], &OWN.0[..]));
        assert_eq!(bytes[12..14], [0x88, 0xb5]);
    }
}
