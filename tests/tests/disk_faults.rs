//! Disks and operators that do bad things under a running target, for each store: what fails is an ATA error for the
//! requests concerned and a line in the log; the process lives on, and when the cause is gone so are the errors.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::disk::Disk;
use lab::frame::ata;
use lab::image::{SECTOR, pattern, stamp};
use lab::needs::Need;
use lab::vm::host::ext4;
use lab::{Address, Image, Initiator, Lab, Namespace, Reply, Target, needs};
use nix::mount::{MsFlags, mount};
use tempfile::TempDir;

const ADDRESS: Address = Address::new(7, 3);
const STORES: [&str; 2] = ["mmap", "direct"];

/// A read that the medium did not answer: DRDY ERR, UNC.
const READ_FAULT: (u8, u8) = (0x41, 0x40);
/// A write that the medium did not take: DRDY DF ERR, ABRT.
const WRITE_FAULT: (u8, u8) = (0x61, 0x04);
const GOOD: (u8, u8) = (0x40, 0);

/// A lab, an initiator in it, and the target once it is started.
struct Stand {
    lab: Lab,
    initiator: Initiator,
}

impl Stand {
    fn new() -> Result<Stand> {
        let lab = Lab::new(lab::Options::default())?;
        let initiator = lab.open(0)?;
        Ok(Stand { lab, initiator })
    }

    fn serve(&self, file: &Path, options: &[&str]) -> Result<Target> {
        let file = file.to_str().context("odd path")?;
        let args = [&["serve", "7", "3", "eth0", file], options].concat();
        let target = Target::ready(&self.lab.target, &args, 1)?;
        // Its question whether somebody else has its address, and its advertisement.
        self.initiator.drain()?;
        Ok(target)
    }

    fn ask(&self, command: u8, lba: u64, count: u8, data: &[u8]) -> Result<Reply> {
        self.initiator.find(ADDRESS)?.ata(command, lba, count, data)
    }

    fn read(&self, lba: u64) -> Result<Reply> {
        self.ask(ata::READ_EXT, lba, 1, &[])
    }

    fn write(&self, lba: u64, word: [u8; 8]) -> Result<Reply> {
        self.ask(ata::WRITE_EXT, lba, 1, &pattern(lba, word))
    }

    fn flush(&self) -> Result<Reply> {
        self.ask(ata::FLUSH_EXT, 0, 0, &[])
    }
}

/// Status and error register.
fn registers(reply: &Reply) -> (u8, u8) {
    (reply.status(), reply.ata_error())
}

/// LBA registers.
fn lba(reply: &Reply) -> u64 {
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&reply.argument[4..10]);
    u64::from_le_bytes(bytes)
}

