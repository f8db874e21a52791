//! A part of an export's order: what is at work on, or waits for, the sectors that fall into it.
//!
//! Two operations that can conflict have a stripe in common, so whoever looks into the stripes of an operation sees all that
//! stands against it.

use std::sync::Arc;

use crate::mutants::{self, Mutant};
use crate::order::entry::{Entry, Requester};
use crate::order::scope::{Class, Scope};
use crate::session::completion::CompletionHandle;

/// Stripes of an export: enough for workers to meet seldom in one, and few enough to keep four thousand exports small.
#[cfg(not(loom))]
pub(crate) const STRIPES: usize = 64;
#[cfg(loom)]
pub(crate) const STRIPES: usize = 2;

/// log2 of the stripes.
const STRIPES_SHIFT: u32 = STRIPES.trailing_zeros();

/// log2 of the sectors that lie in one stripe side by side: 32 KiB, so that few requests touch two.
const BLOCK_SHIFT: u32 = 6;

/// Stripes, one bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StripeSet(u64);

impl StripeSet {
    const ALL: StripeSet = StripeSet(u64::MAX >> (u64::BITS - STRIPES as u32));

    /// The stripe where those meet that conflict wherever their sectors are.
    const COMMON: StripeSet = StripeSet(1);

    /// Where an operation is entered.
    #[inline]
    pub(crate) fn of(scope: Scope) -> StripeSet {
        match scope.class {
            Class::Read | Class::Write => StripeSet::of_sectors(scope),
            Class::Verify => StripeSet(StripeSet::of_sectors(scope).0 | StripeSet::COMMON.0),
            Class::Flush | Class::Admin => StripeSet::COMMON,
            Class::Fence => StripeSet::ALL,
        }
    }

    #[inline]
    fn of_sectors(scope: Scope) -> StripeSet {
        let first = scope.span.first >> BLOCK_SHIFT;
        let last = scope.span.end.saturating_sub(1).max(scope.span.first) >> BLOCK_SHIFT;
        if last.saturating_sub(first) >= STRIPES as u64 {
            return StripeSet::ALL;
        }
        StripeSet((first..=last).fold(0, |set, block| set | 1 << stripe_of(block)))
    }

    /// Their numbers, in ascending order: who takes the locks of several takes them in this order.
    #[inline]
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let number = left.trailing_zeros() as usize;
            left &= left.checked_sub(1)?;
            Some(number)
        })
    }

    /// The number of the only one; `None` where there are several.
    #[inline]
    pub(crate) fn only(self) -> Option<usize> {
        self.0
            .is_power_of_two()
            .then_some(self.0.trailing_zeros() as usize)
    }
}

/// Spreads blocks that lie at a regular distance (Fibonacci hashing: the upper bits of a product with 2⁶⁴ / φ).
fn stripe_of(block: u64) -> u32 {
    let hash = block.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> (u64::BITS - STRIPES_SHIFT)) as u32
}

/// What touches the sectors of one stripe.
#[derive(Debug)]
pub(crate) struct Stripe<H> {
    /// What workers are doing in the call that brought it; nothing stood against it when it began.
    at_once: Vec<Scope>,
    /// What goes on longer or waits, in the order of arrival. A copy of the scope lies beside each, to be looked through quickly.
    entries: Vec<(Scope, Arc<Entry<H>>)>,
}

impl<H> Default for Stripe<H> {
    fn default() -> Stripe<H> {
        Stripe {
            at_once: Vec::new(),
            entries: Vec::new(),
        }
    }
}

impl<H> Stripe<H> {
    /// True when nobody is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.at_once.is_empty() && self.entries.is_empty()
    }
}

impl<H: CompletionHandle> Stripe<H> {
    /// Whether nothing here stands against an operation, nor can be the same.
    #[inline]
    pub(crate) fn is_free_for(&self, scope: Scope) -> bool {
        let conflicts = |other: &Scope| other.conflicts(scope);
        let concerns = |(other, entry): &(Scope, Arc<Entry<H>>)| {
            other.conflicts(scope) || (*other == scope && entry.fingerprint.is_some())
        };
        !self.at_once.iter().any(conflicts) && !self.entries.iter().any(concerns)
    }

    /// Whether something here stands against an operation that comes now.
    pub(crate) fn conflicts(&self, scope: Scope) -> bool {
        let conflicts = |other: &Scope| other.conflicts(scope);
        self.at_once.iter().any(conflicts) || self.entries.iter().any(|(other, _)| conflicts(other))
    }

    /// The entries that are the same request, the latest first.
    pub(crate) fn same<'a>(&'a self, like: &'a Entry<H>) -> impl Iterator<Item = &'a Arc<Entry<H>>> {
        let entries = self.entries.iter().rev();
        let is_same = |(scope, entry): &&(Scope, Arc<Entry<H>>)| {
            *scope == like.scope && entry.fingerprint.is_some() && entry.fingerprint == like.fingerprint
        };
        entries.filter(is_same).map(|(_, entry)| entry)
    }

