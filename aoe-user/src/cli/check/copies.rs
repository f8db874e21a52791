//! What `xblade check` says of machines' copies of golden images: whether there can be any where they are to be, whether there is room for
//! them, and which of those that are there will be refused.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access as Right, AtFlags, CWD, accessat};

use super::super::table::size;
use super::backing;
use crate::config::validate::{Finding, Report};
use crate::config::{ExportConfig, Overlay, StoreKind, Unknown};
use crate::control::{DiskName, directory_of_copies};
use crate::store::{OverlayFiles, SECTOR_BYTES, free_bytes, is_full, lies_in_memory, look_for_memory};

/// The setting that is at fault.
const KEY: &str = "overlay_dir";

/// The copies of one export, and where they lie.
struct CheckedCopies<'c> {
    index: usize,
    export: &'c ExportConfig,
    /// Its own directory.
    own: PathBuf,
    /// The nearest directory above that is there.
    place: PathBuf,
    /// Sectors of the image; `None`: it cannot be used.
    sectors: Option<u64>,
}

/// The copies on one file system.
#[derive(Default)]
struct SpaceNeed {
    copies: u64,
    bytes: u64,
    taken: u64,
}

/// Adds what there is to be said.
pub(super) fn look(exports: &[ExportConfig], report: &mut Report) {
    let mut needs: HashMap<u64, (SpaceNeed, usize, PathBuf)> = HashMap::new();
    for (index, export) in exports.iter().enumerate() {
        let Some(own) = directory_of_copies(export).filter(|_| export.overlay != Overlay::None) else {
            continue;
        };
        let place = match usable(&own) {
            Ok(place) => place,
            Err(message) => {
                report.problems.push(finding(index, message));
                continue;
            }
        };
        let backing = report.exports.get(index).and_then(|seen| seen.backing);
        let copies = CheckedCopies {
            index,
            export,
            own,
            place,
            sectors: backing.map(|backing| backing::sectors_served(export, &backing)),
        };
        let found = copies.warnings();
        report
            .warnings
            .extend(found.into_iter().map(|message| finding(index, message)));
        if let Some((device, need)) = copies.need() {
            let (all, ..) = needs
                .entry(device)
                .or_insert_with(|| (SpaceNeed::default(), copies.index, copies.place.clone()));
            all.copies += need.copies;
            all.bytes = all.bytes.saturating_add(need.bytes);
            all.taken += need.taken;
        }
    }
    for (need, index, place) in needs.into_values() {
        report
            .warnings
            .extend(too_little(&need, &place).map(|message| finding(index, message)));
    }
}

fn finding(export: usize, message: String) -> Finding {
    Finding {
        export,
        key: KEY,
        message,
        other: None,
    }
}

/// The nearest directory at or above this one that is there, if copies can be made there.
fn usable(own: &Path) -> Result<PathBuf, String> {
    for place in own.ancestors() {
        let place = if place.as_os_str().is_empty() {
            Path::new(".")
        } else {
            place
        };
        let name = place.display();
        match std::fs::metadata(place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{name}: machines' copies cannot be there: {error}")),
            Ok(meta) if !meta.is_dir() => {
                return Err(format!(
                    "{name}: machines' copies cannot be there: it is no directory"
                ));
            }
            Ok(_) => {
                let rights = Right::READ_OK | Right::WRITE_OK | Right::EXEC_OK;
                return match accessat(CWD, place, rights, AtFlags::EACCESS) {
                    Ok(()) => Ok(place.to_owned()),
                    Err(error) => Err(format!(
                        "{name}: machines' copies cannot be made there: {}; give the directory to the user that xblade runs as, and make its file \
                         system writable",
                        io::Error::from(error)
                    )),
                };
            }
        }
    }
    Err(format!("{}: machines' copies cannot be there", own.display()))
}

