//! The ways to serve an interface, best first, and which of them an error leaves.

use std::fmt;

use rustix::io::Errno;
use tracing::warn;

use super::PortError;
use crate::config::Mode;
use crate::filter::{Attach, FilterError};
use crate::xsk::{Bind, XskError};

/// What was obtained of [`super::PortOptions::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Obtained {
    /// The XDP program runs in the driver, not behind it.
    pub(crate) native: bool,
    /// Frames go between NIC and UMEM without a copy.
    pub(crate) zero_copy: bool,
}

impl fmt::Display for Obtained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attach = if self.native { "native" } else { "generic" };
        let bind = if self.zero_copy { "zero-copy" } else { "copy" };
        write!(f, "{attach} {bind}")
    }
}

/// How to attach the program and bind the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) attach: Attach,
    pub(crate) bind: Bind,
}

const AUTO: Way = Way {
    attach: Attach::Native,
    bind: Bind::Auto,
};
const ZERO_COPY: Way = Way {
    bind: Bind::ZeroCopy,
    ..AUTO
};
const NATIVE_COPY: Way = Way {
    bind: Bind::Copy,
    ..AUTO
};
const GENERIC: Way = Way {
    attach: Attach::Generic,
    bind: Bind::Copy,
};

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bind {
            Bind::Auto => write!(f, "{} XDP", self.attach),
            Bind::ZeroCopy => write!(f, "{} XDP, zero-copy", self.attach),
            Bind::Copy => write!(f, "{} XDP, by copy", self.attach),
        }
    }
}

/// What to try for a mode, best first.
pub(crate) fn ways(mode: Mode) -> &'static [Way] {
    match mode {
        Mode::Auto => &[AUTO, NATIVE_COPY, GENERIC],
        Mode::Native => &[AUTO, NATIVE_COPY],
        Mode::ZeroCopy => &[ZERO_COPY],
        Mode::Copy => &[NATIVE_COPY, GENERIC],
        Mode::Skb => &[GENERIC],
    }
}

/// The ways after `way` that may work although it failed so, best first.
pub(super) fn left_after(mode: Mode, way: Way, affected: Affected) -> impl Iterator<Item = Way> + use<> {
    let later = ways(mode).iter().skip_while(move |other| **other != way).skip(1);
    later.copied().filter(move |other| match affected {
        Affected::Interface => false,
        Affected::Native => other.attach == Attach::Generic,
        Affected::Way => true,
    })
}

/// What to say where no way is left: others are there unless all were tried already.
pub(super) const fn no_mode_left(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "",
        _ => ", and this mode was asked for: try `mode = \"auto\"`",
    }
}

/// Opens something the best way of its mode that works, from `first` on; what does not work is logged.
///
/// # Errors
/// That of the last way, where none works.
pub(crate) fn first_that_works<T, E: fmt::Display>(
    mode: Mode,
    first: Way,
    mut open: impl FnMut(Way) -> Result<T, E>,
    affected: impl Fn(&E) -> Affected,
) -> Result<T, E> {
    let mut way = first;
    loop {
        let error = match open(way) {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        way = match left_after(mode, way, affected(&error)).next() {
            Some(next) => next,
            None => return Err(error),
        };
        warn!("{error}; trying {way}");
    }
}

/// What an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Affected {
    /// The interface or this process: no other way will help.
    Interface,
    /// Native XDP.
    Native,
    /// This way only.
    Way,
}

impl From<&FilterError> for Affected {
    fn from(error: &FilterError) -> Affected {
        match error.generic_may_work() {
            true => Affected::Native,
            false => Affected::Interface,
        }
    }
}

impl From<&XskError> for Affected {
    fn from(error: &XskError) -> Affected {
        match error.errno() {
            Some(Errno::OPNOTSUPP) => Affected::Way,
            _ => Affected::Interface,
        }
    }
}

impl From<&PortError> for Affected {
    fn from(error: &PortError) -> Affected {
        match error {
            PortError::Filter(error) => error.into(),
            PortError::Socket(error) => error.into(),
            PortError::Silent { obtained, .. } if obtained.zero_copy => Affected::Way,
            PortError::Silent { .. } => Affected::Native,
            PortError::MtuTooSmall { .. } | PortError::TooFewTransmit { .. } | PortError::Worker { .. } => {
                Affected::Interface
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::prove::ProofDirection;

    fn silent(native: bool, zero_copy: bool) -> PortError {
        PortError::Silent {
            nic: "eth0".into(),
            obtained: Obtained { native, zero_copy },
            direction: ProofDirection::Transmit,
        }
    }

    #[test]
    fn an_error_leads_to_the_next_way_that_it_does_not_rule_out() {
        let next = |way, error: &PortError| left_after(Mode::Auto, way, error.into()).next();
        assert_eq!(next(AUTO, &silent(true, true)), Some(NATIVE_COPY));
        assert_eq!(next(AUTO, &silent(true, false)), Some(GENERIC));
        assert_eq!(next(GENERIC, &silent(false, false)), None);
        let interface = "eth0".to_owned();
        let no_native = PortError::Filter(FilterError::NoNativeXdp {
            interface: interface.clone(),
        });
        assert_eq!(next(AUTO, &no_native), Some(GENERIC));
        let busy = PortError::Filter(FilterError::Busy { interface });
        assert_eq!(next(AUTO, &busy), None);
    }

    #[test]
    fn another_mode_is_advised_only_where_one_was_asked_for() {
        for (name, mode) in Mode::NAMES {
            assert_eq!(no_mode_left(mode).is_empty(), mode == Mode::Auto, "{name}");
        }
    }

    #[test]
    fn a_mode_that_names_one_way_has_no_other() {
        assert_eq!(
            left_after(Mode::ZeroCopy, ZERO_COPY, (&silent(true, true)).into()).next(),
            None
        );
        assert_eq!(
            left_after(Mode::Skb, GENERIC, (&silent(false, false)).into()).next(),
            None
        );
        assert_eq!(
            left_after(Mode::Copy, NATIVE_COPY, (&silent(true, false)).into()).next(),
            Some(GENERIC)
        );
    }
}
