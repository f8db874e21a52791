//! Ctrl-C as something to ask for, for commands that have something to finish.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGINT, SIGTERM and SIGHUP, which end the process no more once this was made.
pub(super) struct Interrupt(SignalFd);

impl Interrupt {
    /// To be called in the main thread; the other threads of these commands take no signals.
    pub(super) fn catch() -> io::Result<Interrupt> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGHUP);
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Interrupt(SignalFd::with_flags(&set, flags)?))
    }

    /// Whether one came since the last call.
    pub(super) fn came(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }
}
