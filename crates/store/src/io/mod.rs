//! One piece of I/O on a file: its buffer, and who carries it out (io_uring, or threads where that may not be used).

pub(crate) mod buffer;
pub(crate) mod transfer;
pub(crate) mod uring;
