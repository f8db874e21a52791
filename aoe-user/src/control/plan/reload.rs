//! A reload: what goes on, what changes, what comes and what goes under another configuration.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::super::store_options::same_store;
use super::reload_report::ReloadReport;
use super::{ExportId, Level, Plan, PlanAction, Wanted, address_of};
use crate::config::interfaces::Patterns;
use crate::config::{Config, ExportConfig, Overlay, Vlan};
use crate::control::api::reloaded::Replaced;

/// Same address on the same VLAN.
fn key(config: &ExportConfig) -> (u16, u8, Option<u16>, bool) {
    let id = match config.vlan {
        Vlan::Id(id) => Some(id),
        _ => None,
    };
    (config.shelf, config.slot, id, config.vlan == Vlan::Any)
}

/// Whether another file at its path is to be served after a reload. Machines with disks of their own get a new image when they boot.
fn follows_path(config: &ExportConfig) -> bool {
    config.store.uses_file() && config.overlay == Overlay::None
}

/// How an export of the configuration in force goes on under another one.
pub(super) enum KeptExport {
    Unchanged(ExportId),
    Changed(ExportId),
    /// It needs another store.
    Renewed(ExportId),
}

impl Plan {
    /// Takes over a configuration. What is the same in both goes on undisturbed; what failed is tried again at once.
    pub(crate) fn want(&mut self, config: Config, now: Instant) {
        self.want_groups(&config, now);
        let is_first = self.order.is_empty() && self.reload.is_none();
        let mut report = ReloadReport::new(now, is_first);
        let mut patterns: HashMap<Vec<String>, Arc<Patterns>> = HashMap::new();
        report.cpus_changed = self.wanted.cpus != config.cpus;
        let before = self.take_order();
        self.wanted = Wanted {
            state_dir: config.state_dir,
            state_required: config.state_required,
            cpus: config.cpus,
            force: config.force,
        };
        let mut old = Old::new(self, before);
        let kept = old.pair(self, &config.exports);
        for (export, kept) in config.exports.into_iter().zip(kept) {
            let patterns = patterns
                .entry(export.interfaces.clone())
                .or_insert_with(|| Arc::new(Patterns::new(&export.interfaces)));
            let patterns = Arc::clone(patterns);
            match kept {
                Some(KeptExport::Unchanged(id)) => self.keep(id),
                Some(KeptExport::Changed(id)) => {
                    report.changed.push(address_of(&export));
                    self.change(id, export, patterns);
                }
                Some(KeptExport::Renewed(id)) => {
                    report.changed.push(address_of(&export));
                    self.leave(id, now);
                    self.add(export, patterns, &mut report, now);
                }
                None => {
                    report.added.push(address_of(&export));
                    self.add(export, patterns, &mut report, now);
                }
            }
        }
        for id in old.rest() {
            report
                .removed
                .extend(self.exports.get(&id).map(|entry| address_of(&entry.config)));
            self.leave(id, now);
        }
        report.examining = self.examine_unchanged();
        self.try_all_again(now);
        self.match_interfaces(now);
        self.reload = Some(report);
    }

    fn take_order(&mut self) -> Vec<ExportId> {
        std::mem::take(&mut self.order)
    }

    fn keep(&mut self, id: ExportId) {
        self.order.push(id);
    }

    fn change(&mut self, id: ExportId, config: ExportConfig, patterns: Arc<Patterns>) {
        let revision = self.next_id();
        if let Some(entry) = self.exports.get_mut(&id) {
            entry.config = Arc::new(config);
            entry.patterns = patterns;
            entry.revision = revision;
            if entry.is_open() {
                self.actions.push(PlanAction::Reconfigure(id));
            }
        }
        self.order.push(id);
    }

    /// A file that was replaced by another of its name is noticed at a reload.
    fn examine_unchanged(&mut self) -> usize {
        let open = |id: &&ExportId| {
            self.exports
                .get(id)
                .is_some_and(|entry| entry.is_open() && follows_path(&entry.config))
        };
        let open: Vec<ExportId> = self.order.iter().filter(open).copied().collect();
        self.actions
            .extend(open.iter().map(|id| PlanAction::Examine(*id)));
        open.len()
    }

    /// What was found of an open export's path: the export is renewed when it leads elsewhere.
    pub(crate) fn examined(&mut self, id: ExportId, replaced: bool, now: Instant) {
        let mut report = self.reload.take();
        if let Some(report) = &mut report {
            report.examining = report.examining.saturating_sub(1);
        }
        if replaced && let Some(entry) = self.exports.get(&id) {
            let address = address_of(&entry.config);
            self.renewed.push(Replaced {
                export: address.to_string(),
                path: entry.config.path.clone(),
            });
            let line = format!(
                "{address}: {} was replaced; opening the new one",
                entry.config.path.display()
            );
            self.say(Level::Info, line);
            let mut own = ReloadReport::new(now, false);
            if let Some(new) = self.renew(id, report.as_mut().unwrap_or(&mut own), now) {
                self.pass_on_claims(id, new);
            }
            if let Some(report) = &mut report {
                report.renewed.push(address);
            }
        }
        self.reload = report;
    }
}

/// The exports of the configuration that goes, by address.
pub(super) struct Old {
    by_key: HashMap<(u16, u8, Option<u16>, bool), Vec<ExportId>>,
    order: Vec<ExportId>,
    kept: HashSet<ExportId>,
}

impl Old {
    pub(super) fn new(plan: &Plan, order: Vec<ExportId>) -> Old {
        let mut by_key: HashMap<_, Vec<ExportId>> = HashMap::new();
        for id in &order {
            if let Some(entry) = plan.exports.get(id) {
                by_key.entry(key(&entry.config)).or_default().push(*id);
            }
        }
        Old {
            by_key,
            order,
            kept: HashSet::new(),
        }
    }

    /// Finds the export that each of `wanted` goes on with: same address and VLAN, and an interface in common; else the same store, since
    /// one interface can be written in several ways (by a name, an altname, a pattern).
    pub(super) fn pair(&mut self, plan: &Plan, wanted: &[ExportConfig]) -> Vec<Option<KeptExport>> {
        let shares_name = |now: &ExportConfig, then: &ExportConfig| {
            now.interfaces.iter().any(|name| then.interfaces.contains(name))
        };
        let mut pairs: Vec<_> = wanted
            .iter()
            .map(|export| self.find(plan, export, shares_name))
            .collect();
        // Only after all: an interface in common decides between exports of one address.
        for (pair, export) in pairs.iter_mut().zip(wanted) {
            *pair = pair.take().or_else(|| self.find(plan, export, same_store));
        }
        pairs
    }

    /// The first export of this address and VLAN that nothing goes on with yet and that `is_it`.
    fn find(
        &mut self,
        plan: &Plan,
        wanted: &ExportConfig,
        is_it: impl Fn(&ExportConfig, &ExportConfig) -> bool,
    ) -> Option<KeptExport> {
        let kept = &mut self.kept;
        let id = self
            .by_key
            .get(&key(wanted))?
            .iter()
            .find(|id| !kept.contains(id) && is_it(&plan.exports[id].config, wanted))?;
        let now = &plan.exports[id].config;
        kept.insert(*id);
        Some(if **now == *wanted {
            KeptExport::Unchanged(*id)
        } else if same_store(now, wanted) {
            KeptExport::Changed(*id)
        } else {
            KeptExport::Renewed(*id)
        })
    }

    /// The exports that nothing goes on with.
    pub(super) fn rest(self) -> impl Iterator<Item = ExportId> {
        self.order.into_iter().filter(move |id| !self.kept.contains(id))
    }
}
