//! Small folios for blocks that are written to.
//!
//! What was read with read-ahead before we opened the file (a copy, a backup) lies in the page cache in folios of
//! up to 2 MiB, and a write to one sector of such a folio costs the work of all of it: measured on ext4, 8 thousand
//! random writes a second instead of 150. So before the first write to a block its folios are looked at, and large
//! ones are dropped and read again in small ones. Dropping keeps what is dirty, and what could not be written back is not dropped: the
//! cache is then all there is of it.
//!
//! All of it happens on a thread of the store: it touches pages that may have to be read, and waits for write-back.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

use crate::completion_queue::CompletionQueue;
use crate::fetch::bring_in;
use crate::io::threads::caught;
use crate::mapped::mmap::{Mapping, write_back};
use crate::mapped::residency::{BLOCK_PAGES, Residency};
use crate::mapped::views::Core;
use engine::{Completions as _, Token};

/// Pages of a block whose folios are looked at.
const SAMPLES: usize = 8;
/// How often dropping is tried while readers touch the block.
const ATTEMPTS: u32 = 3;

/// Sees to it that `block` may be written to. True if the write must wait: it will be asked to come again.
#[cold]
pub(crate) fn settle(
    core: &Arc<Core>,
    queue: &CompletionQueue,
    token: Token,
    residency: &Residency,
    block: usize,
) -> bool {
    let begin = || {
        if residency.is_settled(block) {
            return false;
        }
        // What is not in memory yet comes in small folios.
        let (mapping, _) = core.mapped();
        let in_memory = pages_of(mapping, block).any(|page| residency.was_in_memory(page, page));
        if !in_memory {
            residency.set_settled(block);
        }
        in_memory
    };
    let Some(first) = core.changing.wait(block, || (queue.handle(), token), begin) else {
        return false;
    };
    if first {
        let owner = Arc::clone(core);
        core.backing.device().pool.run(move || {
            // Who waits is called in any case, and not sent here again.
            if caught(|| look_and_change(&owner, block)).is_err()
                && let (_, Some(residency)) = owner.mapped()
            {
                residency.set_settled(block);
            }
            owner.changing.ended(block);
        });
    }
    true
}

/// Changes a block over, if its folios are large.
fn look_and_change(core: &Core, block: usize) {
    let (mapping, Some(residency)) = core.mapped() else {
        return;
    };
    let resident = || pages_of(mapping, block).filter(|page| residency.was_in_memory(*page, *page));
    let stride = (resident().count() / SAMPLES).max(1);
    if resident()
        .step_by(stride)
        .any(|page| core.page_tables.is_in_large_folio(mapping, page))
    {
        change(core, mapping, residency, block);
        core.changing.note_changed();
    }
    residency.set_settled(block);
}

/// Writes a block back, drops it and reads it again.
fn change(core: &Core, mapping: &Mapping, residency: &Residency, block: usize) {
    let (pages, path) = (pages_of(mapping, block), core.backing.path());
    let start = core.backing.position(0);
    let bytes = start + mapping.bytes_of(pages.start).start as u64
        ..start + mapping.bytes_of(pages.end - 1).end as u64;
    // An open file of its own: to wait for write-back consumes the error that the committer must see on its own.
    let own = File::open(format!("/proc/self/fd/{}", core.backing.file().as_raw_fd()));
    // What is dirty cannot be dropped.
    let held = core.backing.device().gate.write_back();
    let written_back =
        own.and_then(|file| write_back(&file, bytes.clone()).inspect_err(|_| core.write_back_failed()));
    drop(held);
    if let Err(error) = written_back {
        tracing::debug!("{}: writing a block back: {error}", path.display());
        return;
    }
    for _ in 0..ATTEMPTS {
        residency.forget(block);
        // Nor can what is in a page table.
        if let Err(error) = mapping.unmap(pages.clone()) {
            tracing::debug!("{}: unmapping a block: {error}", path.display());
        }
        let len = std::num::NonZeroU64::new(bytes.end - bytes.start);
        if let Err(error) = fadvise(core.backing.file(), bytes.start, len, Advice::DontNeed) {
            tracing::debug!("{}: dropping a block: {error}", path.display());
        }
        if !is_in_memory(mapping, &pages) {
            break;
        }
        // A reader touched it between unmapping and dropping.
    }
    residency.forget(block);
    bring_in(core.backing.file(), bytes);
}

fn is_in_memory(mapping: &Mapping, pages: &Range<usize>) -> bool {
    let mut resident = [0; BLOCK_PAGES];
    let resident = &mut resident[..pages.len()];
    mapping.residency(pages.start, resident).is_ok() && resident.iter().any(|page| page & 1 == 1)
}

/// The pages of a block.
fn pages_of(mapping: &Mapping, block: usize) -> Range<usize> {
    block * BLOCK_PAGES..((block + 1) * BLOCK_PAGES).min(mapping.pages())
}
