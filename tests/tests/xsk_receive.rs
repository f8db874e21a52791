//! AF_XDP sockets behind the real filter, on a real veth pair: what arrives, in how many pieces, and that every chunk
//! comes back. Each test has a network namespace of its own, which ends with its thread.

use std::time::{Duration, Instant};

use anyhow::Result;
use aoe_common::Mac;
use aoe_common::rules::stamp_ns;
use lab::initiator::TIMEOUT;
use lab::namespace::{self, index_of, veth};
use lab::needs;
use lab::needs::Need;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xblade::config::Vlan;
use xblade::filter::{Attach, ExportRule, Filter, Rules};
use xblade::xsk::{Frame, Socket, SocketConfig};

const TARGET: [u8; 6] = [2, 0, 0, 0, 0, 2];
const INITIATOR: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A socket that receives behind the filter, and one at the other end that sends.
struct Pair {
    target: Socket,
    initiator: Socket,
    _filter: Filter,
}

impl Pair {
    fn new(mtu: u32, attach: Attach) -> Pair {
        Pair::with(mtu, attach, |config| config)
    }

    fn with(mtu: u32, attach: Attach, adapt: impl Fn(SocketConfig) -> SocketConfig) -> Pair {
        namespace::enter();
        veth(
            &format!("near address {}", Mac(TARGET)),
            &format!("far address {}", Mac(INITIATOR)),
            mtu,
        );
        let export = ExportRule {
            shelf: 1,
            slot: 1,
            vlan: Vlan::Untagged,
            allow: None,
            rate_limit: None,
        };
        let mut filter = Filter::load(Mac(TARGET), &Rules::of(vec![export])).expect("the filter loads");
        let target = Socket::open(&adapt(SocketConfig::for_mtu(index_of("near"), 0, mtu))).unwrap();
        filter.set_socket(0, target.fd()).unwrap();
        filter
            .attach("near", index_of("near"), attach)
            .expect("the filter attaches");
        let initiator = Socket::open(&SocketConfig::for_mtu(index_of("far"), 0, mtu)).unwrap();
        Pair {
            target,
            initiator,
            _filter: filter,
        }
    }

    /// Sends a request from the initiator's end.
    fn request(&mut self, bytes: &[u8]) {
        let mut frame = self.initiator.allocate(bytes.len()).expect("chunks to send from");
        let mut rest = bytes;
        for piece in self.initiator.pieces_mut(&mut frame) {
            let (now, later) = rest.split_at(piece.len());
            piece.copy_from_slice(now);
            rest = later;
        }
        self.initiator.transmit(frame);
        self.initiator.kick();
    }

    /// The next frame, asleep until it comes.
    fn next(&mut self) -> Frame {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(frame) = self.target.receive() {
                return frame;
            }
            assert!(
                Instant::now() < deadline,
                "nothing arrives: {:?}",
                self.target.statistics()
            );
            self.target.kick();
            sleep_until_readable(&self.target, Duration::from_millis(100));
        }
    }
}

fn sleep_until_readable(socket: &Socket, at_most: Duration) -> bool {
    let fd = socket.fd();
    let timeout = Timespec {
        tv_sec: at_most.as_secs() as i64,
        tv_nsec: i64::from(at_most.subsec_nanos()),
    };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).expect("poll") == 1
}

/// An ATA request to 1.1 of this length, whose further bytes tell its number and their place.
fn request(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = [TARGET, INITIATOR].concat();
    bytes.extend([0x88, 0xa2, 0x10, 0, 0, 1, 1, 0]);
    bytes.extend((number as u32).to_be_bytes());
    bytes.extend(
        (bytes.len()..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ number.wrapping_mul(131)) as u8),
    );
    bytes
}

fn requests_arrive_whole_and_in_one_cache_line(attach: Attach) {
    let mut pair = Pair::new(1500, attach);
    let before = pair.target.chunk_counts();
    for n in 0..2000 {
        let sent = request(n, 60 + n % 1455);
        pair.request(&sent);
        let frame = pair.next();
        {
            let pieces = pair.target.pieces(&frame);
            assert_eq!(pieces.len(), 1);
            assert!(pieces[0] == sent, "frame {n}");
            assert!(
                pieces[0].as_ptr().addr().is_multiple_of(64),
                "a header is one line from another CPU"
            );
        }
        pair.target.free(frame);
        pair.target.kick();
    }
    let after = pair.target.chunk_counts();
    assert!(
        after.is_conserved() && after.in_use == 0 && after.tx == 0,
        "{after:?}"
    );
    assert!(
        before.fill - after.fill <= before.fill / 8,
        "the kernel has got its chunks back: {after:?}"
    );
    assert_eq!(pair.target.statistics().rx_frames, 2000);
}

