//! ATA: the result table, opcode by opcode.

use aoe_common::Access;
use std::sync::Arc;

use crate::store::FaultKind;
use crate::testing::bench::{
    ONE, OTHER, TARGET, Witness, Worker, aoe_error, ata, export, frame_from, options, read, request, status,
    write,
};
use crate::testing::store::{MemStore, StoreMode};
use crate::{Change, Export, Persistent};

const GOOD: (u8, u8) = (0x40, 0);
const ABORT: (u8, u8) = (0x41, 0x04);
const NOT_FOUND: (u8, u8) = (0x41, 0x10);

fn worker() -> (Worker, std::sync::Arc<MemStore>) {
    let store = MemStore::new(2048);
    (Worker::new(vec![export(options(7, 3), &store)]), store)
}

#[test]
fn every_read_opcode_reads() {
    let (mut worker, store) = worker();
    let sector = store.inner.lock().image[5 * 512..6 * 512].to_vec();
    for opcode in [0x20, 0x24, 0xc8, 0x25, 0xc4, 0x29] {
        let reply = worker.answer(&request(0, &ata(0, 0, 1, opcode, 5, &[])));
        assert_eq!(reply.len(), 36 + 512, "{opcode:#x}: exactly, or 9front drops it");
        assert_eq!((status(&reply), &reply[36..]), (GOOD, &sector[..]), "{opcode:#x}");
    }
}

#[test]
fn every_write_opcode_writes_and_fua_is_durable() {
    let (mut worker, store) = worker();
    for (byte, opcode) in (1..).zip([0x30, 0x34, 0xca, 0x35, 0xc5, 0x39, 0x3d, 0xce]) {
        assert_eq!(
            worker.ata(&ata(1, 0, 1, opcode, 9, &[byte; 512])),
            GOOD,
            "{opcode:#x}"
        );
        assert_eq!(store.inner.lock().image[9 * 512], byte, "{opcode:#x}");
        let wanted = if byte > 6 {
            "write durable 9+1"
        } else {
            "write 9+1"
        };
        assert_eq!(store.log(), [wanted], "{opcode:#x}");
    }
}

#[test]
fn sync_makes_every_write_durable() {
    let store = MemStore::new(2048);
    let mut sync = options(7, 3);
    sync.sync = true;
    let mut worker = Worker::new(vec![export(sync, &store)]);
    assert_eq!(worker.ata(&write(1, 1, 7)), GOOD);
    assert_eq!(store.log(), ["write durable 1+1"]);
    let identify = worker.answer(&request(0, &ata(0, 0, 1, 0xec, 0, &[])));
    assert_eq!(identify[36 + 82 * 2] & 0x20, 0, "no volatile write cache");
    assert_eq!(
        worker.ata(&ata(0, 0x82, 0, 0xef, 0, &[])),
        GOOD,
        "cache off: it is"
    );
    assert_eq!(
        worker.ata(&ata(0, 0x02, 0, 0xef, 0, &[])),
        ABORT,
        "cache on: cannot"
    );
}

#[test]
fn opcode_decides_on_28_or_48_bits() {
    let (mut worker, store) = worker();
    let lba = 0x0100_0000_0005; // beyond 28 bits, the low part inside
    assert_eq!(
        worker.ata(&ata(0, 0, 1, 0x24, lba, &[])),
        NOT_FOUND,
        "EXT without the E bit"
    );
    assert_eq!(
        worker.ata(&ata(0x40, 0, 1, 0x20, lba | 0xe000_0000, &[])),
        GOOD,
        "28 bits with the E bit"
    );
    assert_eq!(store.log(), ["read 5+1"]);
}

