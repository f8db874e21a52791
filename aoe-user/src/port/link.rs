//! The engine's [`Link`] on an AF_XDP socket.

use engine::link::{Link, Pieces, PiecesMut};

use super::others::Others;
use crate::xsk::{Frame, Socket};

/// An AF_XDP socket as the engine sees it, and who else on this host hears what is for everybody.
#[derive(Debug)]
pub struct SocketLink(pub Socket, Option<Others>);

impl SocketLink {
    /// A link that shares nothing.
    pub const fn new(socket: Socket) -> SocketLink {
        SocketLink(socket, None)
    }

    /// A link that shares requests for every shelf or slot.
    pub(super) const fn shared(socket: Socket, others: Option<Others>) -> SocketLink {
        SocketLink(socket, others)
    }
}

impl Link for SocketLink {
    type Frame = Frame;

    fn pieces<'a>(&'a self, frame: &'a Frame) -> Pieces<'a> {
        self.0.pieces(frame)
    }

    fn pieces_mut<'a>(&'a self, frame: &'a mut Frame) -> PiecesMut<'a> {
        self.0.pieces_mut(frame)
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.0.resize(frame, len)
    }

    fn renew(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.0.renew(frame, len)
    }

    fn allocate(&mut self, len: usize) -> Option<Frame> {
        self.0.allocate(len)
    }

    fn send(&mut self, frame: Frame) {
        self.0.transmit(frame);
    }

    fn free(&mut self, frame: Frame) {
        self.0.free(frame);
    }

    fn share(&self, frame: &Frame) {
        if let Some(others) = &self.1 {
            others.leave(&self.pieces(frame));
        }
    }
}
