//! `xblade create`: makes an image file that is good to serve.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{FallocateFlags, IFlags, fallocate, fstatfs, fstatvfs, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use super::args::CreateArgs;
use super::interrupt::Interrupt;
use super::output;
use super::table::size;
use crate::store::{RbdPath, RemotePath};

/// Space reserved between two looks at signals and the progress bar.
const STEP_BYTES: u64 = 64 << 20;
/// BTRFS_SUPER_MAGIC of linux/magic.h.
const BTRFS: i64 = 0x9123_683e;

pub(super) fn run(args: &CreateArgs) -> anyhow::Result<()> {
    if let Ok(image) = RbdPath::parse(&args.file) {
        bail!(
            "images in Ceph are made by Ceph's own tool: `rbd create --size {}M {}`",
            args.size.div_ceil(1 << 20),
            image.spec()
        );
    }
    if RemotePath::of(&args.file).is_some() {
        bail!(
            "{} is an address, and only files are made here",
            args.file.display()
        );
    }
    let interrupt = Interrupt::catch()?;
    create(&args.file, args.size, args.prealloc, || interrupt.came())?;
    let kind = if args.prealloc {
        "all space reserved"
    } else {
        "sparse"
    };
    output::line(format_args!(
        "{}: {}, {kind}",
        args.file.display(),
        size(args.size / 512)
    ))
}

fn create(path: &Path, bytes: u64, prealloc: bool, interrupted: impl Fn() -> bool) -> anyhow::Result<()> {
    let name = path.display();
    // What initiators will write is nobody else's business.
    let file = match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            bail!("{name} exists already, and create never overwrites")
        }
        Err(e) => return Err(e).with_context(|| format!("cannot make {name}")),
    };
    let unfinished = Unfinished(path);
    if is_btrfs(&file) {
        no_copy_on_write(&file).with_context(|| format!("cannot turn off copy-on-write for {name}"))?;
    }
    if prealloc {
        reserve(&file, bytes, &interrupted)
            .with_context(|| format!("cannot reserve {} for {name}", size(bytes / 512)))?;
    } else {
        file.set_len(bytes)
            .with_context(|| format!("cannot make {name} {} long", size(bytes / 512)))?;
    }
    file.sync_all()
        .and_then(|()| sync_parent(path))
        .with_context(|| format!("cannot sync {name}"))?;
    if interrupted() {
        bail!("interrupted; {name} was removed");
    }
    unfinished.finish();
    Ok(())
}

/// A file that is removed unless it is finished.
struct Unfinished<'p>(&'p Path);

impl Unfinished<'_> {
    fn finish(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(self.0) {
            tracing::warn!("cannot remove the half-made {}: {error}", self.0.display());
        }
    }
}

fn is_btrfs(file: &File) -> bool {
    fstatfs(file).is_ok_and(|found| found.f_type == BTRFS)
}

/// Random writes tear a copy-on-write file into millions of pieces. Only an empty file takes the flag.
fn no_copy_on_write(file: &File) -> io::Result<()> {
    let flags = ioctl_getflags(file)?;
    Ok(ioctl_setflags(file, flags | IFlags::NOCOW)?)
}

fn reserve(file: &File, bytes: u64, interrupted: &impl Fn() -> bool) -> anyhow::Result<()> {
    let found = fstatvfs(file)?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free < bytes {
        bail!("only {} are free there", size(free / 512));
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")?;
    let progress = ProgressBar::new(bytes).with_style(style);
    let mut zeros = Vec::new();
    let mut at = 0;
    while at < bytes {
        if interrupted() {
            bail!("interrupted; the file was removed");
        }
        let step = STEP_BYTES.min(bytes - at);
        if zeros.is_empty() {
            match fallocate(file, FallocateFlags::empty(), at, step) {
                Ok(()) => {}
                // A file system without reservation (NFS, ZFS): written zeros take the space as well.
                Err(Errno::OPNOTSUPP) => zeros = vec![0; 1 << 20],
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        if !zeros.is_empty() {
            write_zeros(file, &zeros, step)?;
        }
        at += step;
        progress.set_position(at);
    }
    progress.finish_and_clear();
    Ok(())
}

/// Appends `bytes` zeros.
fn write_zeros(mut file: &File, zeros: &[u8], mut bytes: u64) -> io::Result<()> {
    while bytes > 0 {
        let part = bytes.min(zeros.len() as u64);
        file.write_all(&zeros[..part as usize])?;
        bytes -= part;
    }
    Ok(())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn an_image_is_sparse_or_reserved() {
        let dir = tempfile::tempdir().unwrap();
        for (name, prealloc) in [("sparse", false), ("full", true)] {
            let path = dir.path().join(name);
            create(&path, 5 << 20, prealloc, || false).unwrap();
            let found = fs::metadata(&path).unwrap();
            assert_eq!(found.len(), 5 << 20);
            let taken = found.blocks() * 512;
            assert_eq!(taken >= 5 << 20, prealloc, "{name}: {taken}");
            assert_eq!(found.mode() & 0o077, 0, "others could read it");
        }
    }

    #[test]
    fn zeros_are_written_where_nothing_can_be_reserved() {
        let mut file = tempfile::tempfile().unwrap();
        write_zeros(&file, &[0; 100], 250).unwrap();
        let mut found = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut found).unwrap();
        assert_eq!(found, [0; 250]);
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        fs::write(&path, "precious").unwrap();
        let message = create(&path, 512, false, || false).unwrap_err().to_string();
        assert!(message.contains("exists already"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn an_interruption_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        let looks = Cell::new(0);
        let interrupted = || {
            looks.set(looks.get() + 1);
            looks.get() == 2
        };
        let error = create(&path, 3 * STEP_BYTES, true, interrupted).unwrap_err();
        assert!(format!("{error:#}").contains("interrupted"), "{error:#}");
        assert_eq!(looks.get(), 2);
        assert!(!path.exists());
        create(&path, 512, false, || true).unwrap_err();
        assert!(!path.exists(), "also at the last moment");
    }

    #[test]
    fn no_space_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        let error = format!("{:#}", create(&path, 1 << 47, true, || false).unwrap_err());
        assert!(
            error.contains("cannot reserve 128 TiB") && error.contains("are free there"),
            "{error}"
        );
        assert!(!path.exists());
    }
}
