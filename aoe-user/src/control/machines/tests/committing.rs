//! Commits that are refused, fail or meet others: nobody loses a copy by them.

use super::*;

pub(super) fn pc() -> DiskName {
    DiskName::Machine("pc17".into())
}

/// The first byte of a sector.
fn read_at(export: &Export, lba: u64) -> u8 {
    let extent = Extent { lba, count: 1 };
    let sector = std::cell::RefCell::new([0; 512]);
    let later = run(export, |queue| {
        let mut sector = sector.borrow_mut();
        export.store().read(queue, 1, extent, &mut [&mut sector[..]])
    });
    later.map_or_else(|| sector.borrow()[0], |bytes| bytes[0])
}

/// What is a machine's own, and what is of the image that it runs on.
fn has_all(disks: &Disks, own: u8, of_image: u8) {
    let export = disk(disks, PC[0]);
    assert_eq!((read_at(&export, 5), read_at(&export, 6)), (own, of_image));
}

#[test]
fn a_refused_commit_costs_a_machine_nothing_when_others_have_a_newer_image() {
    for kind in ["volatile", "pinned", "persistent"] {
        let mut room = Room::new();
        if kind == "persistent" {
            persistent(&mut room);
        }
        let disks = room.open();
        write(&disk(&disks, PC[0]), 1);
        if kind == "pinned" {
            disks.pin(pc(), true).unwrap();
        }
        room.replace_image(9);
        boot(&disks, STRANGER);
        assert_eq!(read(&disk(&disks, STRANGER)), 9);
        for _ in 0..2 {
            let refused = commit(&disks, &pc()).unwrap_err();
            assert!(refused.contains("replaced"), "{kind}: {refused}");
            has_all(&disks, 1, 7);
        }
        write(&disk(&disks, PC[0]), 2);
        has_all(&disks, 2, 7);
        assert!(
            disks.states()[0].problem.is_none(),
            "{kind}: {:?}",
            disks.states()
        );
    }
}

/// The image is replaced, and others boot from the new one, while the merge is at work.
#[test]
fn a_copy_whose_merge_fails_goes_on_as_it_was_on_the_image_it_is_on() {
    let room = Room::new();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    let left = disks.have(|answer| Order::Leave(pc(), true, answer)).unwrap();
    let Left::Copy(store, files) = left else {
        panic!("{left:?}")
    };
    let other = disks.have(|answer| Order::Leave(pc(), true, answer)).unwrap_err();
    assert!(other.contains("the copy of pc17; wait"), "{other}");
    let looked_at = disks.overlay_exports.on_image(store.golden()).unwrap();
    let new = store.merge(&files).unwrap();
    room.replace_image(9);
    boot(&disks, STRANGER);
    assert!(disks.instance(PC[0]).is_none(), "it is being merged");
    let mut orders = vec![Some(Replacement { new, looked_at }), None];
    while let Some(new) = orders.pop() {
        let is_none = new.is_none();
        let returned = disks.have(|answer| Order::Return(pc(), Arc::clone(&store), new, answer));
        match returned {
            Ok(()) => assert!(is_none, "another image was overwritten"),
            Err(why) => assert!(why.contains("replaced"), "{why}"),
        }
        has_all(&disks, 1, 7);
        assert_eq!(image(&room.config.path)[0], 9);
        if is_none {
            disks.have(|answer| Order::Leave(pc(), true, answer)).unwrap_err();
        }
    }
    drop(store);
    assert!(!room.dir.path().join("golden.merging").exists());
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 9);
}

#[test]
fn a_commit_that_cannot_make_its_file_gives_the_disk_back() {
    let mut room = Room::new();
    persistent(&mut room);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    let in_the_way = room.dir.path().join("golden.merging");
    std::fs::create_dir(&in_the_way).unwrap();
    let failed = commit(&disks, &pc()).unwrap_err();
    assert!(failed.contains("golden.merging: making it"), "{failed}");
    has_all(&disks, 1, 7);
    std::fs::remove_dir(in_the_way).unwrap();
    commit(&disks, &pc()).unwrap();
    assert_eq!(image(&room.config.path)[5 * 512], 1);
}

/// Another export with the same image, and a persistent copy.
pub(super) fn neighbour(room: &Room) -> Room {
    let mut other = Room::new();
    other.config.path.clone_from(&room.config.path);
    other.config.slot = 10;
    other.overlay_exports = Arc::clone(&room.overlay_exports);
    persistent(&mut other);
    other
}

