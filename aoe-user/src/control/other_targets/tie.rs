//! Two xblades that started in the same moment: each searched before the other answered, and both serve one address.
//!
//! Who has just begun yields where the other's serial number is lower, or its MAC where the numbers are equal. Serial numbers come
//! first because an export has the same one on all its ports: both hosts come to the same end on every wire. A target of another
//! kind knows nothing of this, and none that has been serving for longer yields: whoever has mounted it would lose it.

use std::time::Duration;

use aoe_common::Mac;

use crate::initiator::DiskIdentity;

/// For this long after it began to be served an export yields.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// What IDENTIFY gives as the model.
pub(in crate::control) const MODEL: &str = "xblade";

/// A serial number as IDENTIFY carries it: 20 characters at most, without spaces around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::control) struct Serial([u8; 20]);

impl From<&str> for Serial {
    fn from(text: &str) -> Serial {
        let mut bytes = [0; 20];
        for (byte, character) in bytes.iter_mut().zip(text.trim().bytes()) {
            *byte = character;
        }
        Serial(bytes)
    }
}

/// True when `own` is to be given up for the other one, that has this address and says this of itself.
pub(super) fn yields(own: (Serial, Mac), mac: Mac, other: &DiskIdentity) -> bool {
    other.model == MODEL && (Serial::from(other.serial.as_str()), mac) < own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(model: &str, serial: &str) -> DiskIdentity {
        DiskIdentity {
            model: model.into(),
            serial: serial.into(),
            firmware: String::new(),
            sectors: 1,
            write_cache: false,
            trim: false,
        }
    }

    #[test]
    fn of_two_exactly_one_yields() {
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        for (a, b) in [
            (("1.1:alpha", 9), ("1.1:beta", 1)),
            (("same", 1), ("same", 2)),
            (
                ("a serial of more than 20 characters", 3),
                ("a serial of more than twenty", 1),
            ),
            (("", 1), ("x", 0)),
        ] {
            let yields_to = |own: (&str, u8), other: (&str, u8)| {
                yields(
                    (own.0.into(), mac(own.1)),
                    mac(other.1),
                    &identity(MODEL, other.0),
                )
            };
            assert_ne!(yields_to(a, b), yields_to(b, a), "{a:?} {b:?}");
        }
    }

    #[test]
    fn only_who_yields_too_is_yielded_to() {
        let own = (Serial::from("z"), Mac([2, 0, 0, 0, 0, 9]));
        assert!(yields(own, Mac([2, 0, 0, 0, 0, 1]), &identity(MODEL, "a")));
        assert!(!yields(own, Mac([2, 0, 0, 0, 0, 1]), &identity("vblade", "a")));
    }
}
