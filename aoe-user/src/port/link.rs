//! The engine's [`Link`] on an AF_XDP socket.

use crate::target::link::{Link, Pieces, PiecesMut};
use crate::xsk::{Frame, Socket};

impl Link for Socket {
    type Frame = Frame;

    fn pieces<'a>(&'a self, frame: &'a Frame) -> Pieces<'a> {
        Socket::pieces(self, frame)
    }

    fn pieces_mut<'a>(&'a self, frame: &'a mut Frame) -> PiecesMut<'a> {
        Socket::pieces_mut(self, frame)
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        Socket::resize(self, frame, len)
    }

    fn renew(&mut self, frame: &mut Frame, len: usize) -> bool {
        Socket::renew(self, frame, len)
    }

    fn allocate(&mut self, len: usize) -> Option<Frame> {
        Socket::allocate(self, len)
    }

    fn send(&mut self, frame: Frame) {
        Socket::transmit(self, frame);
    }

    fn free(&mut self, frame: Frame) {
        Socket::free(self, frame);
    }
}
