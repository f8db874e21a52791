//! What was written to a store goes to its medium, while somebody waits for that.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::store::{CompletionQueue, Completions as _, Store};

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Puts everything that was written to a store on its medium. Blocks.
///
/// # Errors
/// When that fails or takes too long.
pub(super) fn commit_store(store: &dyn Store<CompletionQueue>) -> Result<()> {
    let mut completions = CompletionQueue::new()?;
    match store.flush(&mut completions, 0)? {
        engine::Step::Done => Ok(()),
        engine::Step::Later => wait(store, &mut completions),
    }
}

fn wait(store: &dyn Store<CompletionQueue>, completions: &mut CompletionQueue) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        completions.submit(Instant::now());
        match completions.next().map(|completion| completion.event) {
            Some(engine::Event::Finished(result)) => return Ok(result.map(drop)?),
            Some(engine::Event::Again) => {
                if store.flush(completions, 0)? == engine::Step::Done {
                    return Ok(());
                }
            }
            None if Instant::now() >= end => {
                bail!("its disk does not answer");
            }
            None => std::thread::sleep(PAUSE),
        }
    }
}
