//! One address, and a disk of its own for each machine.

use std::collections::HashMap;
use std::sync::Arc;

use aoe_common::Mac;
use parking_lot::Mutex;

use crate::testing::bench::{
    ONE, OTHER, TARGET, Witness, Worker, export, frame_from, options, read, status, write,
};
use crate::testing::completions::MemCompletions;
use crate::testing::store::{MemStore, StoreMode};
use crate::{Export, Identity, Machines, Options, Persistent, SeenDisk};

const QUERY: [u8; 8] = [0; 8];
const IPXE: u32 = 0x18ae_0001;
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x55]);

/// Machines that are set up by hand.
#[derive(Debug, Default)]
struct Room {
    instances: Mutex<HashMap<Mac, Arc<Export<MemCompletions>>>>,
    /// Who may have a disk, and has none yet.
    unmade: Mutex<Vec<Mac>>,
    /// Who used its disk, or was to.
    used: Mutex<Vec<Mac>>,
    /// Who booted.
    booted: Mutex<Vec<Mac>>,
}

impl Machines<Export<MemCompletions>> for Room {
    fn instance(&self, source: Mac) -> Option<Arc<Export<MemCompletions>>> {
        self.used.lock().push(source);
        self.instances.lock().get(&source).cloned()
    }

    fn look(&self, source: Mac) -> SeenDisk<Export<MemCompletions>> {
        match self.instances.lock().get(&source) {
            Some(own) => SeenDisk::Ready(Arc::clone(own)),
            None if self.unmade.lock().contains(&source) => SeenDisk::Unmade,
            None => SeenDisk::Nothing,
        }
    }

    fn boots(&self, source: Mac) -> bool {
        let mut booted = self.booted.lock();
        let again = booted.contains(&source);
        booted.push(source);
        again
    }

    fn in_flight(&self) -> usize {
        self.instances
            .lock()
            .values()
            .map(|export| export.in_flight())
            .sum()
    }

    fn set_paused(&self, paused: bool) {
        for export in self.instances.lock().values() {
            match paused {
                true => export.pause(),
                false => export.resume(),
            }
        }
    }
}

struct Scene {
    room: Arc<Room>,
    shared: Arc<Export<MemCompletions>>,
    golden: Arc<MemStore>,
    one: Arc<MemStore>,
    worker: Worker,
}

fn own(serial: &str) -> Options {
    Options {
        identity: Identity {
            serial: serial.into(),
            ..options(7, 3).identity
        },
        ..options(7, 3)
    }
}

/// Two machines with a disk each.
fn scene() -> Scene {
    let (golden, one, other) = (MemStore::new(64), MemStore::new(64), MemStore::new(64));
    let room = Arc::new(Room::default());
    room.instances.lock().extend([
        (ONE, export(own("7.3:one"), &one)),
        (OTHER, export(own("7.3:other"), &other)),
    ]);
    let shared = Export::new(
        options(7, 3),
        golden.clone(),
        None,
        Arc::new(Witness::default()),
        Persistent::default(),
    );
    let shared = Arc::new(shared.unwrap().with_machines(room.clone()));
    Scene {
        worker: Worker::new(vec![shared.clone()]),
        room,
        shared,
        golden,
        one,
    }
}

fn from(source: Mac, argument: &[u8]) -> Vec<u8> {
    frame_from(source, TARGET, 7, 3, 0, 1, argument)
}

#[test]
fn each_machine_has_sectors_of_its_own() {
    let Scene {
        mut worker, golden, ..
    } = scene();
    let before = golden.inner.lock().image.clone();
    for (source, byte) in [(ONE, 1), (OTHER, 2)] {
        assert_eq!(
            status(&worker.answer(&from(source, &write(5, 1, byte)))),
            (0x40, 0)
        );
    }
    for (source, byte) in [(ONE, 1), (OTHER, 2)] {
        let reply = worker.answer(&from(source, &read(5, 1)));
        assert_eq!(reply[36..548], [byte; 512]);
    }
    assert_eq!(golden.inner.lock().image, before);
    let identify = crate::testing::bench::ata(0, 0, 1, 0xec, 0, &[]);
    // Words 10 to 19 hold characters in pairs, the second first.
    let serial = |reply: &[u8]| -> String {
        let words = reply[36 + 20..36 + 40].chunks_exact(2);
        words
            .flat_map(|pair| [pair[1] as char, pair[0] as char])
            .collect()
    };
    assert!(serial(&worker.answer(&from(ONE, &identify))).contains("7.3:one"));
    let everybody = frame_from(OTHER, Mac::BROADCAST, 0xffff, 0xff, 0, 1, &identify);
    assert!(serial(&worker.answer(&everybody)).contains("7.3:other"));
}

