//! Machines without a name, of which only so many get a disk.

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
