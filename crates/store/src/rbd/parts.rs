//! An operation that librbd carries out in several: it ends with the last of them.

use std::sync::Arc;

use engine::{Completion, CompletionHandle as _, Event, Fault, Token};
use parking_lot::Mutex;

use super::fence::Shared;
use crate::handle::QueueHandle;

/// The operation. It ends when nobody holds it or a part of it any more.
#[derive(Debug)]
pub(super) struct Parts {
    shared: Arc<Shared>,
    handle: QueueHandle,
    token: Token,
    /// The failure at the lowest sector.
    fault: Mutex<Option<Fault>>,
}

/// A part under way.
#[derive(Debug)]
pub(super) struct Part(Arc<Parts>);

impl Parts {
    pub(super) fn new(shared: &Arc<Shared>, handle: QueueHandle, token: Token) -> Arc<Parts> {
        Arc::new(Parts {
            shared: Arc::clone(shared),
            handle,
            token,
            fault: Mutex::new(None),
        })
    }

    pub(super) fn part(self: &Arc<Self>) -> Part {
        Part(Arc::clone(self))
    }

    pub(super) fn failed(&self, fault: Fault) {
        let mut first = self.fault.lock();
        if first.as_ref().is_none_or(|first| fault.lba < first.lba) {
            *first = Some(fault);
        }
    }
}

impl Part {
    pub(super) fn end(self, result: Result<(), Fault>) {
        if let Err(fault) = result {
            self.0.failed(fault);
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let result = match self.fault.get_mut().take() {
            Some(fault) => Err(fault),
            None => Ok(None),
        };
        let completion = Completion {
            token: self.token,
            event: Event::Finished(result),
        };
        let handle = self.handle.clone();
        self.shared.deliver(move || handle.post(completion));
    }
}
