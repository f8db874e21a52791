//! Opening an overlay: what is left of it goes on, or it begins anew.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::SECTOR_BYTES;

use super::OverlayStore;
use super::files::{HEADER_BYTES, Header, OverlayFiles};
use super::golden::Golden;
use super::marks::{Marks, bytes_for};
use super::space::Space;
use crate::format::ImageFormat;
use crate::open::open;
use crate::options::{StoreError, StoreKind, StoreOptions};

/// How an overlay is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayOptions {
    /// Its files.
    pub files: OverlayFiles,
    /// Most bytes that the delta may take; 0: no limit.
    pub limit_bytes: u64,
    /// How soon the delta's writes go to its medium.
    pub flush_interval: Duration,
}

/// Why an overlay cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// It was made on another image, or on another content of this one.
    #[error("{}: was made on another golden image than {} is now; discard it (`xblade overlay reset`), or boot the machine anew", .overlay.display(), .golden.display())]
    OtherGolden {
        /// The overlay.
        overlay: PathBuf,
        /// The image it is to lie on.
        golden: PathBuf,
    },
    /// Its files cannot be made or read.
    #[error("{}: {doing}: {source}", .path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The delta cannot be opened.
    #[error(transparent)]
    Delta(#[from] StoreError),
}

impl OverlayStore {
    /// Opens what is left of an overlay, or begins it anew: when there is none, and when the host was started since.
    ///
    /// # Errors
    /// For one that lies on another image, and when the files cannot be used.
    pub fn open(golden: &Golden, options: &OverlayOptions) -> Result<OverlayStore, OverlayError> {
        let OverlayOptions { files, .. } = options;
        let failed = |doing| {
            let path = files.base().to_owned();
            move |source| OverlayError::Files { path, doing, source }
        };
        let sectors = golden.store().sectors();
        match left(files).map_err(failed("reading what is left of it"))? {
            Some(header) if header.is_of_this_boot() => {
                if header.golden != *golden.identity() || header.sectors != sectors {
                    return Err(OverlayError::OtherGolden {
                        overlay: files.base().to_owned(),
                        golden: golden.path().to_owned(),
                    });
                }
            }
            found => {
                if found.is_some() {
                    tracing::warn!(
                        "{}: a volatile overlay ends with its host; it begins anew",
                        files.base().display()
                    );
                }
                files
                    .create(sectors, golden.identity())
                    .map_err(failed("making it"))?;
            }
        }
        let delta = open(&StoreOptions {
            format: ImageFormat::Raw,
            flush_interval: options.flush_interval,
            length: sectors,
            ..StoreOptions::new(StoreKind::Mmap, files.delta())
        })?;
        let name = files.base().display().to_string();
        let space = File::open(files.delta())
            .and_then(|delta| Space::of(&delta, sectors, options.limit_bytes, name))
            .map_err(failed("finding what it takes"))?;
        let marks = File::options()
            .read(true)
            .write(true)
            .open(files.map())
            .and_then(|map| Marks::map(map, HEADER_BYTES, sectors, space))
            .map_err(failed("mapping what it holds"))?;
        Ok(OverlayStore {
            golden: golden.clone(),
            delta,
            marks: Arc::new(marks),
            sectors,
        })
    }
}

/// The header of an overlay whose files are both there and whole.
fn left(files: &OverlayFiles) -> io::Result<Option<Header>> {
    let Some(map) = if_there(File::open(files.map()))? else {
        return Ok(None);
    };
    let Some(delta) = if_there(std::fs::metadata(files.delta()))? else {
        return Ok(None);
    };
    let map_bytes = map.metadata()?.len();
    let whole = |header: &Header| {
        delta.len() == header.sectors * SECTOR_BYTES && map_bytes >= HEADER_BYTES + bytes_for(header.sectors)
    };
    Ok(Header::read(&map)?.filter(whole))
}

fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}
