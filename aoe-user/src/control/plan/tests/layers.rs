//! Interfaces made of others.

use std::time::Duration;

use super::{World, export};
use crate::host::Interface;

/// A bridge br over t1, and a macvlan mv over t2, all served.
fn layers() -> World {
    let mut world = World::new(&["br", "t1", "mv", "t2"]);
    world.links.get_mut("t1").unwrap().controller = Some(1);
    world.links.get_mut("mv").unwrap().lower = vec![4];
    world
}

fn all_are_served(world: &World) -> bool {
    ["br", "t1", "mv", "t2"]
        .iter()
        .all(|name| world.served(name).is_some())
}

#[test]
fn lower_interfaces_are_opened_first() {
    // In whatever order the ports are looked at.
    for _ in 0..20 {
        let mut world = layers();
        world.see();
        world.want(&[export(1, 1, "/a", &["*"]), export(1, 2, "/b", &["br"])]);
        assert!(
            all_are_served(&world) && world.said("FAILED") == 0,
            "{:?}",
            world.said
        );
        assert_eq!(world.done("ClosePort"), 0);
    }
}

#[test]
fn a_lower_interface_that_comes_later_or_is_opened_again_gets_its_turn() {
    for slow_ports in [false, true] {
        let mut world = layers();
        for name in ["t1", "t2"] {
            world.links.get_mut(name).unwrap().up = false;
        }
        world.see();
        world.want(&[export(1, 1, "/a", &["*"])]);
        assert!(world.served("br").is_some() && world.served("t1").is_none());
        let changes: [fn(&mut Interface); 2] = [|link| link.up = true, |link| link.mtu_bytes = 9000];
        for change in changes {
            world.slow_ports = slow_ports;
            for name in ["t1", "t2"] {
                change(world.links.get_mut(name).unwrap());
            }
            world.see();
            world.close_slow_ports();
            assert!(
                all_are_served(&world) && world.said("FAILED") == 0,
                "{:?}",
                world.said
            );
        }
    }
}

#[test]
fn an_upper_interface_does_not_wait_for_one_that_has_nothing_to_serve_any_more() {
    // In whatever order the ports are looked at.
    for _ in 0..20 {
        let mut world = layers();
        world.see();
        let upper = export(1, 2, "/b", &["br"]);
        world.want(&[export(1, 1, "/a", &["t1"]), upper.clone()]);
        world.slow_ports = true;
        world.links.get_mut("t1").unwrap().mtu_bytes = 9000;
        world.see();
        world.want(&[upper]);
        world.close_slow_ports();
        world.pass(Duration::from_secs(1));
        assert_eq!(world.served("br"), Some(vec!["e1.2".into()]), "{:?}", world.said);
    }
}

#[test]
fn a_lower_interface_that_fails_leaves_the_upper_one_alone() {
    let mut world = layers();
    world.bad_ports.insert("t1".into(), "no native XDP".into());
    world.see();
    world.want(&[export(1, 1, "/a", &["*"])]);
    world.pass(Duration::from_secs(50));
    assert!(world.served("br").is_some() && world.served("t1").is_none());
    assert!(world.done("ClosePort") <= 3, "{}", world.done("ClosePort"));
    // A port that fails once, as where its workers cannot be replaced, comes back.
    let id = |world: &World, name: &str| *world.ports.iter().find(|(_, port)| port.0 == name).unwrap().0;
    let t2 = id(&world, "t2");
    world.ports.remove(&t2);
    world.plan.port_failed(t2, "lost".into(), world.now);
    world.run();
    assert!(world.served("t2").is_none() && world.served("mv").is_some());
    world.pass(Duration::from_secs(5));
    assert!(world.served("t2").is_some() && world.served("mv").is_some());
}

#[test]
fn a_lower_interface_that_fails_is_tried_for_ever_and_rarely_disturbs_the_upper_one() {
    let mut world = layers();
    world.bad_ports.insert("t1".into(), "no native XDP".into());
    world.see();
    let exports = [export(1, 1, "/a", &["*"])];
    world.want(&exports);
    world.pass(Duration::from_secs(600));
    let few = world.done("ClosePort");
    assert!((4..=8).contains(&few), "{few}");
    // What is said of it stays what it is.
    assert_eq!(world.said("br is above"), 0, "{:?}", world.said);
    world.pass(Duration::from_secs(24 * 3600));
    let interruptions = world.done("ClosePort") - few;
    assert!((20..=32).contains(&interruptions), "{interruptions} on a day");
    assert!(world.served("br").is_some() && world.served("t1").is_none());

    // A carrier that comes and goes is none of its business, nor is a program.
    let mark = world.done("ClosePort");
    let link = |world: &mut World, change: fn(&mut Interface)| {
        change(world.links.get_mut("t1").unwrap());
        world.see();
    };
    for _ in 0..10 {
        link(&mut world, |link| link.carrier_changes += 2);
    }
    assert!(world.done("ClosePort") <= mark + 1, "{}", world.done("ClosePort"));
    // An operator's change and a reload each try at once, and once.
    for change in [true, false] {
        let mark = world.done("ClosePort");
        match change {
            true => link(&mut world, |link| link.mtu_bytes += 100),
            false => world.want(&exports),
        }
        world.pass(Duration::from_secs(30));
        assert_eq!(world.done("ClosePort"), mark + 1);
        assert!(world.served("br").is_some());
    }
    // The reason has gone.
    world.bad_ports.clear();
    world.want(&exports);
    assert!(all_are_served(&world), "{:?}", world.said);
}

#[test]
fn a_lower_interface_is_opened_when_the_upper_one_has_gone() {
    let mut world = layers();
    world.bad_ports.insert("t1".into(), "no native XDP".into());
    world.see();
    world.want(&[export(1, 1, "/a", &["*"])]);
    world.pass(Duration::from_secs(24 * 3600));
    world.bad_ports.clear();
    world.links.get_mut("br").unwrap().up = false;
    world.see();
    // That one is down only; its program stays until it goes.
    world.links.remove("br");
    world.see();
    world.pass(Duration::from_secs(60));
    assert!(world.served("t1").is_some(), "{:?}", world.said);
}
