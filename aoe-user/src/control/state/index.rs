//! Which exports have ever had a state: what tells "never had any" from "lost".
//!
//! The file `index` lists them. An export enters it after its file is on the medium and before its first change is
//! acknowledged, so that whenever the process or the power goes, what it lists was there, and what was acknowledged is
//! listed.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::StateDirError;
use super::files::{self, FoundFile};
use super::key::StateKey;
use super::sealed::{FormatError, seal, unseal};

const KIND: &str = "index";
const VERSION: u32 = 1;
/// Room for every address there is, several times.
const FILE_BYTES_MAX: u64 = 64 << 20;

pub(super) const FILE: &str = "index";

/// The exports that have had a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    /// False once an index was lost: an export that is not listed may have had a state all the same.
    pub(crate) complete: bool,
    pub(crate) exports: BTreeSet<StateKey>,
    /// Files of earlier releases that one of several possible owners took over: another one may have been meant.
    pub(crate) taken_over: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    complete: bool,
    exports: Vec<String>,
    taken_over: BTreeSet<String>,
}

/// What became of the index file.
pub(super) enum IndexFound {
    /// It is whole.
    Index(Index),
    /// There is none.
    Absent,
    /// There is something that cannot be used, for this reason.
    Unusable(String),
}

/// Reads the index of a directory.
///
/// # Errors
/// When a newer xblade wrote it: only that one knows what it means.
pub(super) fn read(dir: &Path) -> Result<IndexFound, StateDirError> {
    let path = dir.join(FILE);
    let bytes = match files::read(&path, FILE_BYTES_MAX) {
        FoundFile::Bytes(bytes) => bytes,
        FoundFile::Absent => return Ok(IndexFound::Absent),
        FoundFile::NoFile(reason) => return Ok(IndexFound::Unusable(reason)),
        FoundFile::Failed(source) => return Err(StateDirError::io("read", &path)(source)),
    };
    match decode(&bytes) {
        Ok(index) => Ok(IndexFound::Index(index)),
        Err(FormatError::Damaged(reason)) => Ok(IndexFound::Unusable(reason)),
        Err(newer @ FormatError::Newer { .. }) => Err(StateDirError::Newer {
            path,
            reason: newer.to_string(),
        }),
    }
}

/// Puts an index on the medium.
pub(super) fn write(dir: &Path, index: &Index) -> std::io::Result<()> {
    files::replace(&dir.join(FILE), &encode(index))
}

fn encode(index: &Index) -> Vec<u8> {
    let body = Body {
        complete: index.complete,
        exports: index.exports.iter().map(StateKey::to_string).collect(),
        taken_over: index.taken_over.clone(),
    };
    seal(
        KIND,
        VERSION,
        &serde_json::to_string(&body).expect("a list has a JSON form"),
    )
}

fn decode(bytes: &[u8]) -> Result<Index, FormatError> {
    let (_, body) = unseal(KIND, VERSION, bytes)?;
    let damaged = || FormatError::damaged("its contents are no index");
    let body: Body = serde_json::from_str(body).map_err(|_| damaged())?;
    let exports: Result<_, _> = body.exports.iter().map(|name| name.parse()).collect();
    let index = Index {
        complete: body.complete,
        exports: exports.map_err(|_| damaged())?,
        taken_over: body.taken_over,
    };
    if encode(&index) == bytes {
        Ok(index)
    } else {
        Err(damaged())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_read_as_it_was_written_and_no_bit_may_change() {
        let index = Index {
            complete: true,
            exports: ["1.1", "1.1-vlan-5", "2.7+b"]
                .map(|name| name.parse().unwrap())
                .into(),
            taken_over: ["1.1@eth0".to_owned()].into(),
        };
        let good = encode(&index);
        assert_eq!(decode(&good), Ok(index));
        for at in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(decode(&bytes).is_err(), "bit {at}");
        }
    }
}
