//! A machine whose disk does not answer, and those beside it.

use super::super::maker::DRAIN_LIMIT;
use super::*;

#[test]
fn a_machine_that_boots_over_requests_without_an_end_keeps_nobody_else_from_a_disk() {
    let room = Room::new();
    let disks = room.open();
    let in_flight = disk(&disks, PC[0]);
    write(&in_flight, 1);
    let began = Instant::now();
    assert!(!disks.boots(PC[0]));
    for last in 1..4 {
        disk(&disks, Mac([2, 0, 0, 0, 1, last]));
        disks.boots(PC[0]);
    }
    assert!(began.elapsed() < DRAIN_LIMIT, "they waited for its end");
    let state = &disks.states()[0];
    assert!(
        state.problem.as_ref().unwrap().contains("does not answer"),
        "{state:?}"
    );
    // It hears nothing, though there is its disk.
    let told = until("it is told", || disks.troubles().reason());
    assert!(told.starts_with("pc17 hears nothing: requests"), "{told}");
    drop(in_flight);
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 7);
}

/// What the thread does for one machine may wait for a disk for ever.
#[test]
fn who_waits_for_a_thread_that_does_not_come_back_is_told() {
    let room = Room::new();
    let mut start = room.start();
    let (hang, hangs) = std::sync::mpsc::channel();
    let (go, goes_on) = std::sync::mpsc::channel::<()>();
    start.announce = Box::new(move || {
        let _ = hang.send(());
        let _ = goes_on.recv();
    });
    let disks = Disks::open(start).unwrap();
    assert!(disks.instance(STRANGER).is_none());
    hangs.recv().unwrap();
    assert!(disks.instance(PC[0]).is_none());
    assert_eq!(disks.troubles().reason(), None);
    let long_ago = Instant::now().checked_sub(super::super::troubles::HANGS).unwrap();
    *disks.shared.moved_on.lock() = Some(long_ago);
    assert_eq!(disks.troubles().reason(), None, "it has not waited for long");
    disks.shared.asking.lock().get_mut(&PC[0]).unwrap().since = long_ago;
    let told = disks.troubles().reason().unwrap();
    assert!(
        told.contains("pc17 hears nothing: its copy is waited for"),
        "{told}"
    );
    drop(go);
    disk(&disks, PC[0]);
    assert_eq!(disks.troubles().reason(), None);
}
