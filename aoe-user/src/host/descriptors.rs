//! How many files may be open, and that exports leave some of them: without one no config can be read, no interface asked, no command
//! answered, and so nothing be done about it.

use std::io;
use std::os::fd::AsRawFd as _;

use rustix::process::{Resource, getrlimit};

/// What all but the exports may take: filters, sockets and rings of the ports, connections, files of kept state.
pub(crate) const BESIDE: u64 = 512;

/// So many descriptors are taken that the rest is not for exports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "so many files are open that the last {kept} of {limit} are kept for interfaces and commands: raise the hard limit (ulimit -Hn, or \
     LimitNOFILE= in a systemd unit), or serve fewer exports"
)]
pub(crate) struct NoRoom {
    limit: u64,
    kept: u64,
}

/// Whether another export may be open. To be asked before it is opened, as others are at the same time, and after.
///
/// # Errors
/// When the rest is for others.
pub(crate) fn leave_room() -> Result<(), NoRoom> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) => judge(limit, lowest_free().ok()),
        None => Ok(()),
    }
}

/// `free` is the lowest descriptor that is free; there is none where it is not known.
fn judge(limit: u64, free: Option<u64>) -> Result<(), NoRoom> {
    // Where there are few in all, a few do: there is room for one export with 64.
    let kept = BESIDE.min(limit / 4);
    match free {
        Some(free) if free < limit - kept => Ok(()),
        _ => Err(NoRoom { limit, kept }),
    }
}

/// The kernel gives the lowest that is free.
fn lowest_free() -> io::Result<u64> {
    let probe = rustix::io::fcntl_dupfd_cloexec(io::stderr(), 0)?;
    Ok(u64::try_from(probe.as_raw_fd()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_quarter_is_kept_and_no_more_than_all_else_may_take() {
        for (limit, last) in [(64, 47), (1024, 767), (1 << 20, (1 << 20) - 513)] {
            assert_eq!(judge(limit, Some(last)), Ok(()), "{limit}");
            let told = judge(limit, Some(last + 1)).unwrap_err().to_string();
            assert!(
                told.contains(&limit.to_string()) && told.contains("LimitNOFILE"),
                "{told}"
            );
        }
        assert!(judge(64, None).is_err(), "none is free");
    }

    #[test]
    fn a_free_descriptor_is_found() {
        let first = lowest_free().unwrap();
        assert!(first > 2, "{first}");
    }
}
