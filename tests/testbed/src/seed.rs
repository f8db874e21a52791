//! Seeds of tests with randomness, so that a run can be repeated.

use std::sync::atomic::{AtomicU64, Ordering};

/// The seed of a run: `XBLADE_SEED` to repeat one, else a new one. It is printed, so a failed test shows it.
pub fn seed() -> u64 {
    static ANOTHER: AtomicU64 = AtomicU64::new(0);
    let seed = match std::env::var("XBLADE_SEED") {
        Ok(text) => text.parse().expect("XBLADE_SEED is a number"),
        Err(_) => {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .expect("after 1970");
            now.as_nanos() as u64 % 1_000_000_007 + ANOTHER.fetch_add(1, Ordering::Relaxed)
        }
    };
    println!("XBLADE_SEED={seed}");
    seed
}
