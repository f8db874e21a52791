//! Rates, sizes and costs.

use std::time::Instant;

use super::*;

/// Sends `count` frames of a source and gives the number that got through.
fn through(filter: &Filter, frame: &Frame, count: u32) -> u64 {
    let before = filter.counters().unwrap();
    run(&filter.ebpf, &frame.bytes(), count);
    let after = filter.counters().unwrap();
    let rows = [Counter::Redirected, Counter::RateLimited];
    let sum: u64 = rows.iter().map(|row| after[*row] - before[*row]).sum();
    assert_eq!(sum, u64::from(count), "each frame is in one row");
    after[Counter::Redirected] - before[Counter::Redirected]
}

#[test]
fn a_source_over_its_rate_is_held_and_others_are_not() {
    let limited = ExportRule {
        allow: Some([(ALICE, None), (BOB, Some(100_000)), (CAROL, None)].into()),
        rate_limit: Some(1000),
        ..open(1, 1)
    };
    let Some(mut filter) = load(&rules([limited, open(1, 2)])) else {
        return;
    };
    // The burst of 64, and what a thousandth of a second each brings while the flood lasts.
    let start = Instant::now();
    let alice = through(&filter, &Frame::to(1, 1, ALICE), 20_000);
    let most = 64 + start.elapsed().as_millis() as u64 + 2;
    assert!((64..=most).contains(&alice), "{alice} of {most}");
    // A rate of one's own; another source's bucket is full.
    let bob = through(&filter, &Frame::to(1, 1, BOB), 2000);
    assert_eq!(bob, 2000, "2000 frames are within the burst of 50 ms");
    assert_eq!(through(&filter, &Frame::to(1, 1, CAROL), 10), 10);
    // What has no limit does not touch the bucket.
    assert_eq!(through(&filter, &Frame::to(1, 2, ALICE), 1000), 1000);
    // Time fills the bucket again, also across new rules.
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(through(&filter, &Frame::to(1, 1, ALICE), 5), 5);
    let slow = ExportRule {
        rate_limit: Some(10),
        ..open(1, 1)
    };
    filter.set_rules(&rules([slow])).unwrap();
    let start = Instant::now();
    let alice = through(&filter, &Frame::to(1, 1, ALICE), 2000);
    let most = 65 + start.elapsed().as_millis() as u64 / 100;
    assert!(alice <= most, "{alice} of {most}");
}

#[test]
fn a_rate_holds_over_time() {
    let rate = 20_000;
    let Some(filter) = load(&rules([ExportRule {
        rate_limit: Some(rate),
        ..open(1, 1)
    }])) else {
        return;
    };
    let start = Instant::now();
    let passed = through(&filter, &Frame::to(1, 1, ALICE), 3_000_000);
    let fair = start.elapsed().as_secs_f64() * f64::from(rate);
    // The burst of 50 ms. How little gets through depends on how often this test gets the CPU; `admit` is exact.
    assert!(
        (1000.0..=fair + 1001.0).contains(&(passed as f64)),
        "{passed} frames where {fair:.0} are right"
    );
}

/// Many exports and one long list that all of them share.
fn many() -> Rules {
    let allow: AllowList = (0..16_384)
        .map(|i| (Mac::from_u64(0x0200_0000_0000 + i), None))
        .collect();
    let export = |i: u16| ExportRule {
        allow: Some(allow.clone()),
        ..open(i / 64, (i % 64) as u8)
    };
    Rules::of((0..4096).map(export).collect())
}

