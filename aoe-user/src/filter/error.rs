//! What can go wrong between user space and the kernel half, in words for the person who runs xblade.

use std::error::Error;
use std::io;

use aya::programs::ProgramError;
use aya::{EbpfError, maps::MapError};
use rustix::io::Errno;

use super::Attach;
use crate::host::kernel::{KERNEL_JUMBO, KERNEL_MIN, release, version};
use crate::host::upper_with_program;

/// Lines of the verifier's log that an error shows.
const VERIFIER_LINES: usize = 20;

/// A failure of the filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The process may not load or attach programs.
    #[error(
        "no permission to {what}: run xblade as root or give it CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW \
         (systemd: AmbientCapabilities=)"
    )]
    Permission {
        /// What was tried.
        what: String,
    },
    /// The kernel lacks what the filter is made of.
    #[error(
        "Linux {have} is too old for the filter: Linux {KERNEL_MIN} is needed, {KERNEL_JUMBO} for jumbo frames"
    )]
    KernelTooOld {
        /// The running kernel.
        have: String,
    },
    /// The kernel refused the program for another reason.
    #[error("the kernel refuses the filter: {0}")]
    Load(String),
    /// There is one place for an XDP program on an interface, and it is taken.
    #[error(
        "{interface} already has an XDP program: one process serves all exports of an interface; if no other xblade \
         runs, `ip link show {interface}` shows the program and `ip link set dev {interface} xdp off` removes it"
    )]
    Busy {
        /// The interface.
        interface: String,
    },
    /// An interface above has a program.
    #[error(
        "{upper} is made of {interface} and has an XDP program: the kernel attaches none to {interface} then. Serve only one of the \
         two, or restart xblade, which opens {interface} first; if the program is not xblade's, `ip link set dev {upper} xdp off` removes it"
    )]
    BelowBusy {
        /// The interface.
        interface: String,
        /// The one above.
        upper: String,
    },
    /// The interface is gone.
    #[error("there is no interface {interface} any more")]
    NoInterface {
        /// The interface.
        interface: String,
    },
    /// The driver cannot run XDP programs, or not as the interface is set up: for the MTU some drivers answer the same.
    #[error(
        "the driver of {interface} has no native XDP, or not at this MTU; generic XDP works with every driver"
    )]
    NoNativeXdp {
        /// The interface.
        interface: String,
    },
    /// The driver runs programs, and knows no redirect.
    #[error(
        "the driver of {interface} has native XDP without redirect, which would drop every request; generic XDP works"
    )]
    NoRedirect {
        /// The interface.
        interface: String,
    },
    /// The driver has no queues to spare.
    #[error(
        "the driver of {interface} has too few queues for native XDP (veth needs as many receive queues as its peer \
         has transmit queues): change them with `ethtool -L {interface}`, or use generic XDP"
    )]
    TooFewQueues {
        /// The interface.
        interface: String,
    },
    /// The driver cannot run XDP programs at this MTU.
    #[error(
        "the driver of {interface} has native XDP, but not at its MTU: lower the MTU, or use generic XDP, which works"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
    },
    /// Another reason why the program cannot be attached.
    #[error("cannot attach the filter to {interface} in {attach} mode: {cause}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode that was tried.
        attach: Attach,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// Two exports would both have to answer a frame.
    #[error("two exports answer to {shelf}.{slot} on the same VLAN of one interface")]
    Overlap {
        /// Major address.
        shelf: u16,
        /// Minor address.
        slot: u8,
    },
    /// The rules are more than the program can tell apart.
    #[error(
        "the exports have {need} different access lists, and the filter knows {room} at most: give some the same"
    )]
    TooManyLists {
        /// Lists needed.
        need: usize,
        /// Lists there can be.
        room: usize,
    },
    /// The rules have outgrown the maps, whose sizes are fixed when the filter is loaded: another one must be.
    #[error("the rules need {need} {what}, and the filter has room for {room}")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// Entries needed.
        need: usize,
        /// Entries there is room for.
        room: usize,
    },
    /// The filter could not be tried out.
    #[error("cannot try the filter out: {cause}")]
    Inject {
        /// The kernel's answer.
        cause: io::Error,
    },
    /// A map operation failed.
    #[error("cannot access the filter's {map}: {cause}")]
    Map {
        /// What the map holds.
        map: &'static str,
        /// The kernel's answer.
        cause: String,
    },
}

impl FilterError {
    /// True where attaching in generic mode may work although native mode did not.
    pub fn generic_may_work(&self) -> bool {
        matches!(
            self,
            FilterError::NoNativeXdp { .. }
                | FilterError::NoRedirect { .. }
                | FilterError::TooFewQueues { .. }
                | FilterError::MtuTooLarge { .. }
                | FilterError::Attach {
                    attach: Attach::Native,
                    ..
                }
        )
    }

