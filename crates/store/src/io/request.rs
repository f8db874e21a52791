//! What goes to the kernel as one request: a transfer, or several adjacent ones in one vectored read or write.

use std::sync::Arc;

use crate::io::continuation::PendingTransfer;
use crate::io::transfer::Transfer;

/// Transfers in one request.
const PIECES: usize = 128;
/// Bytes in one request of several transfers: a disk's usual limit is not far above.
const BYTES: u64 = 512 << 10;

/// Transfers that lie side by side in one file and go the same way, in ascending order; at least one.
#[derive(Debug)]
pub(crate) struct IoRequest {
    pub(crate) pieces: Vec<PendingTransfer>,
    end: u64,
}

impl IoRequest {
    /// A single one.
    pub(crate) fn new(pending: PendingTransfer) -> IoRequest {
        IoRequest {
            end: end(&pending.transfer),
            pieces: vec![pending],
        }
    }

    /// Takes in a transfer that begins where these end; or gives it back.
    pub(crate) fn join(&mut self, pending: PendingTransfer) -> Result<(), PendingTransfer> {
        let first = &self.pieces[0].transfer;
        let next = &pending.transfer;
        let fits = next.position + next.done as u64 == self.end
            && next.direction == first.direction
            && Arc::ptr_eq(&next.file, &first.file)
            && self.pieces.len() < PIECES
            && end(next) - first.position <= BYTES;
        if !fits {
            return Err(pending);
        }
        self.end = end(next);
        self.pieces.push(pending);
        Ok(())
    }

    /// Takes in the kernel's answer: what has ended, and what is to be asked again. Of several, those that did not come whole go
    /// again by themselves, each for an answer of its own.
    pub(crate) fn answered(
        mut self,
        result: std::io::Result<usize>,
        mut ended: impl FnMut(PendingTransfer),
        mut again: impl FnMut(IoRequest),
    ) {
        if self.pieces.len() == 1 {
            let mut pending = self.pieces.remove(0);
            return match pending.transfer.advance(result) {
                true => again(IoRequest::new(pending)),
                false => ended(pending),
            };
        }
        let mut left = result.unwrap_or(0);
        for mut pending in self.pieces {
            let transfer = &mut pending.transfer;
            let taken = left.min(transfer.buffer.len() - transfer.done);
            left -= taken;
            transfer.done += taken;
            match transfer.done == transfer.buffer.len() {
                true => ended(pending),
                false => again(IoRequest::new(pending)),
            }
        }
    }
}

fn end(transfer: &Transfer) -> u64 {
    transfer.position + transfer.buffer.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buffer::Buffer;
    use crate::io::continuation::{Continuation, Next};
    use crate::io::device::Device;
    use crate::io::transfer::Direction;

    #[derive(Debug)]
    struct Nobody;

    impl Continuation for Nobody {
        fn ended(self: Box<Self>, _: Transfer) -> Next {
            Next::Parked
        }
    }

    fn pending(
        file: &Arc<std::fs::File>,
        position: u64,
        len: usize,
        direction: Direction,
    ) -> PendingTransfer {
        PendingTransfer {
            device: Device::of(file, &crate::io::gate::Gates::default(), "test").unwrap(),
            transfer: Transfer::new(file, position, direction, Buffer::new(len, 1)),
            continuation: Box::new(Nobody),
        }
    }

    #[test]
    fn neighbours_join_and_strangers_do_not() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let other = Arc::new(tempfile::tempfile().unwrap());
        let mut request = IoRequest::new(pending(&file, 4096, 1024, Direction::Write));
        for (stranger, why) in [
            (pending(&file, 5632, 512, Direction::Write), "a gap"),
            (pending(&file, 3072, 1024, Direction::Write), "before it"),
            (pending(&file, 5120, 512, Direction::Read), "the other way"),
            (pending(&other, 5120, 512, Direction::Write), "another file"),
            (pending(&file, 5120, BYTES as usize, Direction::Write), "too long"),
        ] {
            assert!(request.join(stranger).is_err(), "{why}");
        }
        for n in 1..PIECES as u64 {
            request
                .join(pending(&file, 4096 + n * 1024, 1024, Direction::Write))
                .unwrap();
        }
        let full = pending(&file, 4096 + PIECES as u64 * 1024, 1024, Direction::Write);
        assert!(request.join(full).is_err(), "too many");
    }

    /// Positions that ended, and positions with progress that go again.
    fn answer(request: IoRequest, result: std::io::Result<usize>) -> (Vec<u64>, Vec<(u64, usize)>) {
        let (mut ended, mut again) = (Vec::new(), Vec::new());
        request.answered(
            result,
            |pending| ended.push(pending.transfer.position),
            |request| {
                assert_eq!(request.pieces.len(), 1, "by itself");
                let transfer = &request.pieces[0].transfer;
                again.push((transfer.position, transfer.done));
            },
        );
        (ended, again)
    }

    #[test]
    fn an_answer_is_shared_out_and_what_is_missing_goes_again_by_itself() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let request = || {
            let mut request = IoRequest::new(pending(&file, 0, 1024, Direction::Write));
            for position in [1024, 2048] {
                request
                    .join(pending(&file, position, 1024, Direction::Write))
                    .unwrap();
            }
            request
        };
        assert_eq!(answer(request(), Ok(3072)), (vec![0, 1024, 2048], vec![]));
        assert_eq!(
            answer(request(), Ok(1536)),
            (vec![0], vec![(1024, 512), (2048, 0)])
        );
        assert_eq!(answer(request(), Ok(0)).1.len(), 3);
        let error = std::io::Error::from_raw_os_error(libc::EIO);
        assert_eq!(
            answer(request(), Err(error)),
            (vec![], vec![(0, 0), (1024, 0), (2048, 0)])
        );
        let lone = || IoRequest::new(pending(&file, 0, 1024, Direction::Write));
        assert_eq!(answer(lone(), Ok(0)), (vec![0], vec![]), "the end of the file");
        let error = std::io::Error::from_raw_os_error(libc::EIO);
        assert_eq!(answer(lone(), Err(error)), (vec![0], vec![]), "its own error");
    }
}