#[test]
fn who_has_no_disk_hears_nothing() {
    let mut worker = scene().worker;
    for to in [TARGET, Mac::BROADCAST] {
        assert!(
            worker
                .ask(&frame_from(STRANGER, to, 7, 3, 1, 0, &QUERY))
                .is_empty()
        );
        assert!(
            worker
                .ask(&frame_from(STRANGER, to, 7, 3, 0, 0, &read(0, 1)))
                .is_empty()
        );
        assert!(
            worker
                .ask(&frame_from(STRANGER, to, 0xffff, 0xff, 1, 0, &QUERY))
                .is_empty()
        );
    }
    assert_eq!(
        worker
            .ask(&frame_from(ONE, Mac::BROADCAST, 0xffff, 0xff, 1, 0, &QUERY))
            .len(),
        1
    );
}

#[test]
fn a_disk_is_for_who_uses_it_and_not_for_who_looks() {
    let Scene { mut worker, room, .. } = scene();
    room.unmade.lock().push(STRANGER);
    let identify = crate::testing::bench::ata(0, 0, 1, 0xec, 0, &[]);
    for (to, shelf, slot) in [
        (TARGET, 7, 3),
        (Mac::BROADCAST, 7, 3),
        (Mac::BROADCAST, 0xffff, 0xff),
    ] {
        let query = frame_from(STRANGER, to, shelf, slot, 1, 0, &QUERY);
        assert_eq!(worker.ask(&query).len(), 1, "it may have one");
    }
    let everybody = frame_from(STRANGER, Mac::BROADCAST, 0xffff, 0xff, 0, 1, &identify);
    assert!(worker.ask(&everybody).is_empty());
    assert!(room.used.lock().is_empty(), "it only looked");
    assert!(worker.ask(&from(STRANGER, &identify)).is_empty(), "not yet");
    assert_eq!(*room.used.lock(), [STRANGER]);
}

#[test]
fn only_the_boot_firmware_s_discovery_is_a_boot() {
    let Scene { mut worker, room, .. } = scene();
    // Linux asks everybody and a single target with tag 0, aoetools with the highest bit, and data requests count through.
    for (to, shelf, tag) in [
        (Mac::BROADCAST, 0xffff, 0),
        (Mac::BROADCAST, 7, 0),
        (TARGET, 7, IPXE),
        (Mac::BROADCAST, 0xffff, IPXE),
        (Mac::BROADCAST, 7, 0x98ae_0001),
    ] {
        let slot = if shelf == 7 { 3 } else { 0xff };
        assert_eq!(
            worker
                .ask(&frame_from(ONE, to, shelf, slot, 1, tag, &QUERY))
                .len(),
            1
        );
    }
    worker.ask(&frame_from(ONE, TARGET, 7, 3, 0, IPXE, &read(0, 1)));
    assert!(room.booted.lock().is_empty());
    let boot = frame_from(ONE, Mac::BROADCAST, 7, 3, 1, IPXE, &QUERY);
    assert!(worker.ask(&boot).is_empty(), "not ready");
    assert_eq!(worker.ask(&boot).len(), 1, "asked again");
    assert_eq!(*room.booted.lock(), [ONE, ONE]);
}

#[test]
fn a_pause_holds_for_all_machines() {
    let Scene {
        mut worker,
        shared,
        one,
        ..
    } = scene();
    one.mode(StoreMode::Defer);
    worker.ask(&from(ONE, &write(5, 1, 7)));
    worker.ask(&from(ONE, &write(5, 1, 8)));
    assert_eq!(shared.in_flight(), 2);
    shared.pause();
    one.finish(0, None);
    assert_eq!(worker.poll().len(), 1, "the first was under way");
    worker.poll();
    assert_eq!(shared.in_flight(), 0, "the second does not begin");
    assert!(worker.ask(&from(OTHER, &read(5, 1))).is_empty());
    shared.resume();
    assert_eq!(worker.ask(&from(OTHER, &read(5, 1))).len(), 1);
}

#[test]
fn a_reservation_of_the_address_holds_for_every_disk() {
    let Scene {
        mut worker, shared, ..
    } = scene();
    shared
        .change_persistent(|state| state.reserve = vec![OTHER], |_| {})
        .unwrap();
    assert_eq!(worker.answer(&from(ONE, &read(5, 1)))[15], 6, "reserved");
    assert_eq!(status(&worker.answer(&from(OTHER, &read(5, 1)))), (0x40, 0));
}
