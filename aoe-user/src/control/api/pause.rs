//! Pausing exports: nothing begins any more, what has begun ends, everything is on the medium, and nobody is answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::control::machines::Disks;
use crate::store::{CompletionQueue, Completions as _};
use crate::target::Export;

/// How long requests in flight may take to end.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(10);
/// How long a commit may take.
const COMMIT_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Pauses exports, all of them before the first is committed, so that their images are of one moment; the same for the machines' disks
/// behind them. Blocks.
///
/// # Errors
/// When that fails or takes too long: all are served again then.
pub(in crate::control) fn pause(exports: &[&Arc<Export>], disks: &[Arc<Disks>]) -> Result<()> {
    exports.iter().for_each(|export| export.pause());
    let copies = || disks.iter().flat_map(|disks| disks.persistent());
    let done = exports
        .iter()
        .try_for_each(|export| settle(export))
        .and_then(|()| copies().try_for_each(|copy| settle(&copy)));
    if done.is_err() {
        exports.iter().for_each(|export| export.resume());
    }
    done
}

fn settle(export: &Export) -> Result<()> {
    let address = export.address();
    let end = Instant::now() + IN_FLIGHT_LIMIT;
    while export.in_flight() > 0 {
        if Instant::now() >= end {
            bail!("{address}: requests are still in flight: its disk does not answer; it is served on");
        }
        std::thread::sleep(PAUSE);
    }
    let mut completions = CompletionQueue::new()?;
    match export.store().flush(&mut completions, 0)? {
        engine::Step::Done => Ok(()),
        engine::Step::Later => wait(export, &mut completions),
    }
}

fn wait(export: &Export, completions: &mut CompletionQueue) -> Result<()> {
    let end = Instant::now() + COMMIT_LIMIT;
    loop {
        completions.submit(Instant::now());
        match completions.next().map(|completion| completion.event) {
            Some(engine::Event::Finished(result)) => return Ok(result.map(drop)?),
            Some(engine::Event::Again) => {
                if export.store().flush(completions, 0)? == engine::Step::Done {
                    return Ok(());
                }
            }
            None if Instant::now() >= end => {
                let address = export.address();
                bail!("{address}: the commit is not over: its disk does not answer; it is served on");
            }
            None => std::thread::sleep(PAUSE),
        }
    }
}
