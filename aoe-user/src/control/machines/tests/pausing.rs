//! Pausing and resuming all of them.

use super::*;

#[test]
fn a_pause_holds_for_disks_that_are_made_meanwhile() {
    let room = Room::new();
    let disks = room.open();
    let one = disk(&disks, PC[0]);
    disks.set_paused(true);
    assert_eq!(one.is_paused(), Some(true));
    assert_eq!(disk(&disks, STRANGER).is_paused(), Some(true));
    disks.set_paused(false);
    assert_eq!(one.is_paused(), Some(false));
    assert_eq!(disk(&disks, STRANGER).is_paused(), Some(false));
}

#[test]
fn a_pause_holds_while_other_settings_come_into_force() {
    let room = Room::new();
    let disks = room.open();
    let one = disk(&disks, PC[0]);
    for _ in 0..200 {
        std::thread::scope(|scope| {
            disks.configure(room.settings());
            // It is answered when the settings are in force.
            let in_force = scope.spawn(|| disks.reset(DiskName::Machine("nobody".into()), true, true));
            disks.set_paused(true);
            while !in_force.is_finished() {
                assert_ne!(one.is_paused(), Some(false));
            }
            assert!(in_force.join().unwrap().is_err(), "there is no such machine");
        });
        assert_eq!(one.is_paused(), Some(true));
        disks.set_paused(false);
    }
}

#[test]
fn a_worker_that_waits_for_one_disk_keeps_nobody_waiting_for_another_while_all_are_paused() {
    let room = Room::new();
    let disks = room.open();
    let one = disk(&disks, PC[0]);
    let other = disk(&disks, STRANGER);
    drop(other);
    std::thread::scope(|scope| {
        // Dropped when something fails, so that everything ends.
        let (go_on, waits) = mpsc::channel::<()>();
        let (holds, held) = mpsc::channel::<()>();
        let worker = Arc::clone(&one);
        scope.spawn(move || {
            let work = |_: &mut crate::target::Persistent| {
                holds.send(()).unwrap();
                let _ = waits.recv();
            };
            worker.change_persistent(work, |_| {}).unwrap();
        });
        held.recv().unwrap();
        let paused = scope.spawn(|| disks.set_paused(true));
        until("the table, which workers need", || {
            disks.shared.table.try_read()?.paused.then_some(())
        });
        assert!(disks.instance(STRANGER).is_some());
        assert!(!paused.is_finished(), "it waits for the one");
        drop(go_on);
        paused.join().unwrap();
    });
    assert_eq!(one.is_paused(), Some(true));
    assert_eq!(disk(&disks, STRANGER).is_paused(), Some(true));
}
