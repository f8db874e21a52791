use std::path::Path;

use super::super::file::parse;
use super::super::validate::{SettingNames, contradictions};
use super::*;

const HEAD: &str = "[[export]]\nshelf = 1\nslot = 1\npath = \"a.img\"\ninterfaces = [\"eth1\"]\n";

fn read(text: &str) -> Result<super::super::Config, String> {
    let file =
        parse(Path::new("/etc/xblade.toml"), text.to_owned()).map_err(|problems| problems.to_string())?;
    let report = contradictions(&file.config, SettingNames::File);
    let problems = report.problems(Some(&file.origin));
    match problems.0.is_empty() {
        true => Ok(file.config),
        false => Err(problems.to_string()),
    }
}

#[test]
fn overlays_and_machines_read_as_meant() {
    let config = read(&format!(
        "{HEAD}overlay = \"volatile\"\noverlay_dir = \"over\"\noverlay_limit = \"8GiB\"\noverlay_reset = \"never\"\n\
         unknown = \"refuse\"\nunknown_max = 7\n\
         [[machine]]\nname = \"pc17\"\nmacs = [\"52:54:00:ae:00:01\", \"52:54:00:ae:00:02\"]\n"
    ))
    .unwrap();
    let export = &config.exports[0];
    assert_eq!(export.overlay, Overlay::Volatile);
    assert_eq!(export.overlay_dir.as_deref(), Some(Path::new("/etc/over")));
    assert_eq!(export.overlay_limit, Some(8 << 30));
    assert_eq!(export.overlay_reset, OverlayReset::Never);
    assert_eq!((export.unknown, export.unknown_max), (Unknown::Refuse, 7));
    let macs = vec![Mac([0x52, 0x54, 0, 0xae, 0, 1]), Mac([0x52, 0x54, 0, 0xae, 0, 2])];
    let name = "pc17".to_owned();
    let overlay = None;
    assert_eq!(export.machines[..], [Machine { name, macs, overlay }]);
}

#[test]
fn defaults_give_overlays_and_an_export_may_do_without() {
    let config = read(&format!(
        "[defaults]\noverlay = \"volatile\"\noverlay_dir = \"/over\"\n{HEAD}\n{}overlay = \"none\"\n\
         [[machine]]\nname = \"a\"\nmacs = [\"52:54:00:ae:00:01\"]\n",
        HEAD.replace("slot = 1", "slot = 2").replace("a.img", "b.img"),
    ))
    .unwrap();
    assert_eq!(config.exports[0].overlay, Overlay::Volatile);
    assert_eq!(config.exports[0].unknown_max, UNKNOWN_MACHINES);
    assert_eq!(config.exports[0].machines.len(), 1);
    assert_eq!(config.exports[1].overlay, Overlay::None);
    assert!(
        config.exports[1].machines.is_empty(),
        "no reload for machines that it has not"
    );
}

#[test]
fn two_exports_may_share_a_golden_image() {
    let overlay = "overlay = \"volatile\"\noverlay_dir = \"/over\"\n";
    let other = HEAD.replace("slot = 1", "slot = 2");
    read(&format!("{HEAD}{overlay}{other}{overlay}")).unwrap();
}

/// A config with an overlay and these lines after it.
fn overlay(lines: &str) -> String {
    format!("{HEAD}overlay = \"volatile\"\noverlay_dir = \"/over\"\n{lines}")
}

fn told<const N: usize>(cases: [(String, &str, &str); N]) {
    for (text, place, message) in cases {
        let said = read(&text).unwrap_err();
        assert!(said.contains(place) && said.contains(message), "{text}\n{said}");
    }
}

#[test]
fn mistakes_about_overlays_are_told_with_their_place() {
    told([
        (
            format!("{HEAD}overlay = \"persistent\"\noverlay_dir = \"/over\"\n"),
            ":6:11",
            "only machines with a name",
        ),
        (
            format!("{HEAD}overlay = \"yes\"\n"),
            ":6:11",
            "\"none\", \"volatile\"",
        ),
        (
            format!("{HEAD}overlay = \"volatile\"\n"),
            ":6:11",
            "needs overlay_dir",
        ),
        (overlay("overlay_limit = \"8GB\"\n"), ":8:17", "512M"),
        (overlay("overlay_limit = 0\n"), ":8:17", "512M"),
        (
            overlay("overlay_reset = \"idle\"\n"),
            ":8:17",
            "\"boot\", \"never\", \"idle:12h\"",
        ),
        (
            overlay("overlay_reset = \"idle:1m\"\n"),
            ":8:17",
            "from 5m to 365d",
        ),
        (
            overlay("overlay_reset = \"idle:soon\"\n"),
            ":8:17",
            "a number with its unit",
        ),
        (
            overlay("unknown = \"nobody\"\n"),
            ":8:11",
            "\"volatile\", \"refuse\"",
        ),
        (
            overlay(
                "unknown = \"none\"\n[[machine]]\nname = \"a\"\nmacs = [\"520000000001\"]\noverlay = \"none\"\n",
            ),
            ":8:11",
            "change below them",
        ),
        (overlay("unknown_max = 70000\n"), ":8:15", "0 to 65535"),
        (overlay("unknown = \"refuse\"\n"), ":8:11", "nobody could use"),
        (overlay("read_only = true\n"), ":8:13", "leave one of them out"),
        (overlay("sync = true\n"), ":8:8", "leave sync out"),
        (overlay("wire_admin = true\n"), ":8:14", "shut out"),
        (overlay("store = \"ram\"\n"), ":8:9", "mmap"),
        (overlay("prealloc = true\n"), ":8:12", "never written"),
    ]);
}

