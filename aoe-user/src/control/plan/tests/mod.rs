//! The plan against a small world in which everything succeeds unless it is told to fail, and time passes when told to.

mod groups;
mod interfaces;
mod layers;
mod members;
mod rivals;
mod settings;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use aoe_common::Mac;

use super::*;
use crate::config::Config;
use crate::store::LockOf;
use interfaces::link;

/// What the plan's actions are carried out on.
struct World {
    plan: Plan,
    now: Instant,
    links: HashMap<String, Interface>,
    /// Paths whose opening fails, with the reason.
    bad_paths: HashMap<String, String>,
    /// Paths whose opening and closing never ends.
    stuck_paths: HashSet<String>,
    /// Paths that lead to another file since they were opened.
    replaced: HashSet<String>,
    /// Interfaces that cannot be served, with the reason.
    bad_ports: HashMap<String, String>,
    /// Addresses of other targets.
    others: HashSet<Address>,
    /// Addresses that initiators use.
    used: HashSet<Address>,
    /// Why the state directory cannot be used.
    bad_state: Option<String>,
    /// What is open: the path of each store, and the view of each port.
    stores: HashMap<ExportId, String>,
    ports: HashMap<PortId, (String, PortPlan)>,
    /// Ports close only with [`World::close_slow_ports`].
    slow_ports: bool,
    closing_ports: Vec<PortId>,
    said: Vec<String>,
    log: Vec<String>,
    stuck: Vec<ExportId>,
    /// Who has the locks of images in Ceph, whose images somebody has taken meanwhile, and whose locks were broken.
    owner: Option<String>,
    in_use: HashSet<String>,
    /// Where images were served from by the gateway before.
    offsets: HashMap<String, u64>,
    taken_from: Vec<LockOf>,
    /// What the programs of failover groups were run for, and why they refuse to take or to go on.
    orders: Vec<LockOrder>,
    /// Those that have not ended.
    running: Vec<LockRun>,
    program_fails: Option<String>,
    program_is_slow: bool,
}

fn export(shelf: u16, slot: u8, path: &str, interfaces: &[&str]) -> ExportConfig {
    ExportConfig {
        interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        ..ExportConfig::new(shelf, slot, path.into())
    }
}

fn config(exports: &[ExportConfig]) -> Config {
    Config {
        sources: Vec::new(),
        exports: exports.to_vec(),
        state_dir: Some("/state".into()),
        state_required: false,
        cpus: Vec::new(),
        force: false,
    }
}

impl World {
    fn new(interfaces: &[&str]) -> World {
        let mut world = World {
            plan: Plan::new(Instant::now()),
            now: Instant::now(),
            links: HashMap::new(),
            bad_paths: HashMap::new(),
            stuck_paths: HashSet::new(),
            replaced: HashSet::new(),
            bad_ports: HashMap::new(),
            others: HashSet::new(),
            used: HashSet::new(),
            bad_state: None,
            stores: HashMap::new(),
            ports: HashMap::new(),
            slow_ports: false,
            closing_ports: Vec::new(),
            said: Vec::new(),
            log: Vec::new(),
            stuck: Vec::new(),
            owner: None,
            in_use: HashSet::new(),
            offsets: HashMap::new(),
            taken_from: Vec::new(),
            orders: Vec::new(),
            running: Vec::new(),
            program_fails: None,
            program_is_slow: false,
        };
        for (index, name) in (1..).zip(interfaces) {
            world.links.insert((*name).to_owned(), link(name, index));
        }
        world.plan.see(world.links.clone(), world.now);
        world
    }

    fn want(&mut self, exports: &[ExportConfig]) {
        self.plan.want(config(exports), self.now);
        self.run();
        self.pass(PORTS_PACE);
    }

    fn see(&mut self) {
        self.plan.see(self.links.clone(), self.now);
        self.run();
        self.pass(PORTS_PACE);
    }

