//! One read or write of a file, with its buffer and how far it got.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::io::buffer::Buffer;

/// What to do with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Fill the buffer.
    Read,
    /// Write the buffer.
    Write,
}

/// A transfer and how far it got.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) file: Arc<File>,
    pub(crate) position: u64,
    pub(crate) direction: Direction,
    pub(crate) buffer: Buffer,
    /// Bytes done. Less than the buffer without an error means that the file ends there.
    pub(crate) done: usize,
    /// Why it went no further.
    pub(crate) error: Option<io::Error>,
}

impl Transfer {
    pub(crate) fn new(file: &Arc<File>, position: u64, direction: Direction, buffer: Buffer) -> Transfer {
        Transfer {
            file: Arc::clone(file),
            position,
            direction,
            buffer,
            done: 0,
            error: None,
        }
    }

    /// Takes in the kernel's answer to one attempt; true if there is more to do.
    pub(crate) fn advance(&mut self, result: Result<usize, io::Error>) -> bool {
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => true,
            Err(error) => {
                self.error = Some(error);
                false
            }
            Ok(0) => false,
            Ok(n) => {
                self.done += n;
                self.done < self.buffer.len()
            }
        }
    }

    /// What kept a write from taking all its bytes.
    pub(crate) fn shortfall(&self) -> Option<io::Error> {
        match &self.error {
            Some(error) => Some(copy(error)),
            None if self.done < self.buffer.len() => Some(io::ErrorKind::WriteZero.into()),
            None => None,
        }
    }

    /// All of it, blocking.
    pub(crate) fn run(&mut self) {
        while {
            let at = self.position + self.done as u64;
            let rest = &mut self.buffer.bytes_mut()[self.done..];
            let result = match self.direction {
                Direction::Read => self.file.read_at(rest, at),
                Direction::Write => self.file.write_at(rest, at),
            };
            self.advance(result)
        } {}
    }
}

/// An [`io::Error`] cannot be cloned, but those of the system are numbers.
pub(crate) fn copy(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}