#[test]
fn bad_counts_directions_and_ranges() {
    let (mut worker, store) = worker();
    let before = store.inner.lock().image.clone();
    for (argument, wanted, why) in [
        (read(0, 0), ABORT, "count 0"),
        (ata(0x41, 0, 0, 0x34, 0, &[]), ABORT, "count 0"),
        (read(0, 3), ABORT, "more than a frame holds at MTU 1500"),
        (ata(0x41, 0, 1, 0x24, 0, &[]), ABORT, "W on a read"),
        (ata(0x40, 0, 1, 0x34, 0, &[9; 512]), ABORT, "no W on a write"),
        (ata(1, 0, 1, 0xec, 0, &[]), ABORT, "W on IDENTIFY"),
        (read(2047, 2), NOT_FOUND, "one past the end"),
        (write(2047, 2, 9), NOT_FOUND, "one past the end"),
        (read(0xffff_ffff_ffff, 1), NOT_FOUND, "the last address there is"),
        (ata(0x40, 0, 0, 0x42, 2047, &[]), NOT_FOUND, "verify 65536"),
    ] {
        let reply = worker.answer(&request(0, &argument));
        assert_eq!(status(&reply), wanted, "{why}");
        assert_eq!(reply[26], argument[2], "{why}: count as sent");
        assert_eq!(reply[28..34], argument[4..10], "{why}: LBA echoed");
        assert_eq!(reply.len(), 60);
    }
    assert_eq!(
        aoe_error(&worker.answer(&request(0, &ata(0x41, 0, 2, 0x34, 0, &[9; 1023])))),
        2
    );
    assert_eq!(
        aoe_error(&worker.answer(&request(0, &ata(0, 0, 2, 0xec, 0, &[])))),
        2
    );
    assert_eq!(store.inner.lock().image, before, "nothing was touched");
    assert_eq!(worker.ata(&read(2046, 2)), GOOD, "up to the end");
}

#[test]
fn opcodes_without_meaning_abort() {
    let (mut worker, store) = worker();
    let known = [
        0xec, 0x20, 0x24, 0x30, 0x34, 0xc8, 0x25, 0xca, 0x35, 0xc4, 0x29, 0xc5, 0x39, 0x3d, 0xce, 0x40, 0x42,
        0xe7, 0xea, 0x06, 0xe5, 0xe0, 0xe2, 0xe1, 0xe3, 0xe6, 0xc6, 0xef, 0x90,
    ];
    for opcode in (0..=255).filter(|opcode| !known.contains(opcode)) {
        for aflags in [0x40, 0x41] {
            let argument = ata(aflags, 1, 1, opcode, 0, &[1; 512]);
            assert_eq!(worker.ata(&argument), ABORT, "{opcode:#x}");
        }
    }
    assert!(store.log().is_empty());
}

#[test]
fn commands_without_data() {
    let (mut worker, store) = worker();
    for (opcode, ops) in [
        (0xe7, 1),
        (0xea, 1),
        (0xe0, 1),
        (0xe2, 1),
        (0xe6, 1),
        (0xe1, 0),
        (0xe3, 0),
    ] {
        assert_eq!(worker.ata(&ata(0, 0, 0, opcode, 0, &[])), GOOD, "{opcode:#x}");
        assert_eq!(store.log(), vec!["flush 0+0"; ops], "{opcode:#x}");
    }
    assert_eq!(worker.ata(&ata(0, 0, 0, 0x40, 7, &[])), GOOD);
    assert_eq!(worker.ata(&ata(0, 0, 9, 0x42, 7, &[])), GOOD);
    assert_eq!(store.log(), ["verify 7+256", "verify 7+9"]);
    let diagnostic = worker.answer(&request(0, &ata(0, 0, 0, 0x90, 77, &[])));
    assert_eq!(
        diagnostic[25..34],
        [1, 1, 0x40, 1, 0, 0, 0, 0, 0],
        "passed, with the signature of a disk"
    );
    for feature in [0x03, 0x55, 0xaa, 0x66, 0xcc, 0x02] {
        assert_eq!(
            worker.ata(&ata(0, feature, 0, 0xef, 0, &[])),
            GOOD,
            "{feature:#x}"
        );
    }
    for feature in [0x82, 0x05, 0x10, 0x00, 0x90] {
        assert_eq!(
            worker.ata(&ata(0, feature, 0, 0xef, 0, &[])),
            ABORT,
            "{feature:#x}"
        );
    }
}

#[test]
fn multiple_mode_is_kept_and_shown() {
    let (mut worker, _) = worker();
    let word_59 = |worker: &mut Worker| {
        let reply = worker.answer(&request(0, &ata(0, 0, 1, 0xec, 0, &[])));
        u16::from_le_bytes([reply[36 + 118], reply[36 + 119]])
    };
    assert_eq!(word_59(&mut worker), 0x0110);
    assert_eq!(worker.ata(&ata(0, 0, 8, 0xc6, 0, &[])), GOOD);
    assert_eq!(word_59(&mut worker), 0x0108);
    for count in [3, 32, 255] {
        assert_eq!(worker.ata(&ata(0, 0, count, 0xc6, 0, &[])), ABORT);
    }
    assert_eq!(worker.ata(&ata(0, 0, 0, 0xc6, 0, &[])), GOOD);
    assert_eq!(word_59(&mut worker), 0);
    assert_eq!(
        worker.ata(&ata(0, 0, 1, 0x29, 0, &[])),
        ABORT,
        "READ MULTIPLE while off"
    );
    assert_eq!(
        worker.ata(&ata(1, 0, 1, 0xce, 0, &[0; 512])),
        ABORT,
        "WRITE MULTIPLE FUA while off"
    );
    assert_eq!(worker.ata(&read(0, 1)), GOOD);
}

