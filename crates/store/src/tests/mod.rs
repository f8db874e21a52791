//! Every store against the same model, and each against its own faults.

mod borders;
mod closing;
mod cold;
mod commit;
mod devices;
mod driver;
mod faults;
mod holes;
mod locks;
mod machine;
mod model;
mod opening;
mod overlay;
mod panics;
mod presence;
mod threads;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

pub(crate) use driver::{Driver, counter};

use crate::completion_queue::CompletionQueue;
use crate::open::{Context, open_with};
use crate::options::{StoreError, StoreOptions};
use crate::registry::StoreRegistry;
use engine::{SECTOR_BYTES, Store};

/// Opens a store beside others of one target.
fn open_beside(
    registry: &StoreRegistry,
    options: &StoreOptions,
) -> Result<Arc<dyn Store<CompletionQueue>>, StoreError> {
    let context = Context {
        registry: registry.clone(),
        ..Context::default()
    };
    Ok(open_with(options, context)?.store)
}

/// A sparse file of `sectors`.
fn image(path: &Path, sectors: u64) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.set_len(sectors * SECTOR_BYTES).unwrap();
    file
}

/// Bytes of the process's mapping of `path` that are in the page table.
pub(crate) fn mapped_bytes(path: &str) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = smaps.lines().skip_while(|line| !line.ends_with(path));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Why a program that sets something up for a test could not.
fn why_not(output: &std::process::Output) -> &str {
    if !rustix::process::geteuid().is_root() {
        return "needs root";
    }
    let said = std::str::from_utf8(&output.stderr).unwrap_or_default();
    said.lines().next().unwrap_or("a program failed without a word")
}

/// A sector that says which one it is, and from which write.
fn stamp(lba: u64, version: u64) -> [u8; 512] {
    let mut sector = [0u8; 512];
    for (index, word) in sector.chunks_exact_mut(8).enumerate() {
        let value = lba.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version.wrapping_add(index as u64);
        word.copy_from_slice(&value.to_le_bytes());
    }
    sector
}
