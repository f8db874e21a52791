//! Sends frames by AF_XDP and shows where the chunks are afterwards: `transmit NETIF [FRAMES]`.
//!
//! The README of this crate has the commands that make a namespace for it.

use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use xsk::{Socket, SocketConfig};

/// To everybody, from a locally administered address, with the EtherType for local experiments (IEEE 802).
const HEADER: [u8; 14] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

/// Bytes of each frame, without its check sequence: the shortest that Ethernet has.
const FRAME_BYTES: usize = 60;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let interface = arguments.next().ok_or("usage: transmit NETIF [FRAMES]")?;
    let frames: u32 = arguments.next().map_or(Ok(1000), |text| text.parse())?;

    let ifindex = if_nametoindex(interface.as_str())?;
    let mut socket = Socket::open(&SocketConfig::for_mtu(ifindex, 0, 1500))?;
    let mode = if socket.is_zerocopy() { "zero-copy" } else { "copy" };

    let mut sent = 0;
    while sent < frames {
        match socket.allocate(FRAME_BYTES) {
            Some(mut frame) => {
                fill(&mut socket.pieces_mut(&mut frame), sent);
                socket.transmit(frame);
                sent += 1;
            }
            // All chunks are under way: `kick` takes back those that are out.
            None => socket.kick(),
        }
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    socket.kick();
    while socket.chunk_counts().tx != 0 && Instant::now() < deadline {
        socket.kick();
    }
    let counts = socket.chunk_counts();
    println!("{sent} frames in {mode} mode; chunks: {counts:?}");
    if counts.tx != 0 {
        return Err(format!(
            "{} frames are still under way after 10 s: is {interface} up?",
            counts.tx
        )
        .into());
    }
    Ok(())
}

/// Header, number, zeros; over the pieces of a frame as over one.
fn fill(pieces: &mut xsk::PiecesMut<'_>, number: u32) {
    let mut bytes = HEADER
        .into_iter()
        .chain(number.to_be_bytes())
        .chain(std::iter::repeat(0));
    for byte in pieces.iter_mut().flat_map(|piece| piece.iter_mut()) {
        *byte = bytes.next().unwrap_or(0);
    }
}
