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
    drop(in_flight);
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 7);
}
