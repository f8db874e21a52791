//! Suites side by side, as far as the machine has CPUs for them.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, PoisonError};

use super::suites::{PER_CPU, Suite};

/// What is left to do.
struct State<'a> {
    waiting: VecDeque<&'a Suite>,
    free: usize,
}

/// Runs each suite once, in their order as far as shares of the CPUs are free; one that wants more than there are waits for all
/// of them.
///
/// A machine of one CPU counts as one of two: most of a suite is waiting.
pub(crate) fn run(suites: &[Suite], job: impl Fn(&Suite) + Sync) {
    let cpus = std::thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .max(2);
    run_on(cpus * PER_CPU, suites, job);
}

fn run_on(shares: usize, suites: &[Suite], job: impl Fn(&Suite) + Sync) {
    let state = Mutex::new(State {
        waiting: suites.iter().collect(),
        free: shares,
    });
    let freed = Condvar::new();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..shares {
            scope.spawn(|| {
                loop {
                    let mut state = lock();
                    let suite = loop {
                        let Some(first) = state.waiting.front().copied() else {
                            return;
                        };
                        if first.shares.min(shares) <= state.free {
                            state.waiting.pop_front();
                            break first;
                        }
                        state = freed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    };
                    let taken = suite.shares.min(shares);
                    state.free -= taken;
                    drop(state);
                    job(suite);
                    lock().free += taken;
                    freed.notify_all();
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_shares_are_taken_than_there_are_and_every_suite_runs_once() {
        let suites: Vec<Suite> = [1, 1, usize::MAX, 2, 1, 1, 1, usize::MAX, 1]
            .into_iter()
            .enumerate()
            .map(|(n, shares)| Suite {
                name: n.to_string(),
                programs: Vec::new(),
                directory: ".".into(),
                threads: 1,
                shares,
            })
            .collect();
        let (busy, ran) = (AtomicUsize::new(0), AtomicUsize::new(0));
        run_on(3, &suites, |suite| {
            let taken = suite.shares.min(3);
            assert!(busy.fetch_add(taken, Ordering::SeqCst) + taken <= 3);
            std::thread::yield_now();
            busy.fetch_sub(taken, Ordering::SeqCst);
            ran.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(ran.load(Ordering::SeqCst), suites.len());
    }
}
