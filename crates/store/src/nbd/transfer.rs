//! What a connection's sender and receiver do.

use std::collections::HashMap;
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};

use arrayvec::ArrayVec;

use super::partial::Partial;
use super::session::{Shared, tell};
use super::stream::Stream;
use super::table::{Message, SHUTTING_DOWN};
use super::wire::{Chunk, ChunkKind, Head, NbdCommand, no_reply, read_chunk};

/// Requests that are sent in one system call.
const BATCH: usize = 16;
/// Bytes that a connection reads and writes at once.
const BUFFER_BYTES: usize = 256 << 10;

impl Shared {
    /// Sends what there is to be sent, until the connection ends.
    pub(super) fn send(&self, stream: &Stream) {
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, stream);
        loop {
            let mut batch = ArrayVec::<Message, BATCH>::new();
            let mut state = self.state.lock();
            while batch.is_empty() && !state.is_over() {
                batch.extend(std::iter::from_fn(|| state.table.next()).take(BATCH));
                if batch.is_empty() {
                    self.work.wait(&mut state);
                }
            }
            if state.is_over() {
                let closed = state.closed;
                drop(state);
                // So that it does not take the end for a failure.
                let goodbye = Head {
                    command: NbdCommand::Disconnect,
                    cookie: 0,
                    offset: 0,
                    length: 0,
                };
                let _ = closed.then(|| {
                    writer
                        .write_all(&goodbye.to_bytes())
                        .and_then(|()| writer.flush())
                });
                return;
            }
            drop(state);
            let sent = batch.iter().try_for_each(|message| {
                writer.write_all(&message.head.to_bytes())?;
                message
                    .payload
                    .iter()
                    .try_for_each(|payload| writer.write_all(payload))
            });
            if let Err(error) = sent.and_then(|()| writer.flush()) {
                return self.broken(error.to_string());
            }
        }
    }

    /// Takes replies, until the connection ends.
    pub(super) fn receive(&self, stream: &Stream) {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut partial = HashMap::new();
        loop {
            let received =
                read_chunk(&mut reader).and_then(|chunk| self.take(chunk, &mut reader, &mut partial));
            match received {
                Ok(true) => {}
                Ok(false) => return self.broken("the server shuts down".into()),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return self.broken("the server ended it".into());
                }
                Err(error) => return self.broken(error.to_string()),
            }
        }
    }

    /// Takes a part of a reply; false when the server is about to end.
    fn take(
        &self,
        chunk: Chunk,
        reader: &mut BufReader<&Stream>,
        partial: &mut HashMap<u64, Partial>,
    ) -> io::Result<bool> {
        let cookie = chunk.cookie;
        let unasked = || no_reply(format!("a reply to request {cookie}, which waits for none"));
        let expected = self.state.lock().table.expects(cookie).ok_or_else(unasked)?;
        let mut reply = partial.remove(&cookie).unwrap_or_else(|| Partial::new(expected));
        match chunk.kind {
            ChunkKind::None => {}
            ChunkKind::Simple => reader.read_exact(reply.part(reply.at, expected.1)?)?,
            ChunkKind::Data { offset, length } => reader.read_exact(reply.part(offset, length)?)?,
            ChunkKind::Hole { offset, length } => reply.part(offset, length)?.fill(0),
            ChunkKind::Error(error) => reply.error = Some(error),
        }
        if !chunk.last {
            partial.insert(cookie, reply);
            return Ok(true);
        }
        let outcome = reply.outcome()?;
        let goes_on = outcome != Err(SHUTTING_DOWN);
        let mut state = self.state.lock();
        let told = state.table.answered(cookie, outcome);
        let drained = state.table.is_drained();
        drop(state);
        if drained {
            self.attend.notify_all();
        }
        // A flush, or the next part, may have become due.
        self.work.notify_one();
        tell(told);
        Ok(goes_on)
    }
}
