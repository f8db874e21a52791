//! What a store is asked to do for a request, and how its end is told.

use xxhash_rust::xxh3::Xxh3Default;

use super::ata::{Action, Registers};
use super::link::Link;
use super::order::{Class, Likeness, Scope, Span};
use super::request::Request;
use super::{Export, ata, scatter};
use crate::completion::{Completions, Token};
use crate::store::{Durability, Extent, Fault, FaultKind, Step};

/// A store operation.
#[derive(Debug)]
pub(super) enum Work {
    Read {
        extent: Extent,
        extended: bool,
    },
    Write {
        extent: Extent,
        extended: bool,
        durability: Durability,
    },
    Verify {
        extent: Extent,
        extended: bool,
    },
    Flush,
    Trim(Vec<Extent>),
}

/// Why an operation did not go on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The link has no memory for the reply: silence, the initiator asks again.
    NoMemory,
    /// The store failed.
    Fault(Fault),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        Trouble::Fault(fault)
    }
}

impl Work {
    /// The operation behind a data action; gives others back.
    pub fn of(action: Action) -> Result<Work, Action> {
        match action {
            Action::Read { extent, extended } => Ok(Work::Read { extent, extended }),
            Action::Write {
                extent,
                extended,
                durability,
            } => Ok(Work::Write {
                extent,
                extended,
                durability,
            }),
            Action::Verify { extent, extended } => Ok(Work::Verify { extent, extended }),
            Action::Flush => Ok(Work::Flush),
            Action::Trim(extents) => Ok(Work::Trim(extents)),
            other => Err(other),
        }
    }

    /// What it conflicts with.
    pub fn scope(&self) -> Scope {
        match self {
            Work::Read { extent, .. } | Work::Verify { extent, .. } => Scope {
                class: Class::Read,
                span: Span::of(*extent),
            },
            Work::Write { extent, .. } => Scope {
                class: Class::Write,
                span: Span::of(*extent),
            },
            Work::Flush => Scope {
                class: Class::Flush,
                span: Span::NONE,
            },
            Work::Trim(extents) => Scope {
                class: Class::Write,
                span: Span::around(extents),
            },
        }
    }

    /// The extent that error registers can tell of, and whether in 48 bits.
    pub fn extent(&self) -> Option<(Extent, bool)> {
        match *self {
            Work::Read { extent, extended }
            | Work::Write { extent, extended, .. }
            | Work::Verify { extent, extended } => Some((extent, extended)),
            Work::Flush | Work::Trim(_) => None,
        }
    }

    /// What a duplicate of the request looks like. A flush has none: a later one covers more writes.
    pub fn likeness<L: Link>(&self, link: &L, frame: &L::Frame, request: &Request) -> Option<Likeness> {
        let registers = Registers::read(&request.argument);
        let (lba, count, source, payload) = match self {
            Work::Flush => return None,
            Work::Read { extent, .. } | Work::Verify { extent, .. } => {
                (extent.lba, extent.count, Some(request.source), 0)
            }
            Work::Write { extent, .. } => (extent.lba, extent.count, None, extent.count),
            Work::Trim(_) => (0, registers.count.into(), None, registers.count.into()),
        };
        let mut digest = 0;
        if payload != 0 {
            let mut hash = Xxh3Default::new();
            let bytes = ata::bytes_of(payload);
            for piece in scatter::part(&link.pieces(frame), request.data_at(), bytes).unwrap_or_default() {
                hash.update(piece);
            }
            digest = hash.digest128();
        }
        Some(Likeness {
            opcode: registers.command,
            lba,
            count,
            source,
            digest,
        })
    }

    /// Starts or repeats the operation.
    pub fn run<L: Link, C: Completions>(
        &self,
        export: &Export<C>,
        completions: &mut C,
        token: Token,
        link: &mut L,
        frame: &mut L::Frame,
        request: &Request,
    ) -> Result<Step, Trouble> {
        let store = &export.store;
        Ok(match self {
            Work::Read { extent, .. } => {
                let at = request.data_at();
                if !link.renew(frame, at.saturating_add(ata::bytes_of(extent.count))) {
                    return Err(Trouble::NoMemory);
                }
                let mut into = scatter::tail(link.pieces_mut(frame), at);
                store.read(completions, token, *extent, &mut into)?
            }
            Work::Write {
                extent, durability, ..
            } => {
                let bytes = ata::bytes_of(extent.count);
                // Judged before: the payload is there.
                let from = scatter::part(&link.pieces(frame), request.data_at(), bytes).unwrap_or_default();
                store.write(completions, token, *extent, &from, *durability)?
            }
            Work::Verify { extent, .. } => store.verify(completions, token, *extent)?,
            Work::Flush => store.flush(completions, token)?,
            Work::Trim(extents) => store.trim(completions, token, extents)?,
        })
    }

    /// Puts bytes that came with a completion behind the reply's header.
    pub fn fill<L: Link>(
        &self,
        bytes: Option<&[u8]>,
        link: &mut L,
        frame: &mut L::Frame,
        request: &Request,
    ) -> Result<(), Trouble> {
        let Work::Read { extent, .. } = self else {
            return Ok(());
        };
        let len = ata::bytes_of(extent.count);
        let Some(bytes) = bytes.filter(|bytes| bytes.len() == len) else {
            let source = std::io::Error::other("the store finished a read without its bytes");
            return Err(Trouble::Fault(Fault {
                kind: FaultKind::Read,
                lba: extent.lba,
                source,
            }));
        };
        let at = request.data_at();
        if !link.resize(frame, at.saturating_add(len)) {
            return Err(Trouble::NoMemory);
        }
        scatter::scatter(&mut scatter::tail(link.pieces_mut(frame), at), &[bytes], |_| {});
        Ok(())
    }

    /// A copy of the data that a read left in `frame`, for a duplicate on another worker.
    pub fn copy<L: Link>(&self, link: &L, frame: &L::Frame, request: &Request) -> Option<Box<[u8]>> {
        let Work::Read { extent, .. } = self else {
            return None;
        };
        let mut bytes = vec![0; ata::bytes_of(extent.count)];
        scatter::gather(&link.pieces(frame), request.data_at(), &mut bytes);
        Some(bytes.into_boxed_slice())
    }
}
