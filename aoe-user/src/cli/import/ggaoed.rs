//! ggaoed.conf: groups of `key = value`. `[defaults]` and `[acls]` are special, a group with a `path` or `uuid` is an export,
//! any other an interface.

use std::collections::{BTreeMap, BTreeSet};

use aoe_common::Mac;

use super::export::{Import, ImportedExport};
use crate::config::values;

type Group = BTreeMap<String, String>;

/// What has no counterpart, and why that does not matter.
const WITHOUT: [(&str, &str); 11] = [
    ("trace-io", "see --log info,xblade::frames=trace"),
    ("max-delay", "requests are never held back"),
    ("merge-delay", "requests are never held back"),
    ("ring-buffer-size", "the packet memory sizes itself"),
    ("send-buffer-size", "the packet memory sizes itself"),
    ("receive-buffer-size", "the packet memory sizes itself"),
    ("pid-file", "systemd knows the process"),
    ("control-socket", "see xblade daemon --control"),
    (
        "state-directory",
        "what ggaoed keeps there (config strings, masks, reservations) is not taken over",
    ),
    (
        "broadcast",
        "initiators on the access list always find the export",
    ),
    (
        "mtu",
        "the interface's own is used; max_sectors limits commands further",
    ),
];

/// What the file says; `ethers` is the text of `/etc/ethers`.
pub(super) fn import(text: &str, ethers: &str) -> Import {
    let mut import = Import::default();
    let groups = groups(text, &mut import.remarks);
    let none = Group::new();
    let find = |name: &str| {
        groups
            .iter()
            .find(|(found, _)| found == name)
            .map_or(&none, |(_, group)| group)
    };
    let (defaults, acls) = (find("defaults"), find("acls"));
    remarks("[defaults]", defaults, &FOR_ALL, &mut import.remarks);
    for (name, group) in &groups {
        if matches!(name.as_str(), "defaults" | "acls") {
            continue;
        }
        if group.contains_key("path") || group.contains_key("uuid") || group.contains_key("shelf") {
            let names = Names { acls, ethers };
            import.exports.push(export(name, group, defaults, &names));
        } else {
            remarks(&format!("[{name}]"), group, &[], &mut import.remarks);
        }
    }
    import
}

/// Says of every key that is not taken over why it is not.
fn remarks(place: &str, group: &Group, taken: &[&str], to: &mut Vec<String>) {
    for (key, value) in group {
        let key = key.as_str();
        let at = if place.is_empty() {
            format!("{key} = {value}")
        } else {
            format!("{place} {key} = {value}")
        };
        match WITHOUT.iter().find(|(name, _)| *name == key) {
            Some((_, why)) => to.push(format!("{at}: no counterpart, {why}")),
            None if taken.contains(&key) => {}
            None => to.push(format!("{at}: not understood")),
        }
    }
}

fn groups(text: &str, remarks: &mut Vec<String>) -> Vec<(String, Group)> {
    let mut groups: Vec<(String, Group)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let heading = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match (heading, line.split_once('='), groups.last_mut()) {
            (Some(name), _, _) => groups.push((name.trim().to_owned(), Group::new())),
            (None, Some((key, value)), Some((_, group))) => {
                drop(group.insert(key.trim().to_owned(), value.trim().to_owned()));
            }
            _ => remarks.push(format!("line {} is not understood: {line}", index + 1)),
        }
    }
    groups
}

/// Where the names in access lists lead.
struct Names<'a> {
    acls: &'a Group,
    ethers: &'a str,
}

impl Names<'_> {
    /// The addresses of a list: addresses themselves, other lists, hosts of `/etc/ethers`.
    fn resolve(&self, list: &str, within: &mut BTreeSet<String>) -> Result<BTreeSet<Mac>, String> {
        let mut found = BTreeSet::new();
        for word in words(list) {
            if word.parse::<Mac>().is_ok() {
                found.insert(values::initiator(word).map_err(|error| format!("{word}: {error}"))?);
            } else if let Some(list) = self.acls.get(word) {
                if !within.insert(word.to_owned()) {
                    return Err(format!("the access list {word} contains itself"));
                }
                found.extend(self.resolve(list, within)?);
                within.remove(word);
            } else if let Some(mac) = self.host(word) {
                found.insert(mac);
            } else {
                return Err(format!(
                    "{word} is no address, no list in [acls], and not in /etc/ethers"
                ));
            }
        }
        Ok(found)
    }

    fn host(&self, name: &str) -> Option<Mac> {
        self.ethers.lines().find_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let (address, host) = (words.next()?, words.next()?);
            (host == name).then(|| values::initiator(address).ok())?
        })
    }
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn is_true(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Those on `accept` who are not on `deny`; `None`: everyone.
fn allowed(group: &Group, names: &Names) -> Result<Option<BTreeMap<Mac, bool>>, String> {
    let list = |key: &str| {
        let text = group.get(key).filter(|text| words(text).next().is_some());
        text.map(|text| names.resolve(text, &mut BTreeSet::new()))
            .transpose()
    };
    match (list("accept")?, list("deny")?) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err("deny without accept: there are only lists of those who may".into()),
        (Some(accept), deny) => {
            let deny = deny.unwrap_or_default();
            Ok(Some(accept.difference(&deny).map(|mac| (*mac, false)).collect()))
        }
    }
}

