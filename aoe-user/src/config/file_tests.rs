use std::{sync::Arc, time::Duration};

use super::*;
use aoe_common::Mac;

pub(super) fn read(text: &str) -> Result<ConfigFile, Problems> {
    parse(Path::new("/etc/xblade/x.toml"), text.to_owned())
}

/// The messages with their places, without the snippets.
pub(super) fn mistakes(text: &str) -> Vec<(usize, usize, String)> {
    let problems = read(text).expect_err("the text is wrong").0;
    let flat = |problem: Problem| {
        let place = problem.place.expect("every mistake has a place");
        (place.line(), place.column(), problem.message)
    };
    problems.into_iter().map(flat).collect()
}

/// An export with `line` as its last line, line 6.
pub(super) fn with(line: &str) -> String {
    format!("[[export]]\nshelf = 1\nslot = 2\npath = \"/d\"\ninterfaces = [\"eth0\"]\n{line}\n")
}

#[test]
fn the_example_of_the_readme_reads_as_meant() {
    let config = read(
        r#"
        [defaults]
        interfaces = ["eth0", "em*"]
        mode = "copy"
        buffers = 32
        rate_limit = "50k/s"
        cpus = [2, 3]

        [[export]]
        shelf = 1
        slot = 1
        path = "/srv/vm.raw"
        interfaces = ["eth0"]
        allow = ["02:00:00:00:00:01", { mac = "02:00:00:00:00:02", access = "ro", rate_limit = "1k/s" }]
        vlan = 5

        [[export]]
        shelf = 0x2
        slot = 254
        path = "images/b.raw"
        store = "direct"
        sync = true
        read_only = true
        offset = 8
        length = 16
        spin_us = 0
        buffers = 128
        max_sectors = 8
        vlan = "any"
        serial = "SN 1"
        wire_admin = false
        state_name = "san-b"
        smart = true
        stale_after = "250ms"
        late_duplicates = true
        shared = true
        prealloc = true
        flush_interval = "500ms"
        on_lost_write = "continue"
        format = "raw"
        "#,
    )
    .unwrap()
    .config;
    let mac = |last| Mac([2, 0, 0, 0, 0, last]);
    let first = ExportConfig {
        interfaces: vec!["eth0".into()],
        mode: Mode::Copy,
        buffers: 32,
        rate_limit: Some(50_000),
        allow: Arc::new([
            AccessEntry {
                mac: mac(1),
                access: Access::ReadWrite,
                rate_limit: None,
            },
            AccessEntry {
                mac: mac(2),
                access: Access::ReadOnly,
                rate_limit: Some(1000),
            },
        ]),
        vlan: Vlan::Id(5),
        ..ExportConfig::new(1, 1, "/srv/vm.raw".into())
    };
    let second = ExportConfig {
        path: "/etc/xblade/images/b.raw".into(),
        interfaces: vec!["eth0".into(), "em*".into()],
        mode: Mode::Copy,
        store: StoreKind::Direct,
        format: ImageFormat::Raw,
        sync: true,
        read_only: true,
        offset: 8,
        length: 16,
        buffers: 128,
        max_sectors: 8,
        spin_us: 0,
        allow: Arc::new([]),
        vlan: Vlan::Any,
        serial: Some("SN 1".into()),
        rate_limit: Some(50_000),
        wire_admin: Some(false),
        state_name: Some("san-b".into()),
        smart: true,
        stale_after: Duration::from_millis(250),
        late_duplicates: true,
        shared: true,
        prealloc: true,
        flush_interval: Duration::from_millis(500),
        on_lost_write: OnLostWrite::Continue,
        ceph: Arc::default(),
        ..ExportConfig::new(2, 254, PathBuf::new())
    };
    assert_eq!(
        config,
        Config {
            exports: vec![first, second],
            cpus: vec![2, 3],
            // What the command line says.
            ..config.clone()
        }
    );
}

