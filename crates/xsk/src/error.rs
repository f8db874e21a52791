//! Why a socket could not be opened, and what to do about it.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Why [`super::Socket::open`] failed.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// The configuration cannot work.
    #[error("AF_XDP socket on {interface} queue {queue}: {problem}")]
    Config {
        /// The interface's name.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// What is wrong, with the value and the allowed range.
        problem: String,
    },
    /// The kernel refused a call.
    #[error("AF_XDP socket on {interface} queue {queue}: {call}: {errno}{}", advice(.call, *.errno))]
    Refused {
        /// The interface's name.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// The system call, or the socket option, that failed.
        call: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

impl XskError {
    /// The kernel's answer, where it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            XskError::Config { .. } => None,
            XskError::Refused { errno, .. } => Some(*errno),
        }
    }
}

/// The calls that [`super::setup`] makes, as errors name them.
pub(super) mod call {
    pub(crate) const SOCKET: &str = "socket(AF_XDP)";
    pub(crate) const UMEM: &str = "mmap of the frame memory";
    pub(crate) const UMEM_REG: &str = "XDP_UMEM_REG";
    pub(crate) const FILL: &str = "XDP_UMEM_FILL_RING";
    pub(crate) const COMPLETION: &str = "XDP_UMEM_COMPLETION_RING";
    pub(crate) const RX: &str = "XDP_RX_RING";
    pub(crate) const TX: &str = "XDP_TX_RING";
    pub(crate) const OFFSETS: &str = "XDP_MMAP_OFFSETS";
    pub(crate) const MMAP: &str = "mmap of a ring";
    pub(crate) const BIND: &str = "bind";
    pub(crate) const BIND_ZEROCOPY: &str = "bind with XDP_ZEROCOPY";
    pub(crate) const OPTIONS: &str = "XDP_OPTIONS";
}

/// What a person can do about it: the part of the message after the kernel's own words.
fn advice(call: &str, errno: Errno) -> String {
    // The kernel has memory, the process has no addresses for it.
    let of_addresses = matches!(
        (call, errno),
        (call::UMEM | call::MMAP, Errno::NOMEM | Errno::AGAIN)
    );
    match of_addresses.then(|| getrlimit(Resource::As).current).flatten() {
        Some(limit) => {
            format!(" (RLIMIT_AS is {limit} bytes, `ulimit -v` or LimitAS= of a systemd unit: raise it)")
        }
        None => known_advice(call, errno).to_owned(),
    }
}

fn known_advice(call: &str, errno: Errno) -> &'static str {
    match (call, errno) {
        (call::SOCKET, Errno::AFNOSUPPORT) => " (this kernel has no AF_XDP; it needs CONFIG_XDP_SOCKETS)",
        (call::SOCKET, Errno::PERM | Errno::ACCESS) => " (needs CAP_NET_RAW: run as root)",
        (call::UMEM_REG, Errno::NOBUFS | Errno::PERM | Errno::NOMEM) => {
            " (frame memory is pinned: raise RLIMIT_MEMLOCK with `ulimit -l`, or grant CAP_IPC_LOCK)"
        }
        (_, Errno::PERM | Errno::ACCESS) => " (needs CAP_NET_RAW and CAP_NET_ADMIN: run as root)",
        (_, Errno::NOMEM | Errno::NOBUFS) => {
            " (the kernel has no memory for it: use fewer chunks or a smaller ring)"
        }
        (_, Errno::BUSY) => " (another AF_XDP socket has this queue: is another program on the interface?)",
        (_, Errno::NODEV) => " (no such interface in this network namespace)",
        (_, Errno::NETDOWN) => " (the interface is down: `ip link set … up`)",
        (call::BIND_ZEROCOPY, Errno::OPNOTSUPP | Errno::INVAL) => {
            " (driver or frame size rule out zero-copy, or the queue does not exist: use mode auto or copy)"
        }
        (call::BIND, Errno::INVAL | Errno::OPNOTSUPP) => {
            " (the interface has no such queue: see `ethtool -l`; or jumbo frames on a kernel before 6.6)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_where_what_and_what_to_do() {
        let refused = |call, errno| {
            XskError::Refused {
                interface: "eth7".into(),
                queue: 3,
                call,
                errno,
            }
            .to_string()
        };
        let busy = refused(call::BIND, Errno::BUSY);
        assert!(busy.contains("eth7 queue 3: bind: "), "{busy}");
        assert!(busy.contains("another AF_XDP socket"), "{busy}");
        assert!(refused(call::UMEM_REG, Errno::NOBUFS).contains("RLIMIT_MEMLOCK"));
        assert!(refused(call::BIND_ZEROCOPY, Errno::OPNOTSUPP).contains("mode auto or copy"));
        assert!(refused(call::BIND, Errno::NETDOWN).contains("is down"));
        assert!(refused(call::SOCKET, Errno::PERM).contains("CAP_NET_RAW"));
    }

    #[test]
    #[cfg(not(miri))] // it has no limits
    fn a_bounded_address_space_is_named_where_it_may_be_the_cause() {
        use rustix::process::{Rlimit, setrlimit};
        // Bounded, and more than any test uses.
        let before = getrlimit(Resource::As);
        let current = Some(1 << 46);
        setrlimit(Resource::As, Rlimit { current, ..before }).unwrap();
        for call in [call::UMEM, call::MMAP] {
            let words = advice(call, Errno::NOMEM);
            assert!(words.contains("RLIMIT_AS is 70368744177664 bytes"), "{words}");
            assert!(words.contains("LimitAS="), "{words}");
        }
        assert!(advice(call::UMEM_REG, Errno::NOMEM).contains("RLIMIT_MEMLOCK"));
        setrlimit(Resource::As, before).unwrap();
    }
}