#[test]
fn requests_may_carry_more_than_they_need() {
    let (mut worker, store) = worker();
    let probe = [ata(0x40, 0, 2, 0x24, 0, &[]), vec![0xed; 1024]].concat();
    assert_eq!(
        worker.answer(&request(0, &probe)).len(),
        36 + 1024,
        "Linux's path probe is a read"
    );
    let sancheck = [ata(0, 0, 1, 0xec, 0, &[]), vec![0xed; 1400]].concat();
    assert_eq!(worker.answer(&request(0, &sancheck)).len(), 36 + 512);
    assert_eq!(
        worker.ata(&ata(0x41, 0, 1, 0x34, 4, &[[3; 512], [4; 512]].concat())),
        GOOD
    );
    assert_eq!(
        store.inner.lock().image[5 * 512..5 * 512 + 2],
        [5, 0],
        "the excess is ignored"
    );
    let ping = [vec![0; 6], vec![4, 0], vec![0xed; 1024]].concat();
    let reply = worker.answer(&request(1, &ping));
    assert_eq!(
        (reply.len(), aoe_error(&reply)),
        (60, 0),
        "aoeping's read with a length of 1024"
    );
}

#[test]
fn jumbo_frames_hold_seventeen_sectors() {
    let store = MemStore::new(2048);
    for piece_bytes in [4096, 3840, 100_000, 700] {
        let mut worker = Worker::cut(vec![export(options(7, 3), &store)], piece_bytes);
        worker.port.mtu_bytes = 9000;
        assert_eq!(worker.answer(&request(1, &[0; 8]))[28], 17);
        assert_eq!(worker.ata(&write(100, 17, 0x5a)), GOOD);
        let reply = worker.answer(&request(0, &read(99, 17)));
        assert_eq!(reply.len(), 36 + 17 * 512);
        assert_eq!(reply[36..], store.inner.lock().image[99 * 512..116 * 512]);
        assert_eq!(worker.ata(&read(0, 18)), ABORT);
        worker.port.mtu_bytes = 1500;
        assert_eq!(worker.ata(&read(0, 3)), ABORT, "the MTU is asked for each time");
    }
    let mut capped = options(7, 3);
    capped.max_sectors = 8;
    let mut worker = Worker::new(vec![export(capped, &store)]);
    worker.port.mtu_bytes = 9000;
    assert_eq!(worker.answer(&request(1, &[0; 8]))[28], 8);
    assert_eq!(worker.ata(&read(0, 9)), ABORT);
}

#[test]
fn faults_become_registers() {
    let (mut worker, store) = worker();
    worker.port.mtu_bytes = 9000;
    store.mode(StoreMode::Fail(FaultKind::Read, 13));
    let reply = worker.answer(&request(0, &read(10, 8)));
    assert_eq!((status(&reply), reply[26], reply[28]), ((0x41, 0x40), 5, 13));
    assert!(
        reply.len() == 60 && reply[34..].iter().all(|byte| *byte == 0),
        "no data, no trace of it"
    );
    assert_eq!(worker.ata(&ata(0, 0, 9, 0x42, 7, &[])), (0x41, 0x40));
    store.mode(StoreMode::Fail(FaultKind::Write, 11));
    let reply = worker.answer(&request(0, &write(10, 2, 1)));
    assert_eq!((status(&reply), reply[26], reply[28]), ((0x61, 0x04), 1, 11));
    assert_eq!(
        worker.ata(&ata(0, 0, 0, 0xe7, 0, &[])),
        (0x61, 0x04),
        "a flush that failed"
    );
    store.mode(StoreMode::Fail(FaultKind::Gone, 0));
    for argument in [read(10, 1), write(10, 1, 1), ata(0, 0, 0, 0xea, 0, &[])] {
        let reply = worker.answer(&request(0, &argument));
        assert_eq!((aoe_error(&reply), &reply[24..36]), (3, &argument[..12]));
    }
    store.mode(StoreMode::Prompt);
    assert_eq!(worker.ata(&read(10, 1)), GOOD, "and back");
}

