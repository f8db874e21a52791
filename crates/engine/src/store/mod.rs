//! Where sectors live, as the engine sees it.
//!
//! A [`Store`] answers at once whenever it can. What would block (a cold page, an fdatasync, direct I/O, a hole
//! punch) it starts and answers with [`Step::Later`]; the end arrives on the worker's [`Completions`] under the token
//! the caller gave. Stores know sectors and slices of bytes, never frames.
//!
//! Ordering is the caller's: the engine never lets two operations that overlap run at the same time when one of them
//! is a write, so a store need not lock ranges.

pub(crate) mod fault;
pub(crate) mod health;

use std::io;

pub use crate::store::fault::{Extent, Fault, FaultKind};

use crate::session::completion::{Completions, Token};
use crate::store::health::Health;

/// Bytes in a sector, everywhere in AoE.
pub const SECTOR_BYTES: u64 = aoe_common::wire::SECTOR_BYTES as u64;

/// How far an operation got in the call that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is done; for a read the data is in the slices.
    Done,
    /// It goes on; a [`Completion`](crate::Completion) with the caller's token will arrive on its [`Completions`].
    Later,
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It survives a crash of xblade (page cache); the committer puts it on the medium within the flush interval.
    WriteBack,
    /// It survives a power cut: on the medium before the operation is done (`sync`, FUA).
    Durable,
}

/// What a store can do beyond reads and writes; IDENTIFY tells initiators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// TRIM gives the space back.
    pub trim: bool,
    /// Trimmed sectors read as zeros, always.
    pub zeroes_after_trim: bool,
    /// log2 of logical sectors in a physical one: 3 for 4 KiB.
    pub physical_exponent: u8,
}

/// One exported run of sectors, shared by all workers that serve it.
///
/// `token` names the operation when it ends [`Step::Later`]. On an [`Event::Again`](crate::Event::Again) the caller repeats the same
/// call with the same token and fresh slices; the second call does not wait for the same thing again, though it may
/// for another (a page, then a commit).
/// Slices of a read or write add up to `extent.count` × 512 bytes, cut at any byte.
pub trait Store<C: Completions>: Send + Sync + std::fmt::Debug {
    /// Sectors served now.
    fn sectors(&self) -> u64;

    /// Looks at the backing object again and returns its size in sectors; a grown one is served from here on.
    ///
    /// # Errors
    /// When the backing object cannot be examined.
    fn refresh(&self) -> io::Result<u64>;

    /// What IDENTIFY may claim.
    fn traits(&self) -> Traits;

    /// Reads `extent` into `into`.
    ///
    /// # Errors
    /// [`FaultKind::Read`] or [`FaultKind::Gone`]; nothing of `into` may then be sent.
    fn read(
        &self,
        completions: &mut C,
        token: Token,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> Result<Step, Fault>;

    /// Writes `from` to `extent`.
    ///
    /// # Errors
    /// [`FaultKind::Write`] or [`FaultKind::Gone`].
    fn write(
        &self,
        completions: &mut C,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
    ) -> Result<Step, Fault>;

    /// Puts every finished write on the medium. Fails for as long as acknowledged writes are lost, see [`Store::health`].
    ///
    /// # Errors
    /// [`FaultKind::Write`] or [`FaultKind::Gone`].
    fn flush(&self, completions: &mut C, token: Token) -> Result<Step, Fault>;

    /// Gives the extents' space back (hole punch, discard). Only called where [`Traits::trim`] holds.
    ///
    /// # Errors
    /// [`FaultKind::Write`] or [`FaultKind::Gone`].
    fn trim(&self, completions: &mut C, token: Token, extents: &[Extent]) -> Result<Step, Fault>;

    /// Reads and discards `extent`, however long: READ VERIFY.
    ///
    /// # Errors
    /// [`FaultKind::Read`] or [`FaultKind::Gone`].
    fn verify(&self, completions: &mut C, token: Token, extent: Extent) -> Result<Step, Fault>;

    /// A hint, for the requests of a batch before the first is served: `extent` is about to be read or written. Takes
    /// nanoseconds and changes nothing.
    fn prefetch(&self, extent: Extent) {
        let _ = extent;
    }

    /// Figures for the operator, by name.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Looks whether the backing object is still there and whole; [`Store::health`] has what was found. May wait for a disk: never called
    /// on the data path.
    fn look_at_backing(&self) {}

    /// Whether all that was acknowledged is still there, and can be reached.
    fn health(&self) -> Health {
        Health::Healthy
    }

    /// For how many microseconds the oldest acknowledged write has been waiting to be put on the medium; 0: all are there. `None`: this
    /// store does not know, or has no medium.
    fn uncommitted_us(&self) -> Option<u64> {
        None
    }

    /// Whether nobody may be answered: another client has taken this one's place, as after its lock was broken, so that whatever is
    /// answered here may be old. That is for good. Or that cannot be ruled out now: the storage has not been heard for some time.
    /// Asked for each request: takes nanoseconds.
    fn is_silenced(&self) -> bool {
        false
    }

    /// Whether nobody is answered because the storage has not been heard for some time, and for no other reason: what a gateway of a
    /// failover group tells the others, which may still reach it.
    fn is_unheard(&self) -> bool {
        false
    }

    /// The operator knows of the lost writes: they are forgotten, and writes are taken again.
    fn accept_lost_writes(&self) {}

    /// Commits what is still unsynced and stops background work; called once, from outside the data path, may
    /// block.
    ///
    /// # Errors
    /// The failure of the last commit.
    fn close(&self) -> io::Result<()>;

    /// After [`Store::close`]: lets others have the backing object although somebody still holds this store. It serves nothing any
    /// more.
    fn unlock(&self) {}
}
