//! Holds a config against the machine and against itself. Opens no file, and changes nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::backing::{self, BackingFacts, BackingIdentity};
use super::device;
use super::failover;
use super::interfaces;
use super::overlays;
use super::problem::{Problem, Problems, TextPlace};
use super::{Config, ExportConfig, Overlay, StoreKind};
use crate::config::file::Origin;
use crate::host::Interface;

/// The shelf that Linux's driver refuses (its minor numbers end before it).
const SHELF_LINUX_REFUSES: u16 = 4095;

/// What a config would do on this machine.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What must be mended before anything is served.
    pub(crate) problems: Vec<Finding>,
    /// What the operator should know.
    pub(crate) warnings: Vec<Finding>,
    /// One for each export of the config, in its order.
    pub(crate) exports: Vec<SeenExport>,
}

/// An export as the machine sees it.
#[derive(Debug, Default)]
pub(crate) struct SeenExport {
    /// The interfaces that its names and globs choose now.
    pub(crate) interfaces: Vec<String>,
    /// What is behind its path, when that can be used.
    pub(crate) backing: Option<BackingFacts>,
}

/// Whose words messages use for settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SettingNames {
    /// The config file's.
    File,
    /// The command line's.
    Options,
}

/// Something about one setting of one export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Index of the export in [`Config::exports`].
    pub(crate) export: usize,
    /// The setting, as the config file names it.
    pub(crate) key: &'static str,
    /// What is to be said.
    pub(crate) message: String,
    /// The export that it contradicts.
    pub(crate) other: Option<usize>,
}

impl Report {
    /// The problems, with their places where the config came from a file.
    pub(crate) fn problems(&self, origin: Option<&Origin>) -> Problems {
        let problem = |finding: &Finding| {
            let other = finding
                .other
                .and_then(|other| origin.and_then(|origin| origin.export(other)));
            Problem {
                place: origin.and_then(|origin| origin.place(finding.export, finding.key)),
                message: match other {
                    Some(other) => format!("{}; the other one is at {other}", finding.message),
                    None => finding.message.clone(),
                },
            }
        };
        // What one line of the defaults does to every export is one mistake.
        let mut seen = HashSet::new();
        let first = |problem: &Problem| {
            let at = |place: &TextPlace| (place.file().to_owned(), place.span());
            seen.insert((problem.message.clone(), problem.place.as_ref().map(at)))
        };
        Problems(self.problems.iter().map(problem).filter(first).collect())
    }

    /// Logs every warning.
    pub(crate) fn log_warnings(&self) {
        let mut seen = HashSet::new();
        for warning in self
            .warnings
            .iter()
            .filter(|warning| seen.insert(&warning.message))
        {
            tracing::warn!("{}", warning.message);
        }
    }
}

/// Looks for everything that speaks against serving `config` on a machine with these interfaces.
pub(crate) fn validate(config: &Config, interfaces: &[Interface], words: SettingNames) -> Report {
    let mut check = Check {
        config,
        words,
        report: Report::default(),
    };
    for (index, export) in config.exports.iter().enumerate() {
        let mut seen = SeenExport::default();
        check.settings(index, export);
        seen.interfaces = check.interfaces(index, export, interfaces);
        seen.backing = check.backing(index, export);
        check.report.exports.push(seen);
    }
    check.shared_interfaces();
    let identities: Vec<Option<BackingIdentity>> = check
        .report
        .exports
        .iter()
        .map(|seen| Some(seen.backing?.identity))
        .collect();
    check.shared_states();
    check.shared_files(|index| identities[index]);
    check.report.problems.sort_by_key(|finding| finding.export);
    check.report
}

/// Looks for what contradicts itself within `config`, whatever machine it is for: a daemon refuses that, and serves what it can of
/// the rest.
pub(crate) fn contradictions(config: &Config, words: SettingNames) -> Report {
    let mut check = Check {
        config,
        words,
        report: Report::default(),
    };
    for (index, export) in config.exports.iter().enumerate() {
        check.settings(index, export);
        check.report.exports.push(SeenExport {
            // Two exports of one glob meet wherever it matches.
            interfaces: export.interfaces.clone(),
            backing: None,
        });
    }
    check.shared_interfaces();
    check.shared_states();
    check.shared_files(|index| Some(&config.exports[index].path));
    check.report.problems.sort_by_key(|finding| finding.export);
    check.report
}

struct Check<'c> {
    config: &'c Config,
    words: SettingNames,
    report: Report,
}

