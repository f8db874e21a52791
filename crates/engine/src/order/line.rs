//! A stripe on a cache line of its own, with a way past its lock.
//!
//! A stripe where nobody is needs no lock: the line's word says which sectors a worker is at, and one exchange writes it and one takes it
//! back. Whoever finds something there takes the lock and moves it into the stripe; from then on the word is [`SHUT`] and everybody
//! takes the lock, until the stripe is empty.

use std::ops::{Deref, DerefMut};

use crate::order::scope::{Class, Scope, Span};
use crate::order::stripe::Stripe;
use crate::order::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use crate::session::completion::CompletionHandle;

/// The word of a stripe where nobody is.
const FREE: u64 = 0;

/// The word of a stripe that is looked into under its lock.
const SHUT: u64 = 1 << 63;

/// Says that the worker there writes.
const WRITES: u64 = 1 << 62;

/// Bits of the first sector; the count lies above.
const FIRST_BITS: u32 = 48;
/// Bits of the count.
const COUNT_BITS: u32 = 14;

/// What a worker is at as a word; `None` where it does not fit, or could conflict with more than its sectors.
#[inline]
fn word_of(scope: Scope) -> Option<u64> {
    let writes = match scope.class {
        Class::Read => 0,
        Class::Write => WRITES,
        _ => return None,
    };
    let Span { first, end } = scope.span;
    let count = end.saturating_sub(first);
    let fits = first >> FIRST_BITS == 0 && count != 0 && count >> COUNT_BITS == 0;
    fits.then_some(writes | count << FIRST_BITS | first)
}

fn scope_of(word: u64) -> Scope {
    let class = if word & WRITES == 0 {
        Class::Read
    } else {
        Class::Write
    };
    let first = word & ((1 << FIRST_BITS) - 1);
    let count = word >> FIRST_BITS & ((1 << COUNT_BITS) - 1);
    let end = first.saturating_add(count);
    Scope {
        class,
        span: Span { first, end },
    }
}

/// One stripe.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Line<H> {
    word: AtomicU64,
    stripe: Mutex<Stripe<H>>,
}

impl<H> Default for Line<H> {
    fn default() -> Line<H> {
        Line {
            word: AtomicU64::new(FREE),
            stripe: Mutex::default(),
        }
    }
}

impl<H: CompletionHandle> Line<H> {
    /// Enters what a worker does now into a stripe where nobody is; false: look under the lock.
    #[inline]
    pub(crate) fn try_begin(&self, scope: Scope) -> bool {
        word_of(scope).is_some_and(|word| self.exchange(FREE, word))
    }

    /// Takes back what was entered by [`Line::try_begin`]; false: it has been moved into the stripe, as what was entered there.
    #[inline]
    pub(crate) fn try_leave(&self, scope: Scope) -> bool {
        word_of(scope).is_some_and(|word| self.exchange(word, FREE))
    }

    #[inline]
    fn exchange(&self, from: u64, to: u64) -> bool {
        // What was read or written in the sectors lies between the two exchanges, also for those that enter later.
        self.word
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// The stripe, with all that is in it.
    pub(crate) fn lock(&self) -> Locked<'_, H> {
        let mut stripe = self.stripe.lock();
        let word = self.word.swap(SHUT, Ordering::AcqRel);
        if word != FREE && word != SHUT {
            stripe.begin(scope_of(word));
        }
        Locked {
            word: &self.word,
            stripe,
        }
    }
}

/// A stripe under its lock. Dropped, it opens the way past the lock again if the stripe is empty.
pub(crate) struct Locked<'a, H> {
    word: &'a AtomicU64,
    stripe: MutexGuard<'a, Stripe<H>>,
}

impl<H> Deref for Locked<'_, H> {
    type Target = Stripe<H>;

    fn deref(&self) -> &Stripe<H> {
        &self.stripe
    }
}

impl<H> DerefMut for Locked<'_, H> {
    fn deref_mut(&mut self) -> &mut Stripe<H> {
        &mut self.stripe
    }
}

impl<H> Drop for Locked<'_, H> {
    fn drop(&mut self) {
        // Before the lock goes: nobody else writes the word while it is shut.
        if self.stripe.is_empty() {
            self.word.store(FREE, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn scope(class: Class, first: u64, end: u64) -> Scope {
        Scope {
            class,
            span: Span { first, end },
        }
    }

    #[test]
    fn a_word_says_all() {
        for scope in [
            scope(Class::Read, 0, 1),
            scope(Class::Write, 0, 1),
            scope(Class::Write, (1 << 48) - 1, 1 << 48),
            scope(Class::Read, 12345, 12345 + (1 << 14) - 1),
        ] {
            let word = word_of(scope).unwrap();
            assert_eq!(scope_of(word), scope);
            assert!(word != FREE && word & SHUT == 0);
        }
        for scope in [
            scope(Class::Read, 5, 5),
            scope(Class::Write, 1 << 48, (1 << 48) + 1),
            scope(Class::Write, 0, 1 << 14),
            scope(Class::Verify, 0, 1),
            Scope {
                class: Class::Fence,
                span: Span::NONE,
            },
        ] {
            assert_eq!(word_of(scope), None, "{scope:?}");
        }
    }
}
