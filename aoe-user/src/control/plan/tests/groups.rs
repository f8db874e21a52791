//! Exports that another gateway may serve.

use std::sync::Arc;

use super::*;
use crate::config::{FailoverGroup, StoreKind};

const QUESTION: Duration = Duration::from_micros(failover::ASK_EVERY_US);

pub(super) fn member(slot: u8, path: &str, command: Option<&str>) -> ExportConfig {
    let group = FailoverGroup {
        name: "san1".into(),
        mac: Mac([2, 0x78, 0x62, 0, 0, 1]),
        peers: Arc::new([Mac([2, 0, 0, 0, 0, 9])]),
        detect: FailoverGroup::DETECT,
        command: command.map(|program| vec![program.to_owned()]),
    };
    ExportConfig {
        store: StoreKind::Rbd,
        failover: Some(Arc::new(group)),
        ..export(1, slot, path, &["eth0"])
    }
}

impl World {
    pub(super) fn look(&mut self, group: &str) {
        let images = self.plan.images(group);
        let owners = images.into_iter().map(|(id, _)| (id, self.owner.clone()));
        self.plan.group_looked(group, Ok(owners.collect()), self.now);
    }

    pub(super) fn run_lock(&mut self, run: LockRun) {
        self.orders.push(run.order);
        self.running.push(run);
        if !self.program_is_slow {
            self.end_programs();
        }
    }

    /// The programs that are running come to their ends.
    fn end_programs(&mut self) {
        for run in std::mem::take(&mut self.running) {
            let result = match (run.order, self.program_fails.clone()) {
                (LockOrder::Take | LockOrder::Check, Some(reason)) => Err(reason),
                _ => Ok(()),
            };
            self.plan.lock_ended(run, &result, self.now);
        }
    }

    /// What is being closed is closed at last.
    pub(super) fn end_closing(&mut self) {
        self.stuck_paths.clear();
        for id in std::mem::take(&mut self.stuck) {
            self.stores.remove(&id);
            self.plan.export_closed(id, self.now);
        }
        self.run();
    }

    /// So many questions go out, which are answered or not.
    pub(super) fn ask(&mut self, questions: u32, answered: bool) {
        for _ in 0..questions {
            self.plan.group_asked("san1", self.now);
            if answered {
                self.plan.group_heard("san1", self.now);
            }
            self.run();
            self.pass(QUESTION);
        }
    }

    pub(super) fn role(&self) -> Role {
        self.plan.groups()[0].role.clone()
    }

    pub(super) fn served_on_eth0(&self) -> Vec<String> {
        self.served("eth0").unwrap_or_default()
    }
}

/// An export on storage that a program takes and gives back.
fn drbd(program: &str) -> ExportConfig {
    ExportConfig {
        store: StoreKind::Direct,
        ..member(1, "/dev/drbd0", Some(program))
    }
}

/// The program is taking the storage, and does not come to an end.
fn taking() -> World {
    let mut world = World::new(&["eth0"]);
    world.want(&[drbd("/sbin/lock")]);
    world.program_is_slow = true;
    world.plan.take_group("san1", world.now).unwrap();
    world.run();
    assert_eq!(world.orders, [LockOrder::Take]);
    world
}

pub(super) fn active(exports: &[ExportConfig]) -> World {
    let mut world = World::new(&["eth0"]);
    world.want(exports);
    world.ask(16, false);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.role(), Role::Active, "{:#?}", world.said);
    world
}

