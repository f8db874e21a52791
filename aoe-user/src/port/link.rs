//! The engine's [`Link`] on an AF_XDP socket.

use aoe_common::rules::{STAMP_BYTES, stamp_ns};
use engine::link::{Link, Pieces, PiecesMut};
use rustix::time::{ClockId, clock_gettime};

use super::arrivals::Arrivals;
use super::others::Others;
use crate::xsk::{Frame, Socket};

/// An AF_XDP socket as the engine sees it, and who else on this host hears what is for everybody.
#[derive(Debug)]
pub struct SocketLink(pub Socket, Option<Others>, Arrivals);

impl SocketLink {
    /// A link that shares nothing.
    pub const fn new(socket: Socket) -> SocketLink {
        SocketLink(socket, None, Arrivals::new())
    }

    /// A link that shares requests for every shelf or slot.
    pub(super) const fn shared(socket: Socket, others: Option<Others>) -> SocketLink {
        SocketLink(socket, others, Arrivals::new())
    }

    /// What is known of when frames arrived.
    pub(super) fn arrivals(&mut self) -> &mut Arrivals {
        &mut self.2
    }
}

/// Nanoseconds of the clock that the filter's stamps are of.
pub(super) fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let ns = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(ns)
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

    fn age_us(&self, frame: &Frame) -> u64 {
        let now_ns = monotonic_ns();
        let stamp = self.0.metadata::<STAMP_BYTES>(frame).as_ref().and_then(stamp_ns);
        match stamp.and_then(|stamp| now_ns.checked_sub(stamp)) {
            Some(age_ns) => age_ns / 1000,
            None => self.2.age_us(now_ns / 1000),
        }
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
