//! The form of all files in a state directory: a header line with version and checksum, then one line of JSON.
//!
//! ```text
//! xblade state 2 8c5b0f0a3f2d6c11
//! {"export":"1.1","string":"766d3031","mask":["02:00:00:00:00:01"],"reserve":[]}
//! ```

use xxhash_rust::xxh3::xxh3_64;

/// Why bytes cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Whole, but from a later xblade.
    #[error("it has version {version}; this xblade reads up to {newest}")]
    Newer {
        /// The file's version.
        version: u32,
        /// The newest that this program knows.
        newest: u32,
    },
    /// Anything else, with what was noticed first.
    #[error("{0}")]
    Damaged(String),
}

impl FormatError {
    pub(super) fn damaged(what: impl Into<String>) -> FormatError {
        FormatError::Damaged(what.into())
    }
}

/// The bytes of a file of this kind, such as `state`.
pub(super) fn seal(kind: &str, version: u32, body: &str) -> Vec<u8> {
    let sum = checksum(version, body);
    format!("xblade {kind} {version} {sum:016x}\n{body}\n").into_bytes()
}

/// Version and body of a file of this kind, whose newest version is `newest`.
pub(super) fn unseal<'a>(kind: &str, newest: u32, bytes: &'a [u8]) -> Result<(u32, &'a str), FormatError> {
    let damaged = |what: &str| FormatError::damaged(what);
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let (header, rest) = text
        .split_once('\n')
        .ok_or_else(|| damaged("it has no header line"))?;
    let (version, sum) = header
        .strip_prefix("xblade ")
        .and_then(|header| header.strip_prefix(kind)?.strip_prefix(' ')?.split_once(' '))
        .and_then(|(version, sum)| Some((version.parse().ok()?, u64::from_str_radix(sum, 16).ok()?)))
        .ok_or_else(|| damaged("its header line is not xblade's"))?;
    let body = rest
        .strip_suffix('\n')
        .ok_or_else(|| damaged("its end is missing"))?;
    if checksum(version, body) != sum {
        return Err(damaged("its checksum is wrong"));
    }
    if version > newest {
        return Err(FormatError::Newer { version, newest });
    }
    Ok((version, body))
}

pub(super) fn checksum(version: u32, body: &str) -> u64 {
    xxh3_64(format!("{version}\n{body}").as_bytes())
}
