//! Failover groups: the `[[failover]]` tables, and the `failover` key of an export.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use aoe_common::Mac;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::problem::TextPlace;
use super::reader::{Keys, Mistake, Value, read_element, text, text_or_number};
use super::source::Source;
use super::{ExportConfig, Overlay, StoreKind, values};

/// Exports that several gateways can serve, and that move from one to the other together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailoverGroup {
    /// What it is called.
    pub(crate) name: String,
    /// The address that its exports are served under, on whichever gateway: the same in the configuration of each.
    pub(crate) mac: Mac,
    /// The gateways' own addresses on the network of the initiators.
    pub(crate) peers: Arc<[Mac]>,
    /// After so long without an answer from the gateway that serves it, another one takes it.
    pub(crate) detect: Duration,
    /// The program, with its arguments, that takes and gives back the storage; `None`: the images' locks in Ceph do.
    pub(crate) command: Option<Vec<String>>,
}

impl FailoverGroup {
    /// How long a gateway that answers is not heard before another takes over, where nothing is said.
    pub(crate) const DETECT: Duration = Duration::from_millis(1500);
}

/// The groups by name.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_name: HashMap<String, Arc<FailoverGroup>>,
    /// Where each is called so.
    names: HashMap<String, TextPlace>,
    /// Whose an address is.
    macs: HashMap<Mac, String>,
}

impl Groups {
    /// Adds those of the `[[failover]]` tables of a file.
    pub(super) fn read(&mut self, keys: &mut Keys<'_, '_, '_>, source: &Arc<Source>) {
        let Some(value) = keys.raw("failover") else {
            return;
        };
        if !value.get_ref().is_array() {
            return keys.mistake(value.span(), "`failover` is a list of tables: write [[failover]]");
        }
        keys.list("failover", |value, mistakes| {
            let group = read_group(value, self, source, mistakes)?;
            self.by_name.insert(group.name.clone(), Arc::new(group));
            Some(())
        });
    }

    /// The group that an export names.
    pub(super) fn of(&self, keys: &mut Keys<'_, '_, '_>) -> Option<Arc<FailoverGroup>> {
        let find = |name: &str| match self.by_name.get(name) {
            Some(group) => Ok(Arc::clone(group)),
            None if self.by_name.is_empty() => Err("there is no [[failover]]".to_owned()),
            None => {
                let mut names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
                names.sort_unstable();
                Err(format!(
                    "no [[failover]] is called so; there are: {}",
                    names.join(", ")
                ))
            }
        };
        keys.get("failover", text(find))
    }
}

fn read_group(
    value: &Value<'_>,
    groups: &mut Groups,
    source: &Arc<Source>,
    mistakes: &mut Vec<Mistake>,
) -> Option<FailoverGroup> {
    let mut keys = Keys::of(
        value,
        ("failover", "a failover group"),
        &["name", "mac", "peers"],
        mistakes,
    )?;
    let table = keys.table();
    let name = keys.get("name", text(group_name));
    if let (Some(name), Some(value)) = (&name, table.get("name")) {
        let place = TextPlace::new(source, value.span());
        if let Some(other) = groups.names.insert(name.clone(), place) {
            let message = "another failover group is called so, at";
            keys.mistake(
                value.span(),
                format!("name = {name:?}: {message} {}", other.name()),
            );
        }
    }
    let mac = keys.get("mac", text(values::initiator));
    if let (Some(mac), Some(place)) = (mac, table.get("mac"))
        && let Some(other) = groups.macs.insert(mac, name.clone().unwrap_or_default())
    {
        keys.mistake(
            place.span(),
            format!("mac = \"{mac}\": the failover group {other} has it already; each needs one of its own"),
        );
    }
    let peers = keys.list("peers", |value, mistakes| {
        read_element("peers", value, text(values::initiator), mistakes)
    });
    if let (Some(peers), Some(place)) = (&peers, table.get("peers")) {
        if peers.is_empty() && place.get_ref().as_array().is_some_and(|list| list.is_empty()) {
            keys.mistake(
                place.span(),
                "peers = []: the addresses of the gateways are needed",
            );
        }
        if mac.is_some_and(|mac| peers.contains(&mac)) {
            keys.mistake(
                place.span(),
                "peers: the group's own `mac` is no gateway's; it must be an address that no card has, such as 02:78:62:00:00:01",
            );
        }
    }
    let mut detect = FailoverGroup::DETECT;
    keys.set("detect", &mut detect, text_or_number(detection));
    let command = keys.get("command", text(command));
    keys.finish(&[]);
    Some(FailoverGroup {
        name: name?,
        mac: mac?,
        peers: peers?.into(),
        detect,
        command,
    })
}