/// Asks until the answer is good: a fault may outlast its cause by one report, not for ever.
fn recovers(what: &str, ask: impl Fn() -> Result<Reply>) -> Result<()> {
    let mut seen = Vec::new();
    for _ in 0..40 {
        let reply = ask()?;
        if registers(&reply) == GOOD {
            return Ok(());
        }
        seen.push(registers(&reply));
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("{what} does not recover: {seen:02x?}")
}

/// The log names the export (by its file), the place and the cause, and does not drown the reader.
fn logged(target: &mut Target, file: &Path, cause: &str) -> Result<()> {
    let name = file.to_str().context("odd path")?.to_owned();
    let is_it = |line: &str| line.contains(&name) && line.contains(cause) && line.contains("sector");
    let found = target.process.wait_for_after(0, is_it, Duration::from_secs(3));
    found.with_context(|| format!("no line has {name}, {cause:?} and the sector"))?;
    ensure!(
        target.process.log().lines().count() < 100,
        "a log that drowns its reader:\n{}",
        target.process.log()
    );
    ensure!(target.process.is_running(), "the target is gone");
    Ok(())
}

/// A file system of the target's namespace on something.
struct Mounted(TempDir);

impl Mounted {
    fn new(
        namespace: &Namespace,
        source: &str,
        kind: &'static str,
        options: &'static str,
    ) -> Result<Mounted> {
        let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
        let (source, at) = (source.to_owned(), directory.path().to_owned());
        let mounted = namespace.run(move || {
            mount(
                Some(source.as_str()),
                &at,
                Some(kind),
                MsFlags::empty(),
                Some(options),
            )
        });
        mounted.with_context(|| format!("mounting {kind}"))?;
        Ok(Mounted(directory))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Runs a job on a path as the namespace sees it.
fn at<T: Send + 'static>(
    namespace: &Namespace,
    path: &Path,
    job: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let path = path.to_owned();
    namespace.run(move || job(&path)).context("preparing a file")
}

fn sparse(namespace: &Namespace, path: &Path, bytes: u64) -> Result<()> {
    at(namespace, path, move |path| {
        std::fs::File::create(path)?.set_len(bytes)
    })
}

/// Fills the file system with a file, to the last byte.
fn fill(namespace: &Namespace, path: &Path) -> Result<()> {
    at(namespace, path, |path| {
        let mut file = std::fs::File::create(path)?;
        for size in [1 << 20, 4096, 512, 1] {
            while std::io::Write::write(&mut file, &vec![7; size]).is_ok_and(|written| written > 0) {}
        }
        let _ = file.sync_all();
        Ok(())
    })
}

#[test]
fn a_truncated_file_fails_where_it_is_cut_and_works_again_when_it_is_whole() -> Result<()> {
    needs!(Need::Root);
    for store in STORES {
        let stand = Stand::new()?;
        let image = Image::stamped(64)?;
        let mut target = stand.serve(image.path(), &["--store", store])?;
        assert_eq!(registers(&stand.read(40)?), GOOD);
        image.file().set_len(32 * SECTOR as u64)?;

        assert_eq!(
            stand.read(5)?.data()[..SECTOR],
            stamp(5),
            "{store}: what is there is served"
        );
        let cut = stand.read(40)?;
        assert_eq!((registers(&cut), lba(&cut)), (READ_FAULT, 40), "{store}");
        let cut = stand.write(41, *b"too late")?;
        assert_eq!((registers(&cut), lba(&cut)), (WRITE_FAULT, 41), "{store}");
        assert_eq!(
            image.file().metadata()?.len(),
            32 * SECTOR as u64,
            "{store}: the target does not mend the file"
        );
        logged(&mut target, image.path(), "short")?;

        image.file().set_len(64 * SECTOR as u64)?;
        recovers("a write", || stand.write(41, *b"in time!"))?;
        recovers("a read", || stand.read(41))?;
        assert_eq!(
            stand.read(41)?.data()[..SECTOR],
            pattern(41, *b"in time!"),
            "{store}"
        );
        assert_eq!(image.read(41, 1)?, pattern(41, *b"in time!"), "{store}");
    }
    Ok(())
}

/// A file that is deleted or replaced by another is served on, whole, till the target ends: initiators have it
/// mounted, and half of one and half of another image would be the worst of all.
#[test]
fn a_deleted_or_replaced_file_is_served_on() -> Result<()> {
    needs!(Need::Root);
    for store in STORES {
        let stand = Stand::new()?;
        let image = Image::stamped(64)?;
        let mut target = stand.serve(image.path(), &["--store", store])?;
        let other = Image::sparse(64)?;
        std::fs::rename(other.path(), image.path())?;
        assert_eq!(registers(&stand.write(7, *b"still me")?), GOOD, "{store}");
        assert_eq!(
            stand.read(7)?.data()[..SECTOR],
            pattern(7, *b"still me"),
            "{store}"
        );
        assert_eq!(stand.read(8)?.data()[..SECTOR], stamp(8), "{store}");
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
        assert_eq!(registers(&stand.write(9, *b"and now?")?), GOOD, "{store}");
        assert_eq!(registers(&stand.flush()?), GOOD, "{store}");
        ensure!(target.process.is_running());
    }
    Ok(())
}

fn full(store: &str, stand: &Stand, place: &Mounted) -> Result<()> {
    let (image, ballast) = (place.path("image"), place.path("ballast"));
    let namespace = &stand.lab.target;
    sparse(namespace, &image, 4 << 20)?;
    let mut target = stand.serve(&image, &["--store", store])?;
    assert_eq!(registers(&stand.write(0, *b"has room")?), GOOD, "{store}");
    assert_eq!(registers(&stand.flush()?), GOOD, "{store}");
    fill(namespace, &ballast)?;

    let refused = stand.write(4096, *b"no room!")?;
    assert_eq!(
        (registers(&refused), lba(&refused)),
        (WRITE_FAULT, 4096),
        "{store}"
    );
    assert_eq!(
        stand.read(0)?.data()[..SECTOR],
        pattern(0, *b"has room"),
        "{store}: what was there is served"
    );
    assert_eq!(
        registers(&stand.write(0, *b"the same")?),
        GOOD,
        "{store}: and can be written, its space is its own"
    );
    let hole = stand.read(4096)?;
    assert_eq!(
        (registers(&hole), hole.data()[..SECTOR] == [0; SECTOR]),
        (GOOD, true),
        "{store}: a hole stays one"
    );
    logged(&mut target, &image, "space")?;

    at(namespace, &ballast, |path| std::fs::remove_file(path))?;
    recovers("a write", || stand.write(4096, *b"has room"))?;
    recovers("a flush", || stand.flush())?;
    assert_eq!(
        stand.read(4096)?.data()[..SECTOR],
        pattern(4096, *b"has room"),
        "{store}"
    );
    Ok(())
}

#[test]
fn a_full_tmpfs_refuses_writes_and_takes_them_when_there_is_room() -> Result<()> {
    needs!(Need::Root);
    for store in STORES {
        let stand = Stand::new()?;
        let place = Mounted::new(&stand.lab.target, "tmpfs", "tmpfs", "size=2m")?;
        full(store, &stand, &place).with_context(|| store.to_owned())?;
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
        let stand = Stand::new()?;
        let mut disk = Disk::new(&stand.lab.target, 16)?;
        disk.preset(&ext4(16)?);
        let device = disk.block_device(&stand.lab.target)?;
        let place = Mounted::new(&stand.lab.target, &device, "ext4", "errors=continue")?;
        full(store, &stand, &place).with_context(|| store.to_owned())?;
    }
    Ok(())
}

#[test]
fn a_disk_that_does_not_read_fails_these_reads_only() -> Result<()> {
    needs!(
        Need::Root,
        Need::File("/dev/fuse"),
        Need::File("/dev/loop-control")
    );
    for store in STORES {
        let stand = Stand::new()?;
        let mut disk = Disk::new(&stand.lab.target, 8)?;
        disk.preset(&(0..16384).flat_map(stamp).collect::<Vec<u8>>());
        let device = PathBuf::from(disk.block_device(&stand.lab.target)?);
        let mut target = stand.serve(&device, &["--store", store])?;
        disk.switches().reads_fail.store(true, Ordering::Relaxed);
        let bad = stand.read(9000)?;
        assert_eq!((registers(&bad), lba(&bad)), (READ_FAULT, 9000), "{store}");
        logged(&mut target, &device, "error")?;
        disk.switches().reads_fail.store(false, Ordering::Relaxed);
        recovers("a read", || stand.read(9000))?;
        assert_eq!(stand.read(9000)?.data()[..SECTOR], stamp(9000), "{store}");
    }
    Ok(())
}

/// With `--sync` the error belongs to the write itself.
#[test]
fn a_disk_that_does_not_write_fails_synchronous_writes() -> Result<()> {
    needs!(
        Need::Root,
        Need::File("/dev/fuse"),
        Need::File("/dev/loop-control")
    );
    for store in STORES {
        for (what, pick) in BAD_WRITES {
            let stand = Stand::new()?;
            let mut disk = Disk::new(&stand.lab.target, 8)?;
            let device = PathBuf::from(disk.block_device(&stand.lab.target)?);
            let mut target = stand.serve(&device, &["--store", store, "--sync"])?;
            assert_eq!(
                registers(&stand.write(100, *b"it works")?),
                GOOD,
                "{store}, {what}"
            );
            pick(&disk).store(true, Ordering::Relaxed);
            let bad = stand.write(200, *b"it fails")?;
            assert_eq!(registers(&bad), WRITE_FAULT, "{store}, {what}");
            logged(&mut target, &device, "error")?;
            pick(&disk).store(false, Ordering::Relaxed);
            recovers("a write", || stand.write(200, *b"it works"))?;
            recovers("a flush", || stand.flush())?;
            for lba in [100, 200] {
                assert_eq!(
                    stand.read(lba)?.data()[..SECTOR],
                    pattern(lba, *b"it works"),
                    "{store}, {what}"
                );
            }
            // What was acknowledged is where it was promised to be.
            disk.cut(&mut lab::image::Random::new(1));
            let mut reader = Command::new("dd");
            reader.args(["bs=512", "skip=200", "count=1", "status=none", "iflag=direct"]);
            reader.arg(format!("if={}", disk.path().display()));
            let raw = stand.lab.target.run(move || reader.output())?.stdout;
            assert_eq!(
                raw,
                pattern(200, *b"it works"),
                "{store}, {what}: after a power cut"
            );
        }
    }
    Ok(())
}

/// In write-back the write was acknowledged before the disk was asked; the error belongs to the next flush, however
/// late that comes and whoever met the error first.
#[test]
fn a_failed_write_back_is_told_to_the_next_flush() -> Result<()> {
    needs!(
        Need::Root,
        Need::File("/dev/fuse"),
        Need::File("/dev/loop-control")
    );
    for store in STORES {
        for (what, pick) in BAD_WRITES {
            if store == "direct" && what == "writes" {
                continue; // the direct store asks the disk before it acknowledges: the test above
            }
            let stand = Stand::new()?;
            let mut disk = Disk::new(&stand.lab.target, 8)?;
            let device = PathBuf::from(disk.block_device(&stand.lab.target)?);
            let mut target = stand.serve(&device, &["--store", store, "--flush-interval", "300ms"])?;
            pick(&disk).store(true, Ordering::Relaxed);
            assert_eq!(
                registers(&stand.write(100, *b"not yet!")?),
                GOOD,
                "{store}, {what}"
            );
            // Long enough for the flusher to have met the error, and the disk is well again before anybody asks.
            std::thread::sleep(Duration::from_millis(1500));
            pick(&disk).store(false, Ordering::Relaxed);
            assert_eq!(
                registers(&stand.flush()?),
                WRITE_FAULT,
                "{store}, {what}: the error was swallowed"
            );
            logged(&mut target, &device, "error")?;
            recovers("a flush", || stand.flush())?;
            assert_eq!(
                registers(&stand.write(100, *b"by now!!")?),
                GOOD,
                "{store}, {what}"
            );
            assert_eq!(registers(&stand.flush()?), GOOD, "{store}, {what}");
            assert_eq!(
                stand.read(100)?.data()[..SECTOR],
                pattern(100, *b"by now!!"),
                "{store}, {what}"
            );
        }
    }
    Ok(())
}

type Pick = fn(&Disk) -> &std::sync::atomic::AtomicBool;
const BAD_WRITES: [(&str, Pick); 2] = [
    ("writes", |disk| &disk.switches().writes_fail),
    ("flushes", |disk| &disk.switches().flushes_fail),
];

#[test]
fn preallocation_refuses_to_start_without_the_space() -> Result<()> {
    needs!(Need::Root);
    let stand = Stand::new()?;
    let place = Mounted::new(&stand.lab.target, "tmpfs", "tmpfs", "size=2m")?;
    let image = place.path("image");
    sparse(&stand.lab.target, &image, 16 << 20)?;
    let args = [
        "serve",
        "7",
        "3",
        "eth0",
        image.to_str().context("odd path")?,
        "--prealloc",
    ];
    let mut target = Target::start(&stand.lab.target, &args)?;
    let status = target.process.wait(Duration::from_secs(5))?;
    assert!(!status.success());
    let log = target.process.log();
    assert!(log.contains(args[4]) && log.contains("space"), "{log}");
    Ok(())
}