#[test]
fn a_commit_leaves_an_image_alone_that_a_persistent_copy_of_another_export_lies_on() {
    let room = Room::new();
    let other = neighbour(&room);
    let disks = room.open();
    let others = other.open();
    write(&disk(&disks, PC[0]), 1);
    write(&disk(&others, PC[0]), 2);
    for _ in 0..2 {
        let refused = disks.commit(&pc(), true).unwrap_err();
        assert!(refused.contains("pc17 (e12.10)"), "{refused}");
        has_all(&disks, 1, 7);
        // Served or not.
        let out = others.have(|answer| Order::Leave(pc(), true, answer));
        drop(out);
    }
    others.close();
    let others = other.open();
    others.reset(pc(), true, true).unwrap();
    // Nor does one begin on an image that is about to be replaced.
    let left = disks.have(|answer| Order::Leave(pc(), true, answer)).unwrap();
    let Left::Copy(store, files) = left else {
        panic!("{left:?}")
    };
    let new = store.merge(&files).unwrap();
    assert!(others.instance(PC[0]).is_none());
    let waits = until("a disk that is waited for", || {
        others.states().first()?.problem.clone()
    });
    assert!(waits.contains("making a new image"), "{waits}");
    drop(new);
    disks
        .have(|answer| Order::Return(pc(), store, None, answer))
        .unwrap();
    others.shared.asking.lock().clear();
    assert_eq!(read(&disk(&others, PC[0])), 7);
    others.reset(pc(), true, true).unwrap();
    disks.commit(&pc(), true).unwrap();
    others.shared.asking.lock().clear();
    assert_eq!(read(&disk(&others, PC[0])), 1);
}

#[test]
fn a_persistent_copy_that_waits_for_the_end_of_a_commit_is_opened_though_its_machine_is_off() {
    let room = Room::new();
    let mut other = neighbour(&room);
    let one = |name: &str, mac| Machine {
        name: name.into(),
        macs: vec![mac],
        overlay: Some(Overlay::Persistent),
    };
    other.config.machines = [one("pc17", PC[0]), one("pc18", PC[1])].into();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    let others = other.open();
    write(&disk(&others, PC[0]), 2);
    others.close();
    let left = disks.have(|answer| Order::Leave(pc(), true, answer)).unwrap();
    let Left::Copy(store, files) = left else {
        panic!("{left:?}")
    };
    let new = store.merge(&files).unwrap();
    let others = other.open();
    assert!(others.instance(PC[1]).is_none());
    until("both wait", || {
        let states = others.states();
        let waits = |state: &DiskState| {
            state
                .problem
                .as_ref()
                .is_some_and(|problem| problem.contains("making a new image"))
        };
        (states.len() == 2 && states.iter().all(waits)).then_some(())
    });
    drop(new);
    others.shared.asking.lock().clear();
    until("nothing is told", || {
        let states = others.states();
        (states.len() == 1 && states[0].problem.is_none()).then_some(())
    });
    assert_eq!(others.troubles().reason(), None);
    assert_eq!(read(&disk(&others, PC[0])), 2);
}

/// It could not be opened after a restart. A commit may end between two looks at the image.
#[test]
fn a_persistent_copy_does_not_begin_on_an_image_that_was_just_replaced() {
    let mut room = Room::new();
    persistent(&mut room);
    let disks = room.open();
    // The one before is served on as long as the new one cannot be opened.
    std::fs::remove_file(&room.config.path).unwrap();
    std::fs::create_dir(&room.config.path).unwrap();
    assert!(disks.instance(PC[0]).is_none());
    let waits = until("a disk that is waited for", || {
        disks.states().first()?.problem.clone()
    });
    assert!(waits.contains("on the new image"), "{waits}");
    std::fs::remove_dir(&room.config.path).unwrap();
    room.replace_image(9);
    disks.shared.asking.lock().clear();
    assert_eq!(read(&disk(&disks, PC[0])), 9);
    disks.close();
    assert_eq!(read(&disk(&room.open(), PC[0])), 9);
}

#[test]
fn what_a_killed_commit_left_goes_when_the_export_is_opened() {
    let room = Room::new();
    let left = room.dir.path().join("golden.merging");
    std::fs::write(&left, [0; 4096]).unwrap();
    let disks = room.open();
    assert!(!left.exists());
    write(&disk(&disks, PC[0]), 1);
    std::fs::write(&left, [0; 4096]).unwrap();
    commit(&disks, &pc()).unwrap();
    assert!(!left.exists());
}

