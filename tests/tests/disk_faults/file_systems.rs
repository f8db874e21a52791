//! The same under file systems.

use anyhow::{Context, Result};
use disks::Disk;
use disks::io_engine::{IoEngine, WAYS};
use lab::faulty_export::{FaultyExport, cold};
use lab::file_system::{EXT4, EXT4_WITHOUT_JOURNAL, FileSystem, XFS};
use lab::needs;
use lab::needs::skip;

use super::{BAD_WRITES, NEEDS, Served, commit_takes_down_what_came_while_it_ran, lost_write_of};

const IMAGE_BYTES: usize = 16 << 20;

/// Its journal writes nothing by itself meanwhile: it would stop the file system where it cannot.
const WITH_A_JOURNAL: FileSystem = EXT4.mounted_with("commit=600");

impl Served {
    /// A file on such a disk. `None`: the file system cannot be made here.
    fn on(system: FileSystem, options: &[&str], engine: IoEngine) -> Result<Option<Served>> {
        if let Some(missing) = system.missing()? {
            skip("disk_faults", &missing);
            return Ok(None);
        }
        let export = FaultyExport::new()?;
        engine.choose(&export.lab.target)?;
        let mut disk = Disk::new(&export.lab.target, system.mib)?;
        let device = disk.block_device(&export.lab.target)?;
        let mounted = system.make(&export.lab.target, &device)?;
        let image = mounted.path("image");
        cold(&export.lab.target, &image, IMAGE_BYTES)?;
        let target = export.serve(&image, options)?;
        Ok(Some(Served {
            target,
            disk,
            _mounted: Some(mounted),
            export,
            device: image,
        }))
    }
}

#[test]
fn a_commit_that_fails_under_a_file_system_takes_down_what_came_while_it_ran() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for system in [WITH_A_JOURNAL, EXT4_WITHOUT_JOURNAL, XFS] {
        if let Some(served) = Served::on(system, &["--store", "mmap", "--sync"], IoEngine::Uring)? {
            commit_takes_down_what_came_while_it_ran(&served).with_context(|| format!("{system:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_write_that_is_lost_under_a_file_system_stops_the_export() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for (store, engine) in WAYS {
        for (what, pick) in BAD_WRITES {
            if store == "direct" && what == "writes" {
                continue; // asked for before it is acknowledged
            }
            let directory = tempfile::tempdir()?;
            let serve = |options: &[&str]| Served::on(EXT4_WITHOUT_JOURNAL, options, engine);
            lost_write_of(directory.path(), store, pick, serve)
                .with_context(|| format!("{store}, {what}, {engine:?}"))?;
        }
    }
    Ok(())
}
