//! How frames lie in chunks.

use super::*;

const JUMBO: Layout = Layout {
    chunk_bytes: 4096,
    data_offset: 476,
    max_pieces: MAX_PIECES,
};
const SINGLE: Layout = Layout {
    chunk_bytes: 2048,
    data_offset: 476,
    max_pieces: 1,
};

/// Offset and length of each piece.
fn shape(frame: &Frame) -> Vec<(u16, u16)> {
    frame
        .pieces()
        .iter()
        .map(|piece| (piece.offset, piece.len))
        .collect()
}

fn new_frame(layout: Layout, len: usize, chunks: &mut Chunks) -> Frame {
    let mut frame = Frame::empty(u32::MAX);
    assert!(
        layout.resize(&mut frame, len, chunks),
        "{len} bytes from {:?}",
        chunks.chunk_counts()
    );
    frame
}

fn put_back(mut frame: Frame, chunks: &mut Chunks) {
    for piece in frame.drain() {
        chunks.put(piece.chunk);
    }
}

#[test]
fn a_small_frame_lies_in_one_chunk_at_the_data_offset() {
    let mut chunks = Chunks::new(8);
    let frame = new_frame(JUMBO, 60, &mut chunks);
    assert_eq!(shape(&frame), [(476, 60)]);
    put_back(frame, &mut chunks);
    assert_eq!(chunks.free(), 8);
}

#[test]
fn growing_uses_the_tail_then_whole_chunks_and_keeps_the_first_piece() {
    let mut chunks = Chunks::new(8);
    let mut frame = new_frame(JUMBO, 60, &mut chunks);
    let first = frame.pieces()[0].chunk.index();
    assert!(JUMBO.resize(&mut frame, 3620, &mut chunks));
    assert_eq!(shape(&frame), [(476, 3620)], "up to the chunk's end");
    assert!(JUMBO.resize(&mut frame, 36 + 8704, &mut chunks));
    assert_eq!(shape(&frame), [(476, 3620), (0, 4096), (0, 1024)]);
    assert_eq!(frame.pieces()[0].chunk.index(), first);
    assert_eq!(frame.bytes(), 8740);
    assert_eq!(chunks.free(), 5);
    put_back(frame, &mut chunks);
}

#[test]
fn shrinking_gives_surplus_chunks_back_and_keeps_the_first_piece() {
    let mut chunks = Chunks::new(8);
    let mut frame = new_frame(JUMBO, 9014, &mut chunks);
    assert_eq!(chunks.free(), 5);
    assert!(JUMBO.resize(&mut frame, 3620, &mut chunks));
    assert_eq!(shape(&frame), [(476, 3620)], "to a border between pieces");
    assert_eq!(chunks.free(), 7);
    assert!(JUMBO.resize(&mut frame, 36, &mut chunks));
    assert_eq!(shape(&frame), [(476, 36)]);
    assert!(
        JUMBO.resize(&mut frame, 36, &mut chunks),
        "the same length is no change"
    );
    assert!(
        !JUMBO.resize(&mut frame, 0, &mut chunks),
        "a frame of nothing is none"
    );
    assert_eq!(shape(&frame), [(476, 36)]);
    put_back(frame, &mut chunks);
    assert_eq!(chunks.free(), 8);
}

#[test]
fn a_pool_with_too_few_chunks_changes_nothing() {
    let mut chunks = Chunks::new(2);
    let mut frame = new_frame(JUMBO, 60, &mut chunks);
    assert!(!JUMBO.resize(&mut frame, 9000, &mut chunks));
    assert_eq!(shape(&frame), [(476, 60)]);
    assert_eq!(chunks.free(), 1);
    assert!(
        JUMBO.resize(&mut frame, 3620 + 4096, &mut chunks),
        "what is there may be used up"
    );
    assert_eq!(chunks.free(), 0);
    put_back(frame, &mut chunks);
}

