//! What each end of a ring sees of the other.

use std::sync::atomic::Ordering;

use super::testing::{OFFSETS, ring, word};

#[test]
fn entries_come_out_in_order_and_only_when_published() {
    let (mut producer, mut consumer, _) = ring(8, 0);
    assert!(producer.push(1) && producer.push(2));
    assert_eq!(consumer.pop(), None);
    assert!(consumer.is_empty());
    producer.publish();
    assert!(!consumer.is_empty());
    assert_eq!(
        (consumer.pop(), consumer.pop(), consumer.pop()),
        (Some(1), Some(2), None)
    );
}

#[test]
fn a_full_ring_takes_nothing_until_slots_are_given_back() {
    let (mut producer, mut consumer, _) = ring(4, 0);
    for entry in 0..4 {
        assert!(producer.push(entry));
    }
    assert!(!producer.push(4), "full, published or not");
    producer.publish();
    assert!(!producer.push(4));
    assert_eq!(producer.pending(), 4);
    assert_eq!(consumer.pop(), Some(0));
    assert!(!producer.push(4), "taken, but the slot is not given back yet");
    consumer.release();
    assert!(producer.push(4));
    assert!(!producer.push(5));
}

#[test]
fn room_looks_again_when_fewer_than_wanted_are_known() {
    let (mut producer, mut consumer, _) = ring(8, 0);
    for entry in 0..6 {
        assert!(producer.push(entry));
    }
    producer.publish();
    while consumer.pop().is_some() {}
    // The copy of the consumer's index still says 2 free; that is enough for two, not for three.
    assert_eq!(producer.room(2), 2);
    assert_eq!(producer.room(3), 8);
}

#[test]
fn an_empty_ring_stays_empty_however_often_it_is_asked() {
    let (mut producer, mut consumer, memory) = ring(8, 77);
    for _ in 0..10 {
        assert_eq!(consumer.pop(), None);
    }
    assert!(producer.push(9));
    producer.publish();
    assert_eq!(consumer.pop(), Some(9));
    assert_eq!(
        word(&memory, OFFSETS.consumer).load(Ordering::Relaxed),
        77,
        "not given back yet"
    );
    assert_eq!(consumer.pop(), None);
    assert_eq!(word(&memory, OFFSETS.consumer).load(Ordering::Relaxed), 78);
}

#[test]
fn indices_wrap_at_two_to_the_32() {
    let (mut producer, mut consumer, memory) = ring(8, u32::MAX - 2);
    for round in 0..5u64 {
        for entry in 0..8 {
            assert!(producer.push(round * 8 + entry), "room in round {round}");
        }
        assert!(!producer.push(0), "full in round {round}");
        producer.publish();
        assert_eq!(producer.pending(), 8);
        for entry in 0..8 {
            assert_eq!(consumer.pop(), Some(round * 8 + entry));
        }
        assert_eq!(consumer.pop(), None);
        assert_eq!(producer.pending(), 0);
    }
    assert_eq!(
        word(&memory, OFFSETS.producer).load(Ordering::Relaxed),
        37,
        "40 past 2^32 - 3"
    );
}

#[test]
fn the_wakeup_flag_is_the_kernels() {
    let (producer, _, memory) = ring(8, 0);
    assert!(!producer.needs_wakeup());
    word(&memory, OFFSETS.flags).store(1, Ordering::Relaxed);
    assert!(producer.needs_wakeup());
    word(&memory, OFFSETS.flags).store(0, Ordering::Relaxed);
    assert!(!producer.needs_wakeup());
}

#[test]
fn entries_in_uneven_batches_arrive_once_each() {
    const ENTRIES: u64 = if cfg!(miri) { 2_000 } else { 100_000 };
    let (mut producer, mut consumer, _) = ring(64, u32::MAX - 1000);
    let (mut sent, mut seen, mut seed) = (0, 0, 1u32);
    while seen < ENTRIES {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        for _ in 0..(seed >> 16) % 90 {
            if sent < ENTRIES && producer.push(sent) {
                sent += 1;
            }
        }
        producer.publish();
        for _ in 0..(seed >> 8) % 70 {
            match consumer.pop() {
                Some(entry) => {
                    assert_eq!(entry, seen);
                    seen += 1;
                }
                None => break,
            }
        }
        consumer.release();
    }
    assert_eq!(consumer.pop(), None);
}

#[test]
fn both_ends_may_live_in_different_threads() {
    const ENTRIES: u64 = if cfg!(miri) { 500 } else { 200_000 };
    let (mut producer, mut consumer, _) = ring(128, u32::MAX - 5000);
    let sender = std::thread::spawn(move || {
        let mut next = 0;
        while next < ENTRIES {
            while next < ENTRIES && producer.push(next.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                next += 1;
            }
            producer.publish();
            std::thread::yield_now();
        }
    });
    let mut seen = 0u64;
    while seen < ENTRIES {
        match consumer.pop() {
            Some(entry) => {
                assert_eq!(entry, seen.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                seen += 1;
            }
            None => std::thread::yield_now(),
        }
    }
    sender.join().unwrap();
}
