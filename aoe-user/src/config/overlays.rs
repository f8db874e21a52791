//! One image for many machines: the `overlay…` keys of an export, and the `[[machine]]` tables.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aoe_common::Mac;

use super::problem::TextPlace;
use super::reader::{Keys, Mistake, Value, number, one_of, read_element, text, text_or_number};
use super::source::Source;
use super::values::{self, UNKNOWN_MAX};
use super::{ExportConfig, StoreKind};

/// Whether machines write to the export's image or to copies of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Overlay {
    /// To the image.
    #[default]
    None,
    /// Each to its own copy, which lasts until it is reset or the host is started anew.
    Volatile,
    /// Each to its own copy, which lasts until the operator takes it away.
    Persistent,
}

impl Overlay {
    /// Every value by its name.
    pub(crate) const NAMES: [(&'static str, Overlay); 3] = [
        ("none", Overlay::None),
        ("volatile", Overlay::Volatile),
        ("persistent", Overlay::Persistent),
    ];
}

/// When a machine's copy begins anew by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OverlayReset {
    /// When its boot firmware (iPXE) looks for the disk.
    #[default]
    Boot,
    /// Only when the operator says so.
    Never,
    /// When its machine has said nothing for so long.
    Idle(Duration),
}

/// Reads when a copy begins anew.
fn overlay_reset(text: &str) -> Result<OverlayReset, String> {
    // A Linux machine that runs looks for its disks once a minute.
    let range = Duration::from_secs(300)..=Duration::from_secs(365 * 86_400);
    match (text, text.strip_prefix("idle:")) {
        ("boot", _) => Ok(OverlayReset::Boot),
        ("never", _) => Ok(OverlayReset::Never),
        (_, Some(time)) => match values::time(time)? {
            time if range.contains(&time) => Ok(OverlayReset::Idle(time)),
            _ => Err("a silence from 5m to 365d is needed, such as \"idle:12h\"".into()),
        },
        _ => Err("it is one of \"boot\", \"never\", \"idle:12h\" (with a time of yours)".into()),
    }
}

impl std::fmt::Display for OverlayReset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OverlayReset::Boot => f.write_str("boot"),
            OverlayReset::Never => f.write_str("never"),
            OverlayReset::Idle(time) => write!(f, "idle:{}", humantime::format_duration(*time)),
        }
    }
}

/// What machines get that no `[[machine]]` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Unknown {
    /// A volatile copy for each address.
    #[default]
    Volatile,
    /// No answer.
    Refuse,
    /// No copy: the image itself, to be read.
    None,
}

impl Unknown {
    /// Every value by its name.
    pub(crate) const NAMES: [(&'static str, Unknown); 3] = [
        ("volatile", Unknown::Volatile),
        ("refuse", Unknown::Refuse),
        ("none", Unknown::None),
    ];
}

/// A machine with all its interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// What it is called.
    pub(crate) name: String,
    /// The addresses it asks from.
    pub(crate) macs: Vec<Mac>,
    /// Its copies, where they are not what the export says.
    pub(crate) overlay: Option<Overlay>,
}

impl Machine {
    /// What its copy is on an export.
    pub(crate) fn overlay_on(&self, export: &ExportConfig) -> Overlay {
        self.overlay.unwrap_or(export.overlay)
    }
}

/// Machines that nobody named which get a copy, where no number is given.
pub(crate) const UNKNOWN_MACHINES: u32 = 256;

/// Reads the keys about overlays that `[defaults]` and `[[export]]` share.
pub(super) fn read_settings(keys: &mut Keys<'_, '_, '_>, export: &mut ExportConfig, file: &Path) {
    keys.set("overlay", &mut export.overlay, one_of(&Overlay::NAMES, &[]));
    let dir = keys.get(
        "overlay_dir",
        text(|text| match text {
            "" => Err("the path of a directory is needed".into()),
            text if text.contains('\0') => Err("a path has no zero bytes".into()),
            text => Ok(file.parent().unwrap_or(Path::new("")).join(text)),
        }),
    );
    if let Some(dir) = dir {
        export.overlay_dir = Some(dir);
    }
    if let Some(limit) = keys.get("overlay_limit", text_or_number(values::size_bytes)) {
        export.overlay_limit = Some(limit);
    }
    keys.set("overlay_reset", &mut export.overlay_reset, text(overlay_reset));
    keys.set("unknown", &mut export.unknown, one_of(&Unknown::NAMES, &[]));
    keys.set("unknown_max", &mut export.unknown_max, number(UNKNOWN_MAX));
}

/// The machines with names, of all files.
#[derive(Debug, Default)]
pub(super) struct Machines {
    /// By the order in which they stand there.
    pub(super) all: Vec<Machine>,
    seen: Seen,
}

impl Machines {
    /// Adds those of the `[[machine]]` tables of a file.
    pub(super) fn read(&mut self, keys: &mut Keys<'_, '_, '_>, source: &Arc<Source>) {
        let Some(value) = keys.raw("machine") else {
            return;
        };
        if !value.get_ref().is_array() {
            return keys.mistake(value.span(), "`machine` is a list of tables: write [[machine]]");
        }
        let list = keys.list("machine", |value, mistakes| {
            read_machine(value, &mut self.seen, source, mistakes)
        });
        self.all.extend(list.unwrap_or_default());
    }
}

/// It becomes part of a file's name.
fn machine_name(text: &str) -> Result<String, String> {
    values::state_name(text).map_err(|reason| reason.replace("a state name", "the name of a machine"))
}

/// What belongs to one machine only.
#[derive(Debug, Default)]
struct Seen {
    names: HashMap<String, TextPlace>,
    macs: HashMap<Mac, (String, TextPlace)>,
}

