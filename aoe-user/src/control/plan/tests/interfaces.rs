//! Addresses that others have, and interfaces that come and go.

use super::*;

/// Why an interface is not served whose opening never ends.
const HANGS: &str = "hangs";

/// An interface that works.
pub(super) fn link(name: &str, index: u32) -> Interface {
    Interface {
        name: name.to_owned(),
        index,
        mac: Some(Mac([2, 0, 0, 0, 0, index as u8])),
        mtu_bytes: 1500,
        up: true,
        carrier: true,
        carrier_changes: 1,
        rx_queues: 1,
        xdp_runs_on: vec![index],
        ..Interface::default()
    }
}

impl World {
    /// A link came up again.
    pub(super) fn find_unused(&mut self, port: &str) {
        let is_used = |id: &ExportId| {
            let config = self.plan.config(*id);
            config.is_some_and(|(config, _)| self.used.contains(&address_of(&config)))
        };
        let unused: Vec<ExportId> = self.stores.keys().copied().filter(|id| !is_used(id)).collect();
        self.plan.search_again(port, &unused, self.now);
    }

    /// Gives an interface another name; the kernel tells of the program that is still attached.
    fn rename(&mut self, from: &str, to: &str) {
        let link = self.links.remove(from).expect("an interface");
        let link = Interface {
            name: to.to_owned(),
            has_xdp: true,
            ..link
        };
        self.links.insert(to.to_owned(), link);
    }

    /// Whether this interface is not opened: the kernel refuses, or opening it never ends.
    pub(super) fn keeps_closed(&mut self, id: PortId, link: &Interface) -> bool {
        let served = |upper: &&Interface| self.ports.values().any(|(name, _)| *name == upper.name);
        let mut above = self.links.values().filter(|upper| upper.is_over(link));
        let above = above.find(served).map(|upper| format!("{} is above", upper.name));
        let Some(reason) = self.bad_ports.get(&link.name).cloned().or(above) else {
            return false;
        };
        if reason != HANGS {
            self.plan.port_failed(id, reason, self.now);
        }
        true
    }

    pub(super) fn close_port(&mut self, id: PortId) {
        if self.slow_ports || !self.ports.contains_key(&id) {
            return self.closing_ports.push(id);
        }
        self.ports.remove(&id);
        self.plan.port_closed(id);
    }

    pub(super) fn close_slow_ports(&mut self) {
        self.slow_ports = false;
        for id in std::mem::take(&mut self.closing_ports) {
            self.ports.remove(&id);
            self.plan.port_closed(id);
        }
        self.run();
        self.pass(PORTS_PACE);
    }
}

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
fn another_target_is_looked_for_at_a_reload_and_when_a_link_comes_up() {
    let mut world = World::new(&["eth0"]);
    let (first, second) = (export(1, 1, "/a", &["eth0"]), export(1, 2, "/b", &["eth0"]));
    world.want(std::slice::from_ref(&first));
    world.others.insert(Address { shelf: 1, slot: 2 });
    world.want(&[first, second]);
    world.pass(PORTS_PACE);
    assert_eq!(world.said("e1.2 FAILED on eth0"), 1, "added by a reload");
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into()]));

    let mut world = World::new(&["eth0"]);
    world.links.get_mut("eth0").unwrap().up = false;
    world.see();
    world.want(&[export(1, 2, "/b", &["eth0"])]);
    world.others.insert(Address { shelf: 1, slot: 2 });
    world.links.get_mut("eth0").unwrap().up = true;
    world.see();
    world.pass(PORTS_PACE);
    assert_eq!(
        world.said("e1.2 FAILED on eth0"),
        1,
        "on a link that came up later"
    );
}

