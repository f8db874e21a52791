//! How often sources that were turned away are named in the log. Times are arguments.
//!
//! A source is named at once and then after 2 s, 4 s … an hour as long as it goes on. Strangers may forge any number of
//! sources: a port logs at most [`BURST`] lines at once and one in [`REFILL`] on average, so 152 a day. The last line that may be
//! logged tells of all that are not named.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aoe_common::Mac;

use crate::filter::Denied;

const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// A source that was silent for this long is a new one.
const FORGET: Duration = Duration::from_secs(7200);
/// Sources remembered for each port.
const SOURCES_MAX: usize = 1024;
/// Lines that may be logged at once.
const BURST: u32 = 8;
/// The time in which one more line is allowed.
const REFILL: Duration = Duration::from_secs(600);

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
    pub(crate) latest: Denied,
    /// Its frames.
    pub(crate) frames: u64,
    /// When it was seen last.
    pub(crate) seen: Instant,
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
        self.forget(now);
        for entry in denied {
            self.note(entry, now);
        }
        let mut due: Vec<(Duration, Mac)> = self
            .sources
            .iter()
            .filter(|(_, source)| source.frames > 0 && source.next <= now)
            .map(|(mac, source)| (source.pause, *mac))
            .collect();
        // Who is new comes first.
        due.sort_unstable();
        let mut lines = Vec::new();
        let mut due = due.into_iter().map(|(_, mac)| mac).peekable();
        while self.lines > 0 && (due.peek().is_some() || self.unnamed_frames > 0) {
            self.lines -= 1;
            let rest = due.len() + usize::from(self.unnamed_frames > 0);
            if self.lines == 0 && rest > 1 || due.len() == 0 {
                lines.push(self.summary(due, now));
                break;
            }
            let source = due.next().and_then(|mac| self.sources.get_mut(&mac));
            lines.extend(source.map(|source| source.told(now).to_string()));
        }
        lines
    }

    /// All that are due and all that were never named, in one line.
    fn summary(&mut self, due: impl Iterator<Item = Mac>, now: Instant) -> String {
        let mut frames = std::mem::take(&mut self.unnamed_frames);
        let mut first = None;
        for mac in due {
            first = first.or(Some(mac));
            if let Some(source) = self.sources.get_mut(&mac) {
                frames = frames.saturating_add(source.told(now).frames);
            }
        }
        let example = first.map_or_else(String::new, |mac| format!(", one of them {mac}"));
        format!(
            "{frames} frames from sources that are not named here{example}: not on an access list; `xblade denied` lists \
             the last {SOURCES_MAX}"
        )
    }

    fn forget(&mut self, now: Instant) {
        let mut unnamed = 0u64;
        self.sources.retain(|_, source| {
            let is_kept = now.duration_since(source.seen) < FORGET;
            unnamed = unnamed.saturating_add(if is_kept { 0 } else { source.frames });
            is_kept
        });
        self.unnamed_frames = self.unnamed_frames.saturating_add(unnamed);
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
        let earned = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        let lines = u32::try_from(earned).unwrap_or(BURST);
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
    /// What the log is told now of it.
    fn told(&mut self, now: Instant) -> Denied {
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Denied {
            frames: std::mem::take(&mut self.frames),
            ..self.latest
        }
    }
}

#[cfg(test)]
mod tests {
    use aoe_common::rules::VlanClass;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

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
        let (lines, frames) = lines_in(DAY, |_| vec![denied(1, 5)]);
        assert!((24..40).contains(&lines), "{lines} lines a day");
        // All but what came since the last line.
        let all = 5 * DAY.as_secs() / 2;
        assert!(
            frames > all - 5 * PAUSE_MAX.as_secs() / 2 && frames <= all,
            "{frames} frames told"
        );
    }

    /// As many sources as one likes, new ones all the time or the same again: a day's log has a bound, and tells of all frames.
    #[test]
    fn forged_sources_do_not_fill_the_log() {
        for of in [64u64, 500, 60_000] {
            let (lines, frames) = lines_in(DAY, |tick| {
                (0..64)
                    .map(|n| denied(((tick * 64 + n) % of) as u16, 1))
                    .collect()
            });
            assert!(
                lines <= 144 + BURST as usize,
                "{lines} lines a day of {of} sources"
            );
            let all = 64 * DAY.as_secs() / 2;
            assert!(frames > all - all / 10 && frames <= all, "{frames} of {all} told");
        }
    }

    #[test]
    fn a_newcomer_is_named_among_those_that_go_on() {
        let start = Instant::now();
        let mut report = DeniedReport::new(start);
        let old: Vec<Denied> = (1..40).map(|n| denied(n, 1)).collect();
        let newcomer = denied(500, 7);
        let begin = start + Duration::from_secs(6 * 3600 + 2);
        let mut now = start;
        while now < begin {
            report.report(&old, now);
            now += Duration::from_secs(2);
        }
        let with_newcomer = [&old[..], &[newcomer]].concat();
        while now <= begin + REFILL {
            let lines = report.report(&with_newcomer, now);
            if lines
                .iter()
                .any(|line| line.contains(&newcomer.source.to_string()))
            {
                return;
            }
            now += Duration::from_secs(2);
        }
        panic!("nobody named the newcomer");
    }
}
