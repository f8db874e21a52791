//! Bytes in pieces: a frame may be cut anywhere.

use arrayvec::ArrayVec;

use crate::frames::link::{Pieces, PiecesMut};

/// Length of all pieces together.
#[inline]
pub(crate) fn total(pieces: &[&[u8]]) -> usize {
    pieces
        .iter()
        .fold(0usize, |sum, piece| sum.saturating_add(piece.len()))
}

/// Copies the bytes from offset `at` into `into` and returns how many there were.
#[inline]
pub(crate) fn gather(pieces: &[&[u8]], at: usize, into: &mut [u8]) -> usize {
    let (mut skip, mut rest) = (at, into);
    let mut copied = 0usize;
    for piece in pieces {
        let Some(piece) = piece.get(skip..) else {
            skip = skip.saturating_sub(piece.len());
            continue;
        };
        skip = 0;
        let n = piece.len().min(rest.len());
        let (now, later) = rest.split_at_mut(n);
        now.copy_from_slice(&piece[..n]);
        copied = copied.saturating_add(n);
        rest = later;
    }
    copied
}

/// The `len` bytes from offset `at` on; `None` when there are fewer.
#[inline]
pub(crate) fn part<'a>(pieces: &[&'a [u8]], at: usize, len: usize) -> Option<Pieces<'a>> {
    let (mut skip, mut want) = (at, len);
    let mut found = ArrayVec::new();
    for piece in pieces {
        let Some(piece) = piece.get(skip..) else {
            skip = skip.saturating_sub(piece.len());
            continue;
        };
        skip = 0;
        let piece = &piece[..piece.len().min(want)];
        want = want.saturating_sub(piece.len());
        if !piece.is_empty() {
            found.push(piece);
        }
    }
    (want == 0).then_some(found)
}

/// All bytes from offset `at` on, for writing.
#[inline]
pub(crate) fn tail(pieces: PiecesMut<'_>, at: usize) -> PiecesMut<'_> {
    let mut skip = at;
    let mut found = ArrayVec::new();
    for piece in pieces {
        let n = skip.min(piece.len());
        skip = skip.saturating_sub(n);
        let (_, piece) = piece.split_at_mut(n);
        if !piece.is_empty() {
            found.push(piece);
        }
    }
    found
}

/// Writes `parts` one after the other from the first byte on; `rest` gets what is left over, piece by piece.
pub(crate) fn scatter(pieces: &mut [&mut [u8]], parts: &[&[u8]], mut rest: impl FnMut(&mut [u8])) {
    let mut parts = parts.iter().copied();
    let mut part: &[u8] = &[];
    for piece in pieces {
        let mut room: &mut [u8] = piece;
        while !room.is_empty() {
            if part.is_empty() {
                match parts.next() {
                    Some(next) => part = next,
                    None => break,
                }
            }
            let n = part.len().min(room.len());
            let (now, later) = room.split_at_mut(n);
            now.copy_from_slice(&part[..n]);
            part = &part[n..];
            room = later;
        }
        if !room.is_empty() {
            rest(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let bytes: Vec<u8> = (0..40).collect();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(total(&pieces), 40);
                let mut into = [0u8; 10];
                assert_eq!(gather(&pieces, 7, &mut into), 10);
                assert_eq!(into, bytes[7..17]);
                assert_eq!(gather(&pieces, 35, &mut into), 5);
                assert_eq!(gather(&pieces, 41, &mut into), 0);
                let part = part(&pieces, 9, 20).unwrap();
                assert_eq!(part.concat(), bytes[9..29]);
                assert!(super::part(&pieces, 30, 11).is_none());
            }
        }
    }

    #[test]
    fn written_parts_and_the_rest_cover_every_byte_once() {
        for cut in 0..=12usize {
            let mut bytes = [9u8; 12];
            let (a, b) = bytes.split_at_mut(cut);
            scatter(&mut [a, b], &[&[1, 2, 3], &[], &[4, 5]], |rest| rest.fill(0));
            assert_eq!(bytes, [1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn the_tail_begins_at_its_offset() {
        for cut in 0..=6usize {
            let mut bytes = [0, 1, 2, 3, 4, 5];
            let (a, b) = bytes.split_at_mut(cut);
            let pieces: PiecesMut<'_> = [a, b].into_iter().collect();
            let tail: Vec<u8> = tail(pieces, 4).iter().flat_map(|piece| piece.to_vec()).collect();
            assert_eq!(tail, [4, 5]);
        }
    }
}
