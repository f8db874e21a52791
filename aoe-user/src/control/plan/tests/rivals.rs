//! Another gateway that has a group as well.

use failover::{ASK_RIVALS_EVERY_US, Standing};

use super::groups::{active, member};
use super::*;
use crate::config::StoreKind;

const ROUND: Duration = Duration::from_micros(ASK_RIVALS_EVERY_US);
const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// Hears of another one, that has the group since then, in so many rounds.
fn rounds(world: &mut World, count: u32, own_ms: u64, other_ms: u64) {
    let rival = Rival {
        mac: OTHER,
        own: OWN,
        export: Address { shelf: 1, slot: 1 },
        since_ms: other_ms,
        serves: "rbd:p/other".into(),
    };
    let own = Standing {
        since_ms: own_ms,
        mac: OWN.0,
    };
    for _ in 0..count {
        world.plan.group_rival("san1", own, &rival, true, world.now);
        world.run();
        world.pass(ROUND);
    }
}

#[test]
fn a_gateway_leaves_a_group_that_another_one_has_for_longer() {
    let mut world = active(&[member(1, "rbd:p/a", None), member(2, "rbd:p/b", None)]);
    assert!(world.plan.group_taken("san1").is_some());
    assert!(world.plan.asked_groups()[0].2);
    rounds(&mut world, 2, 5000, 1000);
    assert_eq!(world.role(), Role::Active);
    rounds(&mut world, 4, 5000, 1000);
    assert_eq!(
        (world.role(), world.stores.len()),
        (Role::Standby, 0),
        "{:#?}",
        world.said
    );
    assert_eq!(world.served_on_eth0(), Vec::<String>::new());
    assert_eq!(world.done("SilenceExport"), 2, "nothing in flight is answered");
    let reason = world.plan.groups()[0].reason.clone().unwrap();
    for word in [
        "02:00:00:00:00:09",
        "rbd:p/other as e1.1",
        "this one rbd:p/a",
        "xblade failover take san1",
    ] {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    assert!(!world.plan.asked_groups()[0].2);
    // It stays away, heard or not, until the configuration is looked at.
    world.ask(80, true);
    world.ask(800, false);
    assert_eq!(world.role(), Role::Standby);
    assert_eq!(world.plan.groups()[0].reason, Some(reason));
    world.want(&[member(1, "rbd:p/other", None)]);
    world.ask(16, false);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.role(), Role::Active, "{:#?}", world.said);
}

#[test]
fn a_gateway_that_has_a_group_for_longer_keeps_it_and_says_once_that_there_are_two() {
    let mut world = active(&[member(1, "rbd:p/a", None)]);
    rounds(&mut world, 30, 1000, 5000);
    assert_eq!(world.role(), Role::Active);
    assert_eq!(world.served_on_eth0(), ["e1.1"]);
    assert_eq!(
        world.said("waits for the other one to leave it"),
        1,
        "{:#?}",
        world.said
    );
    assert!(world.plan.groups()[0].reason.is_some());
    world.pass(Duration::from_secs(10));
    assert_eq!(world.plan.groups()[0].reason, None);
}

/// It does not answer, and whoever took the group meanwhile is right.
#[test]
fn a_gateway_whose_exports_are_not_open_judges_nobody() {
    let mut world = active(&[member(1, "rbd:p/a", None)]);
    world
        .bad_paths
        .insert("rbd:p/a".into(), "Ceph takes its time".into());
    let other_part = ExportConfig {
        length: 8,
        ..member(1, "rbd:p/a", None)
    };
    world.want(&[other_part]);
    for (own_ms, other_ms) in [(5000, 1000), (1000, 5000)] {
        rounds(&mut world, 20, own_ms, other_ms);
        assert_eq!(world.role(), Role::Active, "{:#?}", world.said);
        assert_eq!(world.said("two gateways"), 0, "{:#?}", world.said);
    }
}

/// Its check takes so long to notice that the storage is gone: another gateway has it, and is right.
#[test]
fn who_is_slow_to_notice_that_a_program_has_taken_its_storage_moves_nobody() {
    let drbd = ExportConfig {
        store: StoreKind::Direct,
        ..member(1, "/dev/drbd0", Some("/sbin/lock"))
    };
    let mut world = active(&[drbd]);
    rounds(&mut world, 12, 5000, 1000);
    assert_eq!(world.role(), Role::Active, "{:#?}", world.said);
    rounds(&mut world, 4, 5000, 1000);
    assert_eq!(world.role(), Role::Standby);
}
