//! How whoever waits for a state to be kept is told.

use std::io;

use crate::store::{Fault, FaultKind, Owed, QueueHandle, Token};

/// Told once, when the state is where it survives a power cut or cannot be put there. Whoever waits for it is to notice when it is dropped.
pub(super) type Told = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Completes the operation of a worker's that waits for it; with a fault, if it is dropped.
pub(super) fn completes(handle: QueueHandle, token: Token) -> Told {
    let owed = Owed::new(handle, token, FaultKind::Write);
    Box::new(move |result| {
        let fault = |source| Fault {
            kind: FaultKind::Write,
            lba: 0,
            source,
        };
        owed.finish(result.map_err(fault));
    })
}
