//! A request's frame: in the memory it was received into while it is worked on, in memory of its own while it waits.

use crate::frames::link::{Link, Pieces, PiecesMut};
use crate::frames::scatter;

/// A frame that is the link's, or the bytes of one that waits.
#[derive(Debug)]
pub(crate) enum RxFrame<F> {
    /// In the link's memory.
    Frame(F),
    /// As much of a request as is needed to go on with it: its headers, and what it has to write.
    Kept(Box<[u8]>),
}

impl<F> RxFrame<F> {
    /// The frame's bytes.
    pub(crate) fn pieces<'a, L: Link<Frame = F>>(&'a self, link: &'a L) -> Pieces<'a> {
        match self {
            RxFrame::Frame(frame) => link.pieces(frame),
            RxFrame::Kept(bytes) => Pieces::from_iter([&bytes[..]]),
        }
    }

    /// The frame's bytes for writing a reply over them.
    pub(crate) fn pieces_mut<'a, L: Link<Frame = F>>(&'a mut self, link: &'a L) -> PiecesMut<'a> {
        match self {
            RxFrame::Frame(frame) => link.pieces_mut(frame),
            RxFrame::Kept(bytes) => PiecesMut::from_iter([&mut bytes[..]]),
        }
    }

    /// As [`Link::resize`]; what was kept is in the link's memory afterwards.
    pub(crate) fn resize<L: Link<Frame = F>>(&mut self, link: &mut L, len: usize) -> bool {
        match self {
            RxFrame::Frame(frame) => link.resize(frame, len),
            RxFrame::Kept(bytes) => {
                let Some(mut frame) = link.allocate(len) else {
                    return false;
                };
                let bytes = bytes.get(..len).unwrap_or(bytes);
                scatter::scatter(&mut link.pieces_mut(&mut frame), &[bytes], |_| {});
                *self = RxFrame::Frame(frame);
                true
            }
        }
    }

    /// As [`Link::renew`]; the frame is in the link's memory afterwards.
    pub(crate) fn renew<L: Link<Frame = F>>(&mut self, link: &mut L, len: usize) -> bool {
        match self {
            RxFrame::Frame(frame) => link.renew(frame, len),
            RxFrame::Kept(_) => {
                let Some(frame) = link.allocate(len) else {
                    return false;
                };
                *self = RxFrame::Frame(frame);
                true
            }
        }
    }

    /// Sends it. Only what was made a reply, which is in the link's memory.
    pub(crate) fn send<L: Link<Frame = F>>(self, link: &mut L) {
        match self {
            RxFrame::Frame(frame) => link.send(frame),
            RxFrame::Kept(_) => debug_assert!(false, "a reply is built in the link's memory"),
        }
    }

    /// Gives its memory back.
    pub(crate) fn free<L: Link<Frame = F>>(self, link: &mut L) {
        if let RxFrame::Frame(frame) = self {
            link.free(frame);
        }
    }

    /// Keeps the first `len` bytes and gives the link's memory back: what waits must not keep others from being received.
    pub(crate) fn keep<L: Link<Frame = F>>(self, link: &mut L, len: usize) -> RxFrame<F> {
        let RxFrame::Frame(frame) = self else {
            return self;
        };
        let pieces = link.pieces(&frame);
        let mut bytes = vec![0; len.min(scatter::total(&pieces))];
        scatter::gather(&pieces, 0, &mut bytes);
        drop(pieces);
        link.free(frame);
        RxFrame::Kept(bytes.into_boxed_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::link::MemLink;

    #[test]
    fn what_is_kept_takes_no_memory_of_the_link() {
        let mut link = MemLink::new(7);
        let bytes: Vec<u8> = (0..40).collect();
        let frame = link.receive(&bytes);
        let mut frame = RxFrame::Frame(frame).keep(&mut link, 24);
        assert_eq!(link.out, 0);
        assert_eq!(frame.pieces(&link).concat(), bytes[..24]);
        assert!(frame.resize(&mut link, 60));
        assert_eq!(link.out, 1);
        assert_eq!(frame.pieces(&link).concat()[..24], bytes[..24]);
        frame.send(&mut link);
        assert_eq!(link.sent.pop_front().map(|sent| sent.len()), Some(60));
    }

    #[test]
    fn without_memory_it_stays_as_it_is() {
        let mut link = MemLink::new(64);
        let frame = link.receive(&[5; 30]);
        let mut frame = RxFrame::Frame(frame).keep(&mut link, 100);
        link.pool = 0;
        assert!(!frame.resize(&mut link, 60));
        assert!(!frame.renew(&mut link, 60));
        assert_eq!(frame.pieces(&link).concat(), [5; 30]);
        frame.free(&mut link);
        assert_eq!(link.out, 0);
    }
}
