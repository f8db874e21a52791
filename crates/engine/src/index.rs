//! Finds the entries that may conflict with one, without a look at all of them.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::scope::{Class, Scope};

/// Names an entry of one export's table.
pub(super) type EntryId = u64;

/// log2 of the sectors in a bucket.
const BUCKET_SHIFT: u32 = 6;

/// What lies in more buckets than this (a long TRIM or READ VERIFY) is looked at by everybody, as is what has no sectors.
const MAX_BUCKETS: u64 = 4;

/// Entries by the sectors they touch.
#[derive(Debug, Default)]
pub(super) struct Index {
    buckets: HashMap<u64, Vec<EntryId>>,
    wide: Vec<EntryId>,
}

/// The buckets of an entry; `None` where they are too many.
fn buckets(scope: Scope) -> Option<RangeInclusive<u64>> {
    let span = scope.span;
    let has_sectors = matches!(scope.class, Class::Read | Class::Verify | Class::Write);
    if !has_sectors || span.first >= span.end {
        return None;
    }
    let (first, last) = (
        span.first >> BUCKET_SHIFT,
        span.end.saturating_sub(1) >> BUCKET_SHIFT,
    );
    // A verify conflicts with every other one, wherever that is.
    (scope.class != Class::Verify && last.saturating_sub(first) < MAX_BUCKETS).then_some(first..=last)
}

impl Index {
    /// Takes up an entry; numbers only grow.
    pub fn insert(&mut self, id: EntryId, scope: Scope) {
        match buckets(scope) {
            Some(buckets) => buckets.for_each(|bucket| self.buckets.entry(bucket).or_default().push(id)),
            None => self.wide.push(id),
        }
    }

    /// Leaves an entry out.
    pub fn remove(&mut self, id: EntryId, scope: Scope) {
        let Some(buckets) = buckets(scope) else {
            return self.wide.retain(|other| *other != id);
        };
        for bucket in buckets {
            if let Some(ids) = self.buckets.get_mut(&bucket) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.buckets.remove(&bucket);
                }
            }
        }
    }

    /// All entries that can conflict with this one, some of them perhaps twice; `None`: any can.
    pub fn near(&self, scope: Scope) -> Option<impl Iterator<Item = EntryId> + '_> {
        let buckets = buckets(scope)?;
        let narrow = buckets.filter_map(|bucket| self.buckets.get(&bucket)).flatten();
        Some(self.wide.iter().chain(narrow).copied())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scope::Span;

    fn scope() -> impl Strategy<Value = Scope> {
        let class = prop_oneof![
            Just(Class::Read),
            Just(Class::Verify),
            Just(Class::Write),
            Just(Class::Flush),
            Just(Class::Admin),
            Just(Class::Fence),
        ];
        let len = prop_oneof![1..20u64, 1..2000u64];
        (class, 0..1500u64, len).prop_map(|(class, first, len)| {
            let span = match class {
                Class::Flush | Class::Admin | Class::Fence => Span::NONE,
                _ => Span {
                    first,
                    end: first.saturating_add(len),
                },
            };
            Scope { class, span }
        })
    }

    proptest! {
        #[test]
        fn nothing_that_conflicts_is_missed(scopes in prop::collection::vec(scope(), 1..60), removed in any::<u64>(), asked in scope()) {
            let mut index = Index::default();
            for (id, scope) in (0..).zip(&scopes) {
                index.insert(id, *scope);
            }
            let is_there = |id: u64| removed >> (id % 64) & 1 == 0;
            for (id, scope) in (0..).zip(&scopes).filter(|(id, _)| !is_there(*id)) {
                index.remove(id, *scope);
            }
            let near: Option<Vec<EntryId>> = index.near(asked).map(Iterator::collect);
            for (id, scope) in (0..).zip(&scopes) {
                let seen = near.as_ref().is_none_or(|near| near.contains(&id));
                prop_assert!(seen || !is_there(id) || !scope.conflicts(asked), "{id}: {scope:?}");
                if let Some(near) = &near {
                    prop_assert!(is_there(id) || !near.contains(&id), "{id} was removed");
                }
            }
            for (id, scope) in (0..).zip(&scopes).filter(|(id, _)| is_there(*id)) {
                index.remove(id, *scope);
            }
            prop_assert!(index.buckets.is_empty() && index.wide.is_empty(), "no memory is left");
        }
    }
}
