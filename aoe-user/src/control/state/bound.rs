//! The file beside machines' copies that says which address runs on which copy.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::{self, FoundFile};
use super::sealed::{seal, unseal};

const KIND: &str = "addresses";
const VERSION: u32 = 1;
/// Room for tens of thousands of addresses.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Addresses {
    /// The copy of each, by the name of its machine.
    addresses: BTreeMap<String, String>,
}

/// What the file says; nothing, where there is none.
///
/// # Errors
/// Why that cannot be told.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, String>, String> {
    match files::read(path, FILE_BYTES_MAX) {
        FoundFile::Absent => Ok(BTreeMap::new()),
        FoundFile::NoFile(reason) => Err(reason),
        FoundFile::Failed(error) => Err(error.to_string()),
        FoundFile::Bytes(bytes) => {
            let (_, body) = unseal(KIND, VERSION, &bytes).map_err(|error| error.to_string())?;
            let Addresses { addresses } = serde_json::from_str(body).map_err(|error| error.to_string())?;
            Ok(addresses)
        }
    }
}

/// Writes the file, wholly or not at all; with `outlives_host` it is on the medium when this returns.
///
/// # Errors
/// Of the file system.
pub(crate) fn write(path: &Path, addresses: BTreeMap<String, String>, outlives_host: bool) -> io::Result<()> {
    let body = serde_json::to_string(&Addresses { addresses }).expect("texts have a JSON form");
    let bytes = seal(KIND, VERSION, &body);
    match outlives_host {
        true => files::replace(path, &bytes),
        false => files::put_for_this_boot(path, &bytes),
    }
}
