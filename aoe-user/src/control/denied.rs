//! How often sources that were turned away are named in the log. Times are arguments.
//!
//! A source is named at once and then after 2 s, 4 s … 10 min as long as it goes on. Strangers may forge any number of
//! sources: a port logs at most [`BURST`] lines at once and one in [`REFILL`] on average; what does not fit is counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aoe_common::Mac;

use crate::filter::Denied;

const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A source that was silent for this long is a new one.
const FORGET: Duration = Duration::from_secs(1200);
/// Sources remembered for each port.
const SOURCES_MAX: usize = 1024;
/// Lines that may be logged at once.
const BURST: u32 = 8;
/// The time in which one more line is allowed.
const REFILL: Duration = Duration::from_secs(60);

/// What was reported of one port.
#[derive(Debug)]
pub(super) struct DeniedReport {
    sources: HashMap<Mac, Source>,
    lines: u32,
    refilled: Instant,
    /// Frames of sources that were not named.
    unnamed_frames: u64,
}

/// A source that was turned away, for the operator.
#[derive(Debug, Clone)]
pub(super) struct DeniedSource {
    /// Its last request.
    pub latest: Denied,
    /// Its frames.
    pub frames: u64,
    /// When it was seen last.
    pub seen: Instant,
}

#[derive(Debug)]
struct Source {
    latest: Denied,
    /// All of them.
    total: u64,
    /// Not reported yet.
    frames: u64,
    pause: Duration,
    next: Instant,
    seen: Instant,
}

impl DeniedReport {
    pub(super) fn new(now: Instant) -> DeniedReport {
        DeniedReport {
            sources: HashMap::new(),
            lines: BURST,
            refilled: now,
            unnamed_frames: 0,
        }
    }

    /// Takes what was denied since the last call and gives the lines to log now.
    pub(super) fn report(&mut self, denied: &[Denied], now: Instant) -> Vec<String> {
        self.refill(now);
        self.sources
            .retain(|_, source| now.duration_since(source.seen) < FORGET);
        for entry in denied {
            self.note(entry, now);
        }
        let mut due: Vec<Mac> = self
            .sources
            .iter()
            .filter(|(_, source)| source.frames > 0 && source.next <= now)
            .map(|(mac, _)| *mac)
            .collect();
        due.sort_unstable();
        let mut lines = Vec::new();
        for mac in due {
            if self.lines == 0 {
                break;
            }
            self.lines -= 1;
            lines.extend(self.sources.get_mut(&mac).map(|source| source.line(now)));
        }
        // The last line that is left tells how much was not named.
        if self.unnamed_frames > 0 && self.lines > 0 {
            self.lines -= 1;
            let frames = std::mem::take(&mut self.unnamed_frames);
            lines.push(format!(
                "{frames} frames from more sources than are named here: not on an access list"
            ));
        }
        lines
    }

    /// All that are remembered.
    pub(super) fn sources(&self) -> Vec<DeniedSource> {
        let told = |source: &Source| DeniedSource {
            latest: source.latest,
            frames: source.total,
            seen: source.seen,
        };
        self.sources.values().map(told).collect()
    }

    fn refill(&mut self, now: Instant) {
        let minutes = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        let lines = u32::try_from(minutes).unwrap_or(BURST);
        self.lines = self.lines.saturating_add(lines).min(BURST);
        self.refilled += REFILL.saturating_mul(lines);
    }

    fn note(&mut self, entry: &Denied, now: Instant) {
        if !self.sources.contains_key(&entry.source) && self.sources.len() >= SOURCES_MAX {
            self.unnamed_frames = self.unnamed_frames.saturating_add(entry.frames);
            return;
        }
        let source = self.sources.entry(entry.source).or_insert(Source {
            latest: *entry,
            total: 0,
            frames: 0,
            pause: PAUSE_FIRST,
            next: now,
            seen: now,
        });
        source.latest = *entry;
        source.seen = now;
        source.frames = source.frames.saturating_add(entry.frames);
        source.total = source.total.saturating_add(entry.frames);
    }
}

impl Source {
    fn line(&mut self, now: Instant) -> String {
        let denied = Denied {
            frames: std::mem::take(&mut self.frames),
            ..self.latest
        };
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        denied.to_string()
    }
}

#[cfg(test)]
mod tests {
    use aoe_common::rules::VlanClass;

    use super::*;

    fn denied(last: u16, frames: u64) -> Denied {
        let [high, low] = last.to_be_bytes();
        Denied {
            source: Mac([2, 0, 0, 0, high, low]),
            shelf: 1,
            slot: 1,
            vlan: VlanClass::UNTAGGED,
            frames,
        }
    }

    /// Reports every two seconds for a while; the number of lines and the frames they tell.
    fn lines_in(duration: Duration, sources: impl Fn(u64) -> Vec<Denied>) -> (usize, u64) {
        let start = Instant::now();
        let mut report = DeniedReport::new(start);
        let (mut count, mut frames) = (0, 0);
        for tick in 0..duration.as_secs() / 2 {
            let now = start + Duration::from_secs(2 * tick);
            for line in report.report(&sources(tick), now) {
                count += 1;
                frames += line.split(' ').next().unwrap().parse::<u64>().unwrap();
            }
        }
        (count, frames)
    }

    #[test]
    fn one_source_is_named_at_once_and_then_less_and_less_often() {
        let (lines, frames) = lines_in(Duration::from_secs(3), |_| vec![denied(1, 5)]);
        assert_eq!((lines, frames), (1, 5), "at once");
        let (lines, frames) = lines_in(Duration::from_secs(3600), |_| vec![denied(1, 5)]);
        assert!((10..20).contains(&lines), "{lines} lines an hour");
        // All but what came since the last line.
        assert!(
            frames > 5 * 1800 - 5 * 300 && frames <= 5 * 1800,
            "{frames} frames told"
        );
    }

    #[test]
    fn forged_sources_do_not_fill_the_log() {
        const HOUR: Duration = Duration::from_secs(3600);
        let (lines, _) = lines_in(HOUR, |tick| {
            (0..64)
                .map(|n| denied(n + (tick * 64 % 60_000) as u16, 1))
                .collect()
        });
        assert!(lines <= 60 + BURST as usize, "{lines} lines an hour");
    }

    #[test]
    fn a_newcomer_is_named_after_a_quiet_time() {
        let start = Instant::now();
        let mut report = DeniedReport::new(start);
        for n in 0..20 {
            report.report(&[denied(n, 1)], start);
        }
        let later = start + REFILL;
        let lines = report.report(&[denied(500, 7)], later + REFILL);
        assert!(!lines.is_empty(), "somebody is named again");
    }
}
