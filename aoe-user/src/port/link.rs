//! The engine's [`Link`] on an AF_XDP socket.

use aoe_common::rules::{STAMP_BYTES, stamp_ns};
use engine::link::{Link, Pieces, PiecesMut};

use super::arrivals::Arrivals;
use super::hand_back::HandBack;
use crate::dump::Tap;
use crate::host::clock::{ahead_of_filter_ns, monotonic_ns};
use crate::xsk::{Frame, Socket};

/// An AF_XDP socket as the engine sees it, who else on this host hears what is for everybody, and who wants to see all frames.
#[derive(Debug)]
pub struct SocketLink {
    /// The socket.
    pub socket: Socket,
    hand_back: Option<HandBack>,
    /// What is to be added to the filter's stamps for the same time on this process's clock.
    ahead_of_filter_ns: i64,
    arrivals: Arrivals,
    tap: Option<Tap>,
}

impl SocketLink {
    /// A link that shares nothing.
    pub fn new(socket: Socket) -> SocketLink {
        SocketLink {
            socket,
            hand_back: None,
            ahead_of_filter_ns: ahead_of_filter_ns(),
            arrivals: Arrivals::new(),
            tap: None,
        }
    }

    /// A link that shares requests for every shelf or slot, and shows frames.
    pub(super) fn shared(socket: Socket, hand_back: Option<HandBack>, tap: Tap) -> SocketLink {
        SocketLink {
            socket,
            hand_back,
            ahead_of_filter_ns: ahead_of_filter_ns(),
            arrivals: Arrivals::new(),
            tap: Some(tap),
        }
    }

    /// Looks whether somebody wants to see the frames of this round.
    #[inline]
    pub(super) fn look_for_readers(&mut self) -> bool {
        self.tap.as_mut().is_some_and(Tap::look)
    }

    /// Shows received frames to who wants to see them.
    #[cold]
    pub(super) fn show(&mut self, frames: &[Frame]) {
        let SocketLink {
            socket,
            ahead_of_filter_ns,
            tap: Some(tap),
            ..
        } = self
        else {
            return;
        };
        for frame in frames {
            let ns = arrival_ns(socket, *ahead_of_filter_ns, frame).unwrap_or_else(monotonic_ns);
            tap.received(ns, &socket.pieces(frame));
        }
    }

    #[cold]
    fn show_sent(&mut self, frame: &Frame) {
        let SocketLink {
            socket,
            tap: Some(tap),
            ..
        } = self
        else {
            return;
        };
        tap.sent(monotonic_ns(), &socket.pieces(frame));
    }

    /// What is known of when frames arrived.
    pub(super) fn arrivals(&mut self) -> &mut Arrivals {
        &mut self.arrivals
    }
}

/// When the filter saw a frame, by this process's clock, where it could leave a stamp.
fn arrival_ns(socket: &Socket, ahead_of_filter_ns: i64, frame: &Frame) -> Option<u64> {
    let stamp = socket
        .metadata::<STAMP_BYTES>(frame)
        .as_ref()
        .and_then(stamp_ns)?;
    Some(stamp.wrapping_add_signed(ahead_of_filter_ns))
}

impl Link for SocketLink {
    type Frame = Frame;

    fn pieces<'a>(&'a self, frame: &'a Frame) -> Pieces<'a> {
        self.socket.pieces(frame)
    }

    fn pieces_mut<'a>(&'a self, frame: &'a mut Frame) -> PiecesMut<'a> {
        self.socket.pieces_mut(frame)
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.socket.resize(frame, len)
    }

    fn renew(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.socket.renew(frame, len)
    }

    fn allocate(&mut self, len: usize) -> Option<Frame> {
        self.socket.allocate(len)
    }

    fn age_us(&self, frame: &Frame) -> u64 {
        let now_ns = monotonic_ns();
        match arrival_ns(&self.socket, self.ahead_of_filter_ns, frame)
            .and_then(|stamp| now_ns.checked_sub(stamp))
        {
            Some(age_ns) => age_ns / 1000,
            None => self.arrivals.age_us(now_ns / 1000),
        }
    }

    fn send(&mut self, frame: Frame) {
        if self.tap.as_ref().is_some_and(Tap::is_on) {
            self.show_sent(&frame);
        }
        self.socket.transmit(frame);
    }

    fn free(&mut self, frame: Frame) {
        self.socket.free(frame);
    }

    fn share(&self, frame: &Frame) {
        if let Some(hand_back) = &self.hand_back {
            hand_back.leave(&self.pieces(frame));
        }
    }
}
