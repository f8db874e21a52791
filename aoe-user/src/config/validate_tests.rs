use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use aoe_common::Mac;

use super::*;
use crate::config::{Mode, Vlan};

/// A directory with an image of 8 sectors, and a machine with eth0, eth1 and lo.
struct Machine {
    dir: tempfile::TempDir,
    interfaces: Vec<Interface>,
}

impl Machine {
    fn new() -> Machine {
        let interface = |name: &str, mac: Option<u8>| Interface {
            name: name.into(),
            mac: mac.map(|last| Mac([2, 0, 0, 0, 0, last])),
            up: true,
            loopback: name == "lo",
            ..Interface::default()
        };
        let machine = Machine {
            dir: tempfile::tempdir().unwrap(),
            interfaces: vec![
                interface("eth0", Some(1)),
                interface("eth1", Some(2)),
                interface("lo", None),
            ],
        };
        machine.file("a.raw", 8 * 512);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    fn export(&self, slot: u8) -> ExportConfig {
        let path = self.file(&format!("{slot}.raw"), 8 * 512);
        ExportConfig {
            interfaces: vec!["eth0".into()],
            ..ExportConfig::new(1, slot, path)
        }
    }

    fn report(&self, exports: &[ExportConfig]) -> Report {
        let config = Config {
            sources: Vec::new(),
            exports: exports.to_vec(),
            state_dir: None,
            state_required: false,
            cpus: vec![],
            force: false,
        };
        validate(&config, &self.interfaces, SettingNames::File)
    }

    /// The one problem: its export, key and message.
    fn problem(&self, exports: &[ExportConfig]) -> (usize, &'static str, String) {
        let problems = self.report(exports).problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        (problems[0].export, problems[0].key, problems[0].message.clone())
    }

    fn fine(&self, exports: &[ExportConfig]) {
        let problems = self.report(exports).problems;
        assert!(problems.is_empty(), "{problems:?}");
    }
}

#[test]
fn a_good_export_is_seen_whole() {
    let machine = Machine::new();
    let export = ExportConfig {
        interfaces: vec!["eth*".into()],
        ..machine.export(1)
    };
    let report = machine.report(&[export]);
    assert!(
        report.problems.is_empty() && report.warnings.is_empty(),
        "{report:?}"
    );
    assert_eq!(report.exports[0].interfaces, ["eth0", "eth1"]);
    assert_eq!(report.exports[0].backing.unwrap().sectors(), 8);
}

#[test]
fn interfaces_must_exist_and_carry_aoe() {
    let machine = Machine::new();
    for (name, expected) in [
        ("eth9", "no interface eth9 here; there are: eth0, eth1, lo"),
        ("wlan*", "no interface matches wlan*"),
        ("lo", "lo carries no Ethernet frames"),
    ] {
        let export = ExportConfig {
            interfaces: vec![name.into()],
            ..machine.export(1)
        };
        let (_, key, message) = machine.problem(&[export]);
        assert_eq!(key, "interfaces");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_interface_that_is_down_is_only_a_warning() {
    let mut machine = Machine::new();
    machine.interfaces[0].up = false;
    let report = machine.report(&[machine.export(1)]);
    assert!(report.problems.is_empty());
    assert!(report.warnings[0].message.contains("eth0 is down"), "{report:?}");
}

#[test]
fn files_must_hold_what_is_exported() {
    let machine = Machine::new();
    let with_path = |path: PathBuf| ExportConfig {
        path,
        ..machine.export(1)
    };
    let part = |offset, length| ExportConfig {
        offset,
        length,
        ..machine.export(1)
    };
    for (export, key, expected) in [
        (
            with_path(machine.path("none")),
            "path",
            "no such file or block device",
        ),
        (
            with_path(machine.dir.path().to_owned()),
            "path",
            "it is a directory",
        ),
        (
            with_path("/dev/null".into()),
            "path",
            "neither a regular file nor a block device",
        ),
        (
            with_path(machine.file("empty", 0)),
            "path",
            "it is empty; at least one sector",
        ),
        (
            with_path(machine.file("small", 511)),
            "path",
            "it has only 511 bytes",
        ),
        (part(8, 0), "offset", "has 8 sectors: 0 to 7"),
        (part(2, 7), "length", "from sector 2 there are 1 to 6"),
        (part(7, u64::MAX), "length", "there are 1 to 1"),
    ] {
        let (_, at, message) = machine.problem(&[export]);
        assert_eq!(at, key, "{message}");
        assert!(message.contains(expected), "{message}");
    }
    machine.fine(&[part(7, 1)]);
}

#[test]
fn a_part_sector_is_left_out_with_a_warning() {
    let machine = Machine::new();
    let export = ExportConfig {
        path: machine.file("odd", 1000),
        ..machine.export(1)
    };
    let report = machine.report(&[export]);
    assert!(
        report.warnings[0].message.contains("the last 488 bytes"),
        "{report:?}"
    );
    assert_eq!(report.exports[0].backing.unwrap().sectors(), 1);
}

#[test]
fn addresses_are_unique_on_an_interface_and_vlan() {
    let machine = Machine::new();
    let other = |vlan, interface: &str| ExportConfig {
        slot: 1,
        vlan,
        interfaces: vec![interface.into()],
        ..machine.export(2)
    };
    let first = ExportConfig {
        vlan: Vlan::Id(5),
        ..machine.export(1)
    };
    for same in [Vlan::Id(5), Vlan::Any] {
        let (export, key, message) = machine.problem(&[first.clone(), other(same, "eth*")]);
        assert_eq!((export, key), (1, "slot"));
        assert!(message.contains("1.1 is exported on eth0 already"), "{message}");
    }
    machine.fine(&[first.clone(), other(Vlan::Id(6), "eth0")]);
    machine.fine(&[first.clone(), other(Vlan::Untagged, "eth0")]);
}

#[test]
fn kept_state_belongs_to_one_export() {
    let machine = Machine::new();
    let on = |interface: &str, state_name: Option<&str>| ExportConfig {
        slot: 1,
        interfaces: vec![interface.into()],
        state_name: state_name.map(str::to_owned),
        ..machine.export(2)
    };
    let (export, key, message) = machine.problem(&[machine.export(1), on("eth1", None)]);
    assert_eq!((export, key), (1, "slot"));
    assert!(message.contains("state_name"), "{message}");
    machine.fine(&[machine.export(1), on("eth1", Some("b"))]);
}

#[test]
fn one_mode_for_an_interface() {
    let machine = Machine::new();
    let skb = ExportConfig {
        mode: Mode::Skb,
        ..machine.export(2)
    };
    let (export, key, message) = machine.problem(&[machine.export(1), skb.clone()]);
    assert_eq!((export, key), (1, "mode"));
    assert!(
        message.contains("mode \"skb\" on eth0, where 1.1 wants \"auto\""),
        "{message}"
    );
    machine.fine(&[
        machine.export(1),
        ExportConfig {
            interfaces: vec!["eth1".into()],
            ..skb
        },
    ]);
}

#[test]
fn a_file_has_one_writer_by_whatever_name() {
    let machine = Machine::new();
    let first = ExportConfig {
        path: machine.path("a.raw"),
        ..machine.export(1)
    };
    symlink("a.raw", machine.path("soft.raw")).unwrap();
    fs::hard_link(machine.path("a.raw"), machine.path("hard.raw")).unwrap();
    for name in ["a.raw", "soft.raw", "hard.raw", "./a.raw"] {
        let second = ExportConfig {
            path: machine.path(name),
            ..machine.export(2)
        };
        let (export, key, message) = machine.problem(&[first.clone(), second.clone()]);
        assert_eq!((export, key), (1, "path"));
        assert!(message.contains("exported for writing by 1.1 too"), "{message}");
        machine.fine(&[
            first.clone(),
            ExportConfig {
                read_only: true,
                ..second.clone()
            },
        ]);
        machine.fine(&[
            first.clone(),
            ExportConfig {
                store: StoreKind::Ram,
                ..second
            },
        ]);
    }
}

#[test]
fn parts_of_a_file_may_have_a_writer_each() {
    let machine = Machine::new();
    let part = |slot, offset, length| ExportConfig {
        path: machine.path("a.raw"),
        offset,
        length,
        ..machine.export(slot)
    };
    machine.fine(&[part(1, 0, 4), part(2, 4, 0)]);
    for (one, other) in [
        ((0, 5), (4, 4)),
        ((4, 0), (5, 1)),
        ((0, 0), (7, 1)),
        ((5, 1), (0, 0)),
    ] {
        machine.problem(&[part(1, one.0, one.1), part(2, other.0, other.1)]);
    }
    let three = machine.report(&[part(1, 0, 8), part(2, 1, 1), part(3, 6, 1)]);
    assert_eq!(
        three.problems.len(),
        2,
        "the long one meets both others: {three:?}"
    );
}

#[test]
fn shared_needs_the_direct_store() {
    let machine = Machine::new();
    let shared = ExportConfig {
        shared: true,
        ..machine.export(1)
    };
    let (_, key, message) = machine.problem(std::slice::from_ref(&shared));
    assert_eq!(key, "shared");
    assert!(message.contains("use store = \"direct\""), "{message}");
    let direct = ExportConfig {
        store: StoreKind::Direct,
        ..shared
    };
    let twin = ExportConfig {
        slot: 2,
        ..direct.clone()
    };
    machine.fine(&[direct, twin]);
}

#[test]
fn prealloc_needs_a_file_to_write() {
    let machine = Machine::new();
    let prealloc = ExportConfig {
        prealloc: true,
        ..machine.export(1)
    };
    machine.fine(std::slice::from_ref(&prealloc));
    for export in [
        ExportConfig {
            read_only: true,
            ..prealloc.clone()
        },
        ExportConfig {
            store: StoreKind::Null,
            ..prealloc
        },
    ] {
        assert_eq!(machine.problem(&[export]).1, "prealloc");
    }
}

#[test]
fn shelf_4095_needs_force() {
    let machine = Machine::new();
    let export = ExportConfig {
        shelf: 4095,
        ..machine.export(1)
    };
    assert!(
        machine
            .problem(std::slice::from_ref(&export))
            .2
            .contains("0 to 4094, or add --force")
    );
    let forced = Config {
        sources: Vec::new(),
        exports: vec![export],
        state_dir: None,
        state_required: false,
        cpus: vec![],
        force: true,
    };
    assert!(
        validate(&forced, &machine.interfaces, SettingNames::File)
            .problems
            .is_empty()
    );
}

#[test]
fn thousands_of_exports_are_checked_at_once() {
    let machine = Machine::new();
    let path = machine.file("big", 4096 * 512);
    let export = |n: u16| ExportConfig {
        interfaces: vec!["eth0".into()],
        offset: n.into(),
        length: 1,
        ..ExportConfig::new(n / 200, (n % 200) as u8, path.clone())
    };
    let exports: Vec<ExportConfig> = (0..4096).map(export).collect();
    // Of this thread alone: others may keep the machine busy.
    let used = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec;
    let before = used();
    machine.fine(&exports);
    assert!(used() - before < 4, "{} s", used() - before);
}

#[test]
fn problems_point_at_the_line_of_a_config_file() {
    let machine = Machine::new();
    let text = "[[export]]\nshelf = 1\nslot = 1\npath = \"a.raw\"\noffset = 9\ninterfaces = [\"eth7\"]\n";
    let file = crate::config::file::parse(&machine.path("x.toml"), text.to_owned()).unwrap();
    let report = validate(&file.config, &machine.interfaces, SettingNames::File);
    let problems = report.problems(Some(&file.origin)).0;
    let lines: Vec<usize> = problems
        .iter()
        .map(|problem| problem.place.as_ref().unwrap().line())
        .collect();
    assert_eq!(lines, [6, 5]);
    assert_eq!(
        problems[0].place.as_ref().unwrap().file(),
        Path::new(&machine.path("x.toml"))
    );
}

#[test]
fn what_shared_does_not_promise_is_told() {
    let machine = Machine::new();
    let shared = ExportConfig {
        shared: true,
        store: StoreKind::Direct,
        ..machine.export(1)
    };
    let report = machine.report(std::slice::from_ref(&shared));
    assert!(report.problems.is_empty(), "{report:?}");
    assert!(
        report.warnings[0].message.contains("lose acknowledged writes"),
        "{report:?}"
    );
    let read_only = ExportConfig {
        read_only: true,
        ..shared
    };
    assert!(machine.report(&[read_only]).warnings.is_empty());
}

#[test]
fn a_gateway_is_among_the_peers_of_its_group() {
    let machine = Machine::new();
    let with_peers = |peers: &[Mac]| ExportConfig {
        store: StoreKind::Direct,
        failover: Some(std::sync::Arc::new(crate::config::FailoverGroup {
            name: "san1".into(),
            mac: Mac([2, 0x78, 0x62, 0, 0, 1]),
            peers: peers.into(),
            detect: crate::config::FailoverGroup::DETECT,
            command: Some(vec!["/bin/true".into()]),
        })),
        ..machine.export(1)
    };
    let (own, other) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 9]));
    let report = machine.report(&[with_peers(&[other])]);
    assert!(report.problems.is_empty(), "{report:?}");
    assert!(
        report.warnings[0].message.contains(&own.to_string()),
        "{report:?}"
    );
    assert!(machine.report(&[with_peers(&[own, other])]).warnings.is_empty());
}
