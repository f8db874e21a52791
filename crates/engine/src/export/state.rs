//! What initiators may change of an export and expect to find again after a restart.

use aoe_common::Mac;
use aoe_common::wire::MAX_CONFIG_STRING_BYTES;

use crate::Address;
use crate::session::completion::{Completions, Token};

/// Longest MAC mask; one more entry is answered "list full" (AoEr11 leaves the limit to the target).
pub const MAX_MASK: usize = 64;

/// Longest reservation; a longer one is a bad argument.
pub const MAX_RESERVE: usize = 64;

/// The protocol state of one export that outlives the process.
///
/// Whoever loads one from elsewhere asks [`Persistent::check`] before use: the engine builds replies from it
/// that must fit a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persistent {
    /// Config string: any bytes, at most 1024.
    pub string: Vec<u8>,
    /// MAC mask, in the order the entries were added, no entry twice, at most [`MAX_MASK`]; empty: everyone.
    pub mask: Vec<Mac>,
    /// Holders of the reservation, as given, at most [`MAX_RESERVE`]; empty: not reserved.
    pub reserve: Vec<Mac>,
}

/// Why a [`Persistent`] cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Longer than AoE allows.
    #[error("the config string has {0} bytes; at most {MAX_CONFIG_STRING_BYTES} are allowed")]
    StringTooLong(usize),
    /// Longer than the engine keeps.
    #[error("the MAC mask has {0} entries; at most {MAX_MASK} are allowed")]
    MaskTooLong(usize),
    /// The same address again.
    #[error("the MAC mask lists {0} twice")]
    MaskRepeats(Mac),
    /// Longer than the engine keeps.
    #[error("the reservation has {0} entries; at most {MAX_RESERVE} are allowed")]
    ReserveTooLong(usize),
}

impl Persistent {
    /// Tells whether the limits are kept.
    ///
    /// # Errors
    /// The first limit that is not.
    pub fn check(&self) -> Result<(), StateError> {
        if self.string.len() > MAX_CONFIG_STRING_BYTES {
            return Err(StateError::StringTooLong(self.string.len()));
        }
        if self.mask.len() > MAX_MASK {
            return Err(StateError::MaskTooLong(self.mask.len()));
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(&mac) = self.mask.iter().find(|&mac| !seen.insert(mac)) {
            return Err(StateError::MaskRepeats(mac));
        }
        if self.reserve.len() > MAX_RESERVE {
            return Err(StateError::ReserveTooLong(self.reserve.len()));
        }
        Ok(())
    }
}

/// Keeps [`Persistent`] states on a disk.
pub trait StateStore<C: Completions>: Send + Sync + std::fmt::Debug {
    /// Starts to save `state` and returns; must not block.
    ///
    /// When the state would survive a power cut, posts `Finished(Ok(None))` under `token`; when it cannot be
    /// saved, `Finished(Err(fault))`, upon which the initiator gets no answer and the old state stays in force.
    fn save(&self, address: Address, state: &Persistent, handle: C::Handle, token: Token);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn macs(count: u8) -> Vec<Mac> {
        (0..count).map(|i| Mac([2, 0, 0, 0, 0, i])).collect()
    }

    #[test]
    fn limits_are_inclusive() {
        let full = Persistent {
            string: vec![0; 1024],
            mask: macs(64),
            reserve: macs(64),
        };
        assert_eq!(full.check(), Ok(()));
        assert_eq!(
            Persistent {
                string: vec![0; 1025],
                ..full.clone()
            }
            .check(),
            Err(StateError::StringTooLong(1025))
        );
        assert_eq!(
            Persistent {
                mask: macs(65),
                ..full.clone()
            }
            .check(),
            Err(StateError::MaskTooLong(65))
        );
        assert_eq!(
            Persistent {
                reserve: macs(65),
                ..full.clone()
            }
            .check(),
            Err(StateError::ReserveTooLong(65))
        );
        let twice = Persistent {
            mask: vec![macs(1)[0]; 2],
            ..full
        };
        assert_eq!(twice.check(), Err(StateError::MaskRepeats(macs(1)[0])));
    }
}
