//! Volatile copies that ended with the host, whose machines may run on.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::moved::{name, wait_for_thread};
use super::*;

fn map_files(room: &Room) -> Vec<PathBuf> {
    let files = std::fs::read_dir(naming::directory(&room.config).unwrap()).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|kind| kind == "map"))
        .collect()
}

fn opened(path: &std::path::Path) -> File {
    File::options().write(true).open(path).unwrap()
}

/// The machine at this address writes to a copy, and the host is restarted.
fn ended(room: &Room, mac: Mac) {
    let disks = room.open();
    write(&disk(&disks, mac), 1);
    disks.close();
    restart_host(room);
}

fn restart_host(room: &Room) {
    for map in map_files(room) {
        // The id of the host's boot stands behind magic and six numbers.
        opened(&map).write_all_at(b"0!", 56).unwrap();
    }
}

fn asks_in_vain(disks: &Disks, mac: Mac) {
    disks.shared.asking.lock().clear();
    assert!(disks.instance(mac).is_none());
    wait_for_thread(disks);
    assert!(disks.instance(mac).is_none(), "it is given another disk");
    assert!(disks.states().iter().any(|state| state.ended));
}

fn after_boot(disks: &Disks, mac: Mac) -> u8 {
    disks.shared.asking.lock().clear();
    boot(disks, mac);
    read(&disk(disks, mac))
}

/// Neither a name nor another one gives a machine that runs the image below its file system.
#[test]
fn an_address_keeps_a_copy_that_ended_with_the_host_under_another_name_too() {
    for before in [&[][..], &[("pc17", &[STRANGER][..])]] {
        for reloads in [false, true] {
            let mut room = Room::new();
            name(&mut room, before);
            ended(&room, STRANGER);
            let disks = if reloads {
                let disks = room.open();
                name(&mut room, &[("pc18", &[STRANGER])]);
                disks.configure(room.settings());
                wait_for_thread(&disks);
                disks
            } else {
                name(&mut room, &[("pc18", &[STRANGER])]);
                room.open()
            };
            asks_in_vain(&disks, STRANGER);
            disks.close();
            // The next process knows that, too.
            let disks = room.open();
            asks_in_vain(&disks, STRANGER);
            assert_eq!(after_boot(&disks, STRANGER), 7);
            assert_eq!(disks.states().len(), 1, "the other one is gone");
            assert_eq!(map_files(&room).len(), 1);
            disks.close();
        }
    }
}

/// It ran on what it had before a reload, and the host died.
#[test]
fn an_address_that_kept_a_copy_when_the_host_died_is_silent_until_it_boots() {
    let mut room = Room::new();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    name(&mut room, &[("pc18", &[PC[0]]), ("pc17", &[PC[1]])]);
    disks.configure(room.settings());
    wait_for_thread(&disks);
    assert_eq!(read(&disk(&disks, PC[0])), 1);
    disks.close();
    restart_host(&room);
    let disks = room.open();
    asks_in_vain(&disks, PC[0]);
    asks_in_vain(&disks, PC[1]);
    assert_eq!(after_boot(&disks, PC[0]), 7);
    asks_in_vain(&disks, PC[1]);
    assert_eq!(after_boot(&disks, PC[1]), 7);
    assert_eq!(disks.states().len(), 2);
}

/// A server may have been up for longer than any time that one would wait for a machine that does not come back.
#[test]
fn how_long_ago_a_copy_ended_is_counted_from_the_start_that_found_it() {
    const DAYS: Duration = Duration::from_secs(31 * 24 * 3600);
    let room = Room::new();
    ended(&room, STRANGER);
    let long_ago = SystemTime::now() - DAYS;
    let map = map_files(&room).remove(0);
    let delta = map.with_extension("delta");
    for path in [&map, &delta] {
        opened(path).set_modified(long_ago).unwrap();
    }
    for _ in 0..2 {
        let disks = room.open();
        asks_in_vain(&disks, STRANGER);
        disks.close();
        assert_eq!(std::fs::metadata(&delta).unwrap().len(), 0);
    }
    // The clock was wrong at one of them.
    opened(&delta).set_modified(long_ago).unwrap();
    opened(&map).set_modified(SystemTime::now()).unwrap();
    let disks = room.open();
    asks_in_vain(&disks, STRANGER);
    disks.close();
    for path in [&map, &delta] {
        opened(path).set_modified(long_ago).unwrap();
    }
    let disks = room.open();
    assert_eq!(map_files(&room).len(), 0, "it was found a month ago");
    assert!(disks.states().is_empty());
    assert_eq!(read(&disk(&disks, STRANGER)), 7);
}

