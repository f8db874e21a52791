//! Times on a machine that others use as well: held against a bound, they are first divided by how slow all is just now.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

/// How many times longer than alone a thread needs here, now, for a little work.
///
/// # Errors
/// When the kernel does not tell a thread's time.
pub fn slowdown() -> Result<f64> {
    const WORK: Duration = Duration::from_millis(10);
    let used = || Ok::<_, nix::Error>(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?));
    let (begin, before) = (Instant::now(), used()?);
    while used()? - before < WORK {}
    Ok((begin.elapsed().as_secs_f64() / WORK.as_secs_f64()).max(1.0))
}

/// Takes the time that something would have needed on an idle machine.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    slow: f64,
    start: Instant,
}

impl Stopwatch {
    /// Begins.
    ///
    /// # Errors
    /// As [`slowdown`].
    pub fn start() -> Result<Stopwatch> {
        Ok(Stopwatch {
            slow: slowdown()?,
            start: Instant::now(),
        })
    }

    /// Begins anew, without a look at how slow the machine is.
    pub fn restart(&mut self) {
        self.start = Instant::now();
    }

    /// The time since it began, by how slow the machine was or is, whichever is more.
    ///
    /// # Errors
    /// As [`slowdown`].
    pub fn idle_time(&self) -> Result<Duration> {
        let took = self.start.elapsed();
        Ok(took.div_f64(self.slow.max(slowdown()?)))
    }
}
