//! What a worker's queue remembers of overlays' operations that were put off: bits to set at the end, parts of reads.

use std::collections::HashMap;
use std::sync::Arc;

use engine::{Completion, Event, Extent, Token};

use super::marks::Marks;

/// Whose part of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Golden,
    Delta,
}

/// A read from both layers, as far as it has come.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    golden: Option<Box<[u8]>>,
    delta: Option<Box<[u8]>>,
    waits_for: Option<Layer>,
}

impl Gather {
    /// Whether this part is there.
    pub(crate) fn has(&self, layer: Layer) -> bool {
        match layer {
            Layer::Golden => self.golden.is_some(),
            Layer::Delta => self.delta.is_some(),
        }
    }

    /// A part is there.
    pub(crate) fn put(&mut self, layer: Layer, bytes: Box<[u8]>) {
        match layer {
            Layer::Golden => self.golden = Some(bytes),
            Layer::Delta => self.delta = Some(bytes),
        }
    }

    /// A part was put off.
    pub(crate) fn waiting_for(mut self, layer: Layer) -> Gather {
        self.waits_for = Some(layer);
        self
    }

    /// Golden, then delta.
    pub(crate) fn into_layers(self) -> (Box<[u8]>, Box<[u8]>) {
        (self.golden.unwrap_or_default(), self.delta.unwrap_or_default())
    }
}

#[derive(Debug)]
enum Operation {
    Write(Arc<Marks>, Extent),
    Trim(Arc<Marks>, Vec<Extent>),
    Gather(Gather),
}

/// The operations of one queue.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    operations: HashMap<Token, Operation>,
}

impl Deferred {
    /// A write was put off.
    pub(crate) fn write(&mut self, token: Token, marks: &Arc<Marks>, extent: Extent) {
        let operation = Operation::Write(Arc::clone(marks), extent);
        self.operations.insert(token, operation);
    }

    /// A TRIM was put off.
    pub(crate) fn trim(&mut self, token: Token, marks: &Arc<Marks>, extents: &[Extent]) {
        let operation = Operation::Trim(Arc::clone(marks), extents.to_vec());
        self.operations.insert(token, operation);
    }

    /// A part of a read was put off.
    pub(crate) fn gather(&mut self, token: Token, gather: Gather) {
        self.operations.insert(token, Operation::Gather(gather));
    }

    /// What there is of a read that is asked for again; nothing at its first call.
    pub(crate) fn take(&mut self, token: Token) -> Gather {
        match self.operations.remove(&token) {
            Some(Operation::Gather(gather)) => gather,
            _ => Gather::default(),
        }
    }

    /// An operation goes on or ends: what it means for its caller.
    #[inline]
    pub(crate) fn follow(&mut self, completion: Completion) -> Completion {
        match self.operations.is_empty() {
            true => completion,
            false => self.look_up(completion),
        }
    }

    fn look_up(&mut self, Completion { token, event }: Completion) -> Completion {
        let event = match (self.operations.remove(&token), event) {
            (Some(Operation::Write(marks, extent)), Event::Finished(Ok(_))) => {
                Event::Finished(marks.written(extent).map(|()| None))
            }
            (Some(Operation::Trim(marks, extents)), Event::Finished(Ok(_))) => {
                Event::Finished(marks.trimmed(&extents).map(|()| None))
            }
            (Some(Operation::Gather(mut gather)), Event::Finished(Ok(bytes))) => {
                // Only what waits for a part is remembered.
                if let Some(layer) = gather.waits_for.take() {
                    gather.put(layer, bytes.unwrap_or_default());
                }
                self.gather(token, gather);
                // The call is repeated, and finds the part here.
                Event::Again
            }
            (Some(Operation::Gather(gather)), Event::Again) => {
                self.gather(token, gather);
                Event::Again
            }
            // A failure, or a write that is asked for again.
            (_, event) => event,
        };
        Completion { token, event }
    }
}
