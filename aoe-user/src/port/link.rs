//! The engine's [`Link`] on an AF_XDP socket.

use engine::link::{Link, Pieces, PiecesMut};

use crate::xsk::{Frame, Socket};

/// An AF_XDP socket as the engine sees it.
#[derive(Debug)]
pub struct SocketLink(pub Socket);

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
}
