//! AF_XDP sockets on a real veth pair. Each test has a network namespace of its own, which ends with its thread.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Result;
use lab::namespace::{self, index_of, ip, veth};
use lab::needs;
use lab::needs::Need;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use xblade::xsk::{Bind, ChunkCounts, Socket, SocketConfig, XskError};

const HEADER: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xa2];

/// The link `near` — `far`.
struct Link {
    /// Sees what arrives at `far`.
    packets: OwnedFd,
}

impl Link {
    fn new(mtu: u32) -> Link {
        namespace::enter();
        veth("near", "far", mtu);
        let packets = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )
        .expect("an AF_PACKET socket");
        setsockopt(&packets, sockopt::RcvBufForce, &(64 << 20)).expect("a large receive buffer");
        Link { packets }
    }

    /// The AoE frames that have arrived at `far`, in order.
    fn arrived(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 65536];
        while let Ok(len) = recv(self.packets.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            if buffer[12..14] == HEADER[12..14] {
                frames.push(buffer[..len].to_vec());
            }
        }
        frames
    }
}

fn config(interface: &str, mtu: u32) -> SocketConfig {
    SocketConfig::for_mtu(index_of(interface), 0, mtu)
}

/// A frame of this length whose bytes tell its number and their place.
fn pattern(number: usize, len: usize) -> Vec<u8> {
    let body =
        (HEADER.len()..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ number.wrapping_mul(131)) as u8);
    HEADER.into_iter().chain(body).collect()
}

fn send(socket: &mut Socket, bytes: &[u8]) -> bool {
    let Some(mut frame) = socket.allocate(bytes.len()) else {
        return false;
    };
    let mut rest = bytes;
    for piece in socket.pieces_mut(&mut frame) {
        let (now, later) = rest.split_at(piece.len());
        piece.copy_from_slice(now);
        rest = later;
    }
    assert!(rest.is_empty(), "the pieces are as long as the frame");
    socket.transmit(frame);
    true
}

/// Kicks until all is out and every chunk is back.
fn settle(socket: &mut Socket) -> ChunkCounts {
    for _ in 0..1000 {
        socket.kick();
        if socket.chunk_counts().tx == 0 {
            break;
        }
        std::thread::yield_now();
    }
    let counts = socket.chunk_counts();
    assert!(counts.is_conserved(), "{counts:?}");
    assert!(!socket.needs_kick(), "nothing is left to do: {counts:?}");
    counts
}

fn refusal(config: &SocketConfig) -> XskError {
    Socket::open(config).expect_err("the kernel refuses this")
}

#[test]
fn a_fresh_socket_has_given_the_kernel_its_fill_level() -> Result<()> {
    needs!(Need::Root);
    let _link = Link::new(1500);
    let config = config("near", 1500);
    let socket = Socket::open(&config).unwrap();
    assert!(!socket.is_zerocopy(), "veth copies");
    assert!(!socket.is_readable());
    let counts = socket.chunk_counts();
    assert_eq!(
        counts,
        ChunkCounts {
            pool: 2048 - 512,
            fill: 512,
            in_use: 0,
            tx: 0,
            total: 2048
        }
    );
    Ok(())
}

#[test]
fn refusals_name_call_interface_queue_and_remedy() -> Result<()> {
    needs!(Need::Root);
    let _link = Link::new(1500);
    let good = config("near", 1500);
    let open = Socket::open(&good).unwrap();

    let error = refusal(&good);
    assert_eq!(error.errno(), Some(rustix::io::Errno::BUSY));
    let text = error.to_string();
    assert!(
        text.contains("near queue 0: bind") && text.contains("another AF_XDP socket"),
        "{text}"
    );
    drop(open);
    drop(Socket::open(&good).expect("the queue is free again at once"));

    let text = refusal(&SocketConfig {
        bind: Bind::ZeroCopy,
        ..good.clone()
    })
    .to_string();
    assert!(
        text.contains("XDP_ZEROCOPY") && text.contains("mode auto or copy"),
        "{text}"
    );

    let text = refusal(&SocketConfig {
        queue: 7,
        ..good.clone()
    })
    .to_string();
    assert!(
        text.contains("queue 7: bind") && text.contains("no such queue"),
        "{text}"
    );

    let text = refusal(&SocketConfig {
        ifindex: 9999,
        ..good.clone()
    })
    .to_string();
    assert!(
        text.contains("interface 9999") && text.contains("no such interface"),
        "{text}"
    );

    let text = refusal(&SocketConfig {
        chunk_bytes: 1000,
        ..good.clone()
    })
    .to_string();
    assert!(text.contains("near queue 0") && text.contains("1000"), "{text}");
    Ok(())
}

