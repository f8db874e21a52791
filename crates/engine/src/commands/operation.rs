//! What the store is asked to do for a request, and how its end becomes the reply's data.

use xxhash_rust::xxh3::Xxh3Default;

use crate::Export;
use crate::ata::{Registers, bytes_of};
use crate::commands::action::Action;
use crate::export::observer::Change;
use crate::frames::link::Link;
use crate::frames::request::Request;
use crate::frames::rx_frame::RxFrame;
use crate::frames::scatter;
use crate::order::scope::{Class, Fingerprint, Scope, Span};
use crate::session::completion::{Completions, Token};
use crate::store::{Extent, Fault, FaultKind, Step};

/// Why an operation did not go on.
#[derive(Debug)]
pub(crate) enum OperationFailure {
    /// The link has no memory for the reply: silence, the initiator asks again.
    NoMemory,
    /// The store failed.
    Store(Fault),
}

impl From<Fault> for OperationFailure {
    fn from(fault: Fault) -> OperationFailure {
        OperationFailure::Store(fault)
    }
}

impl Action {
    /// What it conflicts with; `None` where it is done without anybody else.
    #[inline]
    pub(crate) fn scope(&self) -> Option<Scope> {
        let (class, span) = match self {
            Action::Read { extent, .. } => (Class::Read, Span::of(*extent)),
            Action::Verify { extent, .. } => (Class::Verify, Span::of(*extent)),
            Action::Write { extent, .. } => (Class::Write, Span::of(*extent)),
            Action::Flush => (Class::Flush, Span::NONE),
            Action::Trim(extents) => (Class::Write, Span::around(extents)),
            Action::Change(change) if change.change == Change::String => (Class::Admin, Span::NONE),
            Action::Change(_) => (Class::Fence, Span::NONE),
            _ => return None,
        };
        Some(Scope { class, span })
    }

    /// The extent that error registers can tell of, and whether in 48 bits.
    pub(crate) fn extent(&self) -> Option<(Extent, bool)> {
        match *self {
            Action::Read { extent, extended }
            | Action::Write { extent, extended, .. }
            | Action::Verify { extent, extended } => Some((extent, extended)),
            _ => None,
        }
    }

    /// What a duplicate of the request looks like. A flush has none: a later one covers more writes.
    pub(crate) fn fingerprint<L: Link>(
        &self,
        link: &L,
        frame: &RxFrame<L::Frame>,
        request: &Request,
        registers: &Registers,
    ) -> Option<Fingerprint> {
        let (lba, count, source, payload) = match self {
            Action::Read { extent, .. } | Action::Verify { extent, .. } => {
                (extent.lba, extent.count, Some(request.source), 0)
            }
            Action::Write { extent, .. } => (extent.lba, extent.count, None, extent.count),
            Action::Trim(_) => (0, registers.count.into(), None, registers.count.into()),
            _ => return None,
        };
        let mut digest = 0;
        if payload != 0 {
            let mut hash = Xxh3Default::new();
            let bytes = bytes_of(payload);
            for piece in scatter::part(&frame.pieces(link), request.payload_at, bytes).unwrap_or_default() {
                hash.update(piece);
            }
            digest = hash.digest128();
        }
        Some(Fingerprint {
            opcode: registers.command,
            lba,
            count,
            source,
            digest,
        })
    }

    /// Starts or repeats the store operation.
    pub(crate) fn run<L: Link, C: Completions>(
        &self,
        export: &Export<C>,
        (completions, token): (&mut C, Token),
        link: &mut L,
        frame: &mut RxFrame<L::Frame>,
        request: &Request,
    ) -> Result<Step, OperationFailure> {
        let store = &export.store;
        let at = request.payload_at;
        Ok(match self {
            Action::Read { extent, .. } => {
                if !frame.renew(link, at.saturating_add(bytes_of(extent.count))) {
                    return Err(OperationFailure::NoMemory);
                }
                let mut into = scatter::tail(frame.pieces_mut(link), at);
                store.read(completions, token, *extent, &mut into)?
            }
            Action::Write {
                extent, durability, ..
            } => {
                let bytes = bytes_of(extent.count);
                // Judged before: the payload is there.
                let from = scatter::part(&frame.pieces(link), at, bytes).unwrap_or_default();
                store.write(completions, token, *extent, &from, *durability)?
            }
            Action::Verify { extent, .. } => store.verify(completions, token, *extent)?,
            Action::Flush => store.flush(completions, token)?,
            Action::Trim(extents) => store.trim(completions, token, extents)?,
            _ => Step::Done,
        })
    }

    /// Puts bytes that came with a completion behind the reply's header.
    pub(crate) fn fill<L: Link>(
        &self,
        bytes: Option<&[u8]>,
        link: &mut L,
        frame: &mut RxFrame<L::Frame>,
        request: &Request,
    ) -> Result<(), OperationFailure> {
        let Action::Read { extent, .. } = self else {
            return Ok(());
        };
        let len = bytes_of(extent.count);
        let Some(bytes) = bytes.filter(|bytes| bytes.len() == len) else {
            let source = std::io::Error::other("the store finished a read without its bytes");
            return Err(OperationFailure::Store(Fault {
                kind: FaultKind::Read,
                lba: extent.lba,
                source,
            }));
        };
        let at = request.payload_at;
        if !frame.resize(link, at.saturating_add(len)) {
            return Err(OperationFailure::NoMemory);
        }
        scatter::scatter(&mut scatter::tail(frame.pieces_mut(link), at), &[bytes], |_| {});
        Ok(())
    }

    /// A copy of the data that a read left in `frame`, for a duplicate on another worker.
    pub(crate) fn copy<L: Link>(
        &self,
        link: &L,
        frame: &RxFrame<L::Frame>,
        request: &Request,
    ) -> Option<Box<[u8]>> {
        let Action::Read { extent, .. } = self else {
            return None;
        };
        let mut bytes = vec![0; bytes_of(extent.count)];
        scatter::gather(&frame.pieces(link), request.payload_at, &mut bytes);
        Some(bytes.into_boxed_slice())
    }
}
