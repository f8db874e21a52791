//! Suites side by side, as far as the machine has cpus for them.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, PoisonError};

use super::suites::Suite;

/// What is left to do.
struct State<'a> {
    waiting: VecDeque<&'a Suite>,
    free: usize,
}

/// Runs each suite once, in their order as far as cpus are free; one that wants more than there are waits for all of them.
///
/// Even where there is one cpu two run at the same time: most of a suite is waiting.
pub(super) fn run(suites: &[Suite], job: impl Fn(&Suite) + Sync) {
    let cpus = std::thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .max(2);
    run_on(cpus, suites, job);
}

fn run_on(cpus: usize, suites: &[Suite], job: impl Fn(&Suite) + Sync) {
    let state = Mutex::new(State {
        waiting: suites.iter().collect(),
        free: cpus,
    });
    let freed = Condvar::new();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..cpus {
            scope.spawn(|| {
                loop {
                    let mut state = lock();
                    let suite = loop {
                        let Some(first) = state.waiting.front().copied() else {
                            return;
                        };
                        if first.cpus.min(cpus) <= state.free {
                            state.waiting.pop_front();
                            break first;
                        }
                        state = freed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    };
                    let taken = suite.cpus.min(cpus);
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
    fn no_more_cpus_are_taken_than_there_are_and_every_suite_runs_once() {
        let suites: Vec<Suite> = [1, 1, usize::MAX, 2, 1, 1, 1, usize::MAX, 1]
            .into_iter()
            .enumerate()
            .map(|(n, cpus)| Suite {
                name: n.to_string(),
                programs: Vec::new(),
                directory: ".".into(),
                threads: 1,
                cpus,
            })
            .collect();
        let (busy, ran) = (AtomicUsize::new(0), AtomicUsize::new(0));
        run_on(3, &suites, |suite| {
            let taken = suite.cpus.min(3);
            assert!(busy.fetch_add(taken, Ordering::SeqCst) + taken <= 3);
            std::thread::yield_now();
            busy.fetch_sub(taken, Ordering::SeqCst);
            ran.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(ran.load(Ordering::SeqCst), suites.len());
    }
}
