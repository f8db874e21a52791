//! Coarse time, told once a round.

use std::sync::LazyLock;
use std::time::Instant;

/// Time in eighths of a second, wrapping: good enough to tell old from new without asking the clock for each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick(pub(crate) u32);

impl Tick {
    /// The same for all queues: what one learned, another believes.
    pub(crate) fn of(time: Instant) -> Tick {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Tick((time.duration_since(*START).as_millis() / 125) as u32)
    }

    /// Now.
    pub(crate) fn now() -> Tick {
        Tick::of(Instant::now())
    }

    /// Ticks from `earlier` until this one; 0 when that is from the future: another queue may be a round ahead.
    pub(crate) fn since(self, earlier: Tick) -> u32 {
        (self.0.wrapping_sub(earlier.0) as i32).max(0) as u32
    }
}
