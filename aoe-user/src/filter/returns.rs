//! Frames that go back to the network stack: a request for every shelf or slot is for other targets on this host, too.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};

use aoe_common::rules::RETURNED_BYTES;
use aya::Ebpf;

use super::inject::live_frame;
use super::{FilterError, load_small};

const PROGRAM: &str = "aoe_pass";

/// Puts copies of frames on an interface's receive path, behind the driver, by running a program that passes everything with a
/// live frame (Linux 5.18).
pub(crate) struct PassedFrames {
    ebpf: Ebpf,
    ifindex: u32,
    mark: u64,
}

impl PassedFrames {
    /// For the interface on which a [`Filter`](super::Filter) knows such frames by `mark`
    /// ([`Filter::mark`](super::Filter::mark)).
    pub(crate) fn load(ifindex: u32, mark: u64) -> Result<PassedFrames, FilterError> {
        let ebpf = load_small(PROGRAM, &["SOCKETS"])?;
        Ok(PassedFrames { ebpf, ifindex, mark })
    }

    /// Has the network stack receive this frame, with the mark behind it.
    ///
    /// # Errors
    /// When the interface is gone, the frame is larger than a page, or the kernel refuses.
    pub(crate) fn put_back(&mut self, frame: &[u8]) -> Result<(), FilterError> {
        let mut bytes = Vec::with_capacity(frame.len() + RETURNED_BYTES);
        bytes.extend_from_slice(frame);
        bytes.extend_from_slice(&self.mark.to_be_bytes());
        live_frame(&mut self.ebpf, PROGRAM, &bytes, self.ifindex)
            .map_err(|error| FilterError::load(&error.into()))
    }
}

/// A mark that nobody on the wire can know.
pub(super) fn new_mark() -> u64 {
    // The standard library's hash has a random key.
    RandomState::new().build_hasher().finish().max(1)
}

impl std::fmt::Debug for PassedFrames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PassedFrames")
            .field("ifindex", &self.ifindex)
            .finish_non_exhaustive()
    }
}
