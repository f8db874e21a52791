//! TRIM, on a thread of the store: in pieces, so that neither commits nor writes wait for a long one.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::commit::{Committer, Task, Waiter};
use crate::completion_queue::CompletionQueue;
use crate::handle::QueueHandle;
use crate::pages::Pages;
use engine::{
    Completion, CompletionHandle as _, Completions as _, Event, Extent, FaultKind, SECTOR_BYTES, Token,
};

/// What is given back in one system call, which has the file to itself meanwhile.
const PIECE_SECTORS: u64 = (8 << 20) / SECTOR_BYTES;

/// A TRIM and what is left of it.
struct Trim<O> {
    owner: Arc<O>,
    committer: Arc<Committer>,
    handle: QueueHandle,
    token: Token,
    /// Its first sector.
    lba: u64,
    pieces: VecDeque<Extent>,
}

/// Starts a TRIM of `extents`, which ends with a commit.
pub(crate) fn trim<O: Pages + 'static>(
    queue: &CompletionQueue,
    owner: &Arc<O>,
    committer: &Arc<Committer>,
    token: Token,
    extents: &[Extent],
) {
    let trim = Trim {
        owner: Arc::clone(owner),
        committer: Arc::clone(committer),
        handle: queue.handle(),
        token,
        lba: extents.first().map_or(0, |extent| extent.lba),
        pieces: extents.iter().copied().flat_map(pieces).collect(),
    };
    trim.go_on();
}

impl<O: Pages + 'static> Trim<O> {
    /// One piece after the other, each in its turn among the store's other jobs.
    fn go_on(mut self) {
        let pool = Arc::clone(&self.owner.backing().device().pool);
        pool.run(move || {
            let backing = self.owner.backing();
            let Some(piece) = self.pieces.pop_front() else {
                return self.commit();
            };
            match backing.punch(piece) {
                Ok(()) if self.pieces.is_empty() => self.commit(),
                Ok(()) => self.go_on(),
                Err(error) => self.handle.post(Completion {
                    token: self.token,
                    event: Event::Finished(Err(backing.fault(FaultKind::Write, piece.lba, error))),
                }),
            }
        });
    }

    fn commit(self) {
        drop(self.owner);
        self.committer.submit([Waiter {
            handle: self.handle,
            token: self.token,
            task: Task::Write(self.lba),
        }]);
    }
}

/// An extent cut at multiples of a piece.
fn pieces(extent: Extent) -> impl Iterator<Item = Extent> {
    let mut lba = extent.lba;
    std::iter::from_fn(move || {
        let count = (extent.end() - lba).min(PIECE_SECTORS - lba % PIECE_SECTORS);
        let piece = Extent { lba, count };
        lba += count;
        (count > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_short_and_cover_the_extent() {
        for (lba, count) in [
            (0, 0),
            (5, 1),
            (0, PIECE_SECTORS),
            (7, 3 * PIECE_SECTORS),
            (PIECE_SECTORS - 1, 2),
        ] {
            let extent = Extent { lba, count };
            let mut next = lba;
            for piece in pieces(extent) {
                assert!(
                    piece.lba == next && (1..=PIECE_SECTORS).contains(&piece.count),
                    "{piece:?}"
                );
                next = piece.end();
            }
            assert_eq!(next, extent.end());
        }
    }
}
