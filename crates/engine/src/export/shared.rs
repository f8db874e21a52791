//! A value that every request looks at and that seldom changes.

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use std::sync::{PoisonError, TryLockError};

/// A readers-writer lock in shards, each on cache lines of its own: threads that read take different ones. To change the value takes
/// all of them.
#[derive(Debug)]
pub(crate) struct ReadMostly<T>(ShardedLock<T>);

impl<T> ReadMostly<T> {
    pub(crate) fn new(value: T) -> ReadMostly<T> {
        ReadMostly(ShardedLock::new(value))
    }

    /// The value as it is while the guard lives. Not to be taken twice by one thread.
    #[inline]
    pub(crate) fn read(&self) -> ShardedLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`ReadMostly::read`]; `None` where that would wait.
    pub(crate) fn try_read(&self) -> Option<ShardedLockReadGuard<'_, T>> {
        match self.0.try_read() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The value for oneself, to change it.
    pub(crate) fn write(&self) -> ShardedLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
