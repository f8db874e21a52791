//! The exports of a group, as they open.

use super::groups::{active, member};
use super::*;
use crate::config::Vlan;
use crate::control::plan::refusal::Obstacle;

impl World {
    /// What the image of a group has against being opened.
    pub(super) fn obstacle(&mut self, id: ExportId, config: &ExportConfig) -> Option<OpenRefusal> {
        let path = config.path.to_str().unwrap().to_owned();
        let takeover = self.plan.takeover(id);
        let before = self.offsets.get(&path).is_some_and(|at| *at != config.offset);
        let other_range = before && takeover.as_ref().is_some_and(|takeover| takeover.same_range);
        self.taken_from.extend(takeover.map(|takeover| takeover.from));
        let (reason, obstacle) = match other_range {
            true => ("the gateway before served offset 8", Obstacle::OtherRange),
            false if self.in_use.contains(&path) => ("in use by another client", Obstacle::InUse),
            false => {
                self.offsets.insert(path, config.offset);
                return None;
            }
        };
        Some(OpenRefusal {
            reason: reason.into(),
            obstacle: Some(obstacle),
        })
    }
}

/// It is opened anew by a reload, and another gateway is faster.
#[test]
fn a_gateway_that_lost_its_only_image_while_it_was_opened_anew_stands_by() {
    let mut world = active(&[member(1, "rbd:p/a", None), member(2, "rbd:p/b", None)]);
    let changed = |slot, path| ExportConfig {
        sync: true,
        offset: 4096,
        ..member(slot, path, None)
    };
    // What else the group has is served on.
    world.in_use.insert("rbd:p/b".into());
    world.want(&[member(1, "rbd:p/a", None), changed(2, "rbd:p/b")]);
    world.pass(Duration::from_secs(1));
    assert_eq!(
        (world.role(), world.served_on_eth0()),
        (Role::Active, vec!["e1.1".to_owned()])
    );
    world.in_use.insert("rbd:p/a".into());
    world.want(&[changed(1, "rbd:p/a"), changed(2, "rbd:p/b")]);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.role(), Role::Standby, "{:#?}", world.said);
}

/// What was never open here since the group was taken is not shown otherwise than by the gateway before, also when it is tried again.
#[test]
fn an_image_that_could_not_be_opened_at_the_take_over_is_still_compared() {
    let mut world = World::new(&["eth0"]);
    world
        .bad_paths
        .insert("rbd:p/b".into(), "it does not answer".into());
    world.want(&[member(1, "rbd:p/a", None), member(2, "rbd:p/b", None)]);
    world.ask(16, false);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.role(), Role::Active);
    let compared = |world: &World, slot| {
        let is_it = |id: &ExportId| {
            world
                .plan
                .config(*id)
                .is_some_and(|(config, _)| config.slot == slot)
        };
        let id = world.plan.members("san1").into_iter().find(is_it).unwrap();
        world.plan.takeover(id).unwrap().same_range
    };
    assert!(!compared(&world, 1) && compared(&world, 2));
    // A reload may change it where it was open.
    let changed = ExportConfig {
        offset: 8,
        ..member(1, "rbd:p/a", None)
    };
    world.want(&[changed, member(2, "rbd:p/b", None)]);
    world.pass(Duration::from_secs(1));
    assert!(!compared(&world, 1) && compared(&world, 2));
}

/// The same image at another address is still this gateway's.
#[test]
fn a_reload_may_move_an_export_and_change_what_it_shows() {
    let mut world = active(&[member(1, "rbd:p/a", None)]);
    let moved = ExportConfig {
        offset: 8,
        ..member(2, "rbd:p/a", None)
    };
    world.want(&[moved]);
    world.pass(Duration::from_secs(1));
    assert_eq!(
        (world.role(), world.served_on_eth0()),
        (Role::Active, vec!["e1.2".to_owned()]),
        "{:#?}",
        world.said
    );
}

/// Nobody else has it: there is nobody that the group is to be left to.
#[test]
fn an_image_that_was_served_otherwise_before_is_no_reason_to_leave_a_group() {
    let mut world = active(&[member(1, "rbd:p/a", None)]);
    world.offsets.insert("rbd:p/b".into(), 8);
    // Beside others, and as the only one.
    world.want(&[member(1, "rbd:p/a", None), member(2, "rbd:p/b", None)]);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.served_on_eth0(), ["e1.1"]);
    world.want(&[member(2, "rbd:p/b", None)]);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.role(), Role::Active, "{:#?}", world.said);
    assert!(world.said("the gateway before served offset 8") > 0);
    // The operator has that forgotten.
    world.offsets.clear();
    world.pass(Duration::from_secs(31));
    assert_eq!(world.served_on_eth0(), ["e1.2"]);
}

/// Another member that can be had does not make up for it.
#[test]
fn a_group_of_which_one_image_was_served_otherwise_before_is_not_taken() {
    let mut world = World::new(&["eth0"]);
    world.offsets.insert("rbd:p/b".into(), 8);
    world.want(&[member(1, "rbd:p/a", None), member(2, "rbd:p/b", None)]);
    world.ask(16, false);
    assert_eq!((world.role(), world.stores.len()), (Role::Standby, 0));
    world.plan.take_group("san1", world.now).unwrap();
    world.run();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.served_on_eth0(), ["e1.1", "e1.2"]);
}

/// An opening of before does not come to its end: the process is in its own way, and nobody else.
#[test]
fn a_group_is_kept_while_its_only_image_is_still_being_closed_here() {
    let mut world = active(&[member(1, "rbd:p/a", None)]);
    world.stuck_paths.insert("rbd:p/a".into());
    let changed = ExportConfig {
        sync: true,
        offset: 8,
        ..member(1, "rbd:p/a", None)
    };
    world.want(&[changed]);
    world.stuck_paths.clear();
    world.pass(HANDOVER * 3);
    assert_eq!(world.role(), Role::Active, "{:#?}", world.said);
    assert!(world.said("in use") > 0, "{:#?}", world.said);
    world.end_closing();
    world.pass(Duration::from_secs(31));
    assert_eq!(world.served_on_eth0(), ["e1.1"]);
}

#[test]
fn it_is_announced_on_each_network_that_it_is_served_on() {
    let mut world = World::new(&["eth0", "eth1"]);
    let on = |slot, interface: &str, vlan| ExportConfig {
        vlan,
        interfaces: vec![interface.to_owned()],
        ..member(slot, &format!("rbd:p/{slot}"), None)
    };
    world.want(&[
        on(1, "eth0", Vlan::Untagged),
        on(2, "eth0", Vlan::Untagged),
        on(3, "eth0", Vlan::Id(5)),
        on(4, "eth1", Vlan::Untagged),
    ]);
    world.ask(16, false);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.role(), Role::Active);
    let before = world.done("AnnounceExport");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.done("AnnounceExport") - before, 3);
}