fn read_machine(
    value: &Value<'_>,
    seen: &mut Seen,
    source: &Arc<Source>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Machine> {
    let mut keys = Keys::of(value, ("machine", "a machine"), &["name", "macs"], mistakes)?;
    let table = keys.table();
    let name = keys.get("name", text(machine_name));
    if let (Some(name), Some(place)) = (&name, table.get("name"))
        && let Some(other) = seen
            .names
            .insert(name.clone(), TextPlace::new(source, place.span()))
    {
        let message = format!(
            "name = {name:?}: another machine is called so, at {}",
            other.name()
        );
        keys.mistake(place.span(), message);
    }
    let called = name.clone().unwrap_or_default();
    let macs = keys.list("macs", |value, mistakes| {
        let mac = read_element("macs", value, text(values::initiator), mistakes)?;
        let here = (called.clone(), TextPlace::new(source, value.span()));
        if let Some((other, place)) = seen.macs.insert(mac, here) {
            let message = match other == called {
                true => format!("macs: {mac} is listed twice"),
                false => format!(
                    "macs: {mac} belongs to the machine {other} already, at {}",
                    place.name()
                ),
            };
            let span = value.span();
            mistakes.push(Mistake { span, message });
        }
        Some(mac)
    });
    if let (Some([]), Some(place)) = (macs.as_deref(), table.get("macs"))
        && place.get_ref().as_array().is_some_and(|list| list.is_empty())
    {
        keys.mistake(place.span(), "macs = []: a machine has at least one address");
    }
    let overlay = keys.get("overlay", one_of(&Overlay::NAMES, &[]));
    keys.finish(&[]);
    Some(Machine {
        name: name?,
        macs: macs?,
        overlay,
    })
}

/// What speaks against an overlay on this export: the key at fault and why.
pub(super) fn contradictions(export: &ExportConfig) -> Vec<(&'static str, String)> {
    if export.overlay == Overlay::None {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut say = |wrong: bool, key: &'static str, message: &str| {
        if wrong {
            found.push((key, message.to_owned()));
        }
    };
    say(
        export.overlay_dir.is_none(),
        "overlay",
        "an overlay needs overlay_dir, the directory for what machines write (on a tmpfs to keep it in memory)",
    );
    say(
        !matches!(export.store, StoreKind::Mmap | StoreKind::Direct | StoreKind::Rbd),
        "store",
        "an overlay lies on an image in a file or block device, or on a snapshot in Ceph: store = \"mmap\", \"direct\" or \"rbd\"",
    );
    say(
        // A snapshot is read-only by itself.
        export.read_only && export.store != StoreKind::Rbd,
        "read_only",
        "read_only with an overlay: the image is never written, and the overlays are there to be written; leave one of them out",
    );
    say(
        export.shared,
        "shared",
        "shared with an overlay: a golden image must not change under the machines that run on it",
    );
    say(
        export.prealloc,
        "prealloc",
        "prealloc with an overlay: the image is never written, and overlays take space where they are written",
    );
    let is_kept = |machine: &Machine| machine.overlay_on(export) != Overlay::Volatile;
    say(
        export.sync && !export.machines.iter().any(is_kept),
        "sync",
        "sync with volatile overlays: they do not survive a power cut anyway; leave sync out, or make a machine's overlay persistent",
    );
    say(
        export.overlay == Overlay::Persistent && export.machines.is_empty(),
        "overlay",
        "overlay = \"persistent\" and no [[machine]]: only machines with a name have copies that persist",
    );
    say(
        export.wire_admin == Some(true),
        "wire_admin",
        "wire_admin with an overlay: a mask or reservation set by one machine would shut out the others that share the address",
    );
    found.extend(contradictions_about_unknown(export));
    if export.store == StoreKind::Rbd {
        found.extend(contradictions_in_ceph(export));
    }
    found
}

/// The same about machines without a name.
fn contradictions_about_unknown(export: &ExportConfig) -> Option<(&'static str, String)> {
    let is_none = |machine: &Machine| machine.overlay_on(export) == Overlay::None;
    let message = match export.unknown {
        Unknown::Refuse if export.machines.is_empty() => {
            "unknown = \"refuse\" and no [[machine]]: nobody could use the export"
        }
        Unknown::None if export.machines.iter().any(is_none) => {
            "unknown = \"none\" beside a machine with overlay = \"none\": machines that read the image without a copy would see it change below them"
        }
        Unknown::Volatile | Unknown::Refuse | Unknown::None => return None,
    };
    Some(("unknown", message.to_owned()))
}

/// The same about an image in Ceph, of which each machine has a clone.
fn contradictions_in_ceph(export: &ExportConfig) -> Vec<(&'static str, String)> {
    let is_snapshot = export.path.to_string_lossy().contains('@');
    let is_changed = |machine: &Machine| machine.overlay_on(export) == Overlay::None;
    let wrong = [
        (
            !is_snapshot,
            "path",
            "an overlay on an image in Ceph lies on a snapshot of it, rbd:POOL/IMAGE@SNAPSHOT: each machine has a clone of that",
        ),
        (
            export.overlay_limit.is_some(),
            "overlay_limit",
            "overlay_limit with an image in Ceph: a clone takes at most the image's size, and a quota of the pool bounds all of them",
        ),
        (
            export.machines.iter().any(is_changed),
            "path",
            "a machine with overlay = \"none\" is to change the image, and a snapshot in Ceph cannot be changed",
        ),
    ];
    let found = wrong.into_iter().filter(|(is_wrong, ..)| *is_wrong);
    found.map(|(_, key, message)| (key, message.to_owned())).collect()
}

#[cfg(test)]
#[path = "overlays_tests.rs"]
mod tests;
