//! A store that can be told what to do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::completions::{MemCompletions, MemHandle};
use crate::{
    Completion, CompletionHandle as _, Completions as _, Durability, Event, Extent, Fault, FaultKind, Step,
    Store, Token, Traits,
};

/// How a [`MemStore`] treats its next operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    /// At once.
    Prompt,
    /// Later, when [`MemStore::finish`] is called.
    Defer,
    /// With a fault of this kind at this sector.
    Fail(FaultKind, u64),
    /// With a panic.
    Panic,
}

/// An operation that a [`MemStore`] has put off.
#[derive(Debug)]
struct Deferred {
    handle: MemHandle,
    token: Token,
    operation: Operation,
}

#[derive(Debug)]
enum Operation {
    Read(Extent),
    Write(Extent, Vec<u8>),
    Other(Vec<Extent>),
}

impl Operation {
    fn spans(&self) -> (bool, Vec<Extent>) {
        match self {
            Operation::Read(extent) => (false, vec![*extent]),
            Operation::Write(extent, _) => (true, vec![*extent]),
            Operation::Other(extents) => (true, extents.clone()),
        }
    }
}

#[derive(Debug)]
pub struct Inner {
    pub image: Vec<u8>,
    pub mode: StoreMode,
    /// Put-off reads end with `Again` rather than with their bytes.
    pub again: bool,
    deferred: Vec<Deferred>,
    /// Operations whose `Again` was posted: the repeated call is done at once.
    granted: Vec<(Token, MemHandle)>,
    /// What was asked for, in order.
    pub log: Vec<String>,
    pub refresh_fails: bool,
}

/// A store of plain memory that checks the caller's promise: nothing overlaps a write in flight.
#[derive(Debug)]
pub struct MemStore {
    pub inner: Mutex<Inner>,
    pub traits: Traits,
    fenced: AtomicBool,
    unheard: AtomicBool,
}

fn range(extent: Extent) -> std::ops::Range<usize> {
    let first = usize::try_from(extent.lba).unwrap() * 512;
    first..first + usize::try_from(extent.count).unwrap() * 512
}

impl MemStore {
    pub fn new(sectors: usize) -> Arc<MemStore> {
        let mut image = Vec::new();
        for sector in 0..sectors as u64 {
            for _ in 0..32 {
                image.extend(sector.to_le_bytes());
                image.extend(b"AoEsectr");
            }
        }
        let inner = Inner {
            image,
            mode: StoreMode::Prompt,
            again: false,
            deferred: Vec::new(),
            granted: Vec::new(),
            log: Vec::new(),
            refresh_fails: false,
        };
        let traits = Traits {
            trim: true,
            zeroes_after_trim: true,
            physical_exponent: 3,
        };
        Arc::new(MemStore {
            inner: Mutex::new(inner),
            traits,
            fenced: AtomicBool::new(false),
            unheard: AtomicBool::new(false),
        })
    }

    /// Another client takes its place.
    pub fn fence(&self) {
        self.fenced.store(true, Ordering::Relaxed);
    }

    /// What it stands for is not heard any more.
    pub fn lose_storage(&self) {
        self.unheard.store(true, Ordering::Relaxed);
    }

