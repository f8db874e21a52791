//! A reply that comes in parts, in any order.

use std::io;

use super::table::NbdOutcome;
use super::wire::no_reply;

/// What has come of a reply.
pub(super) struct Partial {
    /// Where in the export it begins.
    pub(super) at: u64,
    data: Box<[u8]>,
    filled: usize,
    pub(super) error: Option<u32>,
}

impl Partial {
    pub(super) fn new((at, length): (u64, u32)) -> Partial {
        Partial {
            at,
            data: vec![0; length as usize].into_boxed_slice(),
            filled: 0,
            error: None,
        }
    }

    /// Where a part of the data goes.
    pub(super) fn part(&mut self, offset: u64, length: u32) -> io::Result<&mut [u8]> {
        let outside = || {
            no_reply(format!(
                "data of {length} bytes at {offset}, which were not asked for"
            ))
        };
        let begin =
            usize::try_from(offset.checked_sub(self.at).ok_or_else(outside)?).map_err(|_| outside())?;
        let end = begin.checked_add(length as usize).ok_or_else(outside)?;
        self.filled = self.filled.saturating_add(length as usize);
        self.data.get_mut(begin..end).ok_or_else(outside)
    }

    pub(super) fn outcome(self) -> io::Result<NbdOutcome> {
        match self.error {
            Some(error) => Ok(Err(error)),
            None if self.filled != self.data.len() => Err(no_reply(format!(
                "{} bytes of data where {} were asked for",
                self.filled,
                self.data.len()
            ))),
            None if self.data.is_empty() => Ok(Ok(None)),
            None => Ok(Ok(Some(self.data))),
        }
    }
}
