//! The NBD protocol until requests are taken. Source: the NBD project's `doc/proto.md`, "Newstyle negotiation".

use std::io::{self, Read, Write};

use super::wire::{array, no_reply};

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Both sides: options may be answered one by one.
const FIXED_NEWSTYLE: u16 = 1;
/// Both sides: without 124 zeros.
const NO_ZEROES: u16 = 2;

/// Ends the connection.
const OPT_ABORT: u32 = 2;
/// Tells of an export.
const OPT_INFO: u32 = 6;
/// Tells of an export and takes requests for it.
const OPT_GO: u32 = 7;
/// Replies come in parts.
const OPT_STRUCTURED_REPLY: u32 = 8;

const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// Bytes of an option's reply at most.
const MAX_REPLY_LEN: u32 = 64 << 10;

/// What a server said of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Granted {
    /// Its size.
    pub(crate) bytes: u64,
    /// Transmission flags.
    flags: u16,
    /// Offsets and lengths are multiples of this many bytes.
    pub(crate) least_block: u32,
    /// This many bytes are best.
    pub(crate) best_block: u32,
}

impl Granted {
    /// Writes are refused.
    pub(super) fn is_read_only(&self) -> bool {
        self.flags & 1 << 1 != 0
    }

    /// A write that was answered is on the medium only after a flush.
    pub(super) fn can_flush(&self) -> bool {
        self.flags & 1 << 2 != 0
    }

    /// Space can be given back; what is read there then is open.
    pub(super) fn can_trim(&self) -> bool {
        self.flags & 1 << 5 != 0
    }

    /// Zeros can be written without being sent.
    pub(super) fn can_write_zeroes(&self) -> bool {
        self.flags & 1 << 6 != 0
    }

    /// Several connections see one disk, and a flush by one is a flush for all.
    pub(super) fn takes_several(&self) -> bool {
        self.flags & 1 << 8 != 0
    }
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server's answer.
    #[error("{0}")]
    Refused(String),
}

/// Asks for an export; with `go` the server takes requests for it from then on, else the connection is at its end.
pub(super) fn negotiate<S>(stream: S, export: &str, go: bool) -> Result<Granted, Refusal>
where
    S: Read + Write + Copy,
{
    let mut stream = stream;
    greet(&mut stream)?;
    if go {
        option(&mut stream, OPT_STRUCTURED_REPLY, &[])?;
        // A server without it answers in one piece.
        while !matches!(reply(&mut stream, OPT_STRUCTURED_REPLY)?, (REP_ACK | ERROR.., _)) {}
    }
    let name_len = u32::try_from(export.len()).unwrap_or(u32::MAX);
    let mut wish = name_len.to_be_bytes().to_vec();
    wish.extend(export.as_bytes());
    wish.extend(1u16.to_be_bytes());
    wish.extend(INFO_BLOCK_SIZE.to_be_bytes());
    let number = if go { OPT_GO } else { OPT_INFO };
    option(&mut stream, number, &wish)?;
    let mut granted = Granted {
        least_block: 1,
        best_block: 4096,
        ..Granted::default()
    };
    loop {
        match reply(&mut stream, number)? {
            (REP_ACK, _) if granted.flags & 1 == 0 => {
                return Err(Refusal::Refused(
                    "the server did not say how large the export is".into(),
                ));
            }
            (REP_ACK, _) => break,
            (REP_INFO, data) => granted.learn(&data),
            (error @ ERROR.., text) => return Err(Refusal::Refused(explain(error, &text))),
            _ => {}
        }
    }
    if !go {
        option(&mut stream, OPT_ABORT, &[])?;
    }
    Ok(granted)
}

fn greet(stream: &mut (impl Read + Write)) -> Result<(), Refusal> {
    let (magic, version) = (
        u64::from_be_bytes(array(stream)?),
        u64::from_be_bytes(array(stream)?),
    );
    if magic != MAGIC {
        return Err(Refusal::Refused("what answers there is no NBD server".into()));
    }
    let flags = match version {
        OPTION_MAGIC => u16::from_be_bytes(array(stream)?),
        _ => 0,
    };
    if flags & FIXED_NEWSTYLE == 0 {
        return Err(Refusal::Refused(
            "the server speaks only the old form of the protocol".into(),
        ));
    }
    stream.write_all(&u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes())?;
    Ok(())
}

fn option(stream: &mut impl Write, number: u32, data: &[u8]) -> io::Result<()> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(data);
    stream.write_all(&bytes)
}

/// Replies from here on are errors.
const ERROR: u32 = 1 << 31;

/// The next reply to an option: its type and data.
fn reply(stream: &mut impl Read, number: u32) -> io::Result<(u32, Vec<u8>)> {
    let (magic, to) = (
        u64::from_be_bytes(array(stream)?),
        u32::from_be_bytes(array(stream)?),
    );
    let (kind, length) = (
        u32::from_be_bytes(array(stream)?),
        u32::from_be_bytes(array(stream)?),
    );
    if magic != OPTION_REPLY_MAGIC || to != number || length > MAX_REPLY_LEN {
        return Err(no_reply(format!(
            "an answer to option {to} begins with {magic:016x} and has {length} bytes"
        )));
    }
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data)?;
    Ok((kind, data))
}

impl Granted {
    fn learn(&mut self, data: &[u8]) {
        let number = |at: usize, len: usize| {
            let bytes = data.get(at..at + len)?;
            Some(
                bytes
                    .iter()
                    .fold(0u64, |number, byte| number << 8 | u64::from(*byte)),
            )
        };
        match number(0, 2).map(|kind| kind as u16) {
            Some(INFO_EXPORT) => {
                if let (Some(bytes), Some(flags)) = (number(2, 8), number(10, 2)) {
                    (self.bytes, self.flags) = (bytes, flags as u16);
                }
            }
            Some(INFO_BLOCK_SIZE) => {
                if let (Some(least), Some(best)) = (number(2, 4), number(6, 4)) {
                    (self.least_block, self.best_block) = (least as u32, best as u32);
                }
            }
            _ => {}
        }
    }
}

fn explain(error: u32, text: &[u8]) -> String {
    let meaning = match error - ERROR {
        1 => "it does not know the option: it is too old",
        2 => "its policy forbids it",
        3 => "it takes the request for invalid",
        5 => "it wants TLS, which xblade does not speak; connect through a tunnel",
        6 => "it has no such export",
        7 => "it is shutting down",
        8 => "it wants blocks of its own size",
        _ => "it refuses",
    };
    match String::from_utf8_lossy(text).trim() {
        "" => meaning.to_owned(),
        said => format!("{meaning} ({said})"),
    }
}