#[test]
fn requests_arrive_whole_and_in_one_cache_line_native() -> Result<()> {
    needs!(Need::Root);
    requests_arrive_whole_and_in_one_cache_line(Attach::Native);
    Ok(())
}

#[test]
fn requests_arrive_whole_and_in_one_cache_line_generic() -> Result<()> {
    needs!(Need::Root);
    requests_arrive_whole_and_in_one_cache_line(Attach::Generic);
    Ok(())
}

/// Nanoseconds of the clock that stamps are of.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn frames_carry_the_time_of_their_arrival(attach: Attach) {
    for (mtu, len) in [(1500, 60), (1500, 1060), (9000, 8740)] {
        let mut pair = Pair::new(mtu, attach);
        let sent_ns = now_ns();
        pair.request(&request(1, len));
        while !pair.target.is_readable() {
            pair.target.kick();
            sleep_until_readable(&pair.target, Duration::from_millis(100));
        }
        let readable_ns = now_ns();
        pair.request(&request(2, len));
        for within in [sent_ns..=readable_ns, readable_ns..=u64::MAX] {
            let frame = pair.next();
            let stamp = pair.target.metadata(&frame).as_ref().and_then(stamp_ns);
            let stamp = stamp.unwrap_or_else(|| panic!("{attach} mode, MTU {mtu}: no stamp"));
            assert!(
                within.contains(&stamp),
                "{attach} mode: {stamp} is not in {within:?}"
            );
            assert!(stamp <= now_ns(), "{attach} mode");
            pair.target.free(frame);
        }
    }
}

#[test]
fn frames_carry_the_time_of_their_arrival_native() -> Result<()> {
    needs!(Need::Root);
    frames_carry_the_time_of_their_arrival(Attach::Native);
    Ok(())
}

#[test]
fn frames_carry_the_time_of_their_arrival_generic() -> Result<()> {
    needs!(Need::Root);
    frames_carry_the_time_of_their_arrival(Attach::Generic);
    Ok(())
}

fn jumbo_frames_arrive_in_pieces(attach: Attach) {
    let mut pair = Pair::new(9000, attach);
    for (n, (len, pieces)) in [
        (60, 1),
        (3840, 1),
        (3841, 2),
        (7680, 2),
        (7681, 3),
        (36 + 8704, 3),
        (9014, 3),
    ]
    .into_iter()
    .enumerate()
    {
        let sent = request(n, len);
        pair.request(&sent);
        let frame = pair.next();
        assert!(pair.target.pieces(&frame).concat() == sent, "{len} bytes");
        assert_eq!(
            (frame.bytes(), pair.target.pieces(&frame).len()),
            (len, pieces),
            "{len} bytes"
        );
        assert!(
            pair.target.pieces(&frame)[0].len() >= 36,
            "all headers lie in the first piece"
        );
        pair.target.free(frame);
    }
    let counts = pair.target.chunk_counts();
    assert!(counts.is_conserved() && counts.in_use == 0, "{counts:?}");
}

#[test]
fn jumbo_frames_arrive_in_pieces_native() -> Result<()> {
    needs!(Need::Root);
    jumbo_frames_arrive_in_pieces(Attach::Native);
    Ok(())
}

#[test]
fn jumbo_frames_arrive_in_pieces_generic() -> Result<()> {
    needs!(Need::Root);
    jumbo_frames_arrive_in_pieces(Attach::Generic);
    Ok(())
}

#[test]
fn chunks_are_conserved_over_requests_that_grow_and_shrink_into_replies() -> Result<()> {
    needs!(Need::Root);
    let mut pair = Pair::new(9000, Attach::Native);
    let lengths = [60, 9014, 1060, 36 + 8704, 4096, 60];
    let mut held = Vec::new();
    let mut seed = 1u32;
    for n in 0..6000 {
        pair.request(&request(n, lengths[n % lengths.len()]));
        // As a worker does: take what is there, answer some at once, keep some for later, one kick.
        while let Some(mut frame) = pair.target.receive() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let reply = lengths[(seed >> 16) as usize % lengths.len()];
            if !pair.target.resize(&mut frame, reply) {
                pair.target.free(frame);
            } else if seed >> 30 == 0 {
                held.push(frame);
            } else {
                let mut pieces = pair.target.pieces_mut(&mut frame);
                pieces[0][..6].copy_from_slice(&INITIATOR);
                pieces[0][6..12].copy_from_slice(&TARGET);
                drop(pieces);
                pair.target.transmit(frame);
            }
        }
        if held.len() > 40 {
            held.drain(..).for_each(|frame| pair.target.transmit(frame));
        }
        pair.target.kick();
        let counts = pair.target.chunk_counts();
        assert!(counts.is_conserved(), "{counts:?}");
        assert_eq!(
            counts.in_use as usize,
            held.iter()
                .map(|frame| pair.target.pieces(frame).len())
                .sum::<usize>()
        );
    }
    held.drain(..).for_each(|frame| pair.target.free(frame));
    for _ in 0..1000 {
        pair.target.kick();
        if pair.target.chunk_counts().tx == 0 {
            break;
        }
    }
    let counts = pair.target.chunk_counts();
    assert_eq!(
        (counts.in_use, counts.tx, counts.pool + counts.fill),
        (0, 0, counts.total)
    );
    let counted = pair.target.statistics();
    assert_eq!(
        (counted.rx_invalid, counted.tx_invalid, counted.rx_dropped),
        (0, 0, 0),
        "{counted:?}"
    );
    assert_eq!(counted.rx_frames, 6000);
    Ok(())
}

