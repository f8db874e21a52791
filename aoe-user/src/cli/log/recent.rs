//! The last lines of the log, for whoever looks into a running target without a way to its journal.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::Level;

use crate::control::api::types::{LogLine, LogLines};

/// Lines that are kept.
const LINES: usize = 200;
/// Longest line that is kept whole.
const LINE_BYTES: usize = 1000;

/// Clones lead to the same lines.
#[derive(Clone, Default)]
pub(super) struct Recent(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    lines: VecDeque<LogLine>,
    last: u64,
}

impl Recent {
    /// Keeps a line; the oldest goes for it.
    pub(super) fn push(&self, level: Level, text: &str) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut kept = self.kept();
        kept.last += 1;
        let line = LogLine {
            number: kept.last,
            time: time.unwrap_or_default().as_secs_f64(),
            level: level.as_str().to_lowercase(),
            text: text[..text.floor_char_boundary(LINE_BYTES)].trim_end().to_owned(),
        };
        if kept.lines.len() == LINES {
            kept.lines.pop_front();
        }
        kept.lines.push_back(line);
    }

    /// The lines that came after the one with this number.
    pub(super) fn after(&self, number: u64) -> LogLines {
        let kept = self.kept();
        let newer = kept.lines.iter().filter(|line| line.number > number);
        LogLines {
            last: kept.last,
            lines: newer.cloned().collect(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_each_is_told_once() {
        let recent = Recent::default();
        assert_eq!(recent.after(0), LogLines::default());
        for number in 0..LINES + 5 {
            recent.push(Level::WARN, &format!("line {number}\n"));
        }
        let all = recent.after(0);
        assert_eq!((all.lines.len(), all.last), (LINES, LINES as u64 + 5));
        assert_eq!(all.lines[0].text, "line 5");
        assert_eq!(all.lines[0].level, "warn");
        let newest = recent.after(all.last - 1).lines;
        assert_eq!(newest.len(), 1);
        assert!(recent.after(all.last).lines.is_empty());
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let recent = Recent::default();
        recent.push(Level::INFO, &"é".repeat(LINE_BYTES));
        assert_eq!(recent.after(0).lines[0].text.chars().count(), LINE_BYTES / 2);
    }
}