#[test]
fn a_gateway_stands_by_while_another_answers_and_takes_over_when_it_does_not() {
    let mut world = World::new(&["eth0"]);
    world.owner = Some("10.0.0.1:0/7".into());
    world.want(&[member(1, "rbd:p/a", None), export(1, 9, "/own", &["eth0"])]);
    assert_eq!(world.said("cannot be served"), 0, "{:#?}", world.said);
    // Its own exports are served at once, and the port is there for the group's.
    assert_eq!(world.served_on_eth0(), ["e1.9"]);
    world.ask(80, true);
    assert_eq!((world.role(), world.stores.len()), (Role::Standby, 1));
    assert!(world.plan.is_settled(), "to stand by is no failure");
    assert!(matches!(
        world.plan.status().exports[0].state,
        crate::control::plan::Progress::Standby(_)
    ));
    world.ask(16, false);
    assert_eq!(world.role(), Role::Quiet, "{:#?}", world.said);
    assert_eq!(
        world.served_on_eth0(),
        ["e1.9"],
        "nothing is answered in the quiet time"
    );
    world.pass(Duration::from_secs(1));
    assert_eq!(world.role(), Role::Active);
    assert_eq!(world.served_on_eth0(), ["e1.1", "e1.9"]);
    assert_eq!(world.done("OpenPort"), 1, "the port was open already");
    assert_eq!(world.done("Search"), 1, "of the other export alone");
}

#[test]
fn locks_are_broken_only_of_whom_was_seen_with_them() {
    let mut world = World::new(&["eth0"]);
    world.owner = Some("10.0.0.1:0/7".into());
    world.want(&[member(1, "rbd:p/a", None)]);
    world.ask(16, false);
    assert_eq!(world.taken_from, [LockOf::Client("10.0.0.1:0/7".into())]);
    let mut world = World::new(&["eth0"]);
    world.want(&[member(1, "rbd:p/a", None)]);
    world.ask(16, false);
    assert_eq!(world.taken_from, [LockOf::Nobody]);
    let mut world = World::new(&["eth0"]);
    world.want(&[member(1, "rbd:p/a", None)]);
    world.plan.take_group("san1", world.now).unwrap();
    world.run();
    assert_eq!(world.taken_from, [LockOf::Anybody]);
}

#[test]
fn a_lock_that_is_lost_silences_the_whole_group_at_once() {
    let mut world = active(&[member(1, "rbd:p/a", None), member(2, "rbd:p/b", None)]);
    assert_eq!(world.served_on_eth0(), ["e1.1", "e1.2"]);
    let first = world.plan.order[0];
    world
        .plan
        .fenced(first, "another client has it".into(), world.now);
    world.run();
    assert_eq!(world.served_on_eth0(), Vec::<String>::new());
    assert_eq!((world.role(), world.stores.len()), (Role::Standby, 0));
    assert_eq!(world.said("another client has it"), 2, "{:#?}", world.said);
    // For a minute it is the other one's.
    world.ask(460, false);
    assert_eq!(world.role(), Role::Standby);
    world.ask(60, false);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.role(), Role::Active);
    assert_eq!(world.served_on_eth0(), ["e1.1", "e1.2"]);
}

#[test]
fn a_lock_that_is_lost_while_it_is_given_back_is_left_to_others_for_a_minute() {
    for lost in [false, true] {
        let mut world = active(&[member(1, "rbd:p/a", None)]);
        let first = world.plan.order[0];
        world.stuck_paths.insert("rbd:p/a".into());
        world.plan.release_group("san1", world.now).unwrap();
        world.run();
        assert_eq!(world.role(), Role::Leaving);
        if lost {
            world
                .plan
                .fenced(first, "another client has it".into(), world.now);
            assert_eq!(world.role(), Role::Leaving);
        }
        world.end_closing();
        assert_eq!(world.role(), Role::Standby);
        // Told late, of a store that is closed.
        world
            .plan
            .fenced(first, "another client has it".into(), world.now);
        world.ask(160, false);
        world.pass(Duration::from_secs(2));
        assert_eq!(world.role() == Role::Active, !lost, "{:#?}", world.said);
    }
}

