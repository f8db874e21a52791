//! Operators and file systems that do bad things under a running target, for each store: a file that is cut, deleted
//! or replaced, a file system that is full. What fails is an ATA error for the requests concerned and a line in the log;
//! the process lives on, and when the cause is gone so are the errors.

use anyhow::{Context, Result, ensure};
use disks::Disk;
use lab::faulty_export::{
    ADDRESS, FaultyExport, GOOD, READ_FAULT, STORES, WRITE_FAULT, at, fill, lba, logged, recovers, registers,
    sparse,
};
use lab::file_system::{EXT4, Mounted};
use lab::frame::ata;
use lab::image::{Random, SECTOR, pattern, stamp};
use lab::needs::Need;
use lab::{Image, Target, needs};

#[test]
fn a_truncated_file_fails_where_it_is_cut_and_takes_no_writes_when_it_is_whole_again() -> Result<()> {
    needs!(Need::Root);
    for store in STORES {
        let export = FaultyExport::new()?;
        let image = Image::stamped(64)?;
        let mut target = export.serve(image.path(), &["--store", store])?;
        assert_eq!(registers(&export.read(40)?), GOOD);
        image.file().set_len(32 * SECTOR as u64)?;

        assert_eq!(
            export.read(5)?.data()[..SECTOR],
            stamp(5),
            "{store}: what is there is served"
        );
        let cut = export.read(40)?;
        assert_eq!((registers(&cut), lba(&cut)), (READ_FAULT, 40), "{store}");
        let cut = export.write(41, *b"too late")?;
        assert_eq!((registers(&cut), lba(&cut)), (WRITE_FAULT, 41), "{store}");
        assert_eq!(
            image.file().metadata()?.len(),
            32 * SECTOR as u64,
            "{store}: the target does not mend the file"
        );
        logged(&mut target, image.path(), "short")?;

        image.file().set_len(64 * SECTOR as u64)?;
        let lost = export.flush()?;
        ensure!(registers(&lost) != GOOD, "{store}: the file was cut");
        let refused = export.write(41, *b"refused!")?;
        assert_eq!(registers(&refused), WRITE_FAULT, "{store}");
        recovers("a read", || export.read(41))?;
        assert_eq!(export.read(41)?.data()[..SECTOR], [0; SECTOR], "{store}");
    }
    Ok(())
}

#[test]
fn a_file_that_shrinks_gives_errors_and_no_crash() -> Result<()> {
    needs!(Need::Root);
    let export = FaultyExport::new()?;
    let image = Image::stamped(4096)?;
    let mut target = export.serve(image.path(), &[])?;
    let disk = export.initiator.find(ADDRESS)?;
    ensure!(disk.read(4000, 2)?[..512] == stamp(4000));

    // Requests come all the while, some of them beyond the new end.
    let mut random = Random::new(17);
    for round in 0..600 {
        if round == 200 {
            image.file().set_len(1024 * 512)?;
        }
        let lba = random.below(4094);
        let write = random.below(2) == 0;
        let reply = if write {
            let data: Vec<u8> = (lba..lba + 2).flat_map(stamp).collect();
            disk.ata(ata::WRITE_EXT, lba, 2, &data)?
        } else {
            disk.ata(ata::READ_EXT, lba, 2, &[])?
        };
        ensure!(
            reply.aoe_error().is_none(),
            "an AoE error makes Linux wait for minutes: {reply:?}"
        );
        let good = reply.status() == 0x40;
        // Writes are refused as soon as the cut is noticed.
        if round < 200 || (lba + 2 <= 1024 && (good || !write)) {
            ensure!(good, "round {round}, sector {lba}: {reply:?}");
            ensure!(
                write || reply.data()[..512] == stamp(lba),
                "round {round}: sector {lba} is wrong"
            );
        } else if lba >= 1032 {
            // Within the last page the kernel gives zeros; beyond it there is nothing.
            ensure!(
                reply.status() & 1 != 0,
                "round {round}: sector {lba} is gone, yet the answer is {reply:?}"
            );
        }
    }
    ensure!(target.process.is_running());
    image.file().set_len(4096 * 512)?;
    disk.identify()?;
    let flush = disk.ata(ata::FLUSH_EXT, 0, 0, &[])?;
    ensure!(flush.status() & 1 != 0, "what was cut off is lost: {flush:?}");
    let refused = disk.ata(ata::WRITE_EXT, 4000, 1, &stamp(4000))?;
    ensure!(refused.status() & 1 != 0, "what was cut off is lost: {refused:?}");
    ensure!(disk.read(4000, 1)? == [0; 512]);
    ensure!(target.process.stop()? != 0);
    Ok(())
}

/// A file that is deleted or replaced by another is served on, whole, till the target ends: initiators have it
/// mounted, and half of one and half of another image would be the worst of all.
#[test]
fn a_deleted_or_replaced_file_is_served_on() -> Result<()> {
    needs!(Need::Root);
    for store in STORES {
        let export = FaultyExport::new()?;
        let image = Image::stamped(64)?;
        let mut target = export.serve(image.path(), &["--store", store])?;
        let other = Image::sparse(64)?;
        std::fs::rename(other.path(), image.path())?;
        assert_eq!(registers(&export.write(7, *b"still me")?), GOOD, "{store}");
        assert_eq!(
            export.read(7)?.data()[..SECTOR],
            pattern(7, *b"still me"),
            "{store}"
        );
        assert_eq!(export.read(8)?.data()[..SECTOR], stamp(8), "{store}");
        assert_eq!(
            image.read(7, 1)?,
            pattern(7, *b"still me"),
            "{store}: in the file that it opened"
        );
        assert_eq!(
            std::fs::read(image.path())?,
            vec![0; 64 * SECTOR],
            "{store}: and not in the new one"
        );
        std::fs::remove_file(image.path())?;
        assert_eq!(registers(&export.write(9, *b"and now?")?), GOOD, "{store}");
        assert_eq!(registers(&export.flush()?), GOOD, "{store}");
        ensure!(target.process.is_running());
    }
    Ok(())
}

