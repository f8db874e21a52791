//! Opening an overlay: what is left of it goes on, or it begins anew.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use engine::{SECTOR_BYTES, Store};

use super::OverlayStore;
use super::bits_file::NOT_MOVED;
use super::durable::{Durable, OpenFiles, are_left};
use super::files::{Header, OverlayFiles, another_copy};
use super::fingerprint::GoldenFingerprint;
use super::golden::Golden;
use super::marks::{BitsFile, Marks, words_for};
use super::presence::Presence;
use super::records::RecordsHeader;
use super::space::Space;
use crate::commit::Committer;
use crate::commit::machine::OnLostWrite;
use crate::commit::policy::{Losses, Policy};
use crate::completion_queue::CompletionQueue;
use crate::format::ImageFormat;
use crate::open::{Context, open_with};
use crate::options::{StoreError, StoreKind, StoreOptions};

/// How an overlay is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayOptions {
    /// Its files.
    pub files: OverlayFiles,
    /// Whether one that begins anew outlives power cuts. What is left of one stays what it is.
    pub persistent: bool,
    /// Most bytes that the delta may take; 0: no limit.
    pub limit_bytes: u64,
    /// How soon its writes go to their medium.
    pub flush_interval: Duration,
}

/// Why an overlay cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// It was made on another image, or on another content of this one.
    #[error("{}: was made on another golden image than {} is now{what}; put that image back, or discard what was written (`xblade overlay reset`){boot}", .overlay.display(), .golden.display())]
    OtherGolden {
        /// The overlay.
        overlay: PathBuf,
        /// The image it is to lie on.
        golden: PathBuf,
        /// Which, as far as that is known, and which this is.
        what: String,
        /// Another way out.
        boot: &'static str,
    },
    /// A persistent one whose files do not belong together, or were damaged.
    #[error("{}: {what}: what it holds cannot be told any more, and it is not served; restore all files of {} from one backup, or discard it (`xblade overlay reset`)", .file.display(), .overlay.display())]
    Damaged {
        /// The overlay.
        overlay: PathBuf,
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A volatile one of this boot of the host, of which something is gone.
    #[error("{}: {what}: what its machine wrote cannot be told from the image any more, and it is not served; boot the machine anew, or reset it (`xblade overlay reset`)", .overlay.display())]
    Lost {
        /// The overlay.
        overlay: PathBuf,
        /// What is gone.
        what: String,
    },
    /// Its files cannot be made or read.
    #[error("{}: {doing}: {cause}", .path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The cause.
        cause: io::Error,
    },
    /// The delta cannot be opened.
    #[error(transparent)]
    Delta(#[from] StoreError),
}

/// What an overlay is opened with.
struct Opening<'a> {
    golden: &'a Golden,
    options: &'a OverlayOptions,
    sectors: u64,
}

impl OverlayStore {
    /// Opens what is left of an overlay, or begins it anew: when there is none, and a volatile one when the host was started since.
    ///
    /// # Errors
    /// For one that lies on another image or is damaged, and when the files cannot be used.
    pub fn open(golden: &Golden, options: &OverlayOptions) -> Result<OverlayStore, OverlayError> {
        let opening = Opening {
            golden,
            options,
            sectors: golden.store().sectors(),
        };
        match options.files.are_persistent() {
            true => opening.persistent(),
            false => match opening.volatile_is_left()? {
                true => opening.volatile(),
                false => opening.anew(),
            },
        }
    }
}