#[test]
fn one_image_in_other_hands_keeps_the_group_away_and_a_missing_one_does_not() {
    let mut world = World::new(&["eth0"]);
    world.in_use.insert("rbd:p/b".into());
    world.want(&[member(1, "rbd:p/a", None), member(2, "rbd:p/b", None)]);
    world.ask(16, false);
    assert_eq!(
        (world.role(), world.stores.len()),
        (Role::Standby, 0),
        "{:#?}",
        world.said
    );
    world.in_use.clear();
    world
        .bad_paths
        .insert("rbd:p/b".into(), "there is no image".into());
    world.ask(40, false);
    world.pass(Duration::from_secs(2));
    assert_eq!(
        (world.role(), world.served_on_eth0()),
        (Role::Active, vec!["e1.1".to_owned()])
    );
    world.bad_paths.clear();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.served_on_eth0(), ["e1.1", "e1.2"]);
}

#[test]
fn the_operator_moves_it() {
    let mut world = active(&[member(1, "rbd:p/a", None)]);
    assert!(
        world
            .plan
            .take_group("san1", world.now)
            .unwrap_err()
            .contains("active")
    );
    assert!(
        world
            .plan
            .take_group("san2", world.now)
            .unwrap_err()
            .contains("san2")
    );
    world.plan.release_group("san1", world.now).unwrap();
    world.run();
    assert_eq!((world.role(), world.stores.len()), (Role::Standby, 0));
    assert!(world.plan.release_group("san1", world.now).is_err());
    world.plan.take_group("san1", world.now).unwrap();
    world.run();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.served_on_eth0(), ["e1.1"]);
}

#[test]
fn what_does_not_close_keeps_the_group_from_being_taken_again() {
    let mut world = active(&[member(1, "rbd:p/a", None)]);
    world.stuck_paths.insert("rbd:p/a".into());
    world.plan.release_group("san1", world.now).unwrap();
    world.run();
    world.ask(1200, false);
    assert_eq!(world.role(), Role::Leaving);
    assert_eq!(world.served_on_eth0(), Vec::<String>::new());
    world.end_closing();
    world.ask(16, false);
    assert_ne!(world.role(), Role::Leaving);
}

#[test]
fn storage_without_locks_is_taken_and_given_back_by_a_program() {
    let mut world = World::new(&["eth0"]);
    world.program_fails = Some("the peer is Primary".into());
    world.want(&[drbd("/sbin/lock")]);
    world.ask(40, false);
    assert_eq!((world.role(), world.stores.len()), (Role::Standby, 0));
    assert!(world.said("the peer is Primary") >= 1);
    world.program_fails = None;
    world.ask(80, false);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.role(), Role::Active, "{:#?}", world.said);
    assert!(world.orders.contains(&LockOrder::Check));
    world.program_fails = Some("it is Secondary".into());
    world.pass(Duration::from_secs(2));
    assert_eq!((world.role(), world.stores.len()), (Role::Standby, 0));
    assert_eq!(world.orders.last(), Some(&LockOrder::Release));
    assert_eq!(
        world.done("SilenceExport"),
        1,
        "what is in flight is not answered"
    );
}

#[test]
fn an_export_leaves_and_joins_a_group_with_a_store_of_its_own() {
    let mut world = active(&[member(1, "rbd:p/a", None)]);
    let alone = ExportConfig {
        failover: None,
        ..member(1, "rbd:p/a", None)
    };
    world.want(&[alone]);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.served_on_eth0(), ["e1.1"]);
    assert_eq!(world.done("OpenExport"), 2);
    world.want(&[member(1, "rbd:p/a", None)]);
    assert_eq!(world.served_on_eth0(), Vec::<String>::new(), "it listens first");
    world.ask(16, false);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.served_on_eth0(), ["e1.1"]);
}

#[test]
fn storage_of_a_group_that_is_taken_out_is_given_back_when_it_is_closed() {
    let mut world = active(&[drbd("/sbin/lock")]);
    world.stuck_paths.insert("/dev/drbd0".into());
    world.want(&[export(1, 9, "/own", &["eth0"])]);
    world.pass(Duration::from_secs(20));
    assert!(
        !world.orders.contains(&LockOrder::Release),
        "its last commit is under way"
    );
    world.end_closing();
    assert_eq!(world.orders.last(), Some(&LockOrder::Release));
}

