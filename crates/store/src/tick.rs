//! Coarse time, told once a round.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Time in eighths of a second, wrapping: good enough to tell old from new without asking the clock for each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick(pub(crate) u32);

impl Tick {
    /// Now. The same for all queues: what one learned, another believes.
    pub(crate) fn now() -> Tick {
        Tick::of(since_boot())
    }

    fn of(since_boot: Duration) -> Tick {
        Tick((since_boot.as_millis() / 125) as u32)
    }

    /// Ticks from `earlier` until this one; 0 when that is from the future: another queue may be a round ahead.
    pub(crate) fn since(self, earlier: Tick) -> u32 {
        (self.0.wrapping_sub(earlier.0) as i32).max(0) as u32
    }
}

/// The clock of [`Instant`], from its zero on.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Makes ticks of times that were read from the clock already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    origin: Instant,
    origin_since_boot: Duration,
}

impl Ticks {
    pub(crate) fn new() -> Ticks {
        Ticks {
            origin: Instant::now(),
            origin_since_boot: since_boot(),
        }
    }

    /// The tick of a time after this was made.
    pub(crate) fn of(self, time: Instant) -> Tick {
        Tick::of(self.origin_since_boot + time.duration_since(self.origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_read_times_are_those_of_the_clock() {
        let ticks = Ticks::new();
        let before = Tick::now();
        let time = Instant::now();
        let read = ticks.of(time);
        assert_eq!(before.since(read), 0, "not earlier");
        assert!(read.since(Tick::now()) < 80, "nor much later");
        assert_eq!(ticks.of(time + Duration::from_secs(10)).since(read), 80);
        assert_eq!(read.since(ticks.of(time + Duration::from_secs(1))), 0);
    }
}
