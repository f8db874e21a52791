//! A disk that fails on command: a volatile write cache that a power cut takes away, and errors.
//!
//! It is one file of a FUSE file system served by the test itself. A virtual machine takes it as its disk, and a loop
//! device makes a block device of it. The kernel never caches it: what the disk was not told it does not know, and what
//! it was not told to flush it may lose.

pub mod io_engine;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};
use tempfile::TempDir;

use lab::image::{Random, SECTOR};
use lab::net::Namespace;

const NAME: &str = "disk";
const FILE: INodeNo = INodeNo(2);

/// The disk. It vanishes when dropped, after whatever uses it.
#[derive(Debug)]
pub struct Disk {
    media: Arc<Media>,
    session: Option<BackgroundSession>,
    loop_device: Option<String>,
    directory: TempDir,
}

/// Which requests fail, and what was asked of the disk.
#[derive(Debug, Default)]
pub struct Switches {
    /// Reads fail with EIO.
    pub reads_fail: AtomicBool,
    /// Writes fail with EIO.
    pub writes_fail: AtomicBool,
    /// So many writes fail with EIO from now on.
    pub next_writes_fail: AtomicU64,
    /// Flushes fail with EIO.
    pub flushes_fail: AtomicBool,
    /// Nothing is answered until this is over.
    pub hangs: AtomicBool,
    /// Reads are not answered until this is over.
    pub reads_hang: AtomicBool,
    /// Writes are not answered until this is over.
    pub writes_hang: AtomicBool,
    /// Flushes are not answered until this is over.
    pub flushes_hang: AtomicBool,
    /// Discards are not answered until this is over.
    pub discards_hang: AtomicBool,
    /// Of requests that were made to wait the last one is carried out first. To be set before the disk is used.
    pub newest_first: AtomicBool,
    /// Microseconds that each request takes, one after the other; 0: no time.
    pub request_us: AtomicU64,
    /// Requests that were made to wait so far.
    pub held: AtomicU64,
    /// Flushes that succeeded.
    pub flushes: AtomicU64,
    /// Requests that failed.
    pub refused: AtomicU64,
    /// Bytes written.
    pub written_bytes: AtomicU64,
}

#[derive(Debug)]
struct Media {
    cells: Mutex<Cells>,
    bytes: u64,
    switches: Switches,
    /// Requests that wait until the disk answers again, by number.
    waiting: Mutex<BTreeSet<u64>>,
    /// When the last request of a slow disk is done.
    busy_until: Mutex<Instant>,
}

#[derive(Debug)]
struct Cells {
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// Sectors written since the last flush.
    cached: HashMap<u64, [u8; SECTOR]>,
}

impl Disk {
    /// A disk of zeros, visible in the namespace.
    ///
    /// # Errors
    /// Without FUSE or the right to mount.
    pub fn new(namespace: &Namespace, mib: usize) -> Result<Disk> {
        let bytes = mib << 20;
        let cells = Mutex::new(Cells {
            durable: vec![0; bytes],
            cached: HashMap::new(),
        });
        let media = Arc::new(Media {
            cells,
            bytes: bytes as u64,
            switches: Switches::default(),
            waiting: Mutex::default(),
            busy_until: Mutex::new(Instant::now()),
        });
        let directory = tempfile::Builder::new().prefix("xblade-disk-").tempdir()?;
        let (served, at) = (Served(Arc::clone(&media)), directory.path().to_owned());
        let session = namespace
            .run(move || {
                let mut config = Config::default();
                config.mount_options = vec![MountOption::FSName("xblade-disk".to_owned())];
                fuser::spawn_mount(served, at, &config)
            })
            .context("mounting a FUSE file system")?;
        Ok(Disk {
            media,
            session: Some(session),
            loop_device: None,
            directory,
        })
    }

