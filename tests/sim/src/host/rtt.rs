//! Round-trip times and windows, as Linux's driver keeps them.

const AVERAGE_SCALE: u32 = 8;
const DEVIATION_SCALE: u32 = 3;
/// The simulated driver waits no longer than this.
const LONGEST_US: i64 = 20_000_000;

/// The estimate for one device.
#[derive(Debug)]
pub(super) struct Rtt {
    average: i64,
    deviation: i64,
}

impl Rtt {
    /// Before the first answer: an average of 250 ms, and a deviation that makes the first wait 16.5 s long, as seen.
    pub(super) fn new() -> Rtt {
        Rtt {
            average: 250_000 << AVERAGE_SCALE,
            deviation: 2_000_000 << DEVIATION_SCALE,
        }
    }

    /// How long to wait for an answer.
    pub(super) fn timeout_us(&self) -> u64 {
        let timeout = ((2 * self.average) >> AVERAGE_SCALE) + ((8 * self.deviation) >> DEVIATION_SCALE);
        // Frames that the network held back would make it minutes: a bound on the end of a request needs a bound here.
        timeout.clamp(1, LONGEST_US) as u64
    }

    /// An answer took this long.
    pub(super) fn answered(&mut self, took_us: u64) {
        let mut error = took_us as i64 - (self.average >> AVERAGE_SCALE);
        self.average += error;
        error = error.abs() - (self.deviation >> DEVIATION_SCALE);
        self.deviation += error;
    }

    /// An answer did not come.
    pub(super) fn timed_out(&mut self) {
        self.average = (self.average * 2).min(2_000_000 << AVERAGE_SCALE);
    }
}

/// The window of one path.
#[derive(Debug)]
pub(super) struct Window {
    /// Most frames the target takes.
    pub frames: u32,
    /// Frames that may be out now.
    pub open: u32,
    /// Frames that are out.
    pub out: u32,
    threshold: u32,
    until_more: u32,
}

impl Window {
    /// For a target that offers so many buffers: it begins half open.
    pub(super) fn new(buffers: u16) -> Window {
        let frames = u32::from(buffers).min(64);
        Window {
            frames,
            open: (frames / 2).max(1),
            out: 0,
            threshold: frames / 2,
            until_more: frames / 2,
        }
    }

    /// An answer came.
    pub(super) fn answered(&mut self) {
        self.out = self.out.saturating_sub(1);
        if self.open >= self.frames {
        } else if self.open < self.threshold {
            self.open += 1;
        } else if self.until_more == 0 {
            self.open += 1;
            self.until_more = self.open;
        } else {
            self.until_more -= 1;
        }
    }

    /// None came.
    pub(super) fn timed_out(&mut self) {
        self.out = self.out.saturating_sub(1);
        self.threshold = (self.open / 2).max(1);
        self.open = 1;
    }

    /// Room for another frame.
    pub(super) fn has_room(&self) -> bool {
        self.out < self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wait_is_long_and_falls() {
        let mut rtt = Rtt::new();
        assert_eq!(rtt.timeout_us(), 16_500_000);
        // The average moves by a 256th of each error.
        for _ in 0..600 {
            rtt.answered(1000);
        }
        assert!(rtt.timeout_us() < 500_000, "{}", rtt.timeout_us());
    }

    #[test]
    fn a_window_closes_on_loss_and_opens_again() {
        let mut window = Window::new(16);
        window.out = 4;
        window.timed_out();
        assert_eq!((window.open, window.out), (1, 3));
        for _ in 0..200 {
            window.out = 1;
            window.answered();
        }
        assert_eq!(window.open, 16);
    }
}