    /// A worker begins an operation.
    #[inline]
    pub(crate) fn begin(&mut self, scope: Scope) {
        self.at_once.push(scope);
    }

    /// A worker has done an operation, or hands it on. Which of several alike does not matter: nothing that conflicts came between.
    #[inline]
    pub(crate) fn done(&mut self, scope: Scope) {
        if let Some(at) = self.at_once.iter().position(|other| *other == scope) {
            self.at_once.swap_remove(at);
        }
    }

    /// Takes up what waits for its turn.
    pub(crate) fn wait(&mut self, entry: Arc<Entry<H>>) {
        self.entries.push((entry.scope, entry));
    }

    /// What a worker has begun goes on: before all that has come to wait for it meanwhile.
    pub(crate) fn go_on(&mut self, entry: Arc<Entry<H>>) {
        self.done(entry.scope);
        self.entries.insert(0, (entry.scope, entry));
    }

    fn position(&self, entry: &Arc<Entry<H>>) -> Option<usize> {
        self.entries
            .iter()
            .position(|(_, other)| Arc::ptr_eq(other, entry))
    }

    /// Whether something that came before stands against an entry.
    pub(crate) fn is_blocked(&self, entry: &Arc<Entry<H>>) -> bool {
        self.position(entry)
            .is_some_and(|at| self.is_blocked_at(at, entry.scope))
    }

    fn is_blocked_at(&self, at: usize, scope: Scope) -> bool {
        let mut earlier = self.entries.iter().take(at);
        self.at_once.iter().any(|other| other.conflicts(scope))
            || earlier.any(|(other, _)| other.conflicts(scope))
    }

    /// Leaves an entry out; `calls` gets the owners of those that waited only for it here.
    pub(crate) fn remove(&mut self, entry: &Arc<Entry<H>>, calls: &mut Vec<Requester<H>>) {
        if let Some(at) = self.position(entry) {
            self.entries.remove(at);
            self.call(at, entry.scope, calls);
        }
    }

    /// A worker has done an operation; `calls` gets the owners of those that waited only for it here.
    #[inline]
    pub(crate) fn leave(&mut self, scope: Scope, calls: &mut Vec<Requester<H>>) {
        self.done(scope);
        if !self.entries.is_empty() {
            self.call(0, scope, calls);
        }
    }

    fn call(&self, from: usize, ended: Scope, calls: &mut Vec<Requester<H>>) {
        for (at, (scope, entry)) in self.entries.iter().enumerate().skip(from) {
            if !scope.conflicts(ended) || self.is_blocked_at(at, *scope) {
                continue;
            }
            let Some(owner) = entry.call() else { continue };
            if !mutants::is(Mutant::WaiterNotCalled) {
                calls.push(owner);
            }
            if scope.covers(ended) {
                // Whoever else waited for what has ended waits for this one.
                break;
            }
        }
    }

    /// Whether a change of the protocol state is being saved or waits for that: asked of the common stripe.
    pub(crate) fn has_admin(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|(scope, _)| matches!(scope.class, Class::Admin | Class::Fence))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::order::scope::Span;

    fn scope() -> impl Strategy<Value = Scope> {
        let class = prop_oneof![
            Just(Class::Read),
            Just(Class::Verify),
            Just(Class::Write),
            Just(Class::Flush),
            Just(Class::Admin),
            Just(Class::Fence),
        ];
        let len = prop_oneof![0..20u64, 1..8000u64];
        (class, 0..9000u64, len).prop_map(|(class, first, len)| {
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
        fn what_conflicts_has_a_stripe_in_common(one in scope(), other in scope()) {
            let (mine, theirs) = (StripeSet::of(one), StripeSet::of(other));
            prop_assert!(mine.0 & theirs.0 != 0 || !one.conflicts(other));
            let numbers: Vec<usize> = mine.iter().collect();
            prop_assert!(numbers.is_sorted() && numbers.iter().all(|number| *number < STRIPES));
            prop_assert_eq!(numbers.len(), mine.0.count_ones() as usize);
            prop_assert!(!numbers.is_empty());
            prop_assert_eq!(mine.only(), (numbers.len() == 1).then(|| numbers[0]));
        }
    }

    #[test]
    fn neighbours_and_regular_distances_are_spread() {
        for stride in [1u64, 2, 64, 1 << 10, 1 << 14, 3 << 7] {
            let mut seen = 0u64;
            (0..STRIPES as u64).for_each(|n| seen |= 1 << stripe_of(n * stride));
            assert!(
                seen.count_ones() > STRIPES as u32 / 3,
                "{stride}: {}",
                seen.count_ones()
            );
        }
    }
}
