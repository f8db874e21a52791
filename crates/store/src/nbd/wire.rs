//! The NBD protocol after the handshake: requests and replies. Source: the NBD project's `doc/proto.md`, "Transmission phase".

use std::io::{self, Read};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Bytes before a request's payload.
pub(super) const REQUEST_LEN: usize = 28;

/// What a chunk of a structured reply holds beside data at most: error, length of a message, the message, an offset.
const MAX_ERROR_LEN: usize = 4 + 2 + 4096 + 8;

/// The last chunk of a structured reply.
const FLAG_DONE: u16 = 1;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum NbdCommand {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
}

/// A request but for its payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(crate) command: NbdCommand,
    /// Comes back in the reply.
    pub(crate) cookie: u64,
    /// In bytes.
    pub(crate) offset: u64,
    /// In bytes.
    pub(crate) length: u32,
}

impl Head {
    pub(super) fn to_bytes(self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[6..8].copy_from_slice(&(self.command as u16).to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// One reply, or one part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The request's.
    pub(crate) cookie: u64,
    /// No more follow.
    pub(crate) last: bool,
    pub(crate) kind: ChunkKind,
}

/// What a part of a reply brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkKind {
    /// The request has been carried out; the data of a read follows, all of it.
    Simple,
    /// Nothing more.
    None,
    /// So many bytes follow, which lie at this offset of the export.
    Data { offset: u64, length: u32 },
    /// So many zeros at this offset.
    Hole { offset: u64, length: u32 },
    /// It failed with this error.
    Error(u32),
}

/// Reads the head of the next reply. What [`ChunkKind::Simple`] and [`ChunkKind::Data`] announce is still to be read.
///
/// # Errors
/// The end of the connection, and what is no reply.
pub(super) fn read_chunk(from: &mut impl Read) -> io::Result<Chunk> {
    match u32::from_be_bytes(array(from)?) {
        SIMPLE_REPLY_MAGIC => {
            let error = u32::from_be_bytes(array(from)?);
            let kind = if error == 0 {
                ChunkKind::Simple
            } else {
                ChunkKind::Error(error)
            };
            let cookie = u64::from_be_bytes(array(from)?);
            Ok(Chunk {
                cookie,
                last: true,
                kind,
            })
        }
        STRUCTURED_REPLY_MAGIC => structured(from),
        magic => Err(no_reply(format!("a reply begins with {magic:08x}"))),
    }
}

fn structured(from: &mut impl Read) -> io::Result<Chunk> {
    let flags = u16::from_be_bytes(array(from)?);
    let kind = u16::from_be_bytes(array(from)?);
    let cookie = u64::from_be_bytes(array(from)?);
    let length = u32::from_be_bytes(array(from)?);
    let kind = match (kind, length) {
        (0, 0) => ChunkKind::None,
        (1, 9..) => ChunkKind::Data {
            offset: u64::from_be_bytes(array(from)?),
            length: length - 8,
        },
        (2, 12) => ChunkKind::Hole {
            offset: u64::from_be_bytes(array(from)?),
            length: u32::from_be_bytes(array(from)?),
        },
        // An unknown error has the error in the same place as those that are known.
        (0x8000.., 6..) if length as usize <= MAX_ERROR_LEN => {
            let error = u32::from_be_bytes(array(from)?);
            io::copy(&mut from.take(u64::from(length) - 4), &mut io::sink())?;
            ChunkKind::Error(error)
        }
        (kind, length) => {
            return Err(no_reply(format!(
                "a part of a reply has type {kind} and {length} bytes"
            )));
        }
    };
    let last = flags & FLAG_DONE != 0;
    Ok(Chunk { cookie, last, kind })
}

pub(super) fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What breaks the protocol.
pub(super) fn no_reply(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
