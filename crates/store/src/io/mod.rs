//! I/O on a file without a worker waiting for it: a transfer with its buffer, who carries it out (io_uring, or threads where that
//! may not be used), and what is known of the device meanwhile.

pub(crate) mod buffer;
pub(crate) mod continuation;
pub(crate) mod device;
pub(crate) mod device_queue;
pub(crate) mod gate;
pub(crate) mod pool;
pub(crate) mod request;
pub(crate) mod returns;
pub(crate) mod threads;
pub(crate) mod transfer;
pub(crate) mod uring;
