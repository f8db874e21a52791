//! Copies that stay over boots, that go with their machine's silence, and what machines do with them.

use super::*;

/// Nothing here takes so long by itself, on a busy machine either.
const SILENCE: Duration = Duration::from_secs(3);

fn pc() -> DiskName {
    DiskName::Machine("pc17".into())
}

#[test]
fn a_pinned_disk_stays_over_boots_and_restarts_until_it_is_unpinned() {
    let room = Room::new();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    disks.pin(pc(), true).unwrap();
    room.replace_image(9);
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 1);
    let state = &disks.states()[0];
    assert!(
        state.pinned && state.old_image,
        "it stays on its image: {state:?}"
    );
    disks.pin(pc(), false).unwrap();
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 9);

    write(&disk(&disks, PC[0]), 2);
    disks.pin(pc(), true).unwrap();
    disks.close();
    let disks = room.open();
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 2);
    disks.reset(pc(), false, true).unwrap();
    assert!(!disks.states()[0].pinned, "the copy that was pinned is gone");
    assert_eq!(read(&disk(&disks, PC[0])), 9);
    write(&disk(&disks, PC[0]), 3);
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 9);
}

#[test]
fn a_boot_does_not_take_a_pinned_disk_away_that_cannot_be_served() {
    let room = Room::new();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    disks.pin(pc(), true).unwrap();
    disks.close();
    let old = std::fs::read(&room.config.path).unwrap();
    room.replace_image(9);
    let disks = room.open();
    assert!(!disks.boots(PC[0]));
    // The thread has dealt with the boot when it has dealt with this.
    let refused = disks.pin(pc(), true).unwrap_err();
    assert!(refused.contains("no copy that is open"), "{refused}");
    assert!(disks.states()[0].problem.is_some());
    let delta = room.config.overlay_dir.as_ref().unwrap();
    let delta = std::fs::read(delta.join("12.9/machine-pc17.delta")).unwrap();
    assert_eq!((delta[5 * 512], old[5 * 512]), (1, 7));
}

#[test]
fn only_a_volatile_copy_can_be_pinned() {
    let mut room = Room::new();
    let disks = room.open();
    assert!(disks.pin(pc(), true).unwrap_err().contains("no copy"));
    disks.close();
    drop(disks);
    persistent(&mut room);
    room.config.unknown = Unknown::None;
    let disks = room.open();
    disk(&disks, PC[0]);
    disk(&disks, STRANGER);
    assert!(disks.pin(pc(), true).unwrap_err().contains("is persistent"));
    let refused = disks.pin(DiskName::Unknown(STRANGER), true).unwrap_err();
    assert!(refused.contains("the image itself"), "{refused}");
}

#[test]
fn a_silent_machine_s_disk_begins_anew_and_no_other_one() {
    let mut room = Room::new();
    room.config.overlay_reset = OverlayReset::Idle(SILENCE);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    write(&disk(&disks, STRANGER), 2);
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 1, "a boot is no silence");
    let names = || -> Vec<DiskName> { disks.states().into_iter().map(|state| state.name).collect() };
    until("the end of the silent one's disk", || {
        disk(&disks, PC[0]);
        (names() == [pc()]).then_some(())
    });
    assert_eq!(read(&disk(&disks, PC[0])), 1);
    assert_eq!(read(&disk(&disks, STRANGER)), 7);

    // Nobody noted who was heard while that did not matter.
    room.config.overlay_reset = OverlayReset::Never;
    disks.configure(room.settings());
    disks.pin(pc(), true).unwrap();
    std::thread::sleep(SILENCE + Duration::from_millis(100));
    room.config.overlay_reset = OverlayReset::Idle(SILENCE);
    disks.configure(room.settings());
    disks.pin(DiskName::Unknown(STRANGER), true).unwrap();
    assert_eq!(names().len(), 2, "silence counts from the reload on");
    disks.pin(DiskName::Unknown(STRANGER), false).unwrap();
    until("the end of the disk that is not pinned", || {
        (names() == [pc()]).then_some(())
    });
}

/// Has the thread look for silent machines: it does before each order.
fn have_it_look(disks: &Disks) {
    let nobody = DiskName::Unknown(Mac([2, 0, 0, 0, 0, 0x77]));
    assert!(disks.pin(nobody, true).is_err());
}

#[test]
fn a_pause_is_no_silence() {
    let mut room = Room::new();
    let limit = Duration::from_secs(1);
    room.config.overlay_reset = OverlayReset::Idle(limit);
    let disks = room.open();
    // A machine that was slow here was silent itself: once more.
    until("a round that took less than the limit", || {
        write(&disk(&disks, PC[0]), 1);
        let began = Instant::now();
        disks.set_paused(true);
        let was_heard = began.elapsed() < limit && disks.states().len() == 1;
        std::thread::sleep(limit + Duration::from_millis(100));
        have_it_look(&disks);
        let kept = disks.states().len() == 1;
        let resumed = Instant::now();
        disks.set_paused(false);
        have_it_look(&disks);
        let kept_on = disks.states().len() == 1;
        if !was_heard || resumed.elapsed() >= limit {
            return None;
        }
        assert!(kept, "nobody could be heard");
        assert!(kept_on, "silence counts from the end of the pause on");
        Some(())
    });
}

#[test]
fn what_a_machine_does_is_counted_from_its_boot_on() {
    let room = Room::new();
    let disks = room.open();
    let totals = || {
        let totals = disks.states()[0].totals.unwrap();
        (
            totals.golden_sectors,
            totals.delta_sectors,
            totals.written_sectors,
        )
    };
    let export = disk(&disks, PC[0]);
    read(&export);
    write(&export, 1);
    write(&export, 1);
    read(&export);
    read(&export);
    assert_eq!(totals(), (1, 2, 2));
    drop(export);
    disks.pin(pc(), true).unwrap();
    boot(&disks, PC[0]);
    assert_eq!(totals(), (0, 0, 0));
    let began = disks.states()[0].totals.unwrap().since;
    assert!(began.elapsed().unwrap_or_default() < Duration::from_secs(60));
}

/// To accept a loss gives nothing back there, and the machine would go on to hear errors.
#[test]
fn who_lost_the_note_of_what_a_copy_holds_is_told_to_reset_it_and_nothing_else() {
    let room = Room::new();
    let disks = room.open();
    let export = disk(&disks, PC[0]);
    write(&export, 1);
    let map = room.config.overlay_dir.as_ref().unwrap();
    let map = std::fs::File::options()
        .write(true)
        .open(map.join("12.9/machine-pc17.map"));
    map.unwrap().set_len(4096).unwrap();
    export.store().look_at_backing();
    let problem = disks.states()[0].problem.clone().unwrap();
    assert!(
        problem.contains("overlay reset") && !problem.contains("accepted"),
        "{problem}"
    );
    let refused = commit(&disks, &pc()).unwrap_err();
    assert!(
        refused.contains("reset the copy") && !refused.contains("accept"),
        "{refused}"
    );
}
