//! Windows of pages that are to be entered into the page table, for the thread that does it.

use parking_lot::Mutex;

/// Windows that wait at most: while a disk hangs nobody takes them, and they are wanted again every few seconds.
const MOST: usize = 1 << 16;

/// The windows of one mapping.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    windows: Vec<usize>,
    running: bool,
}

impl Wanted {
    /// Adds a window. True: nobody is at work, and the caller is to begin.
    pub(crate) fn add(&self, window: usize) -> bool {
        let mut state = self.state.lock();
        if state.windows.len() < MOST {
            state.windows.push(window);
        }
        !std::mem::replace(&mut state.running, true)
    }

    /// Nobody can be had for the work.
    pub(crate) fn give_up(&self) {
        *self.state.lock() = State::default();
    }

    /// All that has been added; `None`: nothing, and whoever works may end.
    pub(crate) fn take(&self) -> Option<Vec<usize>> {
        let mut state = self.state.lock();
        state.running = !state.windows.is_empty();
        state.running.then(|| std::mem::take(&mut state.windows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_nobody_takes_them_only_so_many_wait() {
        let wanted = Wanted::default();
        assert!(wanted.add(0), "the first begins");
        assert!((0..1_000_000).all(|window| !wanted.add(window % 1000)));
        assert_eq!(wanted.take().map(|windows| windows.len()), Some(MOST));
        assert_eq!(wanted.take(), None);
        assert!(wanted.add(7));
        wanted.give_up();
        assert!(wanted.add(7), "as if nothing had been wanted");
    }
}