#[test]
fn a_device_that_comes_back_is_announced_once() {
    let store = MemStore::new(64);
    let witness = Arc::new(Witness::default());
    let export = Export::new(
        options(7, 3),
        store.clone(),
        None,
        witness.clone(),
        Persistent::default(),
    )
    .unwrap();
    let mut worker = Worker::new(vec![Arc::new(export)]);
    let mut deferred = |argument: &[u8], fault: Option<FaultKind>| {
        store.mode(StoreMode::Defer);
        assert!(worker.ask(&request(0, argument)).is_empty());
        store.finish(0, fault);
        let replies = worker.poll();
        assert_eq!(replies.len(), 1);
        (
            aoe_error(&replies[0]),
            std::mem::take(&mut *witness.changes.lock()),
        )
    };
    let flush = ata(0, 0, 0, 0xea, 0, &[]);
    assert_eq!(deferred(&read(1, 1), None), (0, vec![]), "it was never gone");
    assert_eq!(deferred(&read(1, 1), Some(FaultKind::Gone)), (3, vec![]));
    assert_eq!(deferred(&write(1, 1, 1), Some(FaultKind::Gone)), (3, vec![]));
    assert_eq!(
        deferred(&flush, None),
        (0, vec![]),
        "a flush may have nothing to do"
    );
    assert_eq!(deferred(&read(1, 1), None), (0, vec![Change::Returned]));
    assert_eq!(deferred(&write(1, 1, 1), None), (0, vec![]), "once");
    assert_eq!(deferred(&read(1, 1), Some(FaultKind::Read)), (0, vec![]));
    assert_eq!(
        deferred(&read(1, 1), None),
        (0, vec![]),
        "a bad sector is no absence"
    );
}

#[test]
fn identify_follows_the_size() {
    let (mut worker, store) = worker();
    let size = |worker: &mut Worker| {
        let reply = worker.answer(&request(0, &ata(0, 0, 1, 0xec, 0, &[])));
        u64::from_le_bytes(reply[36 + 200..36 + 208].try_into().unwrap())
    };
    assert_eq!(size(&mut worker), 2048);
    store.inner.lock().image.resize(3000 * 512, 0);
    assert_eq!(size(&mut worker), 3000);
    assert_eq!(worker.ata(&read(2999, 1)), GOOD);
    store.inner.lock().refresh_fails = true;
    assert_eq!(
        aoe_error(&worker.answer(&request(0, &ata(0, 0, 1, 0xec, 0, &[])))),
        3
    );
    let everyone = frame_from(
        ONE,
        aoe_common::Mac::BROADCAST,
        0xffff,
        0xff,
        0,
        1,
        &ata(0, 0, 1, 0xec, 0, &[]),
    );
    assert!(worker.ask(&everyone).is_empty(), "no error to everyone");
}

fn ranges(list: &[(u64, u64)], blocks: u8) -> Vec<u8> {
    let mut data: Vec<u8> = list
        .iter()
        .flat_map(|(lba, count)| (lba | count << 48).to_le_bytes())
        .collect();
    data.resize(usize::from(blocks) * 512, 0);
    ata(0x41, 1, blocks, 0x06, 0, &data)
}

#[test]
fn trim_checks_every_range_first() {
    let (mut worker, store) = worker();
    assert_eq!(worker.ata(&ranges(&[(8, 8), (0, 0), (2040, 9)], 1)), NOT_FOUND);
    assert!(store.log().is_empty(), "nothing was trimmed");
    assert_eq!(
        worker.ata(&ranges(&[(8, 8), (9999, 0), (2040, 8)], 2)),
        GOOD,
        "length 0 is skipped"
    );
    let image = store.inner.lock().image.clone();
    assert!(
        image[8 * 512..16 * 512]
            .iter()
            .chain(&image[2040 * 512..])
            .all(|byte| *byte == 0)
    );
    assert_ne!(image[17 * 512], 0);
    assert_eq!(worker.ata(&ranges(&[], 1)), GOOD, "nothing to do");
    assert_eq!(
        worker.ata(&ranges(&[], 3)),
        ABORT,
        "more blocks than a frame holds"
    );
    assert_eq!(
        worker.ata(&ata(0x41, 0, 1, 0x06, 0, &[0; 512])),
        ABORT,
        "no TRIM bit"
    );
    assert_eq!(worker.ata(&ata(0x40, 1, 1, 0x06, 0, &[0; 512])), ABORT, "no W");
    assert_eq!(
        worker.ata(&ata(0x41, 1, 0, 0x06, 0, &[0; 512])),
        ABORT,
        "no blocks"
    );
    assert_eq!(
        aoe_error(&worker.answer(&request(0, &ata(0x41, 1, 1, 0x06, 0, &[0; 511])))),
        2
    );
    worker.port.mtu_bytes = 9000;
    assert_eq!(worker.ata(&ranges(&[(1, 1)], 8)), GOOD);
    assert_eq!(
        worker.ata(&ranges(&[(1, 1)], 9)),
        ABORT,
        "IDENTIFY word 105 says 8"
    );
}

