//! The same where xblade is started again under another configuration.

use std::path::PathBuf;

use super::*;
use crate::control::state::Before;

const MACHINE: &str = "12.9:pc17";
const OTHER: &str = "12.9:pc18";

fn files(room: &Room) -> PathBuf {
    naming::directory(&room.config).unwrap()
}

fn start_again(disks: &Disks, room: &mut Room, machines: &[(&str, &[Mac])]) -> Arc<Disks> {
    disks.close();
    name(room, machines);
    room.open()
}

fn kept_by(disks: &Disks, machine: &str) -> Vec<Mac> {
    let states = disks.states();
    let found = states.iter().find(|state| state.name.to_string() == machine);
    found.map_or_else(Vec::new, |state| state.kept_by.clone())
}

fn problem(disks: &Disks, machine: &str) -> String {
    let states = disks.states();
    let found = states.iter().find(|state| state.name.to_string() == machine);
    found.and_then(|state| state.problem.clone()).expect("a problem")
}

/// A machine with one address has written, and its copy's name is another's since; each of the two is `(name, address)` now.
fn renamed(kind: Overlay, reloads: bool) {
    let mut room = of(kind, &[("pc17", &PC[..1])]);
    let after: [(&str, &[Mac]); 2] = [("pc17", &[STRANGER]), ("pc18", &PC[..1])];
    let mut disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    if reloads {
        reload(&disks, &mut room, &after);
    }
    for round in 2..4 {
        disks = start_again(&disks, &mut room, &after);
        assert_eq!(kept_by(&disks, "pc17"), [PC[0]]);
        assert!(gets_nothing(&disks, STRANGER));
        assert_eq!(has(&disks, PC[0]), (MACHINE.into(), round - 1));
        write(&disk(&disks, PC[0]), round);
    }
    assert_eq!(after_boot(&disks, PC[0]), (OTHER.into(), 7));
    write(&disk(&disks, PC[0]), 4);
    // It keeps nothing any more, and runs on its own.
    disks = start_again(&disks, &mut room, &after);
    assert!(kept_by(&disks, "pc17").is_empty());
    assert_eq!(has(&disks, PC[0]), (OTHER.into(), 4));
    assert_eq!(has(&disks, STRANGER), (MACHINE.into(), 3));
}

#[test]
fn a_machine_keeps_its_disk_over_starts_under_another_configuration_until_it_boots() {
    for kind in [Overlay::Volatile, Overlay::Persistent] {
        renamed(kind, false);
        renamed(kind, true);
    }
}

#[test]
fn both_addresses_of_a_machine_keep_its_disk_where_one_is_another_machine_s_now() {
    let mut room = of(Overlay::Volatile, &[("pc17", &PC)]);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    let split: [(&str, &[Mac]); 2] = [("pc17", &PC[1..]), ("pc18", &PC[..1])];
    let disks = start_again(&disks, &mut room, &split);
    assert_eq!(kept_by(&disks, "pc17"), [PC[0]]);
    assert_eq!(disks.states()[0].macs, PC);
    for mac in PC {
        assert_eq!(has(&disks, mac), (MACHINE.into(), 1));
    }
    assert!(gets_nothing_at_boot(&disks, PC[1]), "the other one may run on it");
    assert_eq!(after_boot(&disks, PC[0]), (OTHER.into(), 7));
    assert_eq!(after_boot(&disks, PC[1]), (MACHINE.into(), 7));
}

#[test]
fn a_machine_without_a_name_that_gets_one_keeps_its_disk_until_it_boots() {
    let mut room = of(Overlay::Volatile, &[("pc17", &PC)]);
    let disks = room.open();
    write(&disk(&disks, STRANGER), 1);
    let named: [(&str, &[Mac]); 2] = [("pc17", &PC), ("new", &[STRANGER])];
    let disks = start_again(&disks, &mut room, &named);
    assert_eq!(has(&disks, STRANGER), ("12.9:020000000009".into(), 1));
    assert_eq!(after_boot(&disks, STRANGER), ("12.9:new".into(), 7));
    write(&disk(&disks, STRANGER), 2);
    // Its old copy is still there.
    let disks = start_again(&disks, &mut room, &named);
    assert_eq!(has(&disks, STRANGER), ("12.9:new".into(), 2));
    let disks = start_again(&disks, &mut room, &named[..1]);
    assert_eq!(has(&disks, STRANGER), ("12.9:new".into(), 2));
    assert_eq!(
        after_boot(&disks, STRANGER),
        ("12.9:020000000009".into(), 7),
        "and begins anew"
    );
}

#[test]
fn who_is_silent_for_long_after_a_start_keeps_nothing_that_another_asks_for() {
    let mut room = of(Overlay::Persistent, &[("pc17", &PC[..1])]);
    room.config.overlay_reset = OverlayReset::Idle(Duration::from_secs(1));
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    let disks = start_again(&disks, &mut room, &[("pc17", &[STRANGER])]);
    let export = until("the silence of the machine", || disks.instance(STRANGER));
    assert_eq!(read(&export), 1);
    drop(export);
    let disks = start_again(&disks, &mut room, &[("pc17", &[STRANGER])]);
    assert!(kept_by(&disks, "pc17").is_empty());
    assert_eq!(has(&disks, STRANGER), (MACHINE.into(), 1));
}