/// The cable may be in another network now.
#[test]
fn what_nobody_uses_yields_to_a_target_that_is_found_when_a_link_is_up_again() {
    let mut world = World::new(&["eth0"]);
    world.want(&[export(1, 1, "/a", &["eth0"]), export(1, 2, "/b", &["eth0"])]);
    let (used, unused) = (Address { shelf: 1, slot: 1 }, Address { shelf: 1, slot: 2 });
    world.used.insert(used);
    let plug = |world: &mut World, carrier| {
        world.links.get_mut("eth0").unwrap().carrier = carrier;
        world.see();
    };
    plug(&mut world, false);
    assert_eq!(world.served("eth0").unwrap().len(), 2, "nothing changes");
    world.others.extend([used, unused]);
    plug(&mut world, true);
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into()]));
    assert_eq!(world.said("e1.2 FAILED on eth0"), 1);
    plug(&mut world, false);
    world.others.clear();
    plug(&mut world, true);
    world.pass(Duration::from_secs(31));
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

/// As udev does it a second after an interface was plugged in. What the kernel tells of then is our own program.
#[test]
fn an_interface_with_another_name_waits_for_the_end_of_its_port() {
    let mut world = World::new(&["late0"]);
    world.want(&[export(1, 1, "/a", &["late*"])]);
    let searches = world.done("Search");
    world.slow_ports = true;
    world.rename("late0", "late7");
    world.see();
    let is_served = |world: &World| world.served("late7").is_some();
    assert!(!is_served(&world) && !world.plan.is_settled());
    assert_eq!(
        (world.said("late0 is called late7 now"), world.said("FAILED")),
        (1, 0)
    );
    assert_eq!(world.done("Search"), searches, "the wire is the same");
    // The name comes back before the first port is closed.
    world.rename("late7", "late0");
    world.see();
    world.rename("late0", "late7");
    world.see();
    world.close_slow_ports();
    assert!(is_served(&world) && world.plan.is_settled());
    assert_eq!(world.said("FAILED"), 0);
}

#[test]
fn interfaces_that_change_names_wait_for_each_other() {
    let mut world = World::new(&["eth0", "eth1"]);
    world.want(&[export(1, 1, "/a", &["eth0", "eth1"])]);
    world.slow_ports = true;
    world.rename("eth0", "tmp");
    world.rename("eth1", "eth0");
    world.rename("tmp", "eth1");
    world.see();
    assert_eq!((world.done("ClosePort"), world.done("OpenPort")), (2, 2));
    world.close_slow_ports();
    assert!(world.served("eth0").is_some() && world.served("eth1").is_some());
    assert_eq!(world.said("FAILED"), 0);
}

/// It is tried in the end, and what stands in the way is the reason to fail.
#[test]
fn a_port_that_never_ends_is_not_waited_for_for_ever() {
    let mut world = World::new(&["late0"]);
    world.want(&[export(1, 1, "/a", &["late*"])]);
    world.slow_ports = true;
    world.rename("late0", "late7");
    world.see();
    world
        .bad_ports
        .insert("late7".into(), "Device or resource busy".into());
    world.pass(HANDOVER + Duration::from_secs(1));
    assert_eq!(world.said("resource busy"), 1);
}

/// Two change their names while one of them is being opened, which hangs.
#[test]
fn a_port_whose_opening_never_ends_is_not_waited_for_for_ever() {
    let mut world = World::new(&["eth0", "eth1"]);
    world.bad_ports.insert("eth0".into(), HANGS.into());
    world.want(&[export(1, 1, "/a", &["eth0", "eth1"])]);
    assert!(world.served("eth1").is_some());
    world.rename("eth0", "tmp");
    world.rename("eth1", "eth0");
    world.rename("tmp", "eth1");
    world.bad_ports.clear();
    world.links.values_mut().for_each(|link| link.has_xdp = false);
    world.see();
    // What was served goes on at once under its other name; the other one waits.
    assert!(world.served("eth0").is_some() && world.served("eth1").is_none());
    world.pass(HANDOVER + Duration::from_secs(1));
    assert!(world.served("eth1").is_some());
    assert_eq!(world.said("FAILED"), 0);
}
