//! What the kernel tells of the pages of a mapping.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use crate::mapped::mmap::Mapping;

/// /proc/self/pagemap and /proc/kpageflags, opened when they are first asked; `None`: this process may not.
#[derive(Debug, Default)]
pub(crate) struct PageTables(OnceLock<Option<[File; 2]>>);

impl PageTables {
    /// Whether a resident page is part of a larger folio; "yes" where the kernel does not tell (that needs
    /// CAP_SYS_ADMIN), which costs reading the block once.
    pub(crate) fn is_in_large_folio(&self, mapping: &Mapping, page: usize) -> bool {
        const PRESENT: u64 = 1 << 63;
        const FRAME: u64 = (1 << 55) - 1;
        /// KPF_COMPOUND_HEAD and KPF_COMPOUND_TAIL.
        const COMPOUND: u64 = 1 << 15 | 1 << 16;
        let tables = self.0.get_or_init(|| {
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
}
