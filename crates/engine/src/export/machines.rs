//! Who has which disk, where each machine has one of its own behind one address.

use std::fmt;
use std::sync::Arc;

use aoe_common::Mac;

/// What there is for a machine that looks for its disk.
#[derive(Debug)]
pub enum SeenDisk<E> {
    /// This.
    Ready(Arc<E>),
    /// Nothing yet. It is made when the machine uses it.
    Unmade,
    /// Nothing, or nothing yet: the machine asks again.
    Nothing,
}

/// The machines of an export and their disks, which are exports `E` of their own. Calls come from workers and must not block.
pub trait Machines<E>: Send + Sync + fmt::Debug {
    /// The export of the machine that `source` belongs to. `None`: there is none, or none yet; it is being made then, and the
    /// machine asks again.
    fn instance(&self, source: Mac) -> Option<Arc<E>>;

    /// The same for who only looks whether there is a disk: none is made for a machine that may be anybody.
    fn look(&self, source: Mac) -> SeenDisk<E>;

    /// The boot firmware of `source`'s machine looks for its disk, so nothing else runs there: the disk may begin anew, where
    /// there is one. False: it is not ready; the machine asks again.
    fn boots(&self, source: Mac) -> bool;

    /// Requests that all machines' exports have in flight.
    fn in_flight(&self) -> usize;

    /// The export that everybody sees is paused or served again: that holds for all, and for those that are made later.
    fn set_paused(&self, paused: bool);
}
