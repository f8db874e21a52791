//! How an idle worker waits: it spins for a while, because being woken costs more than most requests, offers the CPU to the
//! other workers meanwhile where they share it, and leaves it altogether where somebody else needs the CPU.

use std::time::{Duration, Instant};

/// Looks at the rings between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 32;
/// A gap this long between two looks at the clock means that another thread had the CPU meanwhile. Who spins there is taken for
/// a hog by the scheduler and gets the CPU late when work comes; who sleeps gets it at once.
const TAKEN_AWAY: Duration = Duration::from_micros(150);
/// How long a worker then sleeps without spinning first.
const SLEEP_ONLY: Duration = Duration::from_millis(100);

/// Whom the CPU of a worker belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cpu {
    /// To this worker, as far as workers go.
    Own,
    /// To several workers.
    Shared,
}

/// One worker's spinning.
#[derive(Debug)]
pub(super) struct Spinner {
    limit: Duration,
    no_spin_until: Option<Instant>,
}

impl Spinner {
    /// Spins for `limit` at most, counted from the last work.
    pub(super) fn new(limit: Duration) -> Spinner {
        Spinner {
            limit,
            no_spin_until: None,
        }
    }

    /// Looks until there is work (true), or until it is better to sleep (false). `now` need not be exact to the microsecond.
    pub(super) fn spin(
        &mut self,
        cpu: Cpu,
        last_work: Instant,
        mut now: Instant,
        mut is_work: impl FnMut() -> bool,
    ) -> bool {
        if self.must_not_spin(now) {
            return is_work();
        }
        while now.duration_since(last_work) < self.limit {
            for _ in 0..LOOKS_PER_CLOCK {
                if is_work() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if cpu == Cpu::Shared {
                // A switch to a worker that is awake takes a microsecond or two, waking one fifteen. Not where the CPU is
                // this worker's own: the scheduler takes a slice off who yields, and any passing kernel thread gets it.
                std::thread::yield_now();
            }
            let before = std::mem::replace(&mut now, Instant::now());
            self.notice(before, now);
            if self.no_spin_until.is_some() {
                break;
            }
        }
        is_work()
    }

    fn must_not_spin(&mut self, now: Instant) -> bool {
        self.no_spin_until = self.no_spin_until.filter(|until| now < *until);
        self.no_spin_until.is_some()
    }

    fn notice(&mut self, before: Instant, now: Instant) {
        if now.duration_since(before) > TAKEN_AWAY {
            self.no_spin_until = Some(now + SLEEP_ONLY);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;

    #[test]
    fn spinning_is_bounded_and_ends_with_work() {
        assert!(!Spinner::new(Duration::from_millis(20)).spin(
            Cpu::Own,
            Instant::now(),
            Instant::now(),
            || false
        ));
        // Fewer looks than there are between two looks at the clock, so that a busy machine changes nothing.
        let mut looks = 0;
        let third = || {
            looks += 1;
            looks == 3
        };
        assert!(Spinner::new(Duration::from_secs(1)).spin(Cpu::Own, Instant::now(), Instant::now(), third));
        let mut never = Spinner::new(Duration::ZERO);
        assert!(!never.spin(Cpu::Own, Instant::now(), Instant::now(), || false));
        assert!(never.spin(Cpu::Own, Instant::now(), Instant::now(), || true));
    }

    #[test]
    fn who_lost_the_cpu_does_not_spin_for_a_while() {
        let mut spinner = Spinner::new(Duration::from_secs(1));
        let now = Instant::now();
        spinner.notice(now, now + Duration::from_micros(20));
        assert!(!spinner.must_not_spin(now));
        spinner.notice(now, now + Duration::from_millis(3));
        assert!(spinner.must_not_spin(now + Duration::from_millis(4)));
        assert!(!spinner.must_not_spin(now + Duration::from_millis(3) + SLEEP_ONLY));
    }
    #[test]
    fn workers_on_one_cpu_take_turns() {
        const TURNS: u32 = 200;
        let turn = AtomicU32::new(0);
        let looks = AtomicU32::new(0);
        let allowed = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap();
        let worker = |parity| {
            let mut one = CpuSet::new();
            one.set(first);
            sched_setaffinity(None, &one).unwrap();
            while turn.load(Relaxed) < TURNS {
                let mine = || {
                    looks.fetch_add(1, Relaxed);
                    let turn = turn.load(Relaxed);
                    turn % 2 == parity || turn >= TURNS
                };
                // A new one each time: what others on this machine do to the thread must not keep it from spinning.
                if Spinner::new(Duration::from_secs(60)).spin(
                    Cpu::Shared,
                    Instant::now(),
                    Instant::now(),
                    mine,
                ) {
                    turn.fetch_add(1, Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| worker(0));
            scope.spawn(|| worker(1));
        });
        // Some tens for each turn. One that keeps the CPU looks some hundred thousand times before it is taken away.
        let looks = looks.load(Relaxed);
        assert!(looks < TURNS * LOOKS_PER_CLOCK * 100, "{looks} looks");
    }
}