#[test]
fn small_frames_arrive_byte_for_byte_and_in_order() -> Result<()> {
    needs!(Need::Root);
    let link = Link::new(1500);
    let mut socket = Socket::open(&config("near", 1500)).unwrap();
    let before = socket.chunk_counts();
    let sent: Vec<Vec<u8>> = (0..3000).map(|n| pattern(n, 60 + n % 1455)).collect();
    for batch in sent.chunks(100) {
        for bytes in batch {
            assert!(send(&mut socket, bytes), "{:?}", socket.chunk_counts());
        }
        socket.kick();
        assert!(link.arrived() == batch);
    }
    assert_eq!(settle(&mut socket), before);
    let counted = socket.statistics();
    assert_eq!(
        (counted.tx_frames, counted.tx_invalid, counted.rx_invalid),
        (3000, 0, 0)
    );
    assert!(
        counted.kicks <= 30 * 5,
        "{} system calls for 30 batches",
        counted.kicks
    );
    Ok(())
}

#[test]
fn jumbo_frames_of_every_kind_of_cut_arrive_byte_for_byte() -> Result<()> {
    needs!(Need::Root);
    let link = Link::new(9000);
    let mut socket = Socket::open(&config("near", 9000)).unwrap();
    let before = socket.chunk_counts();
    // Around each border between chunks, the largest ATA request (17 sectors), and the MTU.
    for len in [60, 3839, 3840, 3841, 7935, 7936, 7937, 36 + 8704, 9013, 9014] {
        let bytes = pattern(len, len);
        assert!(send(&mut socket, &bytes));
        socket.kick();
        assert!(link.arrived() == [bytes], "{len} bytes");
    }
    assert_eq!(settle(&mut socket), before);
    assert_eq!(socket.statistics().tx_invalid, 0);
    Ok(())
}

#[test]
fn a_reply_grown_from_a_header_keeps_the_header() -> Result<()> {
    needs!(Need::Root);
    let link = Link::new(9000);
    let mut socket = Socket::open(&config("near", 9000)).unwrap();
    let whole = pattern(5, 36 + 8704);
    let mut frame = socket.allocate(36).unwrap();
    socket.pieces_mut(&mut frame)[0].copy_from_slice(&whole[..36]);
    assert!(socket.resize(&mut frame, whole.len()));
    let mut at = 36;
    for (n, piece) in socket.pieces_mut(&mut frame).into_iter().enumerate() {
        let new = if n == 0 { &mut piece[36..] } else { piece };
        new.copy_from_slice(&whole[at..at + new.len()]);
        at += new.len();
    }
    assert_eq!(socket.pieces(&frame).concat(), whole);
    socket.transmit(frame);
    socket.kick();
    assert!(link.arrived() == [whole]);
    Ok(())
}

#[test]
fn more_frames_than_the_ring_holds_wait_and_keep_their_order() -> Result<()> {
    needs!(Need::Root);
    let link = Link::new(9000);
    let small = SocketConfig {
        ring: 64,
        fill: 64,
        ..config("near", 9000)
    };
    let mut socket = Socket::open(&small).unwrap();
    let before = socket.chunk_counts();
    let sent: Vec<Vec<u8>> = (0..500)
        .map(|n| pattern(n, if n % 3 == 0 { 9014 } else { 60 }))
        .collect();
    for bytes in &sent {
        assert!(send(&mut socket, bytes));
    }
    let full = socket.chunk_counts();
    assert_eq!(
        (full.in_use, full.tx),
        (0, 500 + 167 * 2),
        "all are on their way, none is ours"
    );
    assert!(socket.needs_kick());
    assert_eq!(settle(&mut socket), before);
    assert!(link.arrived() == sent);
    assert!(socket.statistics().tx_waited > 0);
    Ok(())
}