/// Keys of a device that are taken over.
const KNOWN: [&str; 10] = [
    "shelf",
    "slot",
    "path",
    "uuid",
    "interfaces",
    "queue-length",
    "direct-io",
    "read-only",
    "accept",
    "deny",
];

/// Those of them that `[defaults]` may have for all devices.
const FOR_ALL: [&str; 4] = ["interfaces", "queue-length", "direct-io", "read-only"];

fn export(name: &str, group: &Group, defaults: &Group, names: &Names) -> ImportedExport {
    let mut export = ImportedExport {
        from: format!("[{name}]"),
        ..ImportedExport::default()
    };
    let get = |key: &str| group.get(key).or_else(|| defaults.get(key)).map(String::as_str);
    for key in ["shelf", "slot"] {
        match group.get(key) {
            Some(value) => export.set_number(key, value),
            None => export.refuse(format!("{key} is missing")),
        }
    }
    match (group.get("path"), group.get("uuid")) {
        (Some(path), _) => export.set("path", path.as_str()),
        (None, Some(uuid)) => export.set("path", format!("/dev/disk/by-uuid/{uuid}")),
        (None, None) => export.refuse("path is missing"),
    }
    export
        .interfaces
        .extend(get("interfaces").into_iter().flat_map(words).map(str::to_owned));
    if export.interfaces.is_empty() {
        export.refuse("ggaoed serves on all interfaces where none is named; name them");
    }
    if let Some(value) = get("queue-length") {
        export.set_number("buffers", value);
    }
    for (key, otherwise) in [("direct-io", true), ("read-only", false)] {
        let value = get(key).map_or(Some(otherwise), is_true);
        match (key, value) {
            ("direct-io", Some(true)) => export.set("store", "direct"),
            ("read-only", Some(true)) => export.set("read_only", true),
            (_, Some(_)) => {}
            (_, None) => export.refuse(format!(
                "{key} = {} is neither true nor false",
                get(key).unwrap_or_default()
            )),
        }
    }
    match allowed(group, names) {
        Ok(allow) => export.allow = allow,
        Err(reason) => export.refuse(reason),
    }
    remarks("", group, &KNOWN, &mut export.remarks);
    export
}

#[cfg(test)]
mod tests {
    use super::super::export::text;
    use super::*;
    use crate::config::{StoreKind, file};

    const FILE: &str = "[defaults]\nqueue-length = 32\ninterfaces = eth0, vif*\npid-file = /run/ggaoed.pid\nbuffers = 5\n\
        [acls]\nfoo = 00:C0:4F:A1:66:94, 00:1B:21:0A:AA:22\nbar = foo, host1, 00:0E:0C:3E:3B:0B\nloop = loop\n\
        [eth1]\nmtu = 9000\n";

    fn of(device: &str) -> (String, usize) {
        let import = import(
            &format!("{FILE}[disk]\nshelf = 1\nslot = 2\n{device}"),
            "00:30:48:69:41:3A host1\n",
        );
        text(import, "ggaoed.conf")
    }

    #[test]
    fn a_device_is_an_export() {
        let (text, refused) =
            of("path = /dev/sdb\naccept = bar\ndeny = 00:C0:4F:A1:66:94\nmax-delay = 0.001\n");
        assert_eq!(refused, 0, "{text}");
        for line in [
            "# [eth1] mtu = 9000: no counterpart, the interface's own is used; max_sectors limits commands further",
            "# [defaults] buffers = 5: not understood",
            "# [defaults] pid-file = /run/ggaoed.pid: no counterpart, systemd knows the process",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
        let export = file::parse("x".as_ref(), text).unwrap().config.exports.remove(0);
        assert_eq!(
            (export.shelf, export.slot, export.buffers, export.store),
            (1, 2, 32, StoreKind::Direct)
        );
        assert_eq!(export.interfaces, ["eth0", "vif*"]);
        let allowed: Vec<String> = export.allow.iter().map(|entry| entry.mac.to_string()).collect();
        assert_eq!(
            allowed,
            ["00:0e:0c:3e:3b:0b", "00:1b:21:0a:aa:22", "00:30:48:69:41:3a"]
        );
        let (text, _) = of("uuid = 12-34\ndirect-io = false\nread-only = true\ninterfaces = eth7\n");
        let export = file::parse("x".as_ref(), text).unwrap().config.exports.remove(0);
        assert_eq!(export.path.to_str(), Some("/dev/disk/by-uuid/12-34"));
        assert!(export.read_only && export.store == StoreKind::Mmap && export.interfaces == ["eth7"]);
    }

    #[test]
    fn a_list_that_is_not_understood_lets_nobody_in() {
        for device in [
            "path = /a\naccept = nobody\n",
            "path = /a\naccept = loop\n",
            "path = /a\ndeny = foo\n",
            "path = /a\naccept = foo\ndeny = bar\n",
            "path = /a\nread-only = maybe\n",
            "accept = foo\n",
        ] {
            let (text, refused) = of(device);
            assert_eq!(refused, 1, "{device}: {text}");
            assert!(
                file::parse("x".as_ref(), text).is_err(),
                "nothing to serve is left"
            );
        }
    }
}
