//! From rules as people think of them to the tables that the program looks things up in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use aoe_common::rules::{ExportEntry, Target, VlanClass, interval_ns};
use aoe_common::wire::aoe;

use super::{AllowList, ExportRule, FilterError, Rules};
use aoe_common::Vlan;

/// Source address → time that each of its frames takes, 0 where the export's rate holds; in order of address.
pub(super) type Sources = Arc<[(u64, u32)]>;

/// Rules, ready to be written.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Exports and the wildcards that stand for them.
    pub(crate) exports: Vec<(Target, ExportEntry)>,
    /// The access lists, each once; number 1 stands first.
    pub(crate) lists: Vec<Sources>,
    /// Addresses besides the port's own that frames may be sent to.
    pub(crate) stations: Vec<u64>,
    /// Some export takes frames of any VLAN.
    pub(crate) any_vlan: bool,
}

impl Tables {
    /// Entries in the map of sources.
    pub(super) fn sources(&self) -> usize {
        self.lists.iter().map(|list| list.len()).sum::<usize>() + self.stations.len()
    }
}

/// Compiles the rules of one port.
pub(super) fn compile(rules: &Rules) -> Result<Tables, FilterError> {
    let mut lists = Lists::default();
    let mut entries: BTreeMap<Target, Union> = BTreeMap::new();
    let mut seen = Overlaps::default();
    for rule in &rules.exports {
        seen.check(rule)?;
        let vlan = class(rule.vlan);
        let list = rule.allow.as_ref().map(|allow| lists.of_rule(allow));
        let interval = rule.rate_limit.map_or(0, interval_ns);
        for (shelf, slot) in [
            (rule.shelf, rule.slot),
            (rule.shelf, aoe::SLOT_ANY),
            (aoe::SHELF_ANY, rule.slot),
            (aoe::SHELF_ANY, aoe::SLOT_ANY),
        ] {
            entries
                .entry(Target::new(vlan, shelf, slot))
                .or_default()
                .add(list, interval);
        }
    }
    let exports: Vec<_> = entries
        .into_iter()
        .map(|(target, union)| (target, union.access(&mut lists)))
        .collect();
    if lists.lists.len() > usize::from(ExportEntry::MAX_LIST) {
        let room = usize::from(ExportEntry::MAX_LIST);
        return Err(FilterError::TooManyLists {
            need: lists.lists.len(),
            room,
        });
    }
    let any_vlan = rules.exports.iter().any(|rule| rule.vlan == Vlan::Any);
    Ok(Tables {
        exports,
        lists: lists.lists,
        stations: rules.stations.iter().map(|mac| mac.to_u64()).collect(),
        any_vlan,
    })
}

fn class(vlan: Vlan) -> VlanClass {
    match vlan {
        Vlan::Untagged => VlanClass::UNTAGGED,
        Vlan::Id(vid) => VlanClass::id(vid),
        Vlan::Any => VlanClass::ANY,
    }
}

/// Refuses rules by which two exports answer one frame.
#[derive(Default)]
struct Overlaps {
    all: BTreeSet<Target>,
    of_one_vlan: BTreeSet<(u16, u8)>,
}

impl Overlaps {
    fn check(&mut self, rule: &ExportRule) -> Result<(), FilterError> {
        let vlan = class(rule.vlan);
        let target = |vlan| Target::new(vlan, rule.shelf, rule.slot);
        let address = (rule.shelf, rule.slot);
        let meets_any = match rule.vlan {
            Vlan::Any => self.of_one_vlan.contains(&address),
            _ => {
                self.of_one_vlan.insert(address);
                self.all.contains(&target(VlanClass::ANY))
            }
        };
        if meets_any || !self.all.insert(target(vlan)) {
            return Err(FilterError::Overlap {
                shelf: rule.shelf,
                slot: rule.slot,
            });
        }
        Ok(())
    }
}

/// All access lists, each once.
#[derive(Default)]
struct Lists {
    lists: Vec<Sources>,
    by_content: HashMap<Sources, usize>,
    /// Exports that share a list in memory need no comparison.
    by_pointer: HashMap<*const (), usize>,
}

impl Lists {
    /// The index of a rule's list.
    fn of_rule(&mut self, allow: &AllowList) -> usize {
        let pointer = Arc::as_ptr(allow).cast();
        if let Some(index) = self.by_pointer.get(&pointer) {
            return *index;
        }
        let members = allow
            .iter()
            .map(|(mac, rate)| (mac.to_u64(), rate.map_or(0, interval_ns)));
        let index = self.of(members);
        self.by_pointer.insert(pointer, index);
        index
    }

    fn of(&mut self, members: impl Iterator<Item = (u64, u32)>) -> usize {
        let members: BTreeMap<u64, u32> = members.collect();
        let sources: Sources = members.into_iter().collect();
        *self.by_content.entry(sources).or_insert_with_key(|sources| {
            self.lists.push(sources.clone());
            self.lists.len() - 1
        })
    }
}

/// Who may use at least one of several exports, and how fast.
#[derive(Default)]
struct Union {
    /// The interval of exports that are open to everyone.
    open: Option<u32>,
    /// List → interval for its members without one of their own.
    lists: BTreeMap<usize, u32>,
}

impl Union {
    fn add(&mut self, list: Option<usize>, interval: u32) {
        match list {
            None => self.open = Some(self.open.map_or(interval, |other| faster(other, interval))),
            Some(list) => {
                self.lists
                    .entry(list)
                    .and_modify(|other| *other = faster(*other, interval))
                    .or_insert(interval);
            }
        }
    }

    fn access(self, lists: &mut Lists) -> ExportEntry {
        if let Some(interval_ns) = self.open {
            return ExportEntry { list: 0, interval_ns };
        }
        let (index, interval_ns) = match self.lists.iter().next() {
            Some((list, interval)) if self.lists.len() == 1 => (*list, *interval),
            _ => {
                let mut members: BTreeMap<u64, u32> = BTreeMap::new();
                for (list, interval) in self.lists {
                    for &(source, own) in lists.lists[list].iter() {
                        let interval = if own == 0 { interval } else { own };
                        let entry = members.entry(source).or_insert(interval);
                        *entry = faster(*entry, interval);
                    }
                }
                (lists.of(members.into_iter()), 0)
            }
        };
        // Too many are refused when all are known.
        ExportEntry {
            list: u16::try_from(index + 1).unwrap_or(u16::MAX),
            interval_ns,
        }
    }
}

/// The shorter of two intervals, of which 0 is none at all.
fn faster(a: u32, b: u32) -> u32 {
    a.min(b)
}
