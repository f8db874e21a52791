//! What is told of machines that hear nothing, and of copies without room.

use super::*;
use crate::store::Full;

fn name() -> DiskName {
    DiskName::Machine("pc17".into())
}

/// What is said of the export, when there is something.
fn reason(disks: &Disks) -> String {
    until("something is said", || disks.troubles().reason())
}

/// Writes a sector, and says whether that failed for want of space.
fn is_refused(export: &Export, lba: u64) -> bool {
    let extent = Extent { lba, count: 1 };
    use engine::{Completions as _, Event};
    let mut queue = CompletionQueue::new().unwrap();
    let data = [1; 512];
    loop {
        let step = export
            .store()
            .write(&mut queue, 1, extent, &[&data], Durability::WriteBack);
        match step {
            Ok(Step::Done) => return false,
            Err(fault) => return fault.source.raw_os_error() == Some(libc::ENOSPC),
            Ok(Step::Later) => {}
        }
        let event = until("the end of a write", || {
            queue.submit(Instant::now());
            queue.next().map(|completion| completion.event)
        });
        if let Event::Finished(result) = event {
            return result.is_err();
        }
    }
}

#[test]
fn a_persistent_copy_that_is_refused_is_told_as_one_with_the_reason() {
    let mut room = Room::new();
    persistent(&mut room);
    {
        let disks = room.open();
        write(&disk(&disks, PC[0]), 1);
        disks.close();
    }
    // As `xblade check` asks before xblade is started.
    let files = OverlayFiles::new(directory(&room.config).unwrap().join(name().file_stem()));
    let check = |sectors: usize| files.check_persistent(&room.config.path, 0, sectors as u64);
    check(SECTORS).unwrap();
    let shorter = check(SECTORS - 1).unwrap_err().to_string();
    assert!(
        shorter.contains("made on: 64 sectors") && shorter.contains("now: 63 sectors"),
        "{shorter}"
    );
    room.replace_image(9);
    assert!(
        check(SECTORS)
            .unwrap_err()
            .to_string()
            .contains("another golden image")
    );
    let disks = room.open();
    let state = &disks.states()[0];
    assert_eq!(state.kind, Overlay::Persistent);
    assert!(state.problem.as_ref().unwrap().contains("another golden image"));
    let told = reason(&disks);
    assert!(told.starts_with("pc17 hears nothing: "), "{told}");
    assert!(told.contains("xblade overlay reset"), "{told}");
    disks.reset(name(), false, true).unwrap();
    assert_eq!(disks.troubles(), Troubles::default());
}

/// It is off as a rule, and its boot mends it.
#[test]
fn a_volatile_copy_that_is_refused_is_told_while_its_machine_asks() {
    let room = Room::new();
    {
        let disks = room.open();
        write(&disk(&disks, PC[0]), 1);
        disks.close();
    }
    room.replace_image(9);
    let disks = room.open();
    assert_eq!(disks.troubles().reason(), None);
    assert!(disks.instance(PC[1]).is_none());
    let told = reason(&disks);
    assert!(
        told.starts_with("pc17 hears nothing: ") && told.contains("boot the machine anew"),
        "{told}"
    );
    boot(&disks, PC[1]);
    assert_eq!(disks.troubles().reason(), None);
}

/// Nobody is kept from anything: its machine is off, and a boot mends it, or there is no such machine.
#[test]
fn what_keeps_nobody_from_work_is_not_told() {
    let mut room = Room::new();
    room.config.overlay_limit = Some(4096);
    let disks = room.open();
    {
        let export = disk(&disks, PC[0]);
        assert!(!is_refused(&export, 0) && is_refused(&export, 32));
        assert!(disks.troubles().reason().is_some());
        let mut all = disks.shared.disks.lock();
        let disk = all.get_mut(&name()).unwrap();
        let before = disk.instance.take().unwrap();
        disk.instance = Some(Arc::new(Instance {
            name: name(),
            export: Arc::clone(&before.export),
            content: before.content.clone(),
            ready: before.ready,
            heard: Heard::now(),
        }));
    }
    assert_eq!(disks.troubles().reason(), None, "it has not been heard");
    disks.close();

    let mut room = Room::new();
    persistent(&mut room);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    disks.close();
    room.replace_image(9);
    room.config.machines = Arc::new([]);
    room.config.unknown = crate::config::Unknown::Refuse;
    let disks = room.open();
    assert!(disks.states()[0].problem.is_some());
    assert_eq!(disks.troubles().reason(), None, "there is no such machine");
    disks.close();
}

#[test]
fn a_copy_that_is_being_merged_is_listed_as_what_it_is_and_told_of_who_asks() {
    let mut room = Room::new();
    persistent(&mut room);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    let left = disks.have(|answer| Order::Leave(name(), true, answer)).unwrap();
    let Left::Copy(store, _) = left else {
        panic!("{left:?}")
    };
    assert_eq!(disks.states()[0].kind, Overlay::Persistent);
    assert_eq!(disks.troubles().reason(), None);
    disks
        .have(|answer| Order::Return(name(), store, None, answer))
        .unwrap();
    assert_eq!(read(&disk(&disks, PC[0])), 1);
}

#[test]
fn machines_that_wait_for_the_end_of_a_change_of_the_image_are_told() {
    let mut room = Room::new();
    let (master, mac) = ("master".to_owned(), Mac([2, 0, 0, 0, 0, 7]));
    let overlay = Some(Overlay::None);
    room.config.machines = [
        room.config.machines[0].clone(),
        Machine {
            name: master,
            macs: vec![mac],
            overlay,
        },
    ]
    .into();
    let disks = room.open();
    disk(&disks, mac);
    assert!(disks.instance(PC[0]).is_none());
    let told = reason(&disks);
    assert!(
        told.contains("pc17 hears nothing: master changes the image itself"),
        "{told}"
    );
    assert!(told.contains("xblade overlay commit e12.9 master"), "{told}");
    disks.commit(&DiskName::Machine("master".into()), true).unwrap();
    disk(&disks, PC[0]);
    assert_eq!(disks.troubles().reason(), None);
}

#[test]
fn a_copy_that_is_full_is_told_until_there_is_room_again() {
    let mut room = Room::new();
    room.config.overlay_limit = Some(4096);
    let disks = room.open();
    let export = disk(&disks, PC[0]);
    assert!(!is_refused(&export, 0));
    assert!(is_refused(&export, 32));
    assert_eq!(disks.troubles().full, [(name(), Full::Limit)].into());
    let told = reason(&disks);
    assert!(
        told.contains("writes of pc17 are refused") && told.contains("overlay_limit"),
        "{told}"
    );
    drop(export);
    room.config.overlay_limit = Some(1 << 20);
    disks.configure(room.settings());
    until("the limit is raised", || {
        disks.troubles().reason().is_none().then_some(())
    });
    assert!(!is_refused(&disk(&disks, PC[0]), 32));
}

/// As a test of a real file system that is full is for the lab.
#[test]
fn room_is_looked_for_where_the_copies_are() {
    let room = Room::new();
    let disks = room.open();
    assert_eq!(disks.troubles().free_bytes, None);
    disks.look_for_room();
    assert!(disks.troubles().free_bytes.is_some());
    disks.room.set_free(100);
    let told = reason(&disks);
    assert!(told.contains("12.9: the file system is full"), "{told}");
}