#[test]
fn thousands_of_exports_and_sources_load_quickly() {
    let start = Instant::now();
    let Some(mut filter) = load(&many()) else { return };
    let loaded = start.elapsed();
    for (shelf, slot) in [
        (0, 0),
        (63, 63),
        (17, 5),
        (17, 0xff),
        (0xffff, 63),
        (0xffff, 0xff),
    ] {
        expect(
            &filter,
            Counter::Redirected,
            &Frame::to(shelf, slot, Mac::from_u64(0x0200_0000_3fff)),
        );
        expect(
            &filter,
            Counter::Denied,
            &Frame::to(shelf, slot, Mac::from_u64(0x0200_0000_4000)),
        );
    }
    expect(&filter, Counter::NotOurs, &Frame::to(64, 0, ALICE));
    let start = Instant::now();
    filter.set_rules(&many()).unwrap();
    println!(
        "4096 exports, 16384 sources: loaded in {loaded:?}, replaced in {:?}",
        start.elapsed()
    );
    assert!(loaded < Duration::from_secs(2), "{loaded:?}");

    // As many lists as exports.
    let own: Vec<_> = (0..4096u64)
        .map(|i| {
            let sources: Vec<Mac> = (0..4)
                .map(|j| Mac::from_u64(0x0200_0000_0000 + i * 4 + j))
                .collect();
            listed((i / 64) as u16, (i % 64) as u8, &sources)
        })
        .collect();
    let start = Instant::now();
    let Some(filter) = load(&rules(own)) else {
        return;
    };
    println!("4096 lists of 4 sources: loaded in {:?}", start.elapsed());
    let last = Mac::from_u64(0x0200_0000_3fff);
    expect(&filter, Counter::Redirected, &Frame::to(63, 63, last));
    expect(&filter, Counter::Redirected, &Frame::broadcast(63, 0xff, last));
    expect(
        &filter,
        Counter::Redirected,
        &Frame::broadcast(0xffff, 0xff, last),
    );
    expect(&filter, Counter::Denied, &Frame::broadcast(62, 0xff, last));
    expect(&filter, Counter::Denied, &Frame::to(63, 62, last));
}

/// Instructions that the verifier may walk: it grows with every path through the program.
const VERIFIED_INSTRUCTIONS: u32 = 1500;

#[test]
fn the_program_stays_within_its_budget() {
    let Some(filter) = load(&rules([])) else { return };
    let Some(Program::Xdp(program)) = filter.ebpf.program(PROGRAM) else {
        panic!("no program")
    };
    let info = program.info().unwrap();
    let verified = info.verified_instruction_count().expect("Linux 5.16 says");
    println!(
        "verified instructions: {verified}; translated: {:?} bytes; native: {} bytes",
        info.size_translated(),
        info.size_jitted()
    );
    assert!(
        verified <= VERIFIED_INSTRUCTIONS,
        "{verified} verified instructions"
    );
    assert_eq!(info.gpl_compatible(), Some(true));
}

#[test]
fn costs() {
    let Some(filter) = load(&rules([
        open(1, 1),
        listed(1, 2, &[ALICE]),
        ExportRule {
            rate_limit: Some(1_000_000_000),
            ..open(1, 3)
        },
        ExportRule {
            rate_limit: Some(1),
            ..open(1, 4)
        },
    ])) else {
        return;
    };
    let repeat = 200_000;
    let measure = |filter: &Filter, name: &str, frame: &Frame| {
        let best = (0..5)
            .map(|_| run(&filter.ebpf, &frame.bytes(), repeat).1)
            .min()
            .unwrap();
        println!("{:4} ns  {name}", best.as_nanos());
    };
    let one = Frame::to(1, 1, ALICE);
    let other_type = Frame {
        ether_type: 0x800,
        ..one.clone()
    };
    let response = Frame {
        ver_flags: 0x18,
        ..one.clone()
    };
    let runt = Frame {
        cut: Some(20),
        ..one.clone()
    };
    let elsewhere = Frame {
        destination: BOB,
        ..one.clone()
    };
    for (name, frame) in [
        ("other EtherType", other_type.clone()),
        ("other EtherType, tagged", other_type.tagged(5)),
        ("response", response),
        ("runt", runt),
        ("no such export", Frame::to(7, 7, ALICE)),
        ("own source", Frame::to(1, 1, PORT)),
        ("other destination", elsewhere),
        ("denied", Frame::to(1, 2, BOB)),
        ("over its rate", Frame::to(1, 4, ALICE)),
        ("ours, open", one.clone()),
        ("ours, tagged 0", one.tagged(0)),
        ("ours, listed", Frame::to(1, 2, ALICE)),
        ("ours, rate", Frame::to(1, 3, ALICE)),
        ("wildcard", Frame::broadcast(0xffff, 0xff, ALICE)),
    ] {
        measure(&filter, name, &frame);
    }
    for i in 0..1100 {
        let stranger = Mac::from_u64(0x0200_0001_0000 + i);
        run(&filter.ebpf, &Frame::to(1, 2, stranger).bytes(), 1);
    }
    measure(&filter, "denied, reports full", &Frame::to(1, 2, CAROL));
    let Some(filter) = load(&many()) else { return };
    measure(
        &filter,
        "ours, listed, 4096 exports, 16384 sources",
        &Frame::to(17, 5, Mac::from_u64(0x0200_0000_1234)),
    );
}
