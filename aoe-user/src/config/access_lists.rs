//! Who may use an export: `allow`, and the lists with names under `[acl]` that it may refer to as `"@name"`.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry as Slot, HashMap};
use std::sync::Arc;

use aoe_common::Mac;
use toml::de::{DeTable, DeValue};

use super::problem::TextPlace;
use super::reader::{Keys, Mistake, Value, one_of, read_element, text, text_or_number};
use super::source::Source;
use super::values;
use super::{Access, AccessEntry};

/// The lists under `[acl]`, by name.
#[derive(Debug, Default)]
pub(super) struct NamedLists(BTreeMap<String, Named>);

/// A list, and where its name stands.
#[derive(Debug)]
struct Named {
    entries: Vec<AccessEntry>,
    place: TextPlace,
}

impl NamedLists {
    /// Adds the lists of a table. One with a mistake is there, so that who refers to it is not told of a second one.
    pub(super) fn read(&mut self, table: &DeTable<'_>, source: &Arc<Source>, mistakes: &mut Vec<Mistake>) {
        for (name, value) in table {
            let key: &str = name.get_ref();
            let is_good = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            if key.is_empty() || !key.chars().all(is_good) {
                let message = format!("acl: {key:?} is no name: letters, digits, - and _ make one");
                let span = name.span();
                mistakes.push(Mistake { span, message });
            }
            let DeValue::Array(values) = value.get_ref() else {
                let message = format!("acl: {key} is a list of addresses, as `allow` is");
                let span = value.span();
                mistakes.push(Mistake { span, message });
                continue;
            };
            // Whoever refers to it would let everyone in.
            if values.is_empty() {
                let message = format!("acl: {key} is empty: a list names at least one address");
                let span = value.span();
                mistakes.push(Mistake { span, message });
            }
            let mut list = List::default();
            for value in values {
                if let Some(entry) = entry(value, mistakes) {
                    list.add(entry, value, mistakes);
                }
            }
            // Of two that differ one would let somebody in whom the other shuts out.
            if let Some(other) = self.0.get(key) {
                let message = format!("acl: there is a list {key} already, at {}", other.place.name());
                let span = name.span();
                mistakes.push(Mistake { span, message });
            }
            let named = Named {
                entries: list.entries,
                place: TextPlace::new(source, name.span()),
            };
            self.0.insert(key.to_owned(), named);
        }
    }

    /// Reads `allow`, where it is there.
    pub(super) fn allow(&self, keys: &mut Keys<'_, '_, '_>) -> Option<Vec<AccessEntry>> {
        let mut allowed = List::default();
        let list = keys.list("allow", |value, mistakes| {
            let name = value.get_ref().as_str().and_then(|text| text.strip_prefix('@'));
            match name {
                None => allowed.add(entry(value, mistakes)?, value, mistakes),
                Some(name) => match self.0.get(name) {
                    Some(list) => list
                        .entries
                        .iter()
                        .for_each(|entry| allowed.add_listed(*entry, value, mistakes)),
                    None => mistakes.push(Mistake {
                        span: value.span(),
                        message: format!("allow: there is no list {name} under [acl]"),
                    }),
                },
            }
            Some(())
        });
        list.map(|_| allowed.entries)
    }
}

/// Entries, each address once.
#[derive(Debug, Default)]
struct List {
    entries: Vec<AccessEntry>,
    /// Where in `entries` an address is: a list may have tens of thousands.
    places: HashMap<Mac, usize>,
}

impl List {
    fn add(&mut self, entry: AccessEntry, value: &Value<'_>, mistakes: &mut Vec<Mistake>) {
        if !self.push(entry) {
            mistakes.push(Mistake {
                span: value.span(),
                message: format!("allow: {} is listed twice", entry.mac),
            });
        }
    }

    /// An address may be on several lists, but which rights it has must be said once.
    fn add_listed(&mut self, entry: AccessEntry, value: &Value<'_>, mistakes: &mut Vec<Mistake>) {
        let other = self.places.get(&entry.mac).and_then(|at| self.entries.get(*at));
        if other.is_some_and(|other| *other != entry) {
            mistakes.push(Mistake {
                span: value.span(),
                message: format!("allow: {} is listed twice, with different rights", entry.mac),
            });
        }
        self.push(entry);
    }

    /// False when the address is there.
    fn push(&mut self, entry: AccessEntry) -> bool {
        let Slot::Vacant(slot) = self.places.entry(entry.mac) else {
            return false;
        };
        slot.insert(self.entries.len());
        self.entries.push(entry);
        true
    }
}

/// An address alone, or a table `{ mac, access, rate_limit }`.
fn entry(value: &Value<'_>, mistakes: &mut Vec<Mistake>) -> Option<AccessEntry> {
    let DeValue::Table(table) = value.get_ref() else {
        let mac = read_element("allow", value, text(values::initiator), mistakes)?;
        return Some(AccessEntry {
            mac,
            access: Access::ReadWrite,
            rate_limit: None,
        });
    };
    let mut keys = Keys::new(table, mistakes);
    if !table.contains_key("mac") {
        keys.mistake(value.span(), "allow: the entry has no `mac`");
    }
    let mac = keys.get("mac", text(values::initiator));
    let access = keys
        .get("access", one_of(&Access::NAMES, &[]))
        .unwrap_or(Access::ReadWrite);
    let rate_limit = keys.get("rate_limit", text_or_number(values::rate));
    keys.finish(&[]);
    Some(AccessEntry {
        mac: mac?,
        access,
        rate_limit,
    })
}

#[cfg(test)]
#[path = "access_lists_tests.rs"]
mod tests;