#[test]
fn storage_that_is_taken_too_late_is_given_back() {
    let mut world = taking();
    world.plan.release_group("san1", world.now).unwrap();
    world.run();
    world.ask(60, false);
    assert_eq!(world.orders, [LockOrder::Take], "one at a time");
    world.program_is_slow = false;
    world.end_programs();
    world.run();
    assert_eq!(
        (world.orders.last(), world.stores.len()),
        (Some(&LockOrder::Release), 0)
    );
    assert_eq!(world.role(), Role::Standby);
}

#[test]
fn storage_that_is_taken_after_its_group_has_gone_is_given_back() {
    let mut world = taking();
    world.want(&[export(1, 9, "/own", &["eth0"])]);
    assert_eq!(world.orders, [LockOrder::Take], "one at a time");
    world.end_programs();
    world.run();
    assert_eq!(world.orders, [LockOrder::Take, LockOrder::Release]);
    // Where it was refused there is nothing to give back.
    let mut world = taking();
    world.want(&[export(1, 9, "/own", &["eth0"])]);
    world.program_fails = Some("the peer is Primary".into());
    world.end_programs();
    world.run();
    assert_eq!(world.orders, [LockOrder::Take]);
    assert!(world.plan.locks_under_way().is_empty());
}

#[test]
fn a_group_that_comes_back_takes_its_storage_after_it_was_given_back() {
    let mut world = taking();
    world.want(&[export(1, 9, "/own", &["eth0"])]);
    world.want(&[drbd("/sbin/lock"), export(1, 9, "/own", &["eth0"])]);
    world.plan.take_group("san1", world.now).unwrap();
    world.run();
    assert_eq!(world.orders, [LockOrder::Take], "the first has not ended");
    world.end_programs();
    world.run();
    assert_eq!(world.orders, [LockOrder::Take, LockOrder::Release]);
    world.end_programs();
    world.run();
    assert_eq!(
        world.orders,
        [LockOrder::Take, LockOrder::Release, LockOrder::Take],
        "the end of the group before is none of its own"
    );
    world.program_is_slow = false;
    world.end_programs();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.served_on_eth0(), ["e1.1", "e1.9"]);
}

#[test]
fn what_one_program_took_is_given_back_by_it_and_not_by_the_one_of_a_new_configuration() {
    let mut world = active(&[drbd("/sbin/lock")]);
    world.stuck_paths.insert("/dev/drbd0".into());
    world.program_is_slow = true;
    world.orders.clear();
    world.want(&[drbd("/sbin/other")]);
    world.plan.take_group("san1", world.now).unwrap();
    world.run();
    assert!(world.orders.is_empty(), "its last commit is under way");
    world.end_closing();
    assert_eq!(world.orders, [LockOrder::Release]);
    world.end_programs();
    world.run();
    assert_eq!(world.orders, [LockOrder::Release, LockOrder::Take]);
}

#[test]
fn at_the_end_of_the_process_storage_is_given_back_after_the_program_that_takes_it() {
    let mut world = taking();
    assert_eq!(world.plan.locks_under_way(), ["san1"]);
    assert!(world.plan.storage_to_release().is_empty(), "not beside it");
    world.end_programs();
    assert!(world.plan.locks_under_way().is_empty());
    assert_eq!(world.plan.storage_to_release().len(), 1);
}

/// Nothing of it can be opened: it must not be taken for ever, silently.
#[test]
fn a_group_whose_state_cannot_be_used_is_refused_with_the_reason() {
    let mut world = World::new(&["eth0"]);
    world.bad_state = Some("in use by process 7".into());
    world.want(&[member(1, "rbd:p/a", None)]);
    world.ask(16, false);
    let group = &world.plan.groups()[0];
    let reason = group.reason.clone().unwrap_or_default();
    assert!(reason.contains("process 7"), "{group:?}");
    world.bad_state = None;
    world.pass(Duration::from_secs(40));
    world.ask(16, false);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.role(), Role::Active, "{:#?}", world.said);
}