    pub fn mode(&self, mode: StoreMode) {
        self.inner.lock().mode = mode;
    }

    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().log)
    }

    pub fn deferred(&self) -> usize {
        self.inner.lock().deferred.len()
    }

    /// Gives up what was put off, as the end of the worker that it was for does.
    pub fn abandon(&self) {
        self.inner.lock().deferred.clear();
    }

    /// Ends the `n`th put-off operation, well or with a fault.
    pub fn finish(&self, n: usize, fault: Option<FaultKind>) {
        let mut inner = self.inner.lock();
        let Deferred {
            handle,
            token,
            operation,
        } = inner.deferred.remove(n);
        let lba = operation.spans().1.first().map_or(0, |extent| extent.lba);
        if let Some(kind) = fault {
            let fault = Fault {
                kind,
                lba,
                source: io::Error::other("as told"),
            };
            handle.post(Completion {
                token,
                event: Event::Finished(Err(fault)),
            });
            return;
        }
        let again = inner.again;
        let bytes = match operation {
            Operation::Read(extent) => Some(inner.image[range(extent)].to_vec().into_boxed_slice()),
            Operation::Write(extent, bytes) => {
                inner.image[range(extent)].copy_from_slice(&bytes);
                None
            }
            Operation::Other(extents) => {
                for extent in extents {
                    inner.image[range(extent)].fill(0);
                }
                None
            }
        };
        if again {
            inner.granted.push((token, handle.clone()));
            handle.post(Completion {
                token,
                event: Event::Again,
            });
        } else {
            handle.post(Completion {
                token,
                event: Event::Finished(Ok(bytes)),
            });
        }
    }

    fn start(
        &self,
        completions: &MemCompletions,
        token: Token,
        name: &str,
        operation: Operation,
    ) -> Result<Step, Fault> {
        let mut inner = self.inner.lock();
        let (writes, spans) = operation.spans();
        let lba = spans.first().map_or(0, |extent| extent.lba);
        let handle = completions.handle();
        let grant = (token, handle.clone());
        let granted = inner.granted.iter().position(|known| *known == grant);
        if let Some(at) = granted {
            inner.granted.remove(at);
        }
        for other in &inner.deferred {
            let (other_writes, other_spans) = other.operation.spans();
            for a in &spans {
                for b in &other_spans {
                    let overlap = a.lba < b.lba + b.count && b.lba < a.lba + a.count;
                    assert!(
                        !(overlap && (writes || other_writes)),
                        "{name} overlaps {:?}",
                        other.operation
                    );
                }
            }
        }
        inner.log.push(format!(
            "{name} {lba}+{}",
            spans.first().map_or(0, |extent| extent.count)
        ));
        match inner.mode {
            StoreMode::Panic => panic!("on purpose, for a test"),
            StoreMode::Fail(kind, lba) => Err(Fault {
                kind,
                lba,
                source: io::Error::other("as told"),
            }),
            StoreMode::Defer if granted.is_none() => {
                inner.deferred.push(Deferred {
                    handle,
                    token,
                    operation,
                });
                Ok(Step::Later)
            }
            _ => Ok(Step::Done),
        }
    }
}

impl Store<MemCompletions> for MemStore {
    fn sectors(&self) -> u64 {
        self.inner.lock().image.len() as u64 / 512
    }

    fn refresh(&self) -> io::Result<u64> {
        if self.inner.lock().refresh_fails {
            return Err(io::Error::other("as told"));
        }
        Ok(self.sectors())
    }

    fn traits(&self) -> Traits {
        self.traits
    }

    fn read(
        &self,
        completions: &mut MemCompletions,
        token: Token,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        let step = self.start(completions, token, "read", Operation::Read(extent))?;
        if step == Step::Done {
            let inner = self.inner.lock();
            let mut bytes = inner.image[range(extent)].iter();
            let total: usize = into.iter().map(|piece| piece.len()).sum();
            assert_eq!(total, bytes.len(), "slices must add up to the extent");
            for byte in into.iter_mut().flat_map(|piece| piece.iter_mut()) {
                *byte = *bytes.next().unwrap();
            }
        }
        Ok(step)
    }

    fn write(
        &self,
        completions: &mut MemCompletions,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
    ) -> Result<Step, Fault> {
        let bytes = from.concat();
        assert_eq!(
            bytes.len(),
            range(extent).len(),
            "slices must add up to the extent"
        );
        let name = if durability == Durability::Durable {
            "write durable"
        } else {
            "write"
        };
        let step = self.start(completions, token, name, Operation::Write(extent, bytes.clone()))?;
        if step == Step::Done {
            self.inner.lock().image[range(extent)].copy_from_slice(&bytes);
        }
        Ok(step)
    }

    fn flush(&self, completions: &mut MemCompletions, token: Token) -> Result<Step, Fault> {
        self.start(completions, token, "flush", Operation::Other(Vec::new()))
    }

    fn trim(
        &self,
        completions: &mut MemCompletions,
        token: Token,
        extents: &[Extent],
    ) -> Result<Step, Fault> {
        let step = self.start(completions, token, "trim", Operation::Other(extents.to_vec()))?;
        if step == Step::Done {
            for extent in extents {
                self.inner.lock().image[range(*extent)].fill(0);
            }
        }
        Ok(step)
    }

    fn verify(&self, completions: &mut MemCompletions, token: Token, extent: Extent) -> Result<Step, Fault> {
        self.start(completions, token, "verify", Operation::Read(extent))
    }

    fn is_silenced(&self) -> bool {
        self.fenced.load(Ordering::Relaxed) || self.unheard.load(Ordering::Relaxed)
    }

    fn is_unheard(&self) -> bool {
        self.unheard.load(Ordering::Relaxed) && !self.fenced.load(Ordering::Relaxed)
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}