    /// The file, as seen in the namespace.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(NAME)
    }

    /// What fails.
    pub fn switches(&self) -> &Switches {
        &self.media.switches
    }

    /// Requests that were made to wait and are not answered yet.
    pub fn waiting(&self) -> usize {
        self.media.waiting().len()
    }

    /// The power fails: of what was not flushed, every sector is on the medium or not, by chance. Returns how many
    /// sectors were lost. Whoever uses the disk must be gone.
    pub fn cut(&self, random: &mut Random) -> usize {
        let mut cells = self.media.cells.lock().expect("no server panics");
        let mut cached: Vec<(u64, [u8; SECTOR])> = cells.cached.drain().collect();
        cached.sort_unstable_by_key(|(lba, _)| *lba);
        let before = cached.len();
        cached.retain(|_| random.below(2) == 0);
        for (lba, bytes) in &cached {
            let at = *lba as usize * SECTOR;
            cells.durable[at..at + SECTOR].copy_from_slice(bytes);
        }
        before - cached.len()
    }

    /// Puts bytes on the medium, as a factory does.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn preset(&self, bytes: &[u8]) {
        self.media.cells.lock().expect("no server panics").durable[..bytes.len()].copy_from_slice(bytes);
    }

    /// Makes a block device of it and returns its path.
    ///
    /// # Errors
    /// When no loop device is free.
    pub fn block_device(&mut self, namespace: &Namespace) -> Result<String> {
        let mut losetup = Command::new("losetup");
        losetup
            .args(["--find", "--show", "--direct-io=off"])
            .arg(self.path());
        let device = namespace.output(losetup)?.trim().to_owned();
        ensure!(Path::new(&device).exists(), "losetup says {device:?}");
        self.loop_device = Some(device.clone());
        Ok(device)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let switches = self.switches();
        switches.request_us.store(0, Ordering::Relaxed);
        for fails in [
            &switches.reads_fail,
            &switches.writes_fail,
            &switches.flushes_fail,
            &switches.hangs,
            &switches.reads_hang,
            &switches.writes_hang,
            &switches.flushes_hang,
            &switches.discards_hang,
        ] {
            fails.store(false, Ordering::Relaxed);
        }
        if let Some(device) = &self.loop_device {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
        // The mount belongs to the namespace; without it the session ends when the last user is gone.
        drop(self.session.take());
    }
}

impl Media {
    fn read(&self, offset: u64, size: u64) -> Vec<u8> {
        let cells = self.cells.lock().expect("no server panics");
        let (offset, end) = (
            offset.min(self.bytes),
            offset.saturating_add(size).min(self.bytes),
        );
        let mut data = cells.durable[offset as usize..end as usize].to_vec();
        let first = offset / SECTOR as u64;
        for (n, sector) in data.chunks_mut(SECTOR).enumerate() {
            if let Some(bytes) = cells.cached.get(&(first + n as u64)) {
                sector.copy_from_slice(&bytes[..sector.len()]);
            }
        }
        data
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut cells = self.cells.lock().expect("no server panics");
        let first = offset / SECTOR as u64;
        for (n, sector) in data.chunks_exact(SECTOR).enumerate() {
            cells
                .cached
                .insert(first + n as u64, sector.try_into().expect("a sector"));
        }
        self.switches
            .written_bytes
            .fetch_add(data.len() as u64, Ordering::Relaxed);
    }

    fn flush(&self) {
        let mut cells = self.cells.lock().expect("no server panics");
        let cached: Vec<_> = cells.cached.drain().collect();
        for (lba, bytes) in cached {
            let at = lba as usize * SECTOR;
            cells.durable[at..at + SECTOR].copy_from_slice(&bytes);
        }
        self.switches.flushes.fetch_add(1, Ordering::Relaxed);
    }

