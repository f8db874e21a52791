//! What is to be seen of an overlay before it is opened, without touching it.

use std::fs::File;
use std::io;
use std::path::Path;

use engine::SECTOR_BYTES;

use super::files::OverlayFiles;
use super::fingerprint::{self, GoldenFingerprint};
use super::golden::GoldenIdentity;
use super::opening::{OverlayError, other_golden};
use super::records::RecordsHeader;

impl OverlayFiles {
    /// Whether a persistent overlay is served on the image that is `sectors` of the file `golden`, from the sector `offset` on.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check_persistent(&self, golden: &Path, offset: u64, sectors: u64) -> Result<(), OverlayError> {
        let failed = |path: &Path, doing| {
            let path = path.to_owned();
            move |cause| OverlayError::Files { path, doing, cause }
        };
        let damaged = |file, what: String| OverlayError::Damaged {
            overlay: self.base().to_owned(),
            file,
            what,
        };
        let records = self.records();
        let header = File::open(&records).and_then(|file| RecordsHeader::read(&file));
        let header = match header {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(damaged(records, error.to_string()));
            }
            header => header.map_err(failed(&records, "reading what it holds"))?,
        };
        let now =
            fingerprint_of(golden, offset, sectors).map_err(failed(golden, "reading the golden image"))?;
        if let Some(what) = other_golden(&header, &now) {
            return Err(OverlayError::OtherGolden {
                overlay: self.base().to_owned(),
                golden: golden.to_owned(),
                what,
                boot: "",
            });
        }
        match std::fs::metadata(self.delta()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(damaged(self.delta(), "is gone".into()))
            }
            Ok(meta) if meta.len() != header.sectors * SECTOR_BYTES => {
                Err(damaged(self.delta(), "has another size".into()))
            }
            found => found
                .map(drop)
                .map_err(failed(&self.delta(), "looking at what was written")),
        }
    }
}

fn fingerprint_of(golden: &Path, offset: u64, sectors: u64) -> io::Result<GoldenFingerprint> {
    let file = File::open(golden)?;
    Ok(GoldenFingerprint {
        sectors,
        modified: GoldenIdentity::modified(&file.metadata()?),
        samples: fingerprint::samples(&file, offset * SECTOR_BYTES, sectors * SECTOR_BYTES)?,
    })
}