impl CheckedCopies<'_> {
    fn is_in_files(&self) -> bool {
        self.export.store != StoreKind::Rbd
    }

    fn is_there(&self) -> bool {
        let whole = self.export.overlay_dir.as_ref();
        whole.is_some_and(|whole| whole.exists())
    }

    /// What the operator should know of this export.
    fn warnings(&self) -> Vec<String> {
        let mut found = Vec::new();
        let directory = self.export.overlay_dir.clone().unwrap_or_default();
        let directory = directory.display();
        if !self.is_there() {
            found.push(format!(
                "{directory}: is not there yet; xblade makes it, on the file system of {}: where a disk is to be mounted there, mount it first",
                self.place.display()
            ));
        }
        if !self.is_in_files() {
            return found;
        }
        let in_memory = lies_in_memory(&self.place);
        let is_kept = |kind| kind == Overlay::Persistent;
        if in_memory && self.kinds().any(is_kept) {
            found.push(format!(
                "{directory}: lies in memory (a tmpfs): persistent copies there end with the host; put overlay_dir on a disk"
            ));
        }
        if !in_memory && let Err(error) = look_for_memory() {
            found.push(format!(
                "what machines' copies hold would be noted on the disk of overlay_dir: while that is slow or hangs, a machine's write keeps other \
                 exports waiting; there is no tmpfs for it ({error})"
            ));
        }
        found.extend(self.refused());
        found
    }

    /// What the machines with names have.
    fn kinds(&self) -> impl Iterator<Item = Overlay> {
        let machines = self.export.machines.iter();
        machines.map(|machine| machine.overlay_on(self.export))
    }

    /// Persistent copies that will not be served.
    fn refused(&self) -> Vec<String> {
        let Some(sectors) = self.sectors else {
            return Vec::new();
        };
        let mut names: Vec<DiskName> = self
            .files(".marks")
            .filter_map(|file| DiskName::of_file(&file))
            .collect();
        names.sort();
        let why = |name: &DiskName| {
            let files = OverlayFiles::new(self.own.join(name.file_stem()));
            let checked = files.check_persistent(&self.export.path, self.export.offset, sectors);
            Some(format!("{name} will hear nothing: {}", checked.err()?))
        };
        names.iter().filter_map(why).collect()
    }

    /// Files of copies that are there.
    fn files(&self, suffix: &'static str) -> impl Iterator<Item = PathBuf> + use<> {
        let entries = std::fs::read_dir(&self.own).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(move |path| path.to_string_lossy().ends_with(suffix))
    }

    /// What the copies may take on which file system, and what those that are there take already. Machines without a name count as one.
    fn need(&self) -> Option<(u64, SpaceNeed)> {
        let image = self
            .sectors
            .filter(|_| self.is_in_files())?
            .saturating_mul(SECTOR_BYTES);
        let most = self.export.overlay_limit.unwrap_or(image).min(image);
        let named = self.kinds().filter(|kind| *kind != Overlay::None).count() as u64;
        let copies = named + u64::from(self.export.unknown == Unknown::Volatile);
        let taken = self
            .files(".delta")
            .filter_map(|file| std::fs::metadata(file).ok());
        let need = SpaceNeed {
            copies,
            bytes: most.saturating_mul(copies),
            taken: taken.map(|file| file.blocks() * SECTOR_BYTES).sum(),
        };
        Some((std::fs::metadata(&self.place).ok()?.dev(), need))
    }
}

/// What is to be said where there is less room than copies may take.
fn too_little(need: &SpaceNeed, place: &Path) -> Option<String> {
    let free = free_bytes(place).ok()?;
    let place = place.display();
    let bytes = |bytes: u64| size(bytes / SECTOR_BYTES);
    if is_full(free) {
        return Some(format!(
            "{place}: the file system is full: machines' writes fail, and no copy begins; make room there"
        ));
    }
    (need.bytes > free.saturating_add(need.taken)).then(|| {
        let SpaceNeed { copies, taken, .. } = need;
        let copies = match copies {
            1 => "one copy".to_owned(),
            copies => format!("{copies} copies"),
        };
        format!(
            "{place}: {copies} may take {} there, {} of it taken by now, and {} are free: when it is full machines' writes fail; make room, or set \
             overlay_limit lower (machines without a name count as one here)",
            bytes(need.bytes),
            bytes(*taken),
            bytes(free)
        )
    })
}