    pub(super) fn load(error: &EbpfError) -> FilterError {
        let errno = errno(error);
        if matches!(errno, Some(Errno::PERM | Errno::ACCESS)) && !is_verifier(error) {
            return FilterError::Permission {
                what: "load the filter".into(),
            };
        }
        // Asked only now: distributions carry features to kernels that look older.
        let have = release();
        match version(&have) {
            Some(version) if version < KERNEL_MIN => FilterError::KernelTooOld { have },
            _ => FilterError::Load(refusal(error)),
        }
    }

    pub(super) fn attach(error: &ProgramError, interface: &str, attach: Attach) -> FilterError {
        let interface = interface.to_owned();
        let errno = errno(error);
        let native = attach == Attach::Native;
        match errno {
            Some(Errno::BUSY | Errno::EXIST) => match upper_with_program(&interface) {
                Some(upper) => FilterError::BelowBusy { interface, upper },
                None => FilterError::Busy { interface },
            },
            Some(Errno::PERM | Errno::ACCESS) => FilterError::Permission {
                what: format!("attach the filter to {interface}"),
            },
            Some(Errno::NODEV) => FilterError::NoInterface { interface },
            Some(Errno::OPNOTSUPP) if native => FilterError::NoNativeXdp { interface },
            Some(Errno::NOSPC) if native => FilterError::TooFewQueues { interface },
            Some(Errno::RANGE) if native => FilterError::MtuTooLarge { interface },
            _ => {
                let cause = match errno {
                    Some(errno) => errno.into(),
                    None => io::Error::other(error.to_string()),
                };
                FilterError::Attach {
                    interface,
                    attach,
                    cause,
                }
            }
        }
    }

    pub(super) fn map(map: &'static str) -> impl Fn(MapError) -> FilterError {
        move |error| FilterError::Map {
            map,
            cause: with_causes(&error),
        }
    }
}

/// The system's error at the root of one of aya's.
pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Errno::from_io_error(error);
        }
        next = error.source();
    }
    None
}

/// EACCES is also the verifier's way to refuse a program, with a log.
fn is_verifier(error: &EbpfError) -> bool {
    matches!(error, EbpfError::ProgramError(ProgramError::LoadError { verifier_log, .. })
        if !verifier_log.to_string().is_empty())
}

/// Why the kernel refused, each word of it once: aya's errors repeat what their sources say, a log of thousands of lines too.
fn refusal(error: &EbpfError) -> String {
    if let EbpfError::ProgramError(ProgramError::LoadError {
        io_error,
        verifier_log,
    }) = error
    {
        let log = verifier_log.to_string();
        let lines: Vec<&str> = log.lines().filter(|line| !line.is_empty()).collect();
        // Before the reason the verifier may tell all that it followed.
        let end = &lines[lines.len().saturating_sub(VERIFIER_LINES)..];
        if !end.is_empty() {
            return format!("{io_error}. The verifier's log ends with:\n{}", end.join("\n"));
        }
    }
    with_causes(error)
}

/// What an error says, and what its causes say beyond that.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::sys::SyscallError;

    fn attach_error(errno: Errno, attach: Attach) -> FilterError {
        let error = SyscallError {
            call: "bpf_link_create",
            io_error: errno.into(),
        };
        FilterError::attach(&error.into(), "eth7", attach)
    }

    #[test]
    fn errors_of_attaching_say_what_to_do() {
        let said = |errno, attach| attach_error(errno, attach).to_string();
        assert!(said(Errno::BUSY, Attach::Native).starts_with("eth7 already has an XDP program"));
        assert!(said(Errno::PERM, Attach::Native).contains("CAP_NET_ADMIN"));
        assert!(said(Errno::NOSPC, Attach::Native).contains("ethtool -L eth7"));
        assert!(said(Errno::RANGE, Attach::Native).contains("MTU"));
        assert!(said(Errno::NODEV, Attach::Generic).contains("eth7"));
        assert!(said(Errno::IO, Attach::Generic).contains("generic mode"));
    }

    #[test]
    fn a_refusal_says_each_thing_once() {
        let error = SyscallError {
            call: "bpf_map_create",
            io_error: Errno::NOMEM.into(),
        };
        let said = refusal(&EbpfError::MapError(MapError::from(error)));
        assert!(said.contains("bpf_map_create"), "{said}");
        assert_eq!(said.matches("Cannot allocate memory").count(), 1, "{said}");
    }

    #[test]
    fn only_a_drivers_limits_lead_to_generic_mode() {
        for errno in [Errno::OPNOTSUPP, Errno::NOSPC, Errno::RANGE, Errno::INVAL] {
            assert!(attach_error(errno, Attach::Native).generic_may_work(), "{errno}");
            assert!(
                !attach_error(errno, Attach::Generic).generic_may_work(),
                "{errno}"
            );
        }
        for errno in [Errno::BUSY, Errno::EXIST, Errno::PERM, Errno::NODEV] {
            assert!(!attach_error(errno, Attach::Native).generic_may_work(), "{errno}");
        }
    }
}
