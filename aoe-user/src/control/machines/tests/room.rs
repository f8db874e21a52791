//! Machines without a name, of which only so many get a disk.

use engine::SeenDisk;

use super::*;

const ANOTHER: Mac = Mac([2, 0, 0, 0, 0, 8]);

fn room() -> Room {
    let mut room = Room::new();
    room.config.unknown_max = 1;
    room
}

/// One that has no disk asks for one, and is turned away from then on.
fn is_turned_away(disks: &Disks, mac: Mac) {
    until("there is no room", || {
        assert!(disks.instance(mac).is_none());
        disks.shared.table.read().turns_away(mac).then_some(())
    });
}

#[test]
fn who_has_a_disk_that_cannot_be_served_is_not_turned_away_with_others() {
    let room = room();
    {
        let disks = room.open();
        write(&disk(&disks, STRANGER), 1);
        disks.close();
    }
    // Its disk lies on the image before: it gets another when it boots.
    room.replace_image(9);
    let disks = room.open();
    assert!(disks.states()[0].problem.is_some(), "{:?}", disks.states());
    is_turned_away(&disks, ANOTHER);
    boot(&disks, STRANGER);
    assert_eq!(read(&disk(&disks, STRANGER)), 9);
    is_turned_away(&disks, ANOTHER);
}

#[test]
fn a_disk_that_has_become_the_image_makes_room_for_another() {
    let room = room();
    let disks = room.open();
    write(&disk(&disks, STRANGER), 1);
    is_turned_away(&disks, ANOTHER);
    commit(&disks, &DiskName::Unknown(STRANGER)).unwrap();
    assert_eq!(read(&disk(&disks, ANOTHER)), 1);
    is_turned_away(&disks, STRANGER);
}

/// Whoever forges addresses makes no files, and takes nobody's place, before it reads or writes.
#[test]
fn who_only_looks_is_told_of_a_disk_and_has_none() {
    let room = room();
    let disks = room.open();
    for number in 0..=u8::MAX {
        let mac = Mac([2, 0, 0, 1, 0, number]);
        assert!(
            matches!(disks.look(mac), SeenDisk::Unmade) && disks.boots(mac),
            "{mac}"
        );
    }
    // The thread has dealt with what came before when it has dealt with this.
    assert!(disks.pin(DiskName::Unknown(ANOTHER), true).is_err());
    assert!(disks.states().is_empty());
    let copies = std::fs::read_dir(room.config.overlay_dir.as_ref().unwrap().join("12.9")).unwrap();
    assert_eq!(copies.count(), 0);

    write(&disk(&disks, STRANGER), 1);
    assert!(matches!(disks.look(STRANGER), SeenDisk::Ready(_)));
    boot(&disks, STRANGER);
    assert_eq!(read(&disk(&disks, STRANGER)), 7, "who has one gets it anew");
    until("there is no room", || {
        assert!(matches!(disks.look(ANOTHER), SeenDisk::Nothing));
        disks.shared.table.read().full.then_some(())
    });
    assert!(!disks.boots(ANOTHER));
}

/// Its map goes first when it is taken away, and xblade may be killed in between.
#[test]
fn a_delta_that_is_left_alone_goes_at_the_start_or_by_the_operator_s_order() {
    let room = Room::new();
    let disks = room.open();
    let copies = naming::directory(&room.config).unwrap();
    let left = || -> Vec<String> {
        let files = std::fs::read_dir(&copies).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "addresses").collect();
        names.sort();
        names
    };
    for mac in [PC[0], STRANGER] {
        write(&disk(&disks, mac), 1);
    }
    disks.close();
    for name in left().iter().filter(|name| name.ends_with(".map")) {
        std::fs::remove_file(copies.join(name)).unwrap();
    }
    assert_eq!(left(), ["machine-pc17.delta", "unknown-02-00-00-00-00-09.delta"]);
    let disks = room.open();
    assert_eq!(left(), ["machine-pc17.delta"], "that one's machine comes again");
    disks.reset(DiskName::Machine("pc17".into()), true, true).unwrap();
    assert!(left().is_empty());
}