#[test]
fn a_store_without_trim_aborts_it() {
    let mut store = std::sync::Arc::into_inner(MemStore::new(64)).unwrap();
    store.traits.trim = false;
    let mut worker = Worker::new(vec![export(options(7, 3), &std::sync::Arc::new(store))]);
    assert_eq!(worker.ata(&ranges(&[(1, 1)], 1)), ABORT);
    let identify = worker.answer(&request(0, &ata(0, 0, 1, 0xec, 0, &[])))[36..].to_vec();
    for word in [69, 105, 169] {
        assert_eq!(identify[word * 2..][..2], [0, 0], "word {word}");
    }
}

#[test]
fn read_only_exports_and_members() {
    let store = MemStore::new(2048);
    let mut all = options(7, 3);
    all.read_only = true;
    let mut some = options(7, 4);
    some.access = [(ONE, Access::ReadOnly), (OTHER, Access::ReadWrite)].into();
    let mut worker = Worker::new(vec![export(all, &store), export(some, &store)]);
    let mut ask = |source, slot, argument: &[u8]| {
        status(&worker.answer(&frame_from(source, TARGET, 7, slot, 0, 1, argument)))
    };
    for argument in [
        write(0, 1, 1),
        ranges(&[(1, 1)], 1),
        ata(0x41, 0, 1, 0x3d, 0, &[1; 512]),
    ] {
        assert_eq!(ask(ONE, 3, &argument), ABORT);
        assert_eq!(ask(ONE, 4, &argument), ABORT);
    }
    assert!(store.log().is_empty());
    assert_eq!(ask(ONE, 4, &read(0, 1)), GOOD);
    assert_eq!(ask(OTHER, 4, &write(0, 1, 1)), GOOD);
}

#[test]
fn smart_is_off_unless_asked_for() {
    let (mut worker, store) = worker();
    let smart = |feature, lba| ata(0, feature, 1, 0xb0, lba, &[]);
    let key = 0xc24f00;
    assert_eq!(worker.ata(&smart(0xda, key)), ABORT);

    let mut offered = options(7, 3);
    offered.smart = true;
    let mut worker = Worker::new(vec![export(offered, &store)]);
    let words = |worker: &mut Worker| {
        let reply = worker.answer(&request(0, &ata(0, 0, 1, 0xec, 0, &[])));
        (reply[36 + 164] & 1, reply[36 + 170] & 1)
    };
    assert_eq!(words(&mut worker), (1, 1));
    assert_eq!(worker.ata(&smart(0xda, 0)), ABORT, "no key");
    let healthy = worker.answer(&request(0, &smart(0xda, key)));
    assert_eq!((status(&healthy), &healthy[28..31]), (GOOD, &[0, 0x4f, 0xc2][..]));
    let data = worker.answer(&request(0, &smart(0xd0, key)));
    assert_eq!(data.len(), 36 + 512);
    assert_eq!(
        data[36..].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
        0
    );
    assert_eq!(worker.ata(&smart(0xd9, key)), GOOD);
    assert_eq!(words(&mut worker), (1, 0));
    assert_eq!(worker.ata(&smart(0xda, key)), ABORT, "disabled");
    assert_eq!(worker.ata(&smart(0xd8, key)), GOOD);
    assert_eq!(worker.ata(&smart(0xd5, key)), ABORT);
}

#[test]
fn an_empty_pool_means_silence() {
    let (mut worker, _) = worker();
    worker.link.pool = 0;
    assert!(worker.ask(&request(0, &read(0, 2))).is_empty());
    worker.link.pool = usize::MAX;
    assert_eq!(worker.ata(&read(0, 2)), GOOD);
}
