//! The same under file systems.

use std::process::Command;

use anyhow::{Context, Result};
use disks::Disk;
use disks::io_engine::{IoEngine, WAYS};
use lab::faulty_export::{FaultyExport, Mounted, cold};
use lab::needs;
use lab::needs::{find, skip};

use super::{BAD_WRITES, NEEDS, Served, commit_takes_down_what_came_while_it_ran, lost_write_of};

const IMAGE_BYTES: usize = 16 << 20;

/// One whose journal, if it has one, writes nothing by itself meanwhile: it would stop the file system where it cannot.
#[derive(Clone, Copy, Debug)]
struct System {
    kind: &'static str,
    make: &'static [&'static str],
    options: &'static str,
    mib: usize,
}

const WITH_A_JOURNAL: System = System {
    kind: "ext4",
    make: &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    options: "commit=600",
    mib: 64,
};
const WITHOUT_A_JOURNAL: System = System {
    kind: "ext4",
    make: &["-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0"],
    options: "",
    mib: 64,
};
const XFS: System = System {
    kind: "xfs",
    make: &["-q", "-f"],
    options: "",
    mib: 320,
};

impl Served {
    /// A file on such a disk. `None`: the file system cannot be made here.
    fn on(system: System, options: &[&str], engine: IoEngine) -> Result<Option<Served>> {
        let program = format!("mkfs.{}", system.kind);
        let _ = Command::new("modprobe").arg(system.kind).output();
        let known = std::fs::read_to_string("/proc/filesystems")?;
        if find(&program).is_none() || !known.split_whitespace().any(|word| word == system.kind) {
            skip("disk_faults", &format!("needs {}", system.kind));
            return Ok(None);
        }
        let export = FaultyExport::new()?;
        engine.choose(&export.lab.target)?;
        let mut disk = Disk::new(&export.lab.target, system.mib)?;
        let device = disk.block_device(&export.lab.target)?;
        let words = lab::packages::words(&program);
        let mut make = Command::new(&words[0]);
        make.args(&words[1..]).args(system.make).arg(&device);
        export.lab.target.output(make)?;
        let mounted = Mounted::new(&export.lab.target, &device, system.kind, system.options)?;
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
    for system in [WITH_A_JOURNAL, WITHOUT_A_JOURNAL, XFS] {
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
            let serve = |options: &[&str]| Served::on(WITHOUT_A_JOURNAL, options, engine);
            lost_write_of(directory.path(), store, pick, serve)
                .with_context(|| format!("{store}, {what}, {engine:?}"))?;
        }
    }
    Ok(())
}
