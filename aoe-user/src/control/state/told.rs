//! How whoever waits for a state to be kept is told.

use std::io;

use crate::store::{Completion, CompletionHandle as _, Event, Fault, FaultKind, QueueHandle, Token};

/// Told once, when the state is where it survives a power cut or cannot be put there.
pub(super) type Told = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Completes the operation of a worker's that waits for it.
pub(super) fn completes(handle: QueueHandle, token: Token) -> Told {
    Box::new(move |result| {
        let fault = |source| Fault {
            kind: FaultKind::Write,
            lba: 0,
            source,
        };
        handle.post(Completion {
            token,
            event: Event::Finished(result.map(|()| None).map_err(fault)),
        });
    })
}