    /// Carries out what is decided until nothing is.
    fn run(&mut self) {
        for _ in 0..1000 {
            let mut actions = Vec::new();
            self.plan.step(self.now, &mut actions);
            if actions.is_empty() {
                return;
            }
            actions.into_iter().for_each(|action| self.act(action));
        }
        panic!("it never comes to rest");
    }

    /// Lets time pass, stopping wherever the plan asks for it.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.plan.next_time(self.now).filter(|next| *next <= end) {
            assert!(next > self.now, "time stands still");
            self.now = next;
            self.run();
        }
        self.now = end;
        self.run();
    }

    fn act(&mut self, action: PlanAction) {
        match &action {
            PlanAction::Say(_, line) => self.said.push(line.clone()),
            other => self
                .log
                .push(format!("{other:?}").split(['(', '{']).next().unwrap().to_owned()),
        }
        let now = self.now;
        match action {
            PlanAction::Say(..)
            | PlanAction::Reconfigure(_)
            | PlanAction::SetMac(..)
            | PlanAction::Announce(_)
            | PlanAction::CheckPort(_)
            | PlanAction::SilenceExport(_)
            | PlanAction::AnnounceExport(_) => {}
            PlanAction::OpenState(..) => match self.bad_state.clone() {
                Some(reason) => self.plan.state_failed(reason, now),
                None => self.plan.state_opened(),
            },
            PlanAction::OpenExport(id) => self.open_export(id),
            PlanAction::CloseExport(id) => {
                let path = self.stores.get(&id).expect("only what is open is closed").clone();
                if self.stuck_paths.contains(&path) {
                    self.stuck.push(id);
                } else {
                    self.stores.remove(&id);
                    self.plan.export_closed(id, now);
                }
            }
            PlanAction::Examine(id) => {
                let replaced = self
                    .stores
                    .get(&id)
                    .is_some_and(|path| self.replaced.contains(path));
                self.plan.examined(id, replaced, now);
            }
            PlanAction::Search(port, asked) => {
                let taken = |id: &ExportId| {
                    let address = address_of(&self.plan.config(*id)?.0);
                    self.others
                        .contains(&address)
                        .then(|| (*id, format!("{address} is taken")))
                };
                let taken = asked.iter().filter_map(taken).collect();
                self.plan.searched(&port, &asked, &Ok(taken), now);
            }
            PlanAction::FindUnused(port) => self.find_unused(&port),
            PlanAction::ListLinks => self.plan.see(self.links.clone(), now),
            PlanAction::OpenPort(id, link, view) => {
                if self.keeps_closed(id, &link) {
                    return;
                }
                let twice = self.ports.values().any(|(name, _)| *name == link.name);
                assert!(!twice, "{} is opened twice", link.name);
                let version = view.version;
                self.ports.insert(id, (link.name.clone(), view));
                self.plan.port_opened(id, version, now);
            }
            PlanAction::Apply(id, view) => {
                let version = view.version;
                self.ports.get_mut(&id).expect("an open port").1 = view;
                self.plan.port_applied(id, version);
            }
            PlanAction::ClosePort(id) => self.close_port(id),
            PlanAction::Look(group) => self.look(&group),
            PlanAction::RunLock(run, _) => self.run_lock(run),
        }
    }

    fn open_export(&mut self, id: ExportId) {
        let (config, revision) = self.plan.config(id).unwrap();
        let path = config.path.to_str().unwrap().to_owned();
        if self.stuck_paths.contains(&path) {
            return;
        }
        if let Some(refusal) = self.obstacle(id, &config) {
            return self.plan.export_failed(id, refusal, self.now);
        }
        if let Some(reason) = self.bad_paths.get(&path) {
            return self.plan.export_failed(id, reason.clone(), self.now);
        }
        if !config.read_only && self.stores.values().any(|other| *other == path) {
            return self.plan.export_failed(id, "in use".to_owned(), self.now);
        }
        self.stores.insert(id, path);
        self.plan.export_opened(id, revision);
    }

    /// The addresses served on an interface; `None` where it is not served.
    fn served(&self, name: &str) -> Option<Vec<String>> {
        let (_, view) = self.ports.values().find(|(other, _)| other == name)?;
        let address = |(id, _): &(ExportId, u64)| {
            assert!(self.stores.contains_key(id), "what is served is open");
            address_of(&self.plan.config(*id).unwrap().0).to_string()
        };
        Some(view.exports.iter().map(address).collect())
    }

    fn said(&self, what: &str) -> usize {
        self.said.iter().filter(|line| line.contains(what)).count()
    }

    fn done(&self, action: &str) -> usize {
        self.log.iter().filter(|done| *done == action).count()
    }
}

