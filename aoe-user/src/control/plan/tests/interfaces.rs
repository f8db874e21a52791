//! Addresses that others have, and interfaces that come and go.

use super::*;

#[test]
fn an_address_that_is_taken_is_searched_for_again() {
    let mut world = World::new(&["eth0", "eth1"]);
    let taken = Address { shelf: 1, slot: 1 };
    world.others.insert(taken);
    world.want(&[
        export(1, 1, "/a", &["eth0", "eth1"]),
        export(1, 2, "/b", &["eth0"]),
    ]);
    assert_eq!(world.served("eth0"), Some(vec!["e1.2".into()]));
    assert_eq!(
        (
            world.said("e1.1 FAILED on eth0"),
            world.said("e1.1 FAILED on eth1")
        ),
        (1, 1)
    );
    world.pass(Duration::from_secs(100));
    assert_eq!(world.said("e1.1 FAILED on eth0"), 1);
    world.others.clear();
    world.pass(Duration::from_secs(31));
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into(), "e1.2".into()]));
    // A target that comes later does not stop what is in use.
    world.others.insert(taken);
    world.pass(Duration::from_secs(100));
    assert_eq!(world.served("eth0").unwrap().len(), 2);
}

#[test]
fn with_force_a_taken_address_is_served_with_a_warning() {
    let mut world = World::new(&["eth0"]);
    world.others.insert(Address { shelf: 1, slot: 1 });
    let wanted = Config {
        force: true,
        ..config(&[export(1, 1, "/a", &["eth0"])])
    };
    world.plan.want(wanted, world.now);
    world.run();
    world.pass(PORTS_PACE);
    assert_eq!(
        (world.served("eth0").unwrap().len(), world.said("(--force)")),
        (1, 1)
    );
}

#[test]
fn without_its_state_directory_nothing_is_served_and_with_it_all() {
    let mut world = World::new(&["eth0"]);
    world.bad_state = Some("in use by process 7".into());
    world.want(&[export(1, 1, "/a", &["eth0"])]);
    world.pass(Duration::from_secs(60));
    assert_eq!(
        (world.served("eth0"), world.said("in use by process 7")),
        (None, 1)
    );
    let status = world.plan.status();
    assert!(
        matches!(&status.exports[0].state, Progress::Failed { reason, .. } if reason.contains("process 7"))
    );
    world.bad_state = None;
    world.pass(Duration::from_secs(31));
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into()]));
}

#[test]
fn a_glob_that_matches_nothing_yet_waits() {
    let mut world = World::new(&["eth0"]);
    world.want(&[export(1, 1, "/a", &["em*"]), export(1, 2, "/b", &["eth0"])]);
    assert_eq!(world.said("no interface matches em* yet"), 1);
    world.see();
    assert_eq!(world.said("no interface matches em* yet"), 1);
    world.links.insert("em1".into(), link("em1", 5));
    world.see();
    assert_eq!(world.served("em1"), Some(vec!["e1.1".into()]));
}

#[test]
fn of_two_exports_that_answer_the_same_frames_the_first_is_served() {
    let mut world = World::new(&["eth0", "eth1"]);
    world.want(&[export(1, 1, "/a", &["eth0"]), export(1, 1, "/b", &["eth[01]"])]);
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into()]));
    assert_eq!(world.served("eth1"), Some(vec!["e1.1".into()]));
    assert_eq!(
        world.said("FAILED on eth0: the address is exported there already"),
        1
    );
}

#[test]
fn interfaces_that_go_down_vanish_and_come_back_are_followed() {
    let mut world = World::new(&["eth0"]);
    world.links.get_mut("eth0").unwrap().up = false;
    world.see();
    world.want(&[export(1, 1, "/a", &["eth0"])]);
    assert_eq!((world.served("eth0"), world.said("eth0 is down")), (None, 1));
    assert!(world.plan.first_failure().is_none() && world.plan.is_settled());
    world.links.get_mut("eth0").unwrap().up = true;
    world.see();
    assert!(world.served("eth0").is_some());
    let gone = world.links.remove("eth0");
    world.see();
    assert_eq!(
        (world.served("eth0"), world.said("eth0 does not exist")),
        (None, 1)
    );
    world
        .links
        .extend(gone.map(|link| (link.name.clone(), Interface { index: 77, ..link })));
    world.see();
    assert!(world.served("eth0").is_some());
    // Deleted and made again before anybody looked.
    world.links.get_mut("eth0").unwrap().index = 78;
    world.see();
    assert_eq!((world.done("OpenPort"), world.done("ClosePort")), (3, 2));
}

#[test]
fn an_interface_without_ethernet_is_told_from_one_that_is_missing() {
    let mut world = World::new(&["eth0"]);
    let mac = world.links.get_mut("eth0").unwrap().mac.take();
    world.see();
    world.want(&[export(1, 1, "/a", &["eth0"])]);
    let no_ethernet = "eth0 carries no Ethernet frames with addresses";
    assert_eq!(
        (world.said(no_ethernet), world.said("eth0 does not exist")),
        (1, 0)
    );
    assert!(world.plan.first_failure().unwrap().contains(no_ethernet));
    let gone = world.links.remove("eth0");
    world.see();
    assert_eq!(world.said("eth0 does not exist"), 1);
    world
        .links
        .extend(gone.map(|link| (link.name.clone(), Interface { mac, ..link })));
    world.see();
    assert!(world.served("eth0").is_some());
}

#[test]
fn what_is_taken_away_from_a_port_goes_at_once() {
    let mut world = World::new(&["eth0"]);
    world.stuck_paths.insert("/coming".into());
    world.want(&[export(1, 1, "/a", &["eth0"])]);
    // Another one is coming for a while: what narrows does not wait for it.
    let mut closed = export(1, 1, "/a", &["eth0"]);
    closed.smart = true;
    let applied = world.done("Apply");
    world.want(&[closed, export(1, 2, "/coming", &["eth0"])]);
    assert_eq!(world.done("Apply"), applied + 1);
}

#[test]
fn an_interface_may_be_written_another_way_without_a_stall() {
    let mut world = World::new(&["eth0", "eth1"]);
    // One address on two interfaces: each has a disk of its own.
    let written = |one: &str, other: &str| {
        [
            export(1, 1, "/a", &[one]),
            ExportConfig {
                state_name: Some("second".into()),
                ..export(1, 1, "/b", &[other])
            },
        ]
    };
    world.want(&written("eth0", "eth1"));
    let mark = world.log.len();
    for (one, other) in [("eth[0]", "eth1"), ("*0", "*1"), ("eth0", "eth1")] {
        world.want(&written(one, other));
        let opened = world.log[mark..]
            .iter()
            .filter(|done| *done == "OpenExport" || *done == "CloseExport");
        assert_eq!(opened.count(), 0, "{one} {other}: {:#?}", &world.log[mark..]);
        assert_eq!(world.served("eth0"), Some(vec!["e1.1".into()]));
        assert_eq!(world.served("eth1"), Some(vec!["e1.1".into()]));
    }
    assert_eq!(world.said("2 exports; changed 2 (e1.1, e1.1)"), 2);
}