#[test]
fn a_machine_may_have_another_kind_than_the_export() {
    let machine = |name: &str, mac: u8, lines: &str| {
        format!("[[machine]]\nname = \"{name}\"\nmacs = [\"52:54:00:ae:00:0{mac}\"]\n{lines}")
    };
    let kept = machine("kept", 2, "overlay = \"persistent\"\n");
    let config = read(&overlay(&format!("sync = true\n{}{kept}", machine("pc", 1, "")))).unwrap();
    let export = &config.exports[0];
    let kinds: Vec<Overlay> = export
        .machines
        .iter()
        .map(|machine| machine.overlay_on(export))
        .collect();
    assert_eq!(kinds, [Overlay::Volatile, Overlay::Persistent]);
    // Of those that do as the export says, too.
    let all = format!(
        "{HEAD}overlay = \"persistent\"\noverlay_dir = \"/over\"\n{}",
        machine("pc", 1, "")
    );
    assert_eq!(read(&all).unwrap().exports[0].overlay, Overlay::Persistent);
    told([(
        overlay(&machine("pc", 1, "overlay = \"yes\"\n")),
        ":11:11",
        "\"volatile\", \"persistent\"",
    )]);
}

#[test]
fn mistakes_about_machines_are_told_with_their_place() {
    told([
        (overlay("[machine]\nname = \"a\"\n"), ":8:1", "[[machine]]"),
        (overlay("[[machine]]\nname = \"a\"\n"), ":8:1", "no `macs`"),
        (
            overlay("[[machine]]\nname = \"a b\"\nmacs = [\"520000000001\"]\n"),
            ":9:8",
            "letters",
        ),
        (
            overlay("[[machine]]\nname = \"a\"\nmacs = []\n"),
            ":10:8",
            "at least one",
        ),
        (
            overlay("[[machine]]\nname = \"a\"\nmacs = [\"ff:ff:ff:ff:ff:ff\"]\n"),
            ":10:9",
            "group",
        ),
        (
            overlay("[[machine]]\nname = \"a\"\nmac = \"520000000001\"\n"),
            ":10:1",
            "did you mean `macs`",
        ),
        (
            overlay("[[machine]]\nname = \"a\"\nmacs = [\"520000000001\", \"520000000001\"]\n"),
            ":10:25",
            "twice",
        ),
        (
            overlay(
                "[[machine]]\nname = \"a\"\nmacs = [\"520000000001\"]\n[[machine]]\nname = \"b\"\nmacs = [\"520000000001\"]\n",
            ),
            ":13:9",
            "belongs to the machine a",
        ),
        (
            overlay(
                "[[machine]]\nname = \"a\"\nmacs = [\"520000000001\"]\n[[machine]]\nname = \"a\"\nmacs = [\"520000000002\"]\n",
            ),
            ":12:8",
            "another machine",
        ),
    ]);
}

#[test]
fn an_overlay_in_ceph_lies_on_a_snapshot() {
    let in_ceph = |path: &str, lines: &str| overlay(lines).replace("a.img", path);
    let config = read(&in_ceph("rbd:rbd/golden@v1", "")).unwrap();
    assert_eq!(config.exports[0].store, StoreKind::Rbd);
    let none = "[[machine]]\nname = \"a\"\nmacs = [\"520000000001\"]\noverlay = \"none\"\n";
    told([
        (in_ceph("rbd:rbd/golden", ""), ":4:8", "rbd:POOL/IMAGE@SNAPSHOT"),
        (
            in_ceph("rbd:rbd/golden@v1", "overlay_limit = \"1GiB\"\n"),
            ":8:17",
            "a quota of the pool",
        ),
        (in_ceph("rbd:rbd/golden@v1", none), ":4:8", "cannot be changed"),
    ]);
}