impl Check<'_> {
    fn problem(&mut self, export: usize, key: &'static str, message: impl Into<String>) {
        self.report.problems.push(Finding {
            export,
            key,
            message: message.into(),
            other: None,
        });
    }

    /// What two exports contradict each other in.
    fn clash(&mut self, (export, other): (usize, usize), key: &'static str, message: String) {
        self.report.problems.push(Finding {
            export,
            key,
            message,
            other: Some(other),
        });
    }

    fn warning(&mut self, export: usize, key: &'static str, message: impl Into<String>) {
        self.report.warnings.push(Finding {
            export,
            key,
            message: message.into(),
            other: None,
        });
    }

    /// What contradicts itself within one export.
    fn settings(&mut self, index: usize, export: &ExportConfig) {
        if export.shelf == SHELF_LINUX_REFUSES && !self.config.force {
            self.problem(
                index,
                "shelf",
                "shelf 4095 is refused by Linux initiators; take one from 0 to 4094, or add --force",
            );
        }
        if export.shared && export.store != StoreKind::Direct {
            let (shared, remedy) = match self.words {
                SettingNames::File => ("shared", "use store = \"direct\""),
                SettingNames::Options => ("--shared", "add --direct"),
            };
            let message = match export.store {
                StoreKind::Rbd => {
                    format!("{shared}: an image in Ceph has one writer, which has its exclusive lock")
                }
                StoreKind::Nbd => {
                    format!(
                        "{shared}: of an NBD export with other writers nothing is known; xblade must be the only one"
                    )
                }
                store => format!(
                    "{shared}: a backing object with other writers must not be cached, and the {store} store caches; {remedy}"
                ),
            };
            self.problem(index, "shared", message);
        }
        let prealloc = match self.words {
            SettingNames::File => "prealloc",
            SettingNames::Options => "--prealloc",
        };
        if export.prealloc && export.read_only {
            let message = format!("{prealloc} reserves space for writing, but the export is read-only");
            self.problem(index, "prealloc", message);
        } else if export.prealloc && !export.store.uses_file() {
            let message = format!(
                "{prealloc} reserves space in a file, but the {} store writes to none",
                export.store
            );
            self.problem(index, "prealloc", message);
        }
        let contradictions = overlays::contradictions(export)
            .into_iter()
            .chain(failover::contradictions(export));
        for (key, message) in contradictions {
            self.problem(index, key, message);
        }
        if !export.read_only && export.overlay == Overlay::None && device::is_fickle(&export.path) {
            let message = format!(
                "{}: whoever may write to the export can change this name, and give it to another disk; PARTUUID= or a link in \
                 /dev/disk/by-id is the disk's own",
                export.path.display()
            );
            self.warning(index, "path", message);
        }
        if export.shared && !export.read_only {
            let message = format!(
                "{}: shared means that others write other sectors of {}; two targets with one address on it lose acknowledged writes",
                export.address(),
                export.path.display()
            );
            self.warning(index, "shared", message);
        }
    }

    /// Questions of a gateway whose address the others do not know may find no answer, and it would take the group from one that is well.
    fn peers(&mut self, index: usize, export: &ExportConfig, chosen: &[&Interface]) {
        let Some(group) = &export.failover else { return };
        for interface in chosen {
            if let Some(mac) = interface.mac.filter(|mac| !group.peers.contains(mac)) {
                let message = format!(
                    "the failover group {} does not name this gateway: put {mac}, the address of {}, into its `peers` on every gateway",
                    group.name, interface.name
                );
                self.warning(index, "failover", message);
            }
        }
    }

    /// The interfaces an export is served on, by name.
    fn interfaces(&mut self, index: usize, export: &ExportConfig, all: &[Interface]) -> Vec<String> {
        for pattern in export
            .interfaces
            .iter()
            .filter(|pattern| !interfaces::is_glob(pattern))
        {
            match all.iter().find(|interface| interface.is_called(pattern)) {
                None => {
                    let names: Vec<&str> = all.iter().map(|interface| interface.name.as_str()).collect();
                    let message = format!("no interface {pattern} here; there are: {}", names.join(", "));
                    self.problem(index, "interfaces", message);
                }
                Some(interface) => {
                    if let Some(why) = interface.unfit() {
                        self.problem(index, "interfaces", format!("{pattern} {why}"));
                    } else if !interface.up {
                        let message =
                            format!("{pattern} is down; its exports are served there when it is up");
                        self.warning(index, "interfaces", message);
                    }
                }
            }
        }
        let chosen = all
            .iter()
            .filter(|interface| interfaces::chosen(&export.interfaces, interface));
        let chosen: Vec<&Interface> = chosen.collect();
        self.peers(index, export, &chosen);
        if let Some(message) = failover::program_problem(export) {
            self.problem(index, "failover", message);
        }
        let names: Vec<String> = chosen.iter().map(|interface| interface.name.clone()).collect();
        if names.is_empty()
            && export
                .interfaces
                .iter()
                .all(|pattern| interfaces::is_glob(pattern))
        {
            let message = format!("no interface matches {}", export.interfaces.join(", "));
            self.problem(index, "interfaces", message);
        }
        names
    }

    /// An image in Ceph. That another client has its lock is no mistake: it may be the very xblade that serves it.
    fn image(&mut self, index: usize, export: &ExportConfig) -> Result<BackingFacts, (&'static str, String)> {
        let (backing, found) = backing::examine_image(export)?;
        if let Some(owner) = found.owner.filter(|_| !export.read_only) {
            let path = export.path.display();
            let message = match &export.failover {
                None => format!(
                    "{path}: locked by {owner}; where that is not the xblade that serves this export, it waits for the lock"
                ),
                Some(group) if found.is_foreign => format!(
                    "{path}: in use by {owner}, which is no gateway of a failover group: {} is not taken until it has let go, or \
                     `xblade failover take {}` shuts it out",
                    group.name, group.name
                ),
                Some(group) => format!(
                    "{path}: locked by {owner}; where that is another gateway of {}, this one stands by",
                    group.name
                ),
            };
            self.warning(index, "path", message);
        }
        Ok(backing)
    }

    fn backing(&mut self, index: usize, export: &ExportConfig) -> Option<BackingFacts> {
        let examined = match export.store {
            StoreKind::Rbd => self.image(index, export),
            _ => backing::examine(export),
        };
        match examined {
            Err((key, message)) => {
                self.problem(index, key, message);
                None
            }
            Ok(backing) => {
                if backing.rest_bytes() > 0 && export.length == 0 {
                    let message = format!(
                        "{}: the last {} bytes are less than a sector and not exported",
                        export.path.display(),
                        backing.rest_bytes()
                    );
                    self.warning(index, "path", message);
                }
                Some(backing)
            }
        }
    }

    /// Two exports on one interface: their addresses must differ, their way to attach must not.
    fn shared_interfaces(&mut self) {
        let exports = &self.config.exports;
        let mut first_on: HashMap<&str, usize> = HashMap::new();
        let mut by_address: HashMap<(&str, u16, u8), Vec<usize>> = HashMap::new();
        let mut found = Vec::new();
        for (index, export) in exports.iter().enumerate() {
            for name in &self.report.exports[index].interfaces {
                let first = *first_on.entry(name).or_insert(index);
                let other = &exports[first];
                if other.mode != export.mode {
                    let message = format!(
                        "mode \"{}\" on {name}, where {} wants \"{}\": an interface has one mode for all its exports",
                        export.mode,
                        other.address(),
                        other.mode
                    );
                    found.push(((index, first), "mode", message));
                }
                let same = by_address.entry((name, export.shelf, export.slot)).or_default();
                let overlaps = |other: &&usize| exports[**other].vlan.overlaps(export.vlan);
                if let Some(&other) = same.iter().find(overlaps) {
                    let message = format!(
                        "{} is exported on {name} already; give it another shelf or slot, or VLANs that differ",
                        export.address()
                    );
                    found.push(((index, other), "slot", message));
                }
                same.push(index);
            }
        }
        for (exports, key, message) in found {
            self.clash(exports, key, message);
        }
    }

    /// Kept state belongs to address and VLAN: exports that share both on different interfaces need names for theirs.
    fn shared_states(&mut self) {
        let mut first_with: HashMap<_, usize> = HashMap::new();
        let mut found = Vec::new();
        for (index, export) in self.config.exports.iter().enumerate() {
            let key = (export.shelf, export.slot, export.vlan, &export.state_name);
            let first = *first_with.entry(key).or_insert(index);
            let on = |index: usize| &self.report.exports[index].interfaces;
            // On one interface it is refused already.
            if first == index || on(index).iter().any(|name| on(first).contains(name)) {
                continue;
            }
            let message = format!(
                "{} is exported on {} already, and mask and reservation are kept by address and VLAN: put all interfaces \
                 into one export, take another slot, or give this one a state_name",
                export.address(),
                self.config.exports[first].interfaces.join(", "),
            );
            found.push(((index, first), "slot", message));
        }
        for (exports, key, message) in found {
            self.clash(exports, key, message);
        }
    }

    /// Two writers of the same sectors: each would be sure that nobody else writes.
    fn shared_files<I: Ord>(&mut self, identity: impl Fn(usize) -> Option<I>) {
        let mut writers: BTreeMap<I, Vec<(u64, u64, usize)>> = BTreeMap::new();
        for (index, export) in self.config.exports.iter().enumerate() {
            let Some(identity) = identity(index) else {
                continue;
            };
            if !export.writes_backing() {
                continue;
            }
            // To the end means to wherever the end will be: images grow.
            let (start, end) = match export.length {
                // One of them has the lock, for all of the image.
                _ if export.store == StoreKind::Rbd => (0, u64::MAX),
                0 => (export.offset, u64::MAX),
                length => (export.offset, export.offset.saturating_add(length)),
            };
            writers.entry(identity).or_default().push((start, end, index));
        }
        for ranges in writers.values_mut() {
            ranges.sort_unstable();
            let mut reach = (0, 0);
            for (i, &(start, end, index)) in ranges.iter().enumerate() {
                if i > 0 && start < reach.0 {
                    self.two_writers(reach.1, index);
                }
                reach = reach.max((end, index));
            }
        }
    }

    fn two_writers(&mut self, one: usize, other: usize) {
        let exports = &self.config.exports;
        if exports[one].shared && exports[other].shared {
            return;
        }
        let (first, second) = (one.min(other), one.max(other));
        let message = format!(
            "{} is exported for writing by {} too ({}), and their sectors overlap; make one read_only, or set offset \
             and length so that they do not",
            exports[second].path.display(),
            exports[first].address(),
            exports[first].path.display(),
        );
        self.clash((second, first), "path", message);
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