#[test]
fn without_multi_buffer_mode_a_frame_ends_with_its_chunk() {
    let mut chunks = Chunks::new(8);
    let mut frame = new_frame(SINGLE, 36, &mut chunks);
    assert!(
        SINGLE.resize(&mut frame, 1522, &mut chunks),
        "MTU 1500 with two tags fits"
    );
    assert!(SINGLE.resize(&mut frame, 1572, &mut chunks));
    assert!(!SINGLE.resize(&mut frame, 1573, &mut chunks));
    assert_eq!(shape(&frame), [(476, 1572)]);
    put_back(frame, &mut chunks);
}

#[test]
fn a_frame_has_no_more_pieces_than_the_kernel_sends() {
    let mut chunks = Chunks::new(32);
    let longest = 3620 + 15 * 4096;
    let mut frame = new_frame(JUMBO, longest, &mut chunks);
    assert_eq!(frame.pieces().len(), MAX_PIECES);
    assert!(!JUMBO.resize(&mut frame, longest + 1, &mut chunks));
    assert_eq!(frame.bytes(), longest);
    let Err(surplus) = frame.push(Piece {
        chunk: chunks.take().unwrap(),
        offset: 0,
        len: 1,
    }) else {
        panic!("a seventeenth piece was taken");
    };
    chunks.put(surplus.chunk);
    put_back(frame, &mut chunks);
    assert_eq!(chunks.free(), 32);
}

#[test]
fn a_received_jumbo_frame_shrinks_to_its_reply_and_grows_again() {
    // As the kernel delivers 9014 bytes where frames begin at byte 476: so does each fragment.
    let mut chunks = Chunks::new(8);
    let mut frame = Frame::empty(u32::MAX);
    for len in [3620, 3620, 1774] {
        let chunk = chunks.take().unwrap();
        frame
            .push(Piece {
                chunk,
                offset: 476,
                len,
            })
            .unwrap();
    }
    assert!(JUMBO.resize(&mut frame, 7300, &mut chunks));
    assert_eq!(shape(&frame), [(476, 3620), (476, 3620), (476, 60)]);
    assert!(JUMBO.resize(&mut frame, 36, &mut chunks));
    assert_eq!((shape(&frame), chunks.free()), (vec![(476, 36)], 7));
    assert!(JUMBO.resize(&mut frame, 8740, &mut chunks));
    assert_eq!(shape(&frame), [(476, 3620), (0, 4096), (0, 1024)]);
    put_back(frame, &mut chunks);
    assert_eq!(chunks.free(), 8);
}

#[test]
fn any_sequence_of_lengths_conserves_chunks() {
    let mut chunks = Chunks::new(64);
    let mut frames: Vec<Frame> = Vec::new();
    let mut seed = 7u32;
    let steps = if cfg!(miri) { 200 } else { 20_000 };
    for _ in 0..steps {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (which, len) = ((seed >> 24) as usize, (seed >> 8) as usize % 10_000 + 1);
        if frames.len() < 24 && which % 3 == 0 {
            let mut frame = Frame::empty(u32::MAX);
            if JUMBO.resize(&mut frame, len, &mut chunks) {
                frames.push(frame);
            }
        } else if let Some(frame) = frames.get_mut(which % 24) {
            let before = shape(frame);
            let resized = JUMBO.resize(frame, len, &mut chunks);
            assert_eq!(
                frame.bytes() == len,
                resized || before == shape(frame) && frame.bytes() == len
            );
            assert_eq!(frame.pieces()[0].offset, 476);
        } else if let Some(frame) = frames.pop() {
            put_back(frame, &mut chunks);
        }
        let held: usize = frames.iter().map(|frame| frame.pieces().len()).sum();
        assert_eq!(chunks.chunk_counts().in_use as usize, held);
        assert!(chunks.chunk_counts().is_conserved());
    }
    for frame in frames {
        put_back(frame, &mut chunks);
    }
    assert_eq!(chunks.free(), 64);
}
