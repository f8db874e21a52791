//! Waiting for what no log tells.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Asks until it holds, every 10 ms.
///
/// # Errors
/// When it does not within `patience`, or cannot be asked.
pub fn eventually(what: &str, patience: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + patience;
    while !holds()? {
        ensure!(Instant::now() < end, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
