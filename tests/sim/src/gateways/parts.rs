//! An operation of a store, as jobs for several objects.

use std::io;
use std::sync::Arc;

use engine::{Completion, Event, Fault, FaultKind, SECTOR_BYTES, Token};

use super::answer::Answer;
use super::client::Client;
use crate::bus::Handle;

/// What is left of one.
#[derive(Debug)]
pub(super) struct Parts {
    client: Arc<Client>,
    handle: Handle,
    token: Token,
    lba: u64,
    left: usize,
    /// Room for what is read.
    bytes: Option<Vec<u8>>,
    failed: bool,
}

impl Parts {
    /// One of so many jobs; `read`: how many sectors it brings.
    pub(super) fn new(
        client: &Arc<Client>,
        (handle, token): (Handle, Token),
        lba: u64,
        jobs: usize,
        read: Option<u64>,
    ) -> Parts {
        Parts {
            client: Arc::clone(client),
            handle,
            token,
            lba,
            left: jobs,
            bytes: read.map(|sectors| vec![0; (sectors * SECTOR_BYTES) as usize]),
            failed: false,
        }
    }

    /// The job for the part from this sector of it on has come to its end.
    pub(super) fn end(&mut self, at: u64, answer: Answer) {
        match (answer, &mut self.bytes) {
            (Answer::Bytes(part), Some(bytes)) => {
                bytes[(at * SECTOR_BYTES) as usize..][..part.len()].copy_from_slice(&part);
            }
            (Answer::ShutOut, _) => self.failed = true,
            _ => {}
        }
        self.left -= 1;
        if self.left > 0 {
            return;
        }
        let result = match self.failed {
            true => Err(Fault {
                kind: FaultKind::Gone,
                lba: self.lba,
                source: io::Error::other("shut out, as simulated"),
            }),
            false => Ok(self.bytes.take().map(Vec::into_boxed_slice)),
        };
        let completion = Completion {
            token: self.token,
            event: Event::Finished(result),
        };
        self.client.deliver(&self.handle, completion);
    }
}