fn group_name(text: &str) -> Result<String, String> {
    values::state_name(text).map_err(|reason| reason.replace("a state name", "the name of a failover group"))
}

/// A time of silence.
fn detection(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(500)..=Duration::from_secs(60);
    values::time(text)
        .ok()
        .filter(|time| range.contains(time))
        .ok_or_else(|| "a time from 500ms to 60s is needed, such as 1500ms".into())
}

fn command(text: &str) -> Result<Vec<String>, String> {
    let words = shlex::split(text).ok_or("a quote is not closed")?;
    match words.first() {
        Some(program) if program.starts_with('/') => Ok(words),
        Some(_) => Err("the program is written with its whole path, from /".into()),
        None => Err("a program is needed".into()),
    }
}

/// What is wrong with the program of an export's group on this machine.
pub(super) fn program_problem(export: &ExportConfig) -> Option<String> {
    let group = export.failover.as_ref()?;
    let program = group.command.as_ref()?.first()?;
    let name = &group.name;
    let reason = match std::fs::metadata(program) {
        Err(error) if error.kind() == ErrorKind::NotFound => "no such file".to_owned(),
        Err(error) => error.to_string(),
        Ok(file) if !file.is_file() => "it is no file".to_owned(),
        Ok(_) => match accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => return None,
            Err(_) => "it may not be executed: `chmod +x` it".to_owned(),
        },
    };
    Some(format!(
        "{program}, the `command` of the failover group {name}: {reason}"
    ))
}

