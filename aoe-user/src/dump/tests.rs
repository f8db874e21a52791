//! Readers and workers, without a network.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use aoe_common::wire::{aoe, eth};

use super::*;

/// A request for this export, tagged or not, with data behind it.
fn frame(shelf: u16, slot: u8, tags: usize, data: usize) -> Vec<u8> {
    let mut frame = vec![0; eth::TYPE];
    for _ in 0..tags {
        frame.extend([0x81, 0, 0, 5]);
    }
    frame.extend([0x88, 0xa2]);
    let at = frame.len();
    frame.resize(at + aoe::HEADER_LEN + data, 7);
    frame[at + aoe::SHELF..][..2].copy_from_slice(&shelf.to_be_bytes());
    frame[at + aoe::SLOT] = slot;
    frame
}

fn wanted() -> DumpWanted {
    DumpWanted {
        interfaces: Vec::new(),
        exports: None,
        frame_bytes: u32::MAX,
    }
}

/// The blocks that come until `count` frames are there.
fn blocks(stream: &mut UnixStream, count: usize) -> Vec<(u32, Vec<u8>)> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut all = Vec::new();
    let is_frame = |(kind, _): &&(u32, Vec<u8>)| *kind == 6;
    while all.iter().filter(is_frame).count() < count {
        let mut head = [0; 8];
        stream.read_exact(&mut head).unwrap();
        let [kind, len] = [0, 4].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|n| head[at + n])));
        let mut rest = vec![0; len as usize - 8];
        stream.read_exact(&mut rest).unwrap();
        assert_eq!(
            rest[rest.len() - 4..],
            len.to_le_bytes(),
            "the length stands at both ends"
        );
        all.push((kind, rest));
    }
    all
}

#[test]
fn a_worker_whom_nobody_watches_keeps_nothing() {
    let hub = Arc::new(Hub::default());
    let mut tap = Tap::new(&hub, "eth0", 0);
    assert!(!tap.look());
    let session = hub.start(wanted()).unwrap();
    assert!(tap.look() && tap.is_on());
    drop(session);
    assert!(!tap.look() && !tap.is_on());
}

#[test]
fn frames_come_with_their_interface_direction_and_length() {
    let hub = Arc::new(Hub::default());
    let (mut here, there) = UnixStream::pair().unwrap();
    let session = hub
        .start(DumpWanted {
            frame_bytes: 40,
            ..wanted()
        })
        .unwrap();
    send(session, there).unwrap();
    let mut tap = Tap::new(&hub, "eth7", 3);
    assert!(tap.look());
    let long = frame(1, 1, 0, 512);
    tap.received(5, &[&long[..20], &long[20..]]);
    tap.sent(9, &[&frame(1, 1, 0, 0)]);
    let all = blocks(&mut here, 2);
    let kinds: Vec<u32> = all.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 6]);
    assert!(all[1].1.windows(4).any(|name| name == b"eth7"));
    let (received, sent) = (&all[2].1, &all[3].1);
    // Interface, time (2), kept, length, bytes, then options.
    assert_eq!(received[12..16], 40u32.to_le_bytes());
    assert_eq!(received[16..20], (long.len() as u32).to_le_bytes());
    assert_eq!(received[20..60], long[..40]);
    assert_eq!(received[60..68], [2, 0, 4, 0, 1, 0, 0, 0]);
    assert_eq!(received[68..76], [6, 0, 4, 0, 3, 0, 0, 0]);
    let options = 20 + (eth::HEADER_LEN + aoe::HEADER_LEN);
    assert_eq!(sent[options..options + 8], [2, 0, 4, 0, 2, 0, 0, 0]);
}