/// iPXE asks one disk, and the system that it loads uses others.
#[test]
fn a_boot_from_one_export_ends_what_ended_with_the_host_at_others() {
    let mut room = Room::new();
    let mut second = Room::new();
    second.config.slot = 10;
    second.overlay_exports = Arc::clone(&room.overlay_exports);
    name(&mut second, &[("pc17", &PC)]);
    for mac in [PC[0], STRANGER] {
        let disks = second.open();
        write(&disk(&disks, mac), 1);
        disks.close();
    }
    restart_host(&second);
    // It stays when its machine boots, and may have no more to do than to say so.
    persistent(&mut room);
    let first = room.open();
    write(&disk(&first, PC[0]), 3);
    let disks = second.open();
    assert_eq!(disks.states().len(), 2);
    asks_in_vain(&disks, PC[0]);
    asks_in_vain(&disks, STRANGER);
    assert_eq!(after_boot(&first, PC[0]), 3);
    wait_for_thread(&disks);
    assert_eq!(read(&disk(&disks, PC[0])), 7);
    asks_in_vain(&disks, STRANGER);
    // Under another name it keeps what ended, until it boots wherever that is.
    name(&mut second, &[("pc17", &PC), ("pc18", &[STRANGER])]);
    disks.configure(second.settings());
    asks_in_vain(&disks, STRANGER);
    // What is served goes on: only the boot from its own export has that begin anew.
    write(&disk(&disks, PC[0]), 4);
    for mac in [PC[0], STRANGER] {
        after_boot(&first, mac);
    }
    disks.shared.asking.lock().clear();
    assert_eq!(
        (read(&disk(&disks, PC[0])), read(&disk(&disks, STRANGER))),
        (4, 7)
    );
    let machines: Vec<String> = disks.states().iter().map(|disk| disk.name.to_string()).collect();
    assert_eq!(machines, ["pc17", "pc18"]);
}

/// They get another copy when they ask, from then on.
#[test]
fn where_copies_stay_from_a_reload_on_those_that_ended_are_told_of_nobody() {
    let mut room = Room::new();
    ended(&room, PC[0]);
    let disks = room.open();
    assert!(disks.states()[0].ended);
    room.config.overlay_reset = OverlayReset::Never;
    disks.configure(room.settings());
    wait_for_thread(&disks);
    assert_eq!(disks.troubles().reason(), None);
    assert_eq!(read(&disk(&disks, PC[0])), 7);
}

/// It runs on, and may be served again by the next configuration.
#[test]
fn a_copy_that_ended_of_an_address_that_nobody_may_have_for_now_is_not_forgotten() {
    let mut room = Room::new();
    for mac in [PC[0], STRANGER] {
        let disks = room.open();
        write(&disk(&disks, mac), 1);
        disks.close();
    }
    restart_host(&room);
    let disks = room.open();
    let before = room.config.machines.clone();
    name(&mut room, &[("other", &[Mac([2, 0, 0, 0, 0, 5])])]);
    room.config.unknown = Unknown::Refuse;
    disks.configure(room.settings());
    wait_for_thread(&disks);
    boot(&disks, Mac([2, 0, 0, 0, 0, 5]));
    (room.config.machines, room.config.unknown) = (before, Unknown::Volatile);
    disks.configure(room.settings());
    wait_for_thread(&disks);
    for mac in [PC[0], STRANGER] {
        asks_in_vain(&disks, mac);
        assert_eq!(after_boot(&disks, mac), 7);
    }
}

/// Another machine may have the same address there.
#[test]
fn a_boot_on_another_network_ends_nothing() {
    let room = Room::new();
    let mut second = Room::new();
    second.config.slot = 10;
    second.overlay_exports = Arc::clone(&room.overlay_exports);
    second.config.vlan = crate::config::Vlan::Id(20);
    ended(&second, PC[0]);
    let (first, disks) = (room.open(), second.open());
    after_boot(&first, PC[0]);
    asks_in_vain(&disks, PC[0]);
    second.config.vlan = crate::config::Vlan::Any;
    disks.configure(second.settings());
    wait_for_thread(&disks);
    after_boot(&first, PC[0]);
    wait_for_thread(&disks);
    assert_eq!(read(&disk(&disks, PC[0])), 7);
}

/// Its disk, or the process, may be at the end of something for a moment.
#[test]
fn a_copy_whose_files_cannot_be_read_is_neither_thrown_away_nor_made_anew() {
    let room = Room::new();
    let copies = naming::directory(&room.config).unwrap();
    let aside = room.dir.path().join("aside");
    for mac in [PC[0], STRANGER] {
        for pinned in [false, true] {
            let disks = room.open();
            write(&disk(&disks, mac), 1);
            let name = disks.states()[0].name.clone();
            disks.pin(name.clone(), pinned).unwrap();
            disks.close();
            // A link to itself has a name, and can be removed, and no more.
            let map = copies.join(name.file_stem()).with_extension("map");
            std::fs::rename(&map, &aside).unwrap();
            std::os::unix::fs::symlink(&map, &map).unwrap();
            let disks = room.open();
            let problem = disks.states()[0].problem.clone().unwrap();
            assert!(problem.contains("cannot be told"), "{problem}");
            assert!(disks.instance(mac).is_none());
            wait_for_thread(&disks);
            disks.shared.asking.lock().clear();
            assert!(!disks.boots(mac));
            wait_for_thread(&disks);
            assert!(disks.instance(mac).is_none());
            std::fs::rename(&aside, &map).unwrap();
            disks.shared.asking.lock().clear();
            assert_eq!(read(&disk(&disks, mac)), 1, "it can be read again");
            assert_eq!(disks.states()[0].pinned, pinned);
            disks.reset(name, true, true).unwrap();
            disks.close();
        }
    }
}
