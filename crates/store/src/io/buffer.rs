//! Memory that I/O goes to and from while its request waits: owned by the store, so a frame's chunk never has to
//! stay put for the kernel.

/// Bytes at an address that is a multiple of what was asked for.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zeros, aligned to `align` (a power of two) bytes.
    pub(crate) fn new(len: usize, align: usize) -> Buffer {
        // The allocator aligns to 16 or so; more is made by leaving out the first bytes.
        let memory = vec![0u8; len + align - 1];
        let start = memory.as_ptr().align_offset(align);
        Buffer { memory, start, len }
    }

    /// Length as asked for.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The bytes, to be changed. Moving the buffer does not move them.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// The bytes as an answer, without a copy where alignment took no room.
    pub(crate) fn into_boxed(mut self) -> Box<[u8]> {
        match self.start {
            0 => {
                self.memory.truncate(self.len);
                self.memory.into_boxed_slice()
            }
            _ => self.bytes().into(),
        }
    }

    /// Copies the pieces in from byte `at`.
    pub(crate) fn gather(&mut self, at: usize, pieces: &[&[u8]]) {
        let mut rest = &mut self.bytes_mut()[at..];
        for piece in pieces {
            let (here, after) = rest.split_at_mut(piece.len());
            here.copy_from_slice(piece);
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Buffer;

    #[test]
    fn buffers_are_aligned_and_gather_pieces() {
        for align in [1, 512, 4096] {
            let mut buffer = Buffer::new(1024, align);
            assert_eq!(buffer.bytes().as_ptr().align_offset(align), 0);
            buffer.gather(2, &[b"ab", b"", b"cde"]);
            assert_eq!(buffer.bytes()[..8], *b"\0\0abcde\0");
            let boxed = buffer.into_boxed();
            assert_eq!((boxed.len(), &boxed[2..7]), (1024, &b"abcde"[..]));
        }
    }
}
