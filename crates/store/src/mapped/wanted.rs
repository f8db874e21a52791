//! Windows of pages that are to be entered into the page table, for the thread that does it.

use parking_lot::Mutex;

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
        state.windows.push(window);
        !std::mem::replace(&mut state.running, true)
    }

    /// All that has been added; `None`: nothing, and whoever works may end.
    pub(crate) fn take(&self) -> Option<Vec<usize>> {
        let mut state = self.state.lock();
        state.running = !state.windows.is_empty();
        state.running.then(|| std::mem::take(&mut state.windows))
    }
}
