//! Who carries out a store's transfers: io_uring, or threads where it is forbidden.

use anyhow::{Result, ensure};
use lab::{Namespace, Target};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The same number on every architecture.
const IO_URING_SETUP: i64 = 425;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoEngine {
    /// As the kernel has it.
    Uring,
    /// As in many containers.
    Threads,
}

/// The stores that serve a file or a disk, each with what may carry out its transfers: the mapped one leaves them to the kernel.
pub const WAYS: [(&str, IoEngine); 3] = [
    ("mmap", IoEngine::Uring),
    ("direct", IoEngine::Uring),
    ("direct", IoEngine::Threads),
];

impl IoEngine {
    /// What starts in the namespace from now on gets along with this one.
    ///
    /// # Errors
    /// Without the right to filter system calls.
    pub fn choose(self, namespace: &Namespace) -> Result<()> {
        if self == IoEngine::Uring {
            return Ok(());
        }
        let filter = SeccompFilter::new(
            [(IO_URING_SETUP, Vec::new())].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(nix::errno::Errno::EPERM as u32),
            std::env::consts::ARCH.try_into()?,
        )?;
        let program: BpfProgram = filter.try_into()?;
        Ok(namespace.run(move || seccompiler::apply_filter(&program))?)
    }

    /// A target that has had transfers to do did them so.
    ///
    /// # Errors
    /// When its log says otherwise.
    pub fn is_used_by(self, target: &Target) -> Result<()> {
        let log = target.process.log();
        ensure!(
            log.contains("no io_uring") == (self == IoEngine::Threads),
            "{self:?}: {log}"
        );
        Ok(())
    }
}