/// What speaks against a failover group for this export: the key at fault and why.
pub(super) fn contradictions(export: &ExportConfig) -> Vec<(&'static str, String)> {
    let Some(group) = &export.failover else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if export.store == StoreKind::Nbd {
        found.push((
            "failover",
            "an export of an NBD server in a failover group: NBD has no lock, and the server may still carry out what the gateway asked \
             for that the other one took over from, after newer writes; serve it by one xblade, or have the gateways serve what the server \
             opens"
                .into(),
        ));
    } else if export.store != StoreKind::Rbd && group.command.is_none() {
        found.push((
            "failover",
            format!(
                "the {} store has no lock that shuts another gateway out: use store = \"rbd\", or give the group {} a `command` \
                 that takes the storage",
                export.store, group.name
            ),
        ));
    }
    if export.store == StoreKind::Rbd && export.read_only {
        found.push((
            "read_only",
            "read_only in a failover group: an image that nobody writes has no lock to take; without `failover` any number of \
             gateways can serve it"
                .into(),
        ));
    }
    if export.store != StoreKind::Rbd && export.read_only && group.command.is_some() {
        found.push((
            "read_only",
            format!(
                "read_only in a failover group: what nobody writes needs no `command` of the group {} to take it; without `failover` \
                 any number of gateways can serve it",
                group.name
            ),
        ));
    }
    if export.overlay != Overlay::None {
        found.push((
            "overlay",
            "an overlay in a failover group: the machines' copies are on this gateway alone".into(),
        ));
    }
    if export.shared {
        found.push((
            "shared",
            "shared in a failover group: its storage has one writer, the gateway that serves it".into(),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::file::parse;
    use super::super::validate::{SettingNames, contradictions};
    use super::*;

    const GROUP: &str = "[[failover]]\nname = \"san1\"\nmac = \"02:78:62:00:00:01\"\n\
                         peers = [\"02:00:00:00:00:0a\", \"02:00:00:00:00:0b\"]\n";
    const EXPORT: &str =
        "[[export]]\nshelf = 1\nslot = 1\npath = \"rbd:p/i\"\ninterfaces = [\"eth0\"]\nfailover = \"san1\"\n";

    fn problems(text: &str) -> String {
        match parse(Path::new("x.toml"), text.to_owned()) {
            Err(problems) => problems.to_string(),
            Ok(file) => {
                let problems = contradictions(&file.config, SettingNames::File).problems(Some(&file.origin));
                match problems.0.is_empty() {
                    true => String::new(),
                    false => problems.to_string(),
                }
            }
        }
    }

    #[test]
    fn a_group_is_its_exports() {
        let text = format!("{GROUP}detect = \"2s\"\ncommand = \"/sbin/lock 'one two'\"\n{EXPORT}");
        let config = parse(Path::new("x.toml"), text).unwrap().config;
        let group = config.exports[0].failover.as_deref().unwrap();
        assert_eq!(group.name, "san1");
        assert_eq!(group.mac, Mac([2, 0x78, 0x62, 0, 0, 1]));
        assert_eq!(group.peers.len(), 2);
        assert_eq!(group.detect, Duration::from_secs(2));
        assert_eq!(
            group.command.as_deref(),
            Some(&["/sbin/lock".to_owned(), "one two".to_owned()][..])
        );
        assert_eq!(problems(&format!("{GROUP}{EXPORT}")), "");
    }

    #[test]
    fn mistakes_are_told_where_they_are() {
        for (text, line, words) in [
            (EXPORT.to_owned(), ":6:", "there is no [[failover]]"),
            (
                format!("{GROUP}{}", EXPORT.replace("san1", "san2")),
                ":10:",
                "there are: san1",
            ),
            (
                format!("{GROUP}{GROUP}{EXPORT}"),
                ":6:",
                "another failover group is called so",
            ),
            (
                format!("{GROUP}{}{EXPORT}", GROUP.replace("san1", "san2")),
                ":7:",
                "san1 has it already",
            ),
            (
                format!("{GROUP}detect = \"1ms\"\n{EXPORT}"),
                ":5:",
                "500ms to 60s",
            ),
            (
                format!("{GROUP}command = \"lock\"\n{EXPORT}"),
                ":5:",
                "whole path",
            ),
            (format!("{}{EXPORT}", GROUP.replace("0a", "zz")), ":4:", "peers"),
            (
                format!("[[failover]]\nname = \"san1\"\n{EXPORT}"),
                ":1:",
                "has no `mac`",
            ),
            (
                format!("{GROUP}{EXPORT}read_only = true\n"),
                ":11:",
                "no lock to take",
            ),
            (
                format!(
                    "{GROUP}command = \"/sbin/lock\"\n{}read_only = true\n",
                    EXPORT.replace("rbd:p/i", "/dev/drbd0")
                ),
                ":12:",
                "read_only in a failover group",
            ),
            (
                format!("{GROUP}{}", EXPORT.replace("rbd:p/i", "/dev/drbd0")),
                ":10:",
                "give the group san1 a `command`",
            ),
            (
                format!(
                    "{GROUP}command = \"/sbin/lock\"\n{}",
                    EXPORT.replace("rbd:p/i", "nbd://h/disk")
                ),
                ":11:",
                "NBD has no lock",
            ),
        ] {
            let problems = problems(&text);
            assert!(
                problems.contains(line) && problems.contains(words),
                "{words}: {problems}"
            );
        }
    }
}