#[test]
fn a_pool_that_is_empty_refuses_and_recovers() -> Result<()> {
    needs!(Need::Root);
    let link = Link::new(1500);
    let mut socket = Socket::open(&SocketConfig {
        chunks: 64,
        ..config("near", 1500)
    })
    .unwrap();
    let before = socket.chunk_counts();
    assert_eq!(
        (before.pool, before.fill),
        (16, 48),
        "a quarter stays for replies"
    );
    let sent: Vec<Vec<u8>> = (0..16).map(|n| pattern(n, 60)).collect();
    for bytes in &sent {
        assert!(send(&mut socket, bytes));
    }
    assert!(!send(&mut socket, &sent[0]));
    assert_eq!(settle(&mut socket), before);
    assert!(link.arrived() == sent);
    let frame = socket.allocate(60).expect("chunks are back");
    socket.free(frame);
    assert!(
        socket.allocate(1793).is_none(),
        "longer than a chunk, and no multi-buffer mode at MTU 1500"
    );
    assert_eq!(socket.chunk_counts(), before);
    Ok(())
}

#[test]
fn frames_wait_while_the_link_is_down() -> Result<()> {
    needs!(Need::Root);
    let link = Link::new(1500);
    ip("link set near down");
    let mut socket = Socket::open(&config("near", 1500)).expect("a port may be opened before it is up");
    let bytes = pattern(1, 100);
    assert!(send(&mut socket, &bytes));
    socket.kick();
    assert_eq!(socket.chunk_counts().tx, 1);
    assert!(!socket.needs_kick(), "kicking again would not help");
    ip("link set near up");
    settle(&mut socket);
    assert!(link.arrived() == [bytes.clone()]);
    ip("link set near down");
    ip("link set near up");
    assert!(send(&mut socket, &bytes));
    settle(&mut socket);
    assert!(
        link.arrived() == [bytes],
        "the socket outlives its link's going down"
    );
    Ok(())
}

#[test]
#[cfg(debug_assertions)]
fn a_frame_that_is_dropped_is_a_fault_only_while_its_socket_lives() -> Result<()> {
    needs!(Need::Root);
    let _link = Link::new(1500);
    let mut socket = Socket::open(&config("near", 1500)).unwrap();
    let lost = socket.allocate(60).unwrap();
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(lost)));
    assert!(dropped.is_err(), "a debug build says so");
    assert_eq!(socket.chunk_counts().in_use, 1, "and the counts show it");
    let late = socket.allocate(60).unwrap();
    drop(socket);
    drop(late);
    Ok(())
}

#[test]
fn a_frame_of_another_socket_is_refused() -> Result<()> {
    needs!(Need::Root);
    let _link = Link::new(1500);
    let mut here = Socket::open(&config("near", 1500)).unwrap();
    let there = Socket::open(&config("far", 1500)).unwrap();
    let frame = here.allocate(60).unwrap();
    let confused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| there.pieces(&frame).len()));
    assert!(confused.is_err());
    here.free(frame);
    Ok(())
}

/// The example that the README of the crate shows, built beside this program.
#[test]
fn the_example_of_the_readme_sends_what_it_says() -> Result<()> {
    needs!(Need::Root);
    let link = Link::new(1500);
    let program = std::env::current_exe()?;
    let built = program.ancestors().nth(2).expect("the build's directory");
    let output = std::process::Command::new(built.join("examples/transmit"))
        .args(["near", "5000"])
        .output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("5000 frames in copy mode"), "{shown}");
    assert!(shown.contains("in_use: 0, tx: 0, total: 2048"), "{shown}");
    let words = ip("-s -s link show far");
    let received: u64 = words
        .lines()
        .skip_while(|line| !line.contains("RX:"))
        .nth(1)
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|count| count.parse().ok())
        .expect("a packet count");
    assert!(received >= 5000, "{received} packets arrived: {words}");
    drop(link);
    Ok(())
}