    /// Carries out what answers a request: at once, or elsewhere when the disk answers again.
    fn answer(
        self: &Arc<Self>,
        hangs: fn(&Switches) -> &AtomicBool,
        work: impl FnOnce(&Media) + Send + 'static,
    ) {
        let held = move |media: &Media| {
            let switches = &media.switches;
            switches.hangs.load(Ordering::Relaxed) || hangs(switches).load(Ordering::Relaxed)
        };
        let takes = Duration::from_micros(self.switches.request_us.load(Ordering::Relaxed));
        if !takes.is_zero() {
            return self.answer_in_turn(takes, work);
        }
        if !held(self) {
            return work(self);
        }
        let number = self.switches.held.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(number);
        let media = Arc::clone(self);
        std::thread::spawn(move || {
            while held(&media) || media.has_newer(number) {
                std::thread::sleep(Duration::from_millis(10));
            }
            work(&media);
            media.waiting().remove(&number);
        });
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.waiting.lock().expect("no server panics")
    }

    /// Whether a newer request has to be carried out before.
    fn has_newer(&self, number: u64) -> bool {
        self.switches.newest_first.load(Ordering::Relaxed) && self.waiting().last() != Some(&number)
    }

    /// Whether this write fails.
    fn write_fails(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        let next = &self.switches.next_writes_fail;
        self.switches.writes_fail.load(Ordering::Relaxed)
            || next
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok()
    }

    /// Carries out what answers a request when those before it are done and its own time is over.
    fn answer_in_turn(self: &Arc<Self>, takes: Duration, work: impl FnOnce(&Media) + Send + 'static) {
        let mut busy_until = self.busy_until.lock().expect("no server panics");
        let done = (*busy_until).max(Instant::now()) + takes;
        *busy_until = done;
        let media = Arc::clone(self);
        std::thread::spawn(move || {
            std::thread::sleep(done.saturating_duration_since(Instant::now()));
            work(&media);
        });
    }

    /// Notes a request that failed.
    fn refuse(&self) -> Errno {
        self.switches.refused.fetch_add(1, Ordering::Relaxed);
        Errno::EIO
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_file = inode == FILE;
        FileAttr {
            ino: inode,
            size: if is_file { self.bytes } else { 0 },
            blocks: if is_file { self.bytes / 512 } else { 0 },
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file {
                FileType::RegularFile
            } else {
                FileType::Directory
            },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// The file system that has the disk as its only file.
struct Served(Arc<Media>);

const KEEP: Duration = Duration::from_secs(3600);

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&KEEP, &self.0.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KEEP, &self.0.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut flags = FopenFlags::FOPEN_DIRECT_IO;
        if self.0.switches.newest_first.load(Ordering::Relaxed) {
            // Several at a time, or there would be no newest.
            flags |= FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        }
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.answer(
            |switches| &switches.reads_hang,
            move |media| {
                if media.switches.reads_fail.load(Ordering::Relaxed) {
                    reply.error(media.refuse());
                } else {
                    reply.data(&media.read(offset, u64::from(size)));
                }
            },
        );
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // A disk knows whole sectors only.
        let whole = offset.is_multiple_of(SECTOR as u64) && data.len().is_multiple_of(SECTOR);
        let data = data.to_vec();
        self.0.answer(
            |switches| &switches.writes_hang,
            move |media| {
                if media.write_fails() {
                    reply.error(media.refuse());
                } else if !whole || offset + data.len() as u64 > media.bytes {
                    reply.error(Errno::EINVAL);
                } else {
                    media.write(offset, &data);
                    reply.written(data.len() as u32);
                }
            },
        );
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.answer(
            |switches| &switches.flushes_hang,
            move |media| {
                if media.switches.flushes_fail.load(Ordering::Relaxed) {
                    reply.error(media.refuse());
                } else {
                    media.flush();
                    reply.ok();
                }
            },
        );
    }

    /// A discard: what was there reads as zeros.
    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        self.0.answer(
            |switches| &switches.discards_hang,
            move |media| {
                if offset.saturating_add(length) > media.bytes {
                    reply.error(Errno::EINVAL);
                } else {
                    media.write(offset, &vec![0; length as usize]);
                    reply.ok();
                }
            },
        );
    }

    // Closing is no flush.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
