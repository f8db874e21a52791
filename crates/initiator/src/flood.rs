//! Frames that a target must not care about, at a given rate.

use std::thread;
use std::time::{Duration, Instant};

use aoe_common::Mac;
use aoe_common::wire::ata::command;
use aoe_common::wire::{MIN_FRAME_BYTES, aoe, eth};

use super::frame::{self, AtaRequest, Route};
use super::socket::PacketSocket;
use super::transport::{BATCH, Transport};
use super::{InitiatorError, stamp};

/// Different frames of a flood; each stranger has another address.
const VARIANTS: u64 = 1024;
/// The source of [`Kind::Neighbour`].
const NEIGHBOUR: Mac = Mac([6, 0, 0, 0, 0, 1]);
/// How long to sleep when no frame is due: at 200 000 frames a second, some twenty become due meanwhile.
const NAP: Duration = Duration::from_micros(50);

/// What the flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Well-formed reads from addresses of strangers.
    Strangers,
    /// Well-formed reads from one other address, 06:00:00:00:00:01.
    Neighbour,
    /// Well-formed reads for a shelf next to the target's.
    WrongShelf,
    /// Responses.
    Responses,
    /// Reads of AoE version 2.
    BadVersion,
    /// Frames that end inside the AoE header.
    Runts,
    /// Bytes by chance behind a right EtherType and destination.
    Garbage,
}

/// What a flood came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flooded {
    /// Frames sent.
    pub sent: u64,
    /// Time it took.
    pub elapsed: Duration,
}

/// The frames of a kind, sent by turns. `route` is that of a well-behaved read.
fn variants(kind: Kind, route: &Route) -> Vec<Vec<u8>> {
    (0..VARIANTS).map(|n| variant(kind, *route, n)).collect()
}

fn variant(kind: Kind, mut route: Route, n: u64) -> Vec<u8> {
    let chance = stamp::mix(n + 1).to_be_bytes();
    // locally administered, no group: nobody's real address
    match kind {
        Kind::Responses => {}
        Kind::Neighbour => route.source = NEIGHBOUR,
        _ => route.source = Mac([0x06, chance[1], chance[2], chance[3], chance[4], chance[5]]),
    }
    if kind == Kind::WrongShelf {
        route.shelf ^= 1;
    }
    let mut bytes = vec![0; MIN_FRAME_BYTES];
    let request = AtaRequest {
        opcode: command::READ_EXT,
        sectors: 1,
        lba: n % 8,
    };
    frame::put_ata(&mut bytes, &route, aoe::TAG_OF_USER_SPACE | n as u32, request);
    match kind {
        Kind::Strangers | Kind::Neighbour | Kind::WrongShelf => {}
        Kind::Responses => bytes[eth::HEADER_LEN + aoe::VER_FLAGS] |= aoe::FLAG_RESPONSE,
        Kind::BadVersion => bytes[eth::HEADER_LEN + aoe::VER_FLAGS] = 2 << 4,
        Kind::Runts => bytes.truncate(eth::HEADER_LEN + 1 + (n as usize % (aoe::HEADER_LEN - 1))),
        Kind::Garbage => {
            let words = (n * 16..).map(stamp::mix);
            for (bytes, word) in bytes[eth::HEADER_LEN..].chunks_mut(8).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
            }
        }
    }
    bytes
}

/// Sends `rate` frames a second for `duration`; what a full device queue refuses is sent a little later.
///
/// Its socket hears nothing: it would get a copy of every answer that others on this interface wait for, at the expense of the
/// cpu that is to be flooded and of nothing else.
pub fn run(
    interface: &str,
    kind: Kind,
    route: &Route,
    rate: u32,
    duration: Duration,
) -> Result<Flooded, InitiatorError> {
    let mut socket = PacketSocket::open_deaf(interface)?;
    let frames = variants(kind, route);
    let mut order = frames.iter().map(Vec::as_slice).cycle();
    let mut batch: Vec<&[u8]> = Vec::with_capacity(BATCH);
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < duration {
        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        if sent >= due {
            thread::sleep(NAP);
            continue;
        }
        let wanted = (due - sent).min(BATCH as u64) as usize;
        while batch.len() < wanted {
            batch.extend(order.next());
        }
        let went = socket.send(&batch)?;
        batch.drain(..went);
        sent += went as u64;
    }
    Ok(Flooded {
        sent,
        elapsed: start.elapsed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const ROUTE: Route = Route {
        source: Mac([2, 0, 0, 0, 0, 1]),
        destination: Mac([2, 0, 0, 0, 0, 2]),
        shelf: 7,
        slot: 3,
    };

    #[test]
    fn strangers_are_many_and_none_is_us() {
        let sources: BTreeSet<Vec<u8>> = variants(Kind::Strangers, &ROUTE)
            .iter()
            .map(|frame| frame[6..12].to_vec())
            .collect();
        assert_eq!(sources.len() as u64, VARIANTS);
        assert!(!sources.contains(ROUTE.source.0.as_slice()));
        assert!(sources.iter().all(|mac| mac[0] & 1 == 0));
    }

    #[test]
    fn each_kind_is_wrong_in_its_own_way_only() {
        for frame in variants(Kind::WrongShelf, &ROUTE) {
            assert_eq!(frame[16..19], [0, 6, 3]);
        }
        for frame in variants(Kind::Responses, &ROUTE) {
            assert_eq!((frame[14], &frame[6..12]), (0x18, &ROUTE.source.0[..]));
        }
        for frame in variants(Kind::BadVersion, &ROUTE) {
            assert_eq!((frame[14], &frame[16..19]), (0x20, &[0, 7, 3][..]));
        }
        let lengths: BTreeSet<usize> = variants(Kind::Runts, &ROUTE).iter().map(Vec::len).collect();
        assert_eq!(lengths, (15..24).collect());
        for frame in variants(Kind::Garbage, &ROUTE) {
            assert_eq!(
                (&frame[..6], &frame[12..14]),
                (&ROUTE.destination.0[..], &[0x88, 0xa2][..])
            );
        }
        assert!(
            variants(Kind::Neighbour, &ROUTE)
                .iter()
                .all(|frame| frame[6..12] == NEIGHBOUR.0)
        );
    }
}
