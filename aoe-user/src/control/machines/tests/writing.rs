//! Machines without a copy: the one that changes the image itself, and those that only read it.

use super::*;
use crate::store::{LostWrites, Store as _};

const TEACHER: Mac = Mac([2, 0, 0, 0, 0, 7]);

fn teacher() -> DiskName {
    DiskName::Machine("teacher".into())
}

fn room() -> Room {
    let mut room = Room::new();
    let mut machines = room.config.machines.to_vec();
    machines.push(Machine {
        name: "teacher".into(),
        macs: vec![TEACHER],
        overlay: Some(Overlay::None),
    });
    room.config.machines = machines.into();
    room
}

/// Asks until the thread has looked, and nothing came of it.
fn gets_nothing(disks: &Disks, mac: Mac) {
    disks.shared.asking.lock().remove(&mac);
    assert!(disks.instance(mac).is_none());
    until("the thread to look", || {
        disks.shared.asking.lock().get(&mac)?.until
    });
    assert!(disks.instance(mac).is_none());
}

fn has(disks: &Disks, mac: Mac) -> Arc<Export> {
    disks.shared.asking.lock().clear();
    disk(disks, mac)
}

fn problem(disks: &Disks, name: &DiskName) -> String {
    let states = disks.states();
    let state = states.iter().find(|state| state.name == *name).unwrap();
    state.problem.clone().unwrap_or_default()
}

#[test]
fn one_machine_changes_the_image_while_nobody_has_a_copy_and_nobody_gets_one_meanwhile() {
    let room = room();
    let disks = room.open();
    write(&disk(&disks, STRANGER), 2);
    gets_nothing(&disks, TEACHER);
    let why = problem(&disks, &teacher());
    assert!(
        why.contains(&STRANGER.to_string()) && why.contains("overlay discard"),
        "{why}"
    );
    assert_eq!(read(&disk(&disks, STRANGER)), 2);

    disks.reset(DiskName::Unknown(STRANGER), true, true).unwrap();
    write(&has(&disks, TEACHER), 3);
    assert!(!has(&disks, TEACHER).options().read_only);
    gets_nothing(&disks, STRANGER);
    gets_nothing(&disks, PC[0]);
    assert!(!disks.boots(STRANGER));
    let refused = disks.reset(teacher(), true, true).unwrap_err();
    assert!(refused.contains("no copy"), "{refused}");
    let state = disks.states().into_iter().find(|state| state.name == teacher());
    assert_eq!(state.unwrap().kind, Overlay::None);
    boot(&disks, TEACHER);
    assert_eq!(read(&has(&disks, TEACHER)), 3, "a boot takes nothing back");
    disks.close();

    // Another process goes on with it, before anybody else asks.
    let disks = room.open();
    gets_nothing(&disks, STRANGER);
    let own = disks.instance(TEACHER).expect("opened at the start");
    assert_eq!(read(&own), 3);
    write(&own, 4);
    drop(own);
    commit(&disks, &teacher()).unwrap();
    assert_eq!(read(&has(&disks, STRANGER)), 4);
    assert_eq!(image(&room.config.path)[5 * 512], 4);
    gets_nothing(&disks, TEACHER);
    disks.close();
    let disks = room.open();
    assert_eq!(read(&disks.instance(STRANGER).expect("opened at the start")), 4);
}

#[test]
fn the_image_is_the_others_when_its_writer_s_requests_have_ended() {
    let room = room();
    let disks = room.open();
    let in_flight = disk(&disks, TEACHER);
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| commit(&disks, &teacher()));
        until("it to be out of service", || {
            (!disks.shared.table.read().by_mac.contains_key(&TEACHER)).then_some(())
        });
        assert!(disks.instance(STRANGER).is_none());
        write(&in_flight, 3);
        assert!(!commit.is_finished());
        drop(in_flight);
        commit.join().unwrap().unwrap();
    });
    assert_eq!(read(&has(&disks, STRANGER)), 3);
}

#[test]
fn who_gets_a_copy_by_a_reload_does_not_change_the_image_any_more() {
    let mut room = room();
    let disks = room.open();
    write(&disk(&disks, TEACHER), 3);
    let mut machines = room.config.machines.to_vec();
    machines[1].overlay = None;
    room.config.machines = machines.into();
    disks.configure(room.settings());
    until("a copy for the others", || {
        disks.shared.asking.lock().clear();
        disks.instance(STRANGER)
    });
    write(&has(&disks, TEACHER), 4);
    assert_eq!(read(&has(&disks, STRANGER)), 3);
    assert_eq!(image(&room.config.path)[5 * 512], 3);
}

#[test]
fn an_image_in_use_elsewhere_is_not_changed_and_stays_everybody_s() {
    let room = room();
    let disks = room.open();
    // Another reader's lock.
    let options = crate::control::store_options::store_options(&room.config);
    let reader = crate::store::open(&options).unwrap();
    gets_nothing(&disks, TEACHER);
    assert!(
        problem(&disks, &teacher()).contains("in use"),
        "{:?}",
        disks.states()
    );
    assert_eq!(read(&has(&disks, STRANGER)), 7);
    drop(reader);
}