impl Opening<'_> {
    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> OverlayError {
        let path = self.options.files.base().to_owned();
        move |cause| OverlayError::Files { path, doing, cause }
    }

    fn other_golden(&self, what: String, boot: &'static str) -> OverlayError {
        OverlayError::OtherGolden {
            overlay: self.options.files.base().to_owned(),
            golden: self.golden.path().to_owned(),
            what,
            boot,
        }
    }

    fn damaged(&self, file: PathBuf, what: impl Into<String>) -> OverlayError {
        OverlayError::Damaged {
            overlay: self.options.files.base().to_owned(),
            file,
            what: what.into(),
        }
    }

    fn lost(&self, what: impl Into<String>) -> OverlayError {
        OverlayError::Lost {
            overlay: self.options.files.base().to_owned(),
            what: what.into(),
        }
    }

    /// Whether there is a volatile one that goes on.
    fn volatile_is_left(&self) -> Result<bool, OverlayError> {
        let files = &self.options.files;
        let left = left(files).map_err(self.failed("reading what is left of it"))?;
        // One of a persistent copy without its records: its making or its end was interrupted, and nobody has used it.
        let Some((header, delta_bytes)) = left.filter(|(header, _)| header.copy == 0) else {
            return Ok(false);
        };
        if !self.is_of_this_boot(&header)? {
            tracing::warn!(
                "{}: a volatile overlay ends with its host; it begins anew",
                files.base().display()
            );
            return Ok(false);
        }
        let (was, now) = (&header.golden, self.golden.identity());
        if !was.is_same(now) || header.sectors != self.sectors {
            let what = match was.written.zip(now.written) {
                Some((was, now)) if was != now => " (a device, which was written to since)",
                _ => "",
            };
            return Err(self.other_golden(what.into(), ", or boot the machine anew"));
        }
        match delta_bytes == header.sectors * SECTOR_BYTES {
            true => Ok(true),
            false => Err(self.lost(format!("{} has another size", files.delta().display()))),
        }
    }

    fn is_of_this_boot(&self, header: &Header) -> Result<bool, OverlayError> {
        let told = header.is_of_this_boot();
        told.map_err(self.failed("finding out whether the host was started since"))
    }

    fn anew(&self) -> Result<OverlayStore, OverlayError> {
        let (files, identity) = (&self.options.files, self.golden.identity());
        if !self.options.persistent {
            files
                .create(self.sectors, identity)
                .map_err(self.failed("making it"))?;
            return self.volatile();
        }
        let header = RecordsHeader {
            copy: another_copy(),
            sectors: self.sectors,
            golden: self
                .golden
                .fingerprint()
                .map_err(self.failed("reading the golden image"))?,
        };
        files
            .create_persistent(identity, &header)
            .map_err(self.failed("making it"))?;
        self.persistent()
    }

    fn delta(&self) -> Result<Arc<dyn Store<CompletionQueue>>, OverlayError> {
        let options = StoreOptions {
            format: ImageFormat::Raw,
            flush_interval: self.options.flush_interval,
            length: self.sectors,
            ..StoreOptions::new(StoreKind::Mmap, self.options.files.delta())
        };
        let context = Context {
            registry: self.golden.registry().clone(),
            ..Context::default()
        };
        Ok(open_with(&options, context)?.store)
    }

    /// The bits, and the path that they are at; `None`: they are gone.
    fn marks(&self) -> Result<Option<(Marks, PathBuf)>, OverlayError> {
        let bits = self.options.files.open_bits(self.sectors);
        let bits = bits.map_err(self.failed("opening what says what it holds"))?;
        bits.map(|bits| self.marks_in(bits)).transpose()
    }

    fn marks_in(&self, bits: BitsFile) -> Result<(Marks, PathBuf), OverlayError> {
        let files = &self.options.files;
        let name = files.base().display().to_string();
        let space = File::open(files.delta())
            .and_then(|delta| Space::of(&delta, self.sectors, self.options.limit_bytes, name))
            .map_err(self.failed("finding what it takes"))?;
        let path = bits.path.clone();
        let marks = Marks::map(bits, self.sectors, space).map_err(self.failed("mapping what it holds"))?;
        Ok((marks, path))
    }

    fn presence(&self, bits: &Path, persistent: bool) -> Result<Presence, OverlayError> {
        Presence::of(&self.options.files, bits, persistent).map_err(self.failed("looking at its files"))
    }

    fn volatile(&self) -> Result<OverlayStore, OverlayError> {
        let pinned = self.options.files.are_pinned();
        let pinned = pinned.map_err(self.failed("reading whether it stays at a boot"))?;
        let delta = self.delta()?;
        let gone = "the file that says which sectors these are is gone or cut (a memory file system that was emptied, or a container's that ended)";
        let (marks, bits) = self.marks()?.ok_or_else(|| self.lost(gone))?;
        Ok(OverlayStore {
            golden: self.golden.clone(),
            delta,
            marks: Arc::new(marks),
            sectors: self.sectors,
            presence: self.presence(&bits, false)?,
            files: self.options.files.clone(),
            committer: None,
            pinned: AtomicBool::new(pinned),
        })
    }

    /// Says it when the image of a persistent one was written to, and is the same by its samples.
    fn tell_written(&self, header: &Header) {
        let (was, now) = (header.golden.written, self.golden.identity().written);
        if was.zip(now).is_some_and(|(was, now)| was != now) {
            tracing::error!(
                "{}: {} was written to since this copy was opened: look at the machine's file system; if it is not what it was, put the \
                 image back, or discard the copy (`xblade overlay reset`)",
                self.options.files.base().display(),
                self.golden.path().display()
            );
        }
    }

    /// The bits of a persistent one with these on the medium.
    fn persistent_marks(&self, copy: u64, on_medium: &[u64]) -> Result<(Marks, PathBuf), OverlayError> {
        let files = &self.options.files;
        let new_map = || {
            files
                .create_map(self.sectors, self.golden.identity(), copy)
                .map_err(self.failed("making its map"))
        };
        // The map has bits which are not on the medium yet, if the host was not started since.
        let left = left(files).map_err(self.failed("reading what is left of it"))?;
        match left.filter(|(left, _)| left.copy == copy) {
            Some((left, _)) if self.is_of_this_boot(&left)? => self.tell_written(&left),
            Some(_) | None => new_map()?,
        }
        let found = match self.marks()? {
            Some(found) => found,
            None => {
                tracing::error!(
                    "{}: the file that says what was written since the last commit is gone or cut: these writes are lost, as by a power cut",
                    files.base().display()
                );
                new_map()?;
                self.marks()?
                    .ok_or_else(|| self.damaged(files.map(), "is gone again"))?
            }
        };
        let noting = || self.failed("noting what it holds");
        let (mut marks, bits) = found;
        let Err(error) = marks.persist(on_medium) else {
            return Ok((marks, bits));
        };
        // All that is missing is room for what is on the medium anyway.
        let is_full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        drop(marks);
        let moved = match is_full {
            true => files.leave_memory(self.sectors).map_err(noting())?,
            false => None,
        };
        let Some(moved) = moved else {
            return Err(noting()(error));
        };
        tracing::warn!("{}: {NOT_MOVED}: {error}", files.base().display());
        let (mut marks, bits) = self.marks_in(moved)?;
        marks.persist(on_medium).map_err(noting())?;
        Ok((marks, bits))
    }

    fn persistent(&self) -> Result<OverlayStore, OverlayError> {
        let files = &self.options.files;
        let reading = self.failed("reading what it holds");
        let records = read_write(files.records()).map_err(self.failed("opening what it holds"))?;
        let found = RecordsHeader::read(&records).and_then(|header| {
            let words = header.words(&records, words_for(header.sectors))?;
            Ok((header, words))
        });
        let (header, words) = match found {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(self.damaged(files.records(), error.to_string()));
            }
            found => found.map_err(reading)?,
        };
        self.check_golden(&header)?;
        match if_there(std::fs::metadata(files.delta()))
            .map_err(self.failed("looking at what was written"))?
        {
            None => return Err(self.damaged(files.delta(), "is gone")),
            Some(meta) if meta.len() != header.sectors * SECTOR_BYTES => {
                return Err(self.damaged(files.delta(), "has another size"));
            }
            Some(_) => {}
        }
        // From here on nobody else has it.
        let delta = self.delta()?;
        let (marks, bits) = self.persistent_marks(header.copy, &words)?;
        let marks = Arc::new(marks);
        let written = read_write(files.delta()).map_err(self.failed("opening what was written"))?;
        let gates = &self.golden.registry().disks().gates;
        let gate = gates
            .of(&written)
            .map_err(self.failed("starting a thread for what is written"))?;
        let durable = Durable {
            files: OpenFiles {
                delta: Arc::new(written),
                records,
                gate: Arc::clone(&gate),
            },
            marks: Arc::clone(&marks),
            failed: AtomicBool::new(are_left(&marks)),
            copy: header.copy,
            sectors: self.sectors,
            name: files.base().display().to_string(),
        };
        let policy = Policy {
            flush_interval: self.options.flush_interval,
            on_lost_write: OnLostWrite::Stop,
            losses: Losses::default(),
            leftovers: true,
        };
        Ok(OverlayStore {
            golden: self.golden.clone(),
            delta,
            marks,
            sectors: self.sectors,
            presence: self.presence(&bits, true)?,
            files: files.clone(),
            committer: Some(Committer::new(Arc::new(durable), policy, &gate.threads)),
            pinned: AtomicBool::new(false),
        })
    }

    fn check_golden(&self, header: &RecordsHeader) -> Result<(), OverlayError> {
        let now = self
            .golden
            .fingerprint()
            .map_err(self.failed("reading the golden image"))?;
        match other_golden(header, &now) {
            None => Ok(()),
            Some(what) => Err(self.other_golden(what, "")),
        }
    }
}

/// Which image an overlay was made on, and which one there is; `None`: it is that one.
pub(super) fn other_golden(header: &RecordsHeader, now: &GoldenFingerprint) -> Option<String> {
    if header.golden == *now && header.sectors == now.sectors {
        return None;
    }
    let touched = header.golden.samples == now.samples && header.golden.sectors == now.sectors;
    let hint = match touched {
        true => "; the samples are the same: if only its time was changed, set that back with `touch -d`",
        false => "",
    };
    Some(format!(" (made on: {}; now: {now}{hint})", header.golden))
}

fn read_write(path: PathBuf) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}

/// The header of an overlay whose files are both there, and the bytes of its delta.
fn left(files: &OverlayFiles) -> io::Result<Option<(Header, u64)>> {
    let Some(map) = if_there(File::open(files.map()))? else {
        return Ok(None);
    };
    let Some(delta) = if_there(std::fs::metadata(files.delta()))? else {
        return Ok(None);
    };
    Ok(Header::read(&map)?.map(|header| (header, delta.len())))
}

fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}