#[test]
fn only_what_is_wanted_is_kept() {
    let hub = Arc::new(Hub::default());
    let (mut here, there) = UnixStream::pair().unwrap();
    let session = hub
        .start(DumpWanted {
            interfaces: vec!["eth1".into()],
            exports: Some(Box::new(|shelf, slot| (shelf, slot) == (1, 2))),
            ..wanted()
        })
        .unwrap();
    send(session, there).unwrap();
    let (mut other, mut tap) = (Tap::new(&hub, "eth0", 0), Tap::new(&hub, "eth1", 0));
    assert!(!other.look() && tap.look());
    for (n, (shelf, slot, tags)) in [
        (1, 1, 0),
        (1, 2, 0),
        (2, 2, 1),
        (1, 2, 2),
        (0xffff, 0xff, 0),
        (1, 0xff, 0),
    ]
    .into_iter()
    .enumerate()
    {
        tap.received(n as u64, &[&frame(shelf, slot, tags, n)]);
    }
    // It ends before its address: shown rather than hidden.
    tap.received(9, &[&[0; 15]]);
    let lengths: Vec<u32> = blocks(&mut here, 5)
        .iter()
        .filter(|(kind, _)| *kind == 6)
        .map(|(_, block)| u32::from_le_bytes([0, 1, 2, 3].map(|n| block[16 + n])))
        .collect();
    assert_eq!(lengths, [25, 35, 28, 29, 15]);
}

#[test]
fn a_reader_that_stalls_costs_frames_and_no_time() {
    let hub = Arc::new(Hub::default());
    let (mut here, there) = UnixStream::pair().unwrap();
    send(hub.start(wanted()).unwrap(), there).unwrap();
    let mut tap = Tap::new(&hub, "eth0", 0);
    assert!(tap.look());
    let frame = frame(1, 1, 0, 8192);
    // Far more than all that lies between: nothing here waits.
    for _ in 0..20_000 {
        tap.received(1, &[&frame]);
    }
    let mut lost = 0;
    let mut seen = 0;
    // Read from now on; after a while frames find room again, and say how many did not.
    let deadline = Instant::now() + Duration::from_secs(60);
    while lost == 0 {
        assert!(
            Instant::now() < deadline,
            "{seen} frames and no word of those that are lost"
        );
        tap.received(2, &[&frame]);
        for (_, block) in blocks(&mut here, 1).iter().filter(|(kind, _)| *kind == 6) {
            seen += 1;
            let options = 20 + frame.len().next_multiple_of(4) + 8;
            if block[options..options + 4] == [4, 0, 8, 0] {
                lost = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|n| block[options + 4 + n]));
            }
        }
    }
    assert!(seen < 20_000, "some of them are lost, and {lost} at once");
}

#[test]
fn readers_are_bounded_and_one_that_goes_makes_room() {
    let hub = Arc::new(Hub::default());
    let mut tap = Tap::new(&hub, "eth0", 0);
    let mut ends = Vec::new();
    for _ in 0..READERS_MAX {
        let (here, there) = UnixStream::pair().unwrap();
        send(hub.start(wanted()).unwrap(), there).unwrap();
        ends.push(here);
    }
    assert!(hub.start(wanted()).unwrap_err().contains("4 dumps are running"));
    assert!(tap.look());
    tap.sent(1, &[&frame(1, 1, 0, 0)]);
    for here in &mut ends {
        blocks(here, 1);
    }
    drop(ends);
    let deadline = Instant::now() + Duration::from_secs(30);
    while hub.start(wanted()).is_err() {
        assert!(Instant::now() < deadline, "nobody notices that they have gone");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_ring_of_a_worker_that_ended_is_read_to_its_end() {
    let hub = Arc::new(Hub::default());
    let (mut here, there) = UnixStream::pair().unwrap();
    let session = hub.start(wanted()).unwrap();
    for n in 0..3 {
        let mut tap = Tap::new(&hub, "eth0", n);
        assert!(tap.look());
        tap.sent(n as u64, &[&frame(1, 1, 0, n)]);
    }
    send(session, there).unwrap();
    let all = blocks(&mut here, 3);
    let interfaces = all.iter().filter(|(kind, _)| *kind == 1).count();
    assert_eq!(interfaces, 1, "the queues of one interface are one interface");
}
