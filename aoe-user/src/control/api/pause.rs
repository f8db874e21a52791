//! Pausing exports: nothing begins any more, what has begun ends, everything is on the medium, and nobody is answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::control::commit_store::commit_store;
use crate::control::machines::Disks;
use crate::target::Export;

/// How long requests in flight may take to end.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Pauses exports, all of them before the first is committed, so that their images are of one moment; the same for the machines' disks
/// behind them. Blocks.
///
/// # Errors
/// When that fails or takes too long. All are silent even then: the caller knows which of them were paused before, and resumes the others.
pub(super) fn pause(exports: &[Arc<Export>], disks: &[Arc<Disks>]) -> Result<()> {
    exports.iter().for_each(|export| export.pause());
    let copies = || disks.iter().flat_map(|disks| disks.persistent());
    exports
        .iter()
        .try_for_each(|export| settle(export))
        .and_then(|()| copies().try_for_each(|copy| settle(&copy)))
}

fn settle(export: &Export) -> Result<()> {
    let address = export.address();
    let end = Instant::now() + IN_FLIGHT_LIMIT;
    while export.in_flight() > 0 {
        if Instant::now() >= end {
            bail!("{address}: requests are still in flight: its disk does not answer");
        }
        std::thread::sleep(PAUSE);
    }
    commit_store(&**export.store()).with_context(|| format!("{address}: it cannot be committed"))
}