#[test]
fn strangers_may_have_the_image_itself_to_read() {
    let mut room = Room::new();
    room.config.unknown = Unknown::None;
    let disks = room.open();
    let own = disk(&disks, STRANGER);
    assert!(own.options().read_only);
    assert_eq!(read(&own), 7);
    drop(own);
    write(&disk(&disks, PC[0]), 1);
    assert_eq!(read(&disk(&disks, STRANGER)), 7);
    room.replace_image(9);
    assert_eq!(read(&disk(&disks, STRANGER)), 7, "it runs on");
    // As a boot some time later: one that has just begun is what a machine that boots wants.
    disks.reset(DiskName::Unknown(STRANGER), false, true).unwrap();
    assert_eq!(read(&disk(&disks, STRANGER)), 9);
    let directory = room.dir.path().join("overlays/12.9");
    let files: Vec<_> = std::fs::read_dir(directory).unwrap().collect();
    let is_list = |file: &str| file.ends_with("/addresses\"))");
    let files: Vec<_> = files.iter().map(|file| format!("{file:?}")).collect();
    assert!(
        files.iter().all(|file| file.contains("pc17") || is_list(file)),
        "{files:?}"
    );
}

#[test]
fn a_loss_of_the_image_stands_until_it_is_accepted_whoever_opens_it() {
    let mut room = room();
    let lost = LostWrites {
        extent: Extent { lba: 5, count: 1 },
        cause: "Input/output error".into(),
        stopped: true,
    };
    room.losses.known = Some(lost.clone());
    let refused = |disks: &Arc<Disks>| {
        let why = commit(disks, &teacher()).unwrap_err();
        assert!(
            why.contains(&lost.to_string()) && why.contains("--lost-writes"),
            "{why}"
        );
        assert!(problem(disks, &teacher()).contains("no writes are taken"));
        let own = has(disks, TEACHER);
        let mut queue = CompletionQueue::new().unwrap();
        let extent = Extent { lba: 5, count: 1 };
        let written = own
            .store()
            .write(&mut queue, 1, extent, &[&[3; 512]], Durability::WriteBack);
        assert!(written.is_err(), "a write is taken");
    };
    let disks = room.open();
    drop(has(&disks, TEACHER));
    refused(&disks);
    disks.close();

    // Who is to have a copy by now does not make the others' what may be broken.
    let is_none = Arc::clone(&room.config.machines);
    room.config.machines = Room::new().config.machines;
    let disks = room.open();
    gets_nothing(&disks, STRANGER);
    disks.close();
    room.config.machines = is_none;

    let start = room.start();
    let image = Arc::clone(&start.golden);
    let disks = Disks::open(start).unwrap();
    refused(&disks);
    assert!(
        matches!(image.health(), Health::LostWrites(_)),
        "the export tells of it"
    );
    image.accept_lost_writes();
    write(&has(&disks, TEACHER), 3);
    commit(&disks, &teacher()).unwrap();
    assert!(matches!(image.health(), Health::Healthy));
    assert_eq!(read(&has(&disks, STRANGER)), 3);
}

#[test]
fn an_image_that_was_away_is_served_again_and_no_copy_was_made_on_nothing() {
    let mut room = room();
    persistent(&mut room);
    let (path, aside) = (&room.config.path, room.dir.path().join("aside"));
    let disks = room.open();
    std::fs::rename(path, &aside).unwrap();
    gets_nothing(&disks, TEACHER);
    gets_nothing(&disks, PC[0]);
    let why = problem(&disks, &DiskName::Machine("pc17".into()));
    assert!(why.contains("the image cannot be opened"), "{why}");
    let directory = room.dir.path().join("overlays/12.9");
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0);
    std::fs::rename(&aside, path).unwrap();
    assert_eq!(read(&has(&disks, PC[0])), 7);
}

#[test]
fn what_could_not_end_by_a_reload_ends_when_somebody_asks() {
    let mut room = room();
    let aside = room.dir.path().join("aside");
    let disks = room.open();
    write(&disk(&disks, TEACHER), 3);
    std::fs::rename(&room.config.path, &aside).unwrap();
    room.config.machines = Room::new().config.machines;
    disks.configure(room.settings());
    until("the end to fail", || {
        (!problem(&disks, &teacher()).is_empty()).then_some(())
    });
    gets_nothing(&disks, TEACHER);
    gets_nothing(&disks, STRANGER);
    std::fs::rename(&aside, &room.config.path).unwrap();
    assert_eq!(read(&has(&disks, STRANGER)), 3);
    assert_eq!(image(&room.config.path)[5 * 512], 3);
}

#[test]
fn a_reset_that_could_give_no_other_copy_takes_none_away() {
    let room = room();
    let disks = room.open();
    write(&disk(&disks, STRANGER), 2);
    gets_nothing(&disks, TEACHER);
    let refused = disks.reset(teacher(), false, true).unwrap_err();
    assert!(refused.contains("to change the image itself"), "{refused}");
    // On an image that was replaced it is in nobody's way.
    room.replace_image(9);
    write(&has(&disks, TEACHER), 3);
    let refused = disks.reset(DiskName::Unknown(STRANGER), false, true).unwrap_err();
    assert!(refused.contains("teacher changes the image itself"), "{refused}");
    assert_eq!(read(&disk(&disks, STRANGER)), 2);
}