#[test]
fn the_operator_ends_it_by_taking_the_disk_away_or_the_list() {
    let moved: [(&str, &[Mac]); 2] = [("pc17", &[STRANGER]), ("pc18", &PC[..1])];
    for takes_list in [false, true] {
        let mut room = of(Overlay::Persistent, &[("pc17", &PC[..1])]);
        let disks = room.open();
        write(&disk(&disks, PC[0]), 1);
        let disks = start_again(&disks, &mut room, &moved);
        assert_eq!(kept_by(&disks, "pc17"), [PC[0]]);
        let disks = if takes_list {
            disks.close();
            std::fs::remove_file(files(&room).join("addresses")).unwrap();
            room.open()
        } else {
            disks.reset(DiskName::Machine("pc17".into()), true, true).unwrap();
            start_again(&disks, &mut room, &moved)
        };
        assert!(kept_by(&disks, "pc17").is_empty());
        assert_eq!(has(&disks, PC[0]), (OTHER.into(), 7));
        let left = if takes_list { 1 } else { 7 };
        assert_eq!(has(&disks, STRANGER), (MACHINE.into(), left));
    }
}

#[test]
fn a_copy_that_is_gone_is_kept_by_nobody_unless_it_is_missed() {
    let moved: [(&str, &[Mac]); 1] = [("pc18", &PC[..1])];
    for kind in [Overlay::Volatile, Overlay::Persistent] {
        let mut room = of(kind, &[("pc17", &PC[..1])]);
        room.state = Some(StateDir::open(&room.dir.path().join("state"), Before::Unknown).unwrap());
        let disks = room.open();
        write(&disk(&disks, PC[0]), 1);
        disks.close();
        for suffix in ["delta", "map", "marks"] {
            let _ = std::fs::remove_file(files(&room).join(format!("machine-pc17.{suffix}")));
        }
        name(&mut room, &moved);
        let disks = room.open();
        if kind == Overlay::Persistent {
            assert!(disks.instance(PC[0]).is_none());
            wait_for_thread(&disks);
            assert!(disks.instance(PC[0]).is_none());
            // Nor has a reload it get another under what it runs.
            disks.configure(room.settings());
            wait_for_thread(&disks);
            assert!(disks.instance(PC[0]).is_none());
            assert!(problem(&disks, "pc17").contains("is gone"));
            assert_eq!(kept_by(&disks, "pc17"), [PC[0]]);
            disks.reset(DiskName::Machine("pc17".into()), true, true).unwrap();
        }
        assert_eq!(has(&disks, PC[0]), (OTHER.into(), 7));
    }
}

#[test]
fn a_restart_of_the_host_ends_volatile_copies_and_nobody_s_claim_to_a_persistent_one() {
    let moved: [(&str, &[Mac]); 1] = [("pc18", &PC[..1])];
    for (kind, after) in [
        (Overlay::Volatile, (OTHER, 7)),
        (Overlay::Persistent, (MACHINE, 1)),
    ] {
        let mut room = of(kind, &[("pc17", &PC[..1])]);
        let disks = room.open();
        write(&disk(&disks, PC[0]), 1);
        disks.close();
        // Of another boot of the host.
        std::fs::write(files(&room).join("machine-pc17.map"), b"").unwrap();
        name(&mut room, &moved);
        let disks = room.open();
        assert_eq!(has(&disks, PC[0]), (after.0.into(), after.1));
    }
}

#[test]
fn a_copy_that_cannot_be_served_is_still_its_machine_s() {
    let mut room = of(Overlay::Volatile, &[("pc17", &PC[..1])]);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    disks.close();
    room.replace_image(9);
    let moved: [(&str, &[Mac]); 1] = [("pc18", &PC[..1])];
    name(&mut room, &moved);
    let mut disks = room.open();
    for last in 1..3 {
        assert!(disks.instance(PC[0]).is_none());
        wait_for_thread(&disks);
        assert!(disks.instance(PC[0]).is_none());
        assert!(problem(&disks, "pc17").contains("another golden image"));
        // Others come meanwhile, and the list is written.
        write(&disk(&disks, Mac([2, 0, 0, 0, 1, last])), 2);
        disks = start_again(&disks, &mut room, &moved);
    }
    assert_eq!(kept_by(&disks, "pc17"), [PC[0]]);
    assert_eq!(after_boot(&disks, PC[0]), (OTHER.into(), 9));
}

#[test]
fn an_address_that_nobody_may_have_without_a_name_keeps_nothing() {
    let mut room = of(Overlay::Volatile, &[("pc17", &PC[..1])]);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    room.config.unknown = Unknown::Refuse;
    let disks = start_again(&disks, &mut room, &[("pc17", &[STRANGER])]);
    assert!(gets_nothing(&disks, PC[0]));
    assert_eq!(has(&disks, STRANGER), (MACHINE.into(), 1));
}

/// xblade may be killed from the first answer on.
#[test]
fn the_list_has_an_address_before_it_is_served() {
    let room = of(Overlay::Volatile, &[("pc17", &PC[..1])]);
    let mut start = room.start();
    let list = files(&room).join("addresses");
    let seen = Arc::new(Mutex::new(Vec::new()));
    start.announce = Box::new({
        let seen = Arc::clone(&seen);
        move || {
            seen.lock()
                .push(std::fs::read_to_string(&list).unwrap_or_default());
        }
    });
    let disks = Disks::open(start).unwrap();
    for (served, mac) in [PC[0], STRANGER].into_iter().enumerate() {
        disk(&disks, mac);
        wait_for_thread(&disks);
        assert!(seen.lock()[served].contains(&mac.to_string()), "{seen:?}");
    }
}