#[test]
fn what_can_be_served_is_and_the_rest_follows() {
    let mut world = World::new(&["eth0"]);
    world.bad_paths.insert("/b".into(), "no such file".into());
    world.want(&[
        export(1, 1, "/a", &["eth0", "eth1"]),
        export(1, 2, "/b", &["eth0"]),
    ]);
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into()]));
    assert_eq!(
        (world.said("e1.2 FAILED"), world.said("eth1 does not exist")),
        (1, 1)
    );
    assert_eq!(world.said("1 of 2 exports cannot be served yet: 1 (e1.2)"), 1);
    // It is tried again for hours, and said rarely.
    world.pass(Duration::from_secs(3500));
    assert!(
        (110..130).contains(&(world.done("OpenExport") - 1)),
        "{}",
        world.done("OpenExport")
    );
    assert!(world.said("e1.2 FAILED") < 8);
    world.bad_paths.clear();
    world.pass(Duration::from_secs(31));
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into(), "e1.2".into()]));
    // The interface comes, and is served at once.
    world.links.insert("eth1".into(), link("eth1", 9));
    world.see();
    assert_eq!(world.served("eth1"), Some(vec!["e1.1".into()]));
    assert_eq!(world.done("OpenPort"), 2);
}

#[test]
fn a_port_that_fails_is_tried_again_and_at_once_when_its_interface_changes() {
    let mut world = World::new(&["eth0", "eth1"]);
    world.bad_ports.insert("eth0".into(), "no native XDP".into());
    world.want(&[export(1, 1, "/a", &["eth*"])]);
    assert_eq!(
        (world.served("eth0"), world.served("eth1")),
        (None, Some(vec!["e1.1".into()]))
    );
    assert_eq!(world.said("eth0 FAILED"), 1);
    world.pass(Duration::from_secs(600));
    let tries = world.done("OpenPort");
    assert!((20..30).contains(&tries), "{tries} tries in ten minutes");
    world.bad_ports.clear();
    world.links.get_mut("eth0").unwrap().mtu_bytes = 9000;
    world.see();
    assert!(world.served("eth0").is_some());
}

#[test]
fn an_xdp_program_of_somebody_else_is_waited_for() {
    let mut world = World::new(&["eth0"]);
    world.links.get_mut("eth0").unwrap().has_xdp = true;
    world.see();
    world.want(&[export(1, 1, "/a", &["eth0"])]);
    assert_eq!(
        (world.served("eth0"), world.said("already has an XDP program")),
        (None, 1)
    );
    assert!(world.plan.first_failure().unwrap().contains("XDP"));
    // No message tells that it has gone: the interfaces are listed before each try.
    world.links.get_mut("eth0").unwrap().has_xdp = false;
    world.pass(Duration::from_secs(31));
    assert!(world.served("eth0").is_some());
}

