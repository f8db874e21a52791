//! `xblade dump`: frames as they come and go, as pcapng.

use std::fs::File;
use std::io::{BufReader, IsTerminal as _, Read, Write, stdout};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::args::DumpArgs;
use super::client::ControlClient;
use crate::cli::interrupt::Interrupt;
use crate::cli::output;
use crate::control::api::dumps::{Dumping, WantedFrames};
use crate::control::api::types::ControlRequest;

/// Types of pcapng's blocks.
const STATISTICS: u32 = 5;
const FRAME: u32 = 6;
/// The option of statistics that has the frames without room.
const LOST: u16 = 5;
/// A block is no longer: a frame and what is said about it.
const BLOCK_BYTES_MAX: usize = 1 << 20;
/// How often to look whether somebody wants to end it.
const LOOK: Duration = Duration::from_millis(100);

/// One block, as it came.
struct Block(Vec<u8>);

impl Block {
    /// The next one; `None`: the target has ended, or the dump.
    fn read(from: &mut impl Read) -> Result<Option<Block>> {
        let mut bytes = vec![0; 8];
        if from.read(&mut bytes[..1])? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut bytes[1..])?;
        let len = u32_at(&bytes, 4) as usize;
        ensure!(
            (12..=BLOCK_BYTES_MAX).contains(&len),
            "the target sends no pcapng: a block of {len} bytes"
        );
        bytes.resize(len, 0);
        from.read_exact(&mut bytes[8..])?;
        Ok(Some(Block(bytes)))
    }

    fn kind(&self) -> u32 {
        u32_at(&self.0, 0)
    }

    /// Interface and number of lost frames, of statistics.
    fn lost(&self) -> Option<(u32, u64)> {
        if self.kind() != STATISTICS || self.0.len() < 24 {
            return None;
        }
        let mut options = &self.0[20..self.0.len() - 4];
        while options.len() >= 4 {
            let head = u32_at(options, 0);
            let (code, len) = (head as u16, (head >> 16) as usize);
            let value = options.get(4..4 + len)?;
            if code == LOST {
                let lost = value.try_into().ok().map(u64::from_le_bytes)?;
                return Some((u32_at(&self.0, 8), lost));
            }
            options = options.get(4 + len.next_multiple_of(4)..)?;
        }
        None
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n]))
}

/// Where blocks go.
enum Output {
    Standard,
    File(File),
}

impl Output {
    fn open(args: &DumpArgs) -> Result<Output> {
        if is_standard(args) {
            return Ok(Output::Standard);
        }
        // For its owner alone: the frames hold what is on the disks.
        let mut options = File::options();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&args.write);
        Ok(Output::File(file.with_context(|| {
            format!("cannot write {}", args.write.display())
        })?))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Output::Standard => output::bytes(bytes),
            Output::File(file) => file.write_all(bytes).context("cannot write the file"),
        }
    }
}

fn is_standard(args: &DumpArgs) -> bool {
    args.write.as_os_str() == "-"
}

pub(in crate::cli) fn dump(args: &DumpArgs) -> Result<ExitCode> {
    ensure!(
        !is_standard(args) || !stdout().is_terminal(),
        "pcapng is nothing to read: name a file with -w, or pipe it to `tshark -i -`"
    );
    let (interfaces, exports) = args.split();
    let mut client = ControlClient::new(&args.target)?;
    let interrupt = Interrupt::catch()?;
    let Dumping { interfaces } = client.ask(&ControlRequest::Dump(WantedFrames {
        interfaces,
        exports,
        frame_bytes: args.snaplen,
    }))?;
    // Not before the target has agreed: an older capture is kept until then.
    let mut out = Output::open(args)?;
    tracing::info!("frames on {}; Ctrl-C ends it", interfaces.join(", "));
    let mut reader = client.into_reader();
    let mut is_ending = false;
    let mut frames = 0;
    let mut lost = std::collections::BTreeMap::new();
    // What has come together is written together.
    let mut written = Vec::new();
    while args.count.is_none_or(|count| frames < count) {
        if reader.buffer().is_empty() {
            out.write(&written)?;
            written.clear();
            if interrupt.came() {
                // The target sends what there is by now and closes; who cannot wait asks again.
                if is_ending {
                    break;
                }
                is_ending = true;
                reader.get_ref().shutdown(Shutdown::Write)?;
            }
            if !is_readable(&reader)? {
                continue;
            }
        }
        let Some(block) = Block::read(&mut reader).context("the target's frames end in between")? else {
            break;
        };
        frames += u64::from(block.kind() == FRAME);
        lost.extend(block.lost());
        written.extend_from_slice(&block.0);
    }
    out.write(&written)?;
    let lost: u64 = lost.values().sum();
    tracing::info!("{frames} frames; {lost} more came faster than they were read");
    Ok(ExitCode::SUCCESS)
}

/// Waits for a moment.
fn is_readable(reader: &BufReader<UnixStream>) -> Result<bool> {
    let timeout = Timespec::try_from(LOOK).unwrap_or_default();
    let mut fds = [PollFd::from_borrowed_fd(reader.get_ref().as_fd(), PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        ready => Ok(ready? > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let len = (12 + body.len() as u32).to_le_bytes();
        [&kind.to_le_bytes()[..], &len, body, &len].concat()
    }

    #[test]
    fn blocks_are_told_apart_and_losses_read() {
        let statistics = [
            &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[4, 0, 8, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            &[5, 0, 8, 0, 2, 1, 0, 0, 0, 0, 0, 0],
            &[0; 4],
        ];
        let bytes = [block(FRAME, &[0; 20]), block(STATISTICS, &statistics.concat())].concat();
        let mut from = &bytes[..];
        let frame = Block::read(&mut from).unwrap().unwrap();
        assert_eq!((frame.kind(), frame.lost()), (FRAME, None));
        let told = Block::read(&mut from).unwrap().unwrap();
        assert_eq!(told.lost(), Some((3, 258)));
        assert!(Block::read(&mut from).unwrap().is_none());
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for bytes in [&[0; 8][..], &[0xff; 8], &[6, 0, 0], &[6, 0, 0, 0, 32, 0, 0, 0, 1]] {
            assert!(Block::read(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
        for len in [0, 4, 12, 13, 16] {
            let bytes = block(STATISTICS, &vec![0xff; len]);
            let block = Block::read(&mut &bytes[..]).unwrap().unwrap();
            assert_eq!(block.lost(), None);
        }
    }
}
