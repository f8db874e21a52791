//! Other AoE targets on this host and interface. What is addressed to them passes the filter, but a request for every shelf or slot
//! goes to xblade's socket, and a frame has one way out of XDP: so a copy goes back to the network stack.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing::{debug, warn};

use super::Nic;
use crate::filter::PassedFrames;
use crate::store::limits::refused;

/// Copies that wait; more are not made.
const WAITING_MAX: usize = 32;
/// Least time between two: a flood of such requests is not doubled.
const PACE: Duration = Duration::from_millis(2);
/// No request for everybody is longer; such frames fit a page with room for the mark.
const FRAME_BYTES_MAX: usize = 1600;

/// Where workers leave copies for a thread that hands them on. The thread ends with the last worker.
#[derive(Debug, Clone)]
pub(super) struct HandBack {
    copies: SyncSender<Vec<u8>>,
}

impl HandBack {
    /// For a port whose filter knows returned frames by `mark`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(nic: &Nic, mark: u64) -> std::io::Result<HandBack> {
        let (copies, waiting) = sync_channel(WAITING_MAX);
        let (name, index) = (Arc::<str>::from(nic.name.as_str()), nic.index);
        std::thread::Builder::new()
            .name(format!("{}/others", nic.name))
            .spawn(move || hand_on(&name, index, mark, &waiting))
            .map_err(|error| refused(&error))?;
        Ok(HandBack { copies })
    }

    /// Leaves a copy of a frame. Never waits.
    pub(super) fn leave(&self, pieces: &[&[u8]]) {
        let bytes = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if bytes <= FRAME_BYTES_MAX {
            let _ = self.copies.try_send(pieces.concat());
        }
    }
}

fn hand_on(name: &str, index: u32, mark: u64, waiting: &Receiver<Vec<u8>>) {
    let mut returns = None;
    for frame in waiting {
        // Most hosts never see one.
        let returns = match &mut returns {
            Some(returns) => returns,
            none => match PassedFrames::load(index, mark) {
                Ok(loaded) => none.insert(loaded),
                Err(error) => {
                    warn!(
                        "{name}: other targets on this host do not hear discovery while xblade serves: {error}"
                    );
                    return;
                }
            },
        };
        if let Err(error) = returns.put_back(&frame) {
            debug!("{name}: a request for everybody could not be handed on: {error}");
        }
        std::thread::sleep(PACE);
    }
}
