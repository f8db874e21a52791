//! Persistent copies that vanish.

use std::path::PathBuf;

use super::*;
use crate::config::OverlayReset;
use crate::control::state::Before;

fn room() -> Room {
    let mut room = Room::new();
    room.config.overlay = Overlay::Persistent;
    room.state = Some(StateDir::open(&room.dir.path().join("state"), Before::Unknown).unwrap());
    room
}

fn copies(room: &Room) -> PathBuf {
    naming::directory(&room.config).unwrap()
}

fn problem(disks: &Disks) -> String {
    until("a problem", || disks.states().first()?.problem.clone())
}

fn ask(disks: &Disks, mac: Mac) {
    assert!(disks.instance(mac).is_none());
}

#[test]
fn a_persistent_copy_that_vanished_is_shut_until_it_is_back_or_reset() {
    let room = room();
    let aside = room.dir.path().join("aside");
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    disks.close();
    std::fs::rename(copies(&room), &aside).unwrap();

    let disks = room.open();
    assert!(problem(&disks).contains("xblade overlay reset"));
    let told = disks.troubles().reason().unwrap_or_default();
    assert!(
        told.contains("pc17 hears nothing: its persistent copy is gone"),
        "{told}"
    );
    // Neither its asking nor its boot has it begin anew.
    ask(&disks, PC[0]);
    disks.order(Order::Boot(PC[0]));
    disks.order(Order::Open(PC[0]));
    disks.close();
    assert!(!copies(&room).join("machine-pc17.marks").exists());
    std::fs::remove_dir_all(copies(&room)).unwrap();
    std::fs::rename(&aside, copies(&room)).unwrap();
    let disks = room.open();
    assert_eq!(read(&disk(&disks, PC[0])), 1, "it is back");
    disks.close();

    std::fs::remove_dir_all(copies(&room)).unwrap();
    let disks = room.open();
    problem(&disks);
    disks
        .reset(DiskName::Machine("pc17".into()), false, true)
        .unwrap();
    assert_eq!(read(&disk(&disks, PC[0])), 7, "it has begun anew");
    assert_eq!(disks.troubles().reason(), None);
    disks.close();
}

/// What is left of it would be taken for the beginning of a new one.
#[test]
fn a_persistent_copy_that_lost_its_records_alone_keeps_what_it_holds() {
    let room = room();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    disks.close();
    let aside = room.dir.path().join("aside");
    std::fs::rename(copies(&room).join("machine-pc17.marks"), &aside).unwrap();
    let disks = room.open();
    assert!(problem(&disks).contains("its persistent copy is gone"));
    ask(&disks, PC[0]);
    disks.order(Order::Boot(PC[0]));
    disks.close();
    std::fs::rename(&aside, copies(&room).join("machine-pc17.marks")).unwrap();
    let disks = room.open();
    assert_eq!(read(&disk(&disks, PC[0])), 1, "it is back");
    disks.close();
}

#[test]
fn a_copy_that_vanishes_while_it_is_served_does_not_begin_anew_at_the_next_boot() {
    let room = room();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    std::fs::remove_dir_all(copies(&room)).unwrap();
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 1, "it is served on");
    disks.close();
}

#[test]
fn a_list_that_cannot_be_read_lets_no_persistent_copy_begin() {
    let room = room();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    disks.close();
    let list = room.dir.path().join("state/12.9.copies");
    assert!(list.exists());
    std::fs::write(&list, "nonsense").unwrap();
    let disks = room.open();
    assert_eq!(read(&disk(&disks, PC[0])), 1, "what is there is served");
    disks.close();
    std::fs::remove_dir_all(copies(&room)).unwrap();
    let disks = room.open();
    ask(&disks, PC[0]);
    assert!(problem(&disks).contains("12.9.copies"));
    disks.close();
}

/// Volatile copies of the machine with a name and of one without, which end with the host.
fn ended(room: &Room) {
    use std::os::unix::fs::FileExt as _;
    let disks = room.open();
    for mac in [PC[0], STRANGER] {
        write(&disk(&disks, mac), 1);
    }
    disks.close();
    let files = std::fs::read_dir(copies(room)).unwrap().flatten();
    let maps = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "map"));
    let ended = maps.map(|map| {
        let map = std::fs::File::options().write(true).open(map.path()).unwrap();
        // The id of the host's boot stands behind magic and six numbers.
        map.write_all_at(b"0!", 56).unwrap();
    });
    assert_eq!(ended.count(), 2);
}

/// Its system may run on, and would find the image below a file system that it has written to.
#[test]
fn a_volatile_copy_that_ended_with_the_host_is_silent_until_its_machine_boots() {
    let mut room = room();
    room.config.overlay = Overlay::Volatile;
    ended(&room);
    let disks = room.open();
    let is_ended = || -> Vec<bool> { disks.states().iter().map(|state| state.ended).collect() };
    assert_eq!(is_ended(), [true, true], "known before anybody asks");
    ask(&disks, PC[0]);
    ask(&disks, STRANGER);
    assert!(matches!(disks.look(STRANGER), engine::SeenDisk::Nothing));
    assert!(problem(&disks).contains("ended with this host"));
    assert_eq!(is_ended(), [true, true]);
    for mac in [PC[0], STRANGER] {
        ask(&disks, mac);
        boot(&disks, mac);
        assert_eq!(read(&disk(&disks, mac)), 7, "it has begun anew");
    }
    assert_eq!(is_ended(), [false, false]);
    disks.close();

    // Where a boot is no sign, nothing else would end the silence.
    room.config.overlay_reset = OverlayReset::Never;
    ended(&room);
    let disks = room.open();
    assert_eq!(read(&disk(&disks, PC[0])), 7);
    disks.close();
}

/// Machines that are gone for good would fill it at each restart of the host.
#[test]
fn a_copy_that_ended_with_the_host_takes_no_place_of_another_machine_s() {
    let mut room = room();
    room.config.overlay = Overlay::Volatile;
    room.config.unknown_max = 1;
    ended(&room);
    let another = Mac([2, 0, 0, 0, 0, 8]);
    let disks = room.open();
    assert_eq!(read(&disk(&disks, another)), 7);
    assert!(!disks.boots(STRANGER), "there is no place any more");
    disks.reset(DiskName::Unknown(another), true, true).unwrap();
    disks.shared.asking.lock().clear();
    boot(&disks, STRANGER);
    assert_eq!(read(&disk(&disks, STRANGER)), 7);
}