#[test]
fn an_empty_list_in_an_export_overrides_the_defaults() {
    let text = format!(
        "[defaults]\nallow = [\"02:00:00:00:00:01\"]\n{}",
        with("allow = []")
    );
    assert!(read(&text).unwrap().config.exports[0].allow.is_empty());
}

#[test]
fn thousands_of_exports_share_one_list_of_thousands() {
    let macs: Vec<String> = (0..16_384).map(|n| format!("\"02000000{n:04x}\"")).collect();
    let mut text = format!(
        "[defaults]\ninterfaces = [\"eth0\"]\nallow = [{}]\n",
        macs.join(", ")
    );
    for n in 0..4096 {
        text += &format!(
            "[[export]]\nshelf = {}\nslot = {}\npath = \"/d\"\n",
            n / 200,
            n % 200
        );
    }
    let start = std::time::Instant::now();
    let exports = read(&text).unwrap().config.exports;
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    assert_eq!((exports.len(), exports[0].allow.len()), (4096, 16_384));
    assert!(
        exports
            .iter()
            .all(|export| Arc::ptr_eq(&export.allow, &exports[0].allow))
    );
}

#[test]
fn values_have_the_grammar_of_the_command_line() {
    let export = |line: &str| {
        read(&with(line))
            .unwrap_or_else(|e| panic!("{e}"))
            .config
            .exports
            .remove(0)
    };
    for (line, seconds) in [("1", 1), ("\"1m\"", 60), ("\"1h\"", 3600), ("0x10", 16)] {
        let export = export(&format!("flush_interval = {line}"));
        assert_eq!(export.flush_interval, Duration::from_secs(seconds), "{line}");
    }
    for line in ["1500", "\"1500\"", "\"1.5k\"", "\"1500/s\"", "\"1.5K/s\""] {
        assert_eq!(
            export(&format!("rate_limit = {line}")).rate_limit,
            Some(1500),
            "{line}"
        );
    }
    for line in ["2097152", "\"1GiB\"", "\"1g\"", "\"2097152s\""] {
        let export = export(&format!("offset = {line}\nlength = {line}"));
        assert_eq!((export.offset, export.length), (1 << 21, 1 << 21), "{line}");
    }
    for (line, mode) in [
        ("native", Mode::Native),
        ("generic", Mode::Skb),
        ("zero-copy", Mode::ZeroCopy),
    ] {
        assert_eq!(export(&format!("mode = \"{line}\"")).mode, mode, "{line}");
    }
    for line in ["[0, 1, 2, 5]", "\"0-2,5\""] {
        let text = format!("[defaults]\ncpus = {line}\n{}", with(""));
        assert_eq!(read(&text).unwrap().config.cpus, [0, 1, 2, 5], "{line}");
    }
    let bad = format!("[defaults]\ncpus = \"2-1\"\n{}", with(""));
    assert!(
        read(&bad)
            .unwrap_err()
            .to_string()
            .contains("x.toml:2:8: cpus = \"2-1\": a list of CPUs")
    );
}

#[test]
fn an_empty_config_serves_nothing() {
    for text in ["", "[defaults]\nsync = true\n", "export = []\n"] {
        assert!(mistakes(text)[0].2.contains("nothing to serve"), "{text}");
    }
    assert!(mistakes("[export]\nshelf = 1\n")[0].2.contains("[[export]]"));
    assert!(mistakes("export = [1]\n")[0].2.contains("[[export]]"));
    assert!(
        mistakes(&format!("defaults = 1\n{}", with("")))[0]
            .2
            .contains("[defaults]")
    );
}

#[test]
fn places_of_settings_are_found_again() {
    let text = format!("[defaults]\nmode = \"skb\"\n{}", with("read_only = true"));
    let origin = read(&text).unwrap().origin;
    assert_eq!(origin.place(0, "read_only").unwrap().line(), 8);
    assert_eq!(origin.place(0, "mode").unwrap().line(), 2, "from the defaults");
    assert_eq!(
        origin.place(0, "vlan").unwrap().line(),
        3,
        "nowhere: the export's heading"
    );
}