#[test]
fn a_reload_touches_only_what_changed() {
    let mut world = World::new(&["eth0", "eth1"]);
    let mut exports: Vec<ExportConfig> = (0..4097)
        .map(|n| export(n / 250, (n % 250) as u8, &format!("/{n}"), &["eth0"]))
        .collect();
    world.want(&exports);
    let before = world.log.clone();
    world.want(&exports);
    let examined: Vec<String> = vec!["Examine".into(); exports.len()];
    assert_eq!(
        world.log[before.len()..],
        examined,
        "an unchanged file changes nothing"
    );
    assert_eq!(world.said("4097 exports; nothing changed"), 1);

    exports[7].spin_us = 500;
    exports[8].read_only = true;
    exports.remove(9);
    exports.push(export(60, 1, "/new", &["eth0"]));
    let mark = world.log.len();
    world.want(&exports);
    let count = |what: &str| world.log[mark..].iter().filter(|done| *done == what).count();
    assert_eq!(
        (count("OpenExport"), count("CloseExport"), count("Reconfigure")),
        (2, 2, 1)
    );
    assert_eq!((count("OpenPort"), count("ClosePort")), (0, 0));
    assert!(count("Apply") <= 3, "{} views", count("Apply"));
    let line = "4097 exports; added 1 (e60.1), changed 2 (e0.7, e0.8), removed 1 (e0.9)";
    assert_eq!(world.said(line), 1, "{:#?}", world.said.last());
    assert_eq!(world.served("eth0").unwrap().len(), 4097);
}

#[test]
fn a_port_is_reopened_for_its_own_mode_and_queues_only() {
    let mut world = World::new(&["eth0", "eth1"]);
    let mut exports = [export(1, 1, "/a", &["eth0"]), export(1, 2, "/b", &["eth1"])];
    world.want(&exports);
    assert_eq!(world.done("OpenPort"), 2);
    exports[0].mode = Mode::Skb;
    world.want(&exports);
    assert_eq!((world.done("OpenPort"), world.done("ClosePort")), (3, 1));
    world.links.get_mut("eth1").unwrap().rx_queues = 4;
    world.see();
    assert_eq!((world.done("OpenPort"), world.done("ClosePort")), (4, 2));
    // As many transmit queues as before matter only where they are fewer.
    for (tx_queues, opens) in [(8, 4), (4, 4), (2, 5), (1, 5), (4, 6)] {
        world.links.get_mut("eth1").unwrap().tx_queues = Some(tx_queues);
        world.see();
        assert_eq!(world.done("OpenPort"), opens, "{tx_queues} transmit queues");
    }
    world.links.get_mut("eth1").unwrap().mac = Some(Mac([2, 9, 9, 9, 9, 9]));
    world.see();
    assert_eq!((world.done("OpenPort"), world.done("SetMac")), (6, 1));
    assert!(world.served("eth0").is_some() && world.served("eth1").is_some());
}

#[test]
fn a_renewed_export_waits_for_its_predecessor_to_close() {
    let mut world = World::new(&["eth0"]);
    world.want(&[export(1, 1, "/a", &["eth0"]), export(1, 2, "/b", &["eth0"])]);
    let mut other = export(1, 1, "/a", &["eth0"]);
    other.read_only = true;
    world.want(&[other.clone(), export(1, 2, "/b", &["eth0"])]);
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into(), "e1.2".into()]));
    other.read_only = false;
    world.want(&[other, export(1, 2, "/b", &["eth0"])]);
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into(), "e1.2".into()]));
    // Files that change places.
    world.want(&[export(1, 1, "/b", &["eth0"]), export(1, 2, "/a", &["eth0"])]);
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into(), "e1.2".into()]));
    assert_eq!(world.said("FAILED"), 0, "{:#?}", world.said);
}

