//! Small folios for blocks that are written to.
//!
//! What was read with read-ahead before we opened the file (a copy, a backup) lies in the page cache in folios of
//! up to 2 MiB, and a write to one sector of such a folio costs the work of all of it: measured on ext4, 8 thousand
//! random writes a second instead of 150. So before the first write to a block its folios are looked at, and large
//! ones are dropped and read again in small ones. Dropping keeps what is dirty, and what could not be written back is not dropped,
//! so nothing can be lost.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::completion_queue::{CompletionQueue, QueueHandle};
use crate::fetch::ReadAhead;
use crate::io::buffer::Buffer;
use crate::io::transfer::{Continuation, Direction, Transfer};
use crate::mapped::Core;
use crate::mapped::mmap::Mapping;
use crate::mapped::residency::{BLOCK_PAGES, Residency};
use engine::{Completion, CompletionHandle as _, Completions as _, Event, Token};

/// Pages of a block whose folios are looked at.
const SAMPLES: usize = 8;
/// How often dropping is tried while readers touch the block.
const ATTEMPTS: u32 = 3;

/// Blocks being changed over, with the writes that wait for each.
#[derive(Debug, Default)]
pub(crate) struct Folios {
    waiting: Mutex<HashMap<usize, Vec<(QueueHandle, Token)>>>,
    changed: AtomicU64,
}

impl Folios {
    /// Blocks changed over since the start.
    pub(crate) fn changed(&self) -> u64 {
        self.changed.load(Ordering::Relaxed)
    }
}

/// Sees to it that `block` may be written to. True if the write must wait: it will be asked to come again.
#[cold]
pub(crate) fn settle(
    core: &Arc<Core>,
    queue: &mut CompletionQueue,
    token: Token,
    mapping: &Mapping,
    residency: &Residency,
    block: usize,
) -> bool {
    let mut waiting = core.folios.waiting.lock();
    if let Some(waiters) = waiting.get_mut(&block) {
        waiters.push((queue.handle(), token));
        return true;
    }
    if residency.is_settled(block) {
        return false;
    }
    let resident = || pages_of(mapping, block).filter(|page| residency.was_hot(*page, *page));
    let stride = (resident().count() / SAMPLES).max(1);
    if !resident()
        .step_by(stride)
        .any(|page| in_large_folio(mapping, page))
    {
        residency.set_settled(block);
        return false;
    }
    waiting.insert(block, vec![(queue.handle(), token)]);
    let change = ChangeOver {
        core: Arc::clone(core),
        block,
        attempts: 0,
    };
    Box::new(change).clean(queue);
    true
}

/// A block's folios being written back, dropped and read again.
#[derive(Debug)]
struct ChangeOver {
    core: Arc<Core>,
    block: usize,
    attempts: u32,
}

impl ChangeOver {
    /// What is dirty cannot be dropped.
    fn clean(self: Box<Self>, queue: &mut CompletionQueue) {
        let bytes = self.bytes();
        let len = (bytes.end - bytes.start) as u32;
        self.start(queue, Direction::Clean(len));
    }

    fn evict(mut self: Box<Self>, queue: &mut CompletionQueue) {
        let bytes = self.bytes();
        let (mapping, residency) = self.core.mapped();
        if let Some(residency) = residency {
            residency.forget(self.block);
        }
        // Nor can what is in a page table.
        if let Err(error) = mapping.unmap(pages_of(mapping, self.block)) {
            tracing::debug!(
                "{}: unmapping a block: {error}",
                self.core.backing.path().display()
            );
        }
        self.attempts += 1;
        self.start(queue, Direction::Evict((bytes.end - bytes.start) as u32));
    }

    fn start(self: Box<Self>, queue: &mut CompletionQueue, direction: Direction) {
        let position = self.bytes().start;
        let transfer = Transfer::new(self.core.backing.upkeep(), position, direction, Buffer::new(0, 1));
        queue.start(transfer, self);
    }

    /// The block's bytes in the object.
    fn bytes(&self) -> Range<u64> {
        let (mapping, _) = self.core.mapped();
        let pages = pages_of(mapping, self.block);
        let start = self.core.backing.position(0);
        start + mapping.bytes_of(pages.start).start as u64..start + mapping.bytes_of(pages.end - 1).end as u64
    }

    /// Whether a reader touched the block between unmapping and dropping.
    fn is_still_there(&self) -> bool {
        let (mapping, _) = self.core.mapped();
        let pages = pages_of(mapping, self.block);
        let mut resident = [0; BLOCK_PAGES];
        let resident = &mut resident[..pages.len()];
        mapping.residency(pages.start, resident).is_ok() && resident.iter().any(|page| page & 1 == 1)
    }

    fn finish(&self, queue: &mut CompletionQueue) {
        let core = &self.core;
        if let (_, Some(residency)) = core.mapped() {
            residency.forget(self.block);
            residency.set_settled(self.block);
        }
        core.folios.changed.fetch_add(1, Ordering::Relaxed);
        ReadAhead::start(queue, &core.backing, self.bytes());
        let waiters = core.folios.waiting.lock().remove(&self.block);
        for (handle, token) in waiters.unwrap_or_default() {
            handle.post(Completion {
                token,
                event: Event::Again,
            });
        }
    }
}

impl Continuation for ChangeOver {
    fn ended(self: Box<Self>, queue: &mut CompletionQueue, transfer: Transfer) -> Option<Completion> {
        let cleaned = matches!(transfer.direction, Direction::Clean(_));
        if cleaned && transfer.error.is_some() {
            // Its pages are marked clean, and are all there is of what was written: they must not be dropped.
            self.core.write_back_failed();
            self.finish(queue);
        } else if cleaned || (self.attempts < ATTEMPTS && self.is_still_there()) {
            self.evict(queue);
        } else {
            self.finish(queue);
        }
        None
    }
}

/// The pages of a block.
fn pages_of(mapping: &Mapping, block: usize) -> Range<usize> {
    block * BLOCK_PAGES..((block + 1) * BLOCK_PAGES).min(mapping.pages())
}

/// Whether a resident page is part of a larger folio; "yes" where the kernel does not tell (that needs
/// CAP_SYS_ADMIN), which costs reading the block once.
fn in_large_folio(mapping: &Mapping, page: usize) -> bool {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    /// KPF_COMPOUND_HEAD and KPF_COMPOUND_TAIL.
    const COMPOUND: u64 = 1 << 15 | 1 << 16;
    static TABLES: OnceLock<Option<[File; 2]>> = OnceLock::new();
    let tables = TABLES.get_or_init(|| {
        let open = |path| File::open(path).ok();
        Some([open("/proc/self/pagemap")?, open("/proc/kpageflags")?])
    });
    let Some([map, flags]) = tables else { return true };
    let word = |file: &File, index: u64| {
        let mut word = [0; 8];
        file.read_exact_at(&mut word, index * 8).ok()?;
        Some(u64::from_ne_bytes(word))
    };
    // A touch enters the page in this process's page table.
    let at = mapping.bytes_of(page).start;
    let mut byte = [0];
    mapping.read(at, &mut [&mut byte]);
    std::hint::black_box(byte);
    let entry = word(map, mapping.table_index(page)).filter(|entry| entry & PRESENT != 0);
    let Some(frame) = entry.map(|entry| entry & FRAME).filter(|frame| *frame != 0) else {
        return true;
    };
    word(flags, frame).is_none_or(|flags| flags & COMPOUND != 0)
}
