//! The exports of a group, as they open.

use super::groups::{active, member};
use super::*;
use crate::config::Vlan;

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
