//! What a worker's queue remembers of overlays' operations that were put off: bits to set at the end, parts of reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use engine::{Completion, Event, Extent, Fault, Token};

use super::marks::Marks;
use super::space::Full;
use crate::commit::machine::Epoch;
use crate::commit::{Committer, Task};

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

/// How an operation of a persistent overlay ends, when its data is in the delta and its bits are set.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) committer: Arc<Committer>,
    /// From before the data entered the cache.
    pub(crate) entered: Epoch,
    /// Waits for a commit.
    pub(crate) durable: bool,
}

impl Ending {
    /// What is waited for; `None`: nothing, it may be acknowledged.
    ///
    /// # Errors
    /// When a commit has failed meanwhile: the write may be lost.
    pub(crate) fn of(&self, extent: Extent, now: Instant) -> Result<Option<Task>, Fault> {
        if self.durable || self.committer.is_late(now) {
            return Ok(Some(Task::Write(extent.lba, self.entered)));
        }
        self.committer.acknowledge(extent, self.entered)?;
        Ok(None)
    }
}

/// What an event of a store means for the caller of an overlay.
pub(crate) enum Followed {
    /// This.
    Tell(Completion),
    /// It waits for a commit yet.
    Commit(Arc<Committer>, Token, Task),
}

#[derive(Debug)]
enum Operation {
    Write(Arc<Marks>, Extent, Option<Ending>),
    Trim(Arc<Marks>, Vec<Extent>, Option<Ending>),
    Gather(Gather),
    /// Sectors of the image and of the delta, to be counted when they are there.
    Read(Arc<Marks>, u64, u64),
}

/// The operations of one queue.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    operations: HashMap<Token, Operation>,
}

impl Deferred {
    /// A write was put off.
    pub(crate) fn write(&mut self, token: Token, marks: &Arc<Marks>, extent: Extent, ending: Option<Ending>) {
        let operation = Operation::Write(Arc::clone(marks), extent, ending);
        self.operations.insert(token, operation);
    }

    /// A TRIM was put off.
    pub(crate) fn trim(
        &mut self,
        token: Token,
        marks: &Arc<Marks>,
        extents: &[Extent],
        ending: Option<Ending>,
    ) {
        let operation = Operation::Trim(Arc::clone(marks), extents.to_vec(), ending);
        self.operations.insert(token, operation);
    }

    /// A read of one layer was put off: so many sectors of the image or of the delta.
    pub(crate) fn read(&mut self, token: Token, marks: &Arc<Marks>, golden: u64, delta: u64) {
        let operation = Operation::Read(Arc::clone(marks), golden, delta);
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

    /// An operation goes on or ends: what it means for its caller. `now` is about now.
    #[inline]
    pub(crate) fn follow(&mut self, completion: Completion, now: Instant) -> Followed {
        match self.operations.is_empty() {
            true => Followed::Tell(completion),
            false => self.look_up(completion, now),
        }
    }

    fn look_up(&mut self, Completion { token, event }: Completion, now: Instant) -> Followed {
        let event = match (self.operations.remove(&token), event) {
            (Some(Operation::Write(marks, extent, ending)), Event::Finished(Ok(_))) => {
                let marked = marks.written(extent);
                return end(token, marked, extent, ending, now);
            }
            (Some(Operation::Trim(marks, extents, ending)), Event::Finished(Ok(_))) => {
                let marked = marks.trimmed(&extents);
                let first = extents.first().copied().unwrap_or(Extent { lba: 0, count: 0 });
                return end(token, marked, first, ending, now);
            }
            (Some(Operation::Read(marks, golden, delta)), event) => {
                // One that is to be repeated is counted then.
                if matches!(event, Event::Finished(Ok(_))) {
                    marks.counters().read(golden, delta);
                }
                event
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
            (Some(Operation::Write(marks, ..)), Event::Finished(Err(fault))) => {
                marks.space().note_failure(&fault.source, Full::Delta);
                Event::Finished(Err(fault))
            }
            // A failure, or a write that is asked for again.
            (_, event) => event,
        };
        Followed::Tell(Completion { token, event })
    }
}

/// The data is in the delta, and its bits are set.
fn end(
    token: Token,
    marked: Result<(), Fault>,
    extent: Extent,
    ending: Option<Ending>,
    now: Instant,
) -> Followed {
    let wish = marked.and_then(|()| match &ending {
        None => Ok(None),
        Some(ending) => ending.of(extent, now),
    });
    match (wish, ending) {
        (Ok(Some(task)), Some(ending)) => Followed::Commit(ending.committer, token, task),
        (result, _) => Followed::Tell(Completion {
            token,
            event: Event::Finished(result.map(|_| None)),
        }),
    }
}
