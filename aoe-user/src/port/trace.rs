//! A log line for each frame, for `--log trace` or `--log info,xblade::frames=trace`: a sample of them where there are many.

use std::fmt::{self, Display};

use aoe_common::Mac;
use aoe_common::wire::{aoe, ata, eth};

/// The target that the lines appear under.
const TARGET: &str = "xblade::frames";
/// Lines that a worker may log a second.
const LINES_PER_SECOND: u32 = 100;
/// Bytes of a frame that are looked at: two VLAN tags, both headers.
const HEAD: usize = eth::HEADER_LEN + 2 * eth::TAG_LEN + aoe::HEADER_LEN + ata::HEADER_LEN;

/// Whether anybody wants to see frames. A load and a comparison where nobody does.
pub(super) fn is_on() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::TRACE)
}

/// Counts the lines of one worker.
#[derive(Debug, Default)]
pub(super) struct Trace {
    second: u64,
    lines: u32,
    skipped: u64,
}

impl Trace {
    /// Logs a frame that was received, if its second has room for one more.
    pub(super) fn received(&mut self, now_us: u64, bytes: usize, pieces: &[&[u8]]) {
        let second = now_us / 1_000_000;
        if second != self.second {
            if self.skipped > 0 {
                tracing::trace!(target: TARGET, "{} more frames, not shown", self.skipped);
            }
            *self = Trace {
                second,
                ..Trace::default()
            };
        }
        if self.lines == LINES_PER_SECOND {
            self.skipped += 1;
            return;
        }
        self.lines += 1;
        let mut head = [0; HEAD];
        for (to, from) in head.iter_mut().zip(pieces.iter().copied().flatten()) {
            *to = *from;
        }
        tracing::trace!(target: TARGET, "received {bytes} bytes: {}", Line(&head));
    }
}

/// A frame in words. What has ended reads as zeros.
struct Line<'a>(&'a [u8; HEAD]);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let u16_at = |at: usize| u16::from_be_bytes([self.0[at], self.0[at + 1]]);
        let mut source = Mac::ZERO;
        source.0.copy_from_slice(&self.0[eth::SRC..][..6]);
        write!(f, "{source}")?;
        let mut at = eth::TYPE;
        while at < eth::TYPE + 2 * eth::TAG_LEN && [eth::TYPE_VLAN, eth::TYPE_QINQ].contains(&u16_at(at)) {
            write!(f, " VLAN {}", u16_at(at + 2) & eth::TCI_VID)?;
            at += eth::TAG_LEN;
        }
        at += 2;
        let tag = u32::from_be_bytes([0, 1, 2, 3].map(|n| self.0[at + aoe::TAG + n]));
        let (shelf, slot) = (u16_at(at + aoe::SHELF), self.0[at + aoe::SLOT]);
        write!(f, " to {shelf}.{slot} tag {tag:08x} ")?;
        let argument = &self.0[at + aoe::HEADER_LEN..];
        match self.0[at + aoe::COMMAND] {
            aoe::CMD_ATA => {
                let mut lba = [0; 8];
                lba[..6].copy_from_slice(&argument[ata::LBA..][..6]);
                let (command, count) = (argument[ata::COMMAND], argument[ata::COUNT]);
                write!(
                    f,
                    "ATA {command:02x}, {count} sectors at LBA {}",
                    u64::from_le_bytes(lba)
                )
            }
            aoe::CMD_QUERY => f.write_str("query config"),
            aoe::CMD_MASK => f.write_str("MAC mask list"),
            aoe::CMD_RESERVE => f.write_str("reserve/release"),
            other => write!(f, "command {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_in_words() {
        let mut frame = [0; HEAD];
        frame[eth::SRC..][..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[eth::TYPE..][..6].copy_from_slice(&[0x81, 0, 0x20, 5, 0x88, 0xa2]);
        let at = eth::HEADER_LEN + eth::TAG_LEN;
        frame[at..][..10].copy_from_slice(&[0x10, 0, 0, 7, 3, 0, 0xde, 0xad, 0xbe, 0xef]);
        frame[at + 10..][..6].copy_from_slice(&[0x40, 0, 2, 0x24, 0, 1]);
        let expected = "02:00:00:00:00:01 VLAN 5 to 7.3 tag deadbeef ATA 24, 2 sectors at LBA 256";
        assert_eq!(Line(&frame).to_string(), expected);
    }

    #[test]
    fn no_frame_is_too_odd() {
        for byte in [0, 0x81, 0x88, 0xa8, 0xff] {
            assert!(!Line(&[byte; HEAD]).to_string().is_empty());
        }
        let mut tags = [0x81; HEAD];
        for at in (eth::TYPE + 1..HEAD).step_by(4) {
            tags[at] = 0;
        }
        assert!(Line(&tags).to_string().contains("VLAN"));
    }

    #[test]
    fn a_second_has_its_lines() {
        let mut trace = Trace::default();
        for _ in 0..LINES_PER_SECOND + 5 {
            trace.received(1_500_000, 60, &[&[0; 60]]);
        }
        assert_eq!((trace.lines, trace.skipped), (LINES_PER_SECOND, 5));
        trace.received(2_000_000, 60, &[&[0; 10], &[0; 50]]);
        assert_eq!((trace.lines, trace.skipped), (1, 0));
    }
}