/// What [`full`] has written to a sector when the file system is full.
fn luck(lba: u64) -> [u8; 8] {
    if lba == 0 { *b"the same" } else { *b"has luck" }
}

fn holds_all(disk: &lab::initiator::Disk<'_>, stored: &[u64]) -> Result<()> {
    for lba in stored {
        ensure!(
            disk.read(*lba, 1)? == pattern(*lba, luck(*lba)),
            "sector {lba} was acknowledged and is wrong"
        );
    }
    Ok(())
}

fn full(store: &str, export: &FaultyExport, place: &Mounted) -> Result<()> {
    let (image, ballast) = (place.path("image"), place.path("ballast"));
    let namespace = &export.lab.target;
    sparse(namespace, &image, 4 << 20)?;
    let mut target = export.serve(&image, &["--store", store])?;
    assert_eq!(registers(&export.write(0, *b"has room")?), GOOD, "{store}");
    assert_eq!(registers(&export.flush()?), GOOD, "{store}");
    fill(namespace, &ballast)?;

    let refused = export.write(4096, *b"no room!")?;
    assert_eq!(
        (registers(&refused), lba(&refused)),
        (WRITE_FAULT, 4096),
        "{store}"
    );
    assert_eq!(
        export.read(0)?.data()[..SECTOR],
        pattern(0, *b"has room"),
        "{store}: what was there is served"
    );
    assert_eq!(
        registers(&export.write(0, *b"the same")?),
        GOOD,
        "{store}: and can be written, its space is its own"
    );
    let hole = export.read(4096)?;
    assert_eq!(
        (registers(&hole), hole.data()[..SECTOR] == [0; SECTOR]),
        (GOOD, true),
        "{store}: a hole stays one"
    );
    logged(&mut target, &image, "space")?;

    // Many more: each is stored or refused, and what was stored is there. A new process finds the same.
    let mut stored = vec![0];
    let disk = export.initiator.find(ADDRESS)?;
    for lba in (16..8192).step_by(16) {
        match registers(&disk.ata(ata::WRITE_EXT, lba, 1, &pattern(lba, luck(lba)))?) {
            GOOD => stored.push(lba),
            WRITE_FAULT => {}
            other => anyhow::bail!("sector {lba} of a full file system: {other:02x?}"),
        }
    }
    ensure!(stored.len() < 8192 / 16, "{store}: it was not full");
    holds_all(&disk, &stored)?;
    target.process.stop()?;
    let mut target = export.serve(&image, &["--store", store])?;
    holds_all(&export.initiator.find(ADDRESS)?, &stored)?;

    at(namespace, &ballast, |path| std::fs::remove_file(path))?;
    recovers("a write", || export.write(4096, *b"has room"))?;
    recovers("a flush", || export.flush())?;
    assert_eq!(
        export.read(4096)?.data()[..SECTOR],
        pattern(4096, *b"has room"),
        "{store}"
    );
    assert_eq!(target.process.stop()?, 0, "{store}");
    Ok(())
}

#[test]
fn a_full_tmpfs_refuses_writes_and_takes_them_when_there_is_room() -> Result<()> {
    needs!(Need::Root);
    for store in STORES {
        let export = FaultyExport::new()?;
        let place = Mounted::new(&export.lab.target, "tmpfs", "tmpfs", "size=2m")?;
        full(store, &export, &place).with_context(|| store.to_owned())?;
    }
    Ok(())
}

#[test]
fn a_full_ext4_refuses_writes_and_takes_them_when_there_is_room() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("mkfs.ext4"),
        Need::File("/dev/fuse"),
        Need::File("/dev/loop-control")
    );
    for store in STORES {
        let export = FaultyExport::new()?;
        let mut disk = Disk::new(&export.lab.target, 16)?;
        let device = disk.block_device(&export.lab.target)?;
        let place = EXT4
            .mounted_with("errors=continue")
            .make(&export.lab.target, &device)?;
        full(store, &export, &place).with_context(|| store.to_owned())?;
    }
    Ok(())
}

#[test]
fn preallocation_refuses_to_start_without_the_space() -> Result<()> {
    needs!(Need::Root);
    let export = FaultyExport::new()?;
    let place = Mounted::new(&export.lab.target, "tmpfs", "tmpfs", "size=2m")?;
    let image = place.path("image");
    sparse(&export.lab.target, &image, 16 << 20)?;
    let args = [
        "serve",
        "7",
        "3",
        "eth0",
        image.to_str().context("odd path")?,
        "--prealloc",
    ];
    let mut target = Target::start(&export.lab.target, &args)?;
    let status = target.process.wait(lab::initiator::TIMEOUT)?;
    assert!(!status.success());
    let log = target.process.log();
    assert!(log.contains(args[4]) && log.contains("space"), "{log}");
    Ok(())
}
