//! Blocks that are being changed over to small folios, with the writes that wait for each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::handle::QueueHandle;
use engine::{Completion, CompletionHandle as _, Event, Token};

/// A write that waits.
type Waiter = (QueueHandle, Token);

/// The blocks of one mapping.
#[derive(Debug, Default)]
pub(crate) struct Changing {
    waiting: Mutex<HashMap<usize, Vec<Waiter>>>,
    changed: AtomicU64,
}

impl Changing {
    /// Has the write wait for `block`, if it is being changed or `begin` says that it must be. `None`: it need not; else
    /// whether the caller is the one to begin.
    pub(crate) fn wait(
        &self,
        block: usize,
        waiter: impl FnOnce() -> Waiter,
        begin: impl FnOnce() -> bool,
    ) -> Option<bool> {
        let mut waiting = self.waiting.lock();
        if let Some(waiters) = waiting.get_mut(&block) {
            waiters.push(waiter());
            return Some(false);
        }
        if !begin() {
            return None;
        }
        waiting.insert(block, vec![waiter()]);
        Some(true)
    }

    /// `block` may be written to: who waits comes again.
    pub(crate) fn ended(&self, block: usize) {
        let waiters = self.waiting.lock().remove(&block);
        for (handle, token) in waiters.unwrap_or_default() {
            handle.post(Completion {
                token,
                event: Event::Again,
            });
        }
    }

    /// Counts a block that was changed over.
    pub(crate) fn note_changed(&self) {
        self.changed.fetch_add(1, Ordering::Relaxed);
    }

    /// Blocks changed over since the start.
    pub(crate) fn changed(&self) -> u64 {
        self.changed.load(Ordering::Relaxed)
    }
}
