//! What was promised to initiators when an export was opened, and which server may take the place of one that was lost.

use engine::SECTOR_BYTES;

use super::handshake::Granted;
use super::wire::NbdCommand;

/// What the first server had, and every later one must have. FUA is not among it: a flush takes its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promises {
    /// The store writes.
    pub(super) writes: bool,
    /// Answered writes have been flushed.
    flushes: bool,
    /// TRIM, and whether zeros are read after it.
    release: Option<NbdCommand>,
}

impl Promises {
    pub(super) fn of(granted: &Granted, writes: bool) -> Promises {
        Promises {
            writes,
            flushes: writes && granted.can_flush(),
            release: release_command(granted).filter(|_| writes),
        }
    }

    /// TRIM is taken.
    pub(super) fn trim(&self) -> bool {
        self.release.is_some()
    }

    /// What was trimmed reads as zeros.
    pub(super) fn zeroes_after_trim(&self) -> bool {
        self.release == Some(NbdCommand::WriteZeroes)
    }

    /// Why a server cannot go on where another one ended. `bytes` is what initiators were told of.
    pub(super) fn broken_by(&self, granted: &Granted, bytes: u64) -> Option<String> {
        let reason = if granted.bytes < bytes {
            let now = granted.bytes;
            return Some(format!(
                "its export has {now} bytes and the one that is served has {bytes}"
            ));
        } else if self.writes && granted.is_read_only() {
            "its export is read-only"
        } else if u64::from(granted.least_block) > SECTOR_BYTES {
            "it takes larger blocks than sectors only"
        } else if self.flushes && !granted.can_flush() {
            "it cannot flush, and initiators were told that what is written is kept"
        } else if self.zeroes_after_trim() && !granted.can_write_zeroes() {
            "it cannot write zeros, and initiators were told that they read zeros after TRIM"
        } else if self.trim() && release_command(granted).is_none() {
            "it does not know TRIM, and initiators were told that they may use it"
        } else {
            return None;
        };
        Some(reason.to_owned())
    }
}

/// How a server gives space back.
pub(super) fn release_command(granted: &Granted) -> Option<NbdCommand> {
    if granted.can_write_zeroes() {
        Some(NbdCommand::WriteZeroes)
    } else {
        granted.can_trim().then_some(NbdCommand::Trim)
    }
}