#[test]
fn a_burst_beyond_the_fill_ring_is_counted_and_raises_its_level() -> Result<()> {
    needs!(Need::Root);
    let small = |config| SocketConfig { fill: 64, ..config };
    let mut pair = Pair::with(1500, Attach::Native, small);
    for n in 0..200 {
        pair.request(&request(n, 100));
    }
    let mut received = 0;
    while let Some(frame) = pair.target.receive() {
        pair.target.free(frame);
        received += 1;
    }
    assert_eq!(received, 64, "as many as there were chunks");
    let counted = pair.target.statistics();
    assert!(counted.rx_dropped + counted.fill_ring_empty >= 136, "{counted:?}");
    pair.target.kick();
    assert_eq!(pair.target.chunk_counts().fill, 128);
    // The most it may be is three quarters of the chunks, however often this happens.
    for round in 0..10 {
        for n in 0..1600 {
            pair.request(&request(round * 1600 + n, 60));
        }
        while let Some(frame) = pair.target.receive() {
            pair.target.free(frame);
        }
        pair.target.kick();
    }
    assert_eq!(pair.target.chunk_counts().fill, 1536);
    Ok(())
}

#[test]
fn a_sleeper_wakes_when_a_frame_arrives_and_not_before() -> Result<()> {
    needs!(Need::Root);
    let mut pair = Pair::new(1500, Attach::Native);
    assert!(!sleep_until_readable(&pair.target, Duration::from_millis(50)));
    assert!(!pair.target.is_readable());
    pair.request(&request(1, 60));
    assert!(sleep_until_readable(&pair.target, TIMEOUT));
    assert!(pair.target.is_readable());
    let frame = pair.target.receive().expect("it is there");
    pair.target.free(frame);
    pair.target.kick();
    assert!(
        !sleep_until_readable(&pair.target, Duration::ZERO),
        "a kick says what has been taken"
    );
    Ok(())
}

#[test]
fn a_frame_of_too_many_pieces_is_dropped_whole_and_the_next_one_arrives() -> Result<()> {
    needs!(Need::Root);
    let small_chunks = |config| SocketConfig {
        chunk_bytes: 2048,
        ..config
    };
    let mut pair = Pair::with(32_000, Attach::Native, small_chunks);
    // A piece has room for 1792 bytes: 16 hold 28 672.
    for (n, len) in [28_672, 28_673, 31_000, 60].into_iter().enumerate() {
        pair.request(&request(n, len));
    }
    for (n, len, pieces) in [(0, 28_672, 16), (3, 60, 1)] {
        let frame = pair.next();
        assert!(
            pair.target.pieces(&frame).concat() == request(n, len),
            "{len} bytes"
        );
        assert_eq!(pair.target.pieces(&frame).len(), pieces);
        pair.target.free(frame);
    }
    assert!(pair.target.receive().is_none());
    assert_eq!(pair.target.statistics().rx_overlong, 2);
    let counts = pair.target.chunk_counts();
    assert!(counts.is_conserved() && counts.in_use == 0, "{counts:?}");
    Ok(())
}

#[test]
fn a_socket_and_its_frames_move_to_the_thread_of_a_worker() -> Result<()> {
    needs!(Need::Root);
    let Pair {
        mut target,
        mut initiator,
        _filter,
    } = Pair::new(1500, Attach::Native);
    let mut frame = initiator.allocate(60).unwrap();
    initiator.pieces_mut(&mut frame)[0].copy_from_slice(&request(7, 60));
    let worker = std::thread::spawn(move || {
        assert!(sleep_until_readable(&target, TIMEOUT));
        let frame = target.receive().expect("it is there");
        (target, frame)
    });
    std::thread::sleep(Duration::from_millis(20));
    initiator.transmit(frame);
    initiator.kick();
    let (mut target, frame) = worker.join().unwrap();
    assert!(target.pieces(&frame)[0] == request(7, 60));
    target.free(frame);
    Ok(())
}
