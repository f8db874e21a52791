//! A file as those see it that bring its pages in or put them on the medium.

use std::io;

use crate::backing::Backing;
use crate::commit::Medium;
use engine::{Extent, Fault, FaultKind};

/// Who wants to know that pages are in memory now.
pub(crate) trait Pages: Send + Sync + std::fmt::Debug {
    /// The file.
    fn backing(&self) -> &Backing;

    /// These sectors' pages were just read.
    fn arrived(&self, extent: Extent);

    /// These sectors' space was given back.
    fn gone(&self, extent: Extent) {
        let _ = extent;
    }
}

/// What lies in a file is committed there, whichever way it got in.
impl<O: Pages> Medium for O {
    fn commit(&self) -> io::Result<()> {
        self.backing().sync()
    }

    fn take_cut(&self) -> Option<Extent> {
        self.backing().take_cut()
    }

    fn is_cut(&self) -> bool {
        self.backing().is_cut()
    }

    fn forget_cut(&self, accepted: Extent) {
        self.backing().forget_cut(accepted);
    }

    fn fault(&self, lba: u64, source: io::Error) -> Fault {
        self.backing().fault(FaultKind::Write, lba, source)
    }

    fn sectors(&self) -> u64 {
        self.backing().sectors()
    }

    fn name(&self) -> String {
        self.backing().name()
    }

    fn describe(&self) -> String {
        self.backing().path().display().to_string()
    }
}