#[test]
fn nothing_is_taken_from_below_a_machine_that_was_heard_unless_it_is_said_to_be_off() {
    let mut room = Room::new();
    persistent(&mut room);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    let check = |said: Result<(), String>| {
        let said = said.unwrap_err();
        assert!(
            said.contains("was heard") && said.contains("s ago") && said.contains("--force"),
            "{said}"
        );
    };
    let refused = || {
        check(disks.reset(pc(), false, false));
        check(disks.reset(pc(), true, false));
        check(disks.commit(&pc(), false));
    };
    refused();
    // A reload changes nothing of that.
    disks.configure(room.settings());
    refused();
    has_all(&disks, 1, 7);
    disks.set_paused(true);
    let paused = disks.reset(pc(), false, false).unwrap_err();
    assert!(
        paused.contains("paused") && paused.contains("--force"),
        "{paused}"
    );
    disks.set_paused(false);
    disks.close();

    // Who runs on it may not have asked yet.
    let disks = room.open();
    let early = disks.reset(pc(), false, false).unwrap_err();
    assert!(
        early.contains("too short") && early.contains("--force"),
        "{early}"
    );
    disks.close();

    // Whoever waits for a disk that cannot be served may be running, too, and may not have asked yet.
    room.replace_image(9);
    let disks = room.open();
    assert!(disks.states()[0].problem.is_some());
    let early = disks.reset(pc(), false, false).unwrap_err();
    assert!(early.contains("too short"), "{early}");
    assert!(disks.instance(PC[0]).is_none());
    check(disks.reset(pc(), false, false));
    disks.reset(pc(), false, true).unwrap();
    assert_eq!(read(&disk(&disks, PC[0])), 9);
}

#[test]
fn who_cannot_take_a_merged_copy_away_says_that_the_new_image_is_in_place() {
    for discards in [false, true] {
        let mut room = Room::new();
        persistent(&mut room);
        let disks = room.open();
        write(&disk(&disks, PC[0]), 1);
        let map = room.dir.path().join("overlays/12.9/machine-pc17.map");
        let left = disks.have(|answer| Order::Leave(pc(), true, answer)).unwrap();
        let Left::Copy(store, files) = left else {
            panic!("{left:?}")
        };
        let looked_at = disks.overlay_exports.on_image(store.golden()).unwrap();
        let new = store.merge(&files).unwrap();
        std::fs::remove_file(&map).unwrap();
        std::fs::create_dir(&map).unwrap();
        let new = Some(Replacement { new, looked_at });
        let failed = disks
            .have(|answer| Order::Return(pc(), store, new, answer))
            .unwrap_err();
        let says =
            |why: &str| why.contains("new image is in place") && why.contains("overlay discard e12.9 pc17");
        assert!(says(&failed), "{failed}");
        assert_eq!(image(&room.config.path)[5 * 512], 1);
        // Nor is that forgotten, or taken for a copy on an image that is to be put back.
        assert!(disks.instance(PC[0]).is_none());
        assert!(disks.pin(DiskName::Machine("nobody".into()), true).is_err());
        assert!(disks.instance(PC[0]).is_none());
        let problem = disks.states()[0].problem.clone().unwrap();
        assert!(says(&problem), "{problem}");
        std::fs::remove_dir(&map).unwrap();
        if discards {
            disks.reset(pc(), true, true).unwrap();
            assert!(disks.states().is_empty());
        }
        disks.shared.asking.lock().clear();
        assert_eq!(read(&disk(&disks, PC[0])), 1);
        assert_eq!(disks.states()[0].usage.written_sectors, 0);
        disks.close();
    }
}

/// The disk of one that has nothing to do with it may hang.
#[test]
fn a_commit_asks_the_exports_on_the_image_and_names_who_does_not_answer() {
    let room = Room::new();
    let mut other = Room::new();
    other.config.slot = 10;
    other.overlay_exports = Arc::clone(&room.overlay_exports);
    room.overlay_exports
        .configure(&[room.config.clone(), other.config.clone()]);
    let mut start = other.start();
    let (hang, hangs) = std::sync::mpsc::channel();
    let (go, goes_on) = std::sync::mpsc::channel::<()>();
    start.announce = Box::new(move || {
        let _ = hang.send(());
        let _ = goes_on.recv();
    });
    let others = Disks::open(start).unwrap();
    assert!(others.instance(STRANGER).is_none());
    hangs.recv().unwrap();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    commit(&disks, &pc()).unwrap();
    let image = golden(&room.config, &StoreRegistry::default(), &Losses::default()).unwrap();
    let said = others.have_within(Duration::from_millis(1), |answer| {
        Order::Bound(image, None, answer)
    });
    assert!(said.unwrap_err().contains("e12.10"));
    drop(go);
}
