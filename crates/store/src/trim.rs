//! TRIM, on a thread of the store: in pieces, so that neither commits nor writes wait for a long one.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::commit::machine::Epoch;
use crate::commit::{Committer, Task, Waiter};
use crate::completion_queue::CompletionQueue;
use crate::handle::Owed;
use crate::pages::Pages;
use engine::{Completions as _, Extent, Fault, FaultKind, SECTOR_BYTES, Token};

/// What is given back in one system call, which has the file to itself meanwhile.
const PIECE_SECTORS: u64 = (8 << 20) / SECTOR_BYTES;

/// A TRIM and what is left of it.
struct Trim<O> {
    owner: Arc<O>,
    committer: Arc<Committer>,
    owed: Owed,
    /// Its first sector.
    lba: u64,
    pieces: VecDeque<Extent>,
    /// When the first piece began: a commit that fails from then on takes it down.
    entered: Option<Epoch>,
}

/// Starts a TRIM of `extents`, which ends with a commit.
///
/// # Errors
/// While the store takes no writes.
pub(crate) fn trim<O: Pages + 'static>(
    queue: &CompletionQueue,
    owner: &Arc<O>,
    committer: &Arc<Committer>,
    token: Token,
    extents: &[Extent],
) -> Result<(), Fault> {
    let lba = extents.first().map_or(0, |extent| extent.lba);
    committer.enter(lba)?;
    let trim = Trim {
        owner: Arc::clone(owner),
        committer: Arc::clone(committer),
        owed: Owed::new(queue.handle(), token, FaultKind::Write),
        lba,
        pieces: extents.iter().copied().flat_map(pieces).collect(),
        entered: None,
    };
    trim.go_on();
    Ok(())
}

impl<O: Pages + 'static> Trim<O> {
    /// One piece after the other, each in its turn among the store's other jobs.
    fn go_on(mut self) {
        let pool = Arc::clone(&self.owner.backing().device().pool);
        pool.run(move || match self.punch() {
            Ok(entered) if self.pieces.is_empty() => self.commit(entered),
            Ok(_) => self.go_on(),
            Err(fault) => self.owed.finish(Err(fault)),
        });
    }

    /// The next piece, unless writes are refused by now. Gives the stamp of the whole TRIM.
    fn punch(&mut self) -> Result<Epoch, Fault> {
        let now = self.committer.enter(self.lba)?;
        let entered = *self.entered.get_or_insert(now);
        if let Some(piece) = self.pieces.pop_front() {
            let backing = self.owner.backing();
            // Before it as well: the pages go at its beginning, and whoever reads one in waits for its end.
            backing
                .punch(piece, || self.owner.gone(piece))
                .map_err(|error| backing.fault(FaultKind::Write, piece.lba, error))?;
            self.owner.gone(piece);
        }
        Ok(entered)
    }

    fn commit(self, entered: Epoch) {
        drop(self.owner);
        let (handle, token) = self.owed.hand_over();
        let task = Task::Write(self.lba, entered);
        self.committer.submit([Waiter::new(handle, token, task)]);
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