#[test]
fn a_disk_that_hangs_costs_its_own_export_only() {
    let mut world = World::new(&["eth0"]);
    world.stuck_paths.insert("/stuck".into());
    world.want(&[export(1, 1, "/stuck", &["eth0"]), export(1, 2, "/b", &["eth0"])]);
    world.pass(GATHER);
    assert_eq!(world.served("eth0"), Some(vec!["e1.2".into()]));
    // It is not wanted any more while it is still being opened; its address gets another file.
    world.want(&[export(1, 1, "/good", &["eth0"]), export(1, 2, "/b", &["eth0"])]);
    world.pass(HANDOVER + GATHER);
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into(), "e1.2".into()]));

    // The same when an open one hangs while it closes.
    world.stuck_paths.insert("/good".into());
    world.want(&[export(1, 1, "/other", &["eth0"]), export(1, 2, "/b", &["eth0"])]);
    assert_eq!(world.served("eth0"), Some(vec!["e1.2".into()]));
    world.pass(HANDOVER + GATHER);
    assert_eq!(world.served("eth0"), Some(vec!["e1.1".into(), "e1.2".into()]));
    assert_eq!(world.said("nothing changed"), 0);
}

#[test]
fn what_opens_after_it_was_taken_out_is_closed_again() {
    let mut world = World::new(&["eth0"]);
    world.stuck_paths.insert("/a".into());
    world.want(&[export(1, 1, "/a", &["eth0"]), export(1, 2, "/b", &["eth0"])]);
    let id = world.plan.order[0];
    world.want(&[export(1, 2, "/b", &["eth0"])]);
    world.stuck_paths.clear();
    world.stores.insert(id, "/a".into());
    assert!(!world.plan.export_opened(id, 0));
    world.run();
    assert!(!world.stores.contains_key(&id));
    assert!(world.plan.is_settled());
}

#[test]
fn a_replaced_file_renews_its_export_and_no_other() {
    let mut world = World::new(&["eth0"]);
    let exports = [
        export(1, 1, "/a", &["eth0"]),
        export(1, 2, "/golden", &["eth0"]),
        export(1, 3, "/c", &["eth0"]),
    ];
    world.want(&exports);
    world.replaced.insert("/golden".into());
    world.want(&exports);
    assert_eq!((world.done("OpenExport"), world.done("CloseExport")), (4, 1));
    assert_eq!(world.said("renewed 1 (e1.2)"), 1, "{:#?}", world.said);
    assert_eq!(world.served("eth0").unwrap(), ["e1.1", "e1.2", "e1.3"]);
    assert_eq!(world.done("Search"), 1, "its address was ours all the time");
}

#[test]
fn a_fenced_export_leaves_its_ports_at_once_and_is_opened_anew() {
    let mut world = World::new(&["eth0"]);
    world.want(&[export(1, 1, "/a", &["eth0"]), export(1, 2, "/b", &["eth0"])]);
    let id = world.plan.order[0];
    world.bad_paths.insert("/a".into(), "in use by 10.0.0.3".into());
    let fence = |world: &mut World| {
        world.plan.fenced(id, "shut out".into(), world.now);
        world.run();
    };
    fence(&mut world);
    assert_eq!(world.served("eth0").unwrap(), ["e1.2"]);
    let Progress::Failed { reason, .. } = world.plan.status().exports[0].state.clone() else {
        panic!("{:?}", world.plan.status());
    };
    assert_eq!(
        (reason.as_str(), world.said("e1.1 of /a: FENCED")),
        ("shut out", 1)
    );
    assert_eq!(world.done("CloseExport"), 1);
    // The same once more, as by another operation that ends: its store is closed already.
    fence(&mut world);
    assert_eq!((world.done("CloseExport"), world.said("FENCED")), (1, 1));
    world.pass(Duration::from_secs(10));
    assert_eq!(world.said("e1.1 FAILED, trying again: in use by 10.0.0.3"), 1);
    world.bad_paths.clear();
    world.pass(Duration::from_secs(31));
    assert_eq!(world.served("eth0").unwrap(), ["e1.1", "e1.2"]);
    assert!(
        world.done("Search") > 1,
        "somebody else may have its address by now"
    );
}
