//! Who else uses the bytes of a file or block device, by whatever path: loop devices, mounts, swap, device mapper, RAID.
//!
//! The kernel keeps two exclusive users off one block device, but a loop device is a disk of its own: neither does it keep anybody
//! off the file below it, nor does the file's user notice. So who exports a loop device (or a partition of one, or a mapping over
//! one) locks the file's range below it as well, and who exports a file looks for loop devices over it.

use std::fs::{self, File, Metadata};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Layers of devices on devices to look through; more than anybody stacks.
const LAYERS: u32 = 8;
/// Unit of sysfs.
const SYSFS_SECTOR: u64 = 512;

/// The bytes of a file that a block device is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Below {
    /// The file.
    pub path: PathBuf,
    /// Its bytes; up to `u64::MAX`: to the end, wherever that will be.
    pub bytes: Range<u64>,
}

/// The files below a block device's bytes.
pub(super) fn files_below(device: u64, bytes: Range<u64>) -> Vec<Below> {
    let mut found = Vec::new();
    descend(device, bytes, LAYERS, &mut found);
    found
}

fn descend(device: u64, bytes: Range<u64>, layers: u32, found: &mut Vec<Below>) {
    let Some(left) = layers.checked_sub(1) else {
        return;
    };
    let sys = sysfs(device);
    if sys.join("partition").exists() {
        let start = number(&sys.join("start")).unwrap_or(0) * SYSFS_SECTOR;
        if let Some(disk) = fs::canonicalize(&sys)
            .ok()
            .and_then(|sys| device_number(sys.parent()?))
        {
            descend(disk, shifted(&bytes, start), left, found);
        }
    } else if let Some(over) = Loop::read(&sys) {
        let bytes = shifted(&bytes, over.bytes.start);
        let bytes = bytes.start..bytes.end.min(over.bytes.end);
        match fs::metadata(&over.file) {
            Ok(meta) if meta.file_type().is_block_device() => descend(meta.rdev(), bytes, left, found),
            Ok(meta) if meta.is_file() => found.push(Below {
                path: over.file,
                bytes,
            }),
            // Deleted, or on a mount that is not seen from here: no path leads to it.
            _ => {}
        }
    } else {
        // What a mapping does with its disks is not for sysfs to tell: all of each.
        for below in entries(&sys.join("slaves")) {
            if let Some(device) = device_number(&below) {
                descend(device, 0..u64::MAX, left, found);
            }
        }
    }
}

/// Who uses these bytes of a file or device through a loop device or as swap; `except` is a device through which we come ourselves.
///
/// Two readers do not disturb each other.
pub(super) fn other_user(
    meta: &Metadata,
    bytes: &Range<u64>,
    writes: bool,
    except: Option<u64>,
) -> Option<String> {
    for sys in entries(Path::new("/sys/block")) {
        let Some(over) = Loop::read(&sys) else { continue };
        let reads_only = number(&sys.join("ro")) == Some(1);
        if (reads_only && !writes)
            || over.bytes.start >= bytes.end
            || bytes.start >= over.bytes.end
            || !is_same(meta, &over.file)
        {
            continue;
        }
        let device = device_number(&sys);
        if device.is_none() || device == except {
            continue;
        }
        let name = sys.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mounted = device.and_then(mount_of);
        let mounted = mounted.map_or_else(String::new, |at| format!(", mounted at {at}"));
        return Some(format!(
            "the loop device /dev/{name}{mounted} (`losetup -l` lists them)"
        ));
    }
    writes.then(|| swap_on(meta)).flatten()
}

/// The same of a file below the disk that we come through.
pub(super) fn other_user_below(below: &Below, meta: &Metadata, writes: bool, disk: u64) -> Option<String> {
    let holder = other_user(meta, &below.bytes, writes, Some(disk))?;
    Some(format!("{holder}, over {}", below.path.display()))
}

/// What the kernel knows of a device that is in use: a mount, swap, or a device made of it or of one of its partitions.
pub(super) fn kernel_user(device: u64) -> Option<String> {
    let sys = fs::canonicalize(sysfs(device)).ok()?;
    let parts = entries(&sys)
        .into_iter()
        .filter(|part| part.join("partition").exists());
    let mut family = vec![sys.clone()];
    family.extend(parts);
    if sys.join("partition").exists() {
        family.extend(sys.parent().map(Path::to_owned));
    }
    family.iter().find_map(|sys| {
        let own = device_number(sys)?;
        let name = sys.file_name()?.to_string_lossy().into_owned();
        let of = if own == device {
            String::new()
        } else {
            format!(" of /dev/{name}")
        };
        if let Some(at) = mount_of(own) {
            return Some(format!("the mount{of} at {at}"));
        }
        if swaps().any(|path| fs::metadata(path).is_ok_and(|meta| meta.rdev() == own)) {
            return Some(format!("the kernel, as swap space{of}"));
        }
        let holder = entries(&sys.join("holders")).into_iter().next()?;
        Some(format!("{}{of}", describe_holder(&holder)))
    })
}

/// A device made of others.
fn describe_holder(sys: &Path) -> String {
    let node = sys.file_name().unwrap_or_default().to_string_lossy();
    match fs::read_to_string(sys.join("dm/name")) {
        Ok(name) => format!("the device-mapper device {} (/dev/{node})", name.trim()),
        Err(_) if sys.join("md").exists() => format!("the RAID /dev/{node}"),
        Err(_) => format!("the device /dev/{node}"),
    }
}

/// A loop device's file and the bytes of it that it uses.
struct Loop {
    file: PathBuf,
    bytes: Range<u64>,
}

impl Loop {
    fn read(sys: &Path) -> Option<Loop> {
        let text = fs::read_to_string(sys.join("loop/backing_file")).ok()?;
        let start = number(&sys.join("loop/offset")).unwrap_or(0);
        let end = match number(&sys.join("loop/sizelimit")) {
            None | Some(0) => u64::MAX,
            Some(length) => start.saturating_add(length),
        };
        Some(Loop {
            file: text.trim_end_matches('\n').into(),
            bytes: start..end,
        })
    }
}

fn is_same(meta: &Metadata, path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|other| match meta.file_type().is_block_device() {
        true => other.file_type().is_block_device() && other.rdev() == meta.rdev(),
        false => (other.dev(), other.ino()) == (meta.dev(), meta.ino()),
    })
}

fn swap_on(meta: &Metadata) -> Option<String> {
    swaps()
        .any(|path| is_same(meta, &path))
        .then(|| "the kernel, as swap space".to_owned())
}

fn swaps() -> impl Iterator<Item = PathBuf> {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let paths = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    paths
        .map(|path| PathBuf::from(unescape(path)))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Where a device is mounted. Some file systems have numbers of their own; those name the device they were mounted from.
fn mount_of(device: u64) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let id = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    mounts.lines().find_map(|line| {
        let (first, second) = line.split_once(" - ")?;
        let mut fields = first.split(' ').skip(2);
        let (number, at) = (fields.next()?, fields.nth(1)?);
        let from = || second.split(' ').nth(1).map(unescape);
        let is_it = number == id
            || number.starts_with("0:")
                && from().is_some_and(|from| {
                    from.starts_with("/dev/") && fs::metadata(from).is_ok_and(|meta| meta.rdev() == device)
                });
        is_it.then(|| unescape(at))
    })
}

/// The kernel writes spaces and the like in octal: `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(code) if code.is_ascii() => {
                plain.push(char::from(code));
                plain += &part[3..];
            }
            _ => {
                plain.push('\\');
                plain += part;
            }
        }
    }
    plain
}

fn sysfs(device: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// The number of the device that this directory of sysfs is about.
fn device_number(sys: &Path) -> Option<u64> {
    let text = fs::read_to_string(sys.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn shifted(bytes: &Range<u64>, by: u64) -> Range<u64> {
    bytes.start.saturating_add(by)..bytes.end.saturating_add(by)
}

/// The disk that a device is a partition of, or the device itself.
pub(super) fn disk_of(device: u64) -> u64 {
    let sys = sysfs(device);
    let disk = || device_number(fs::canonicalize(&sys).ok()?.parent()?);
    match sys.join("partition").exists() {
        true => disk().unwrap_or(device),
        false => device,
    }
}

/// Opens a file below for a lock: for writing where that is allowed, since a lock for writing needs it.
pub(super) fn open_below(path: &Path, writes: bool) -> Option<(File, bool)> {
    let writable = writes.then(|| File::options().read(true).write(true).open(path).ok());
    match writable.flatten() {
        Some(file) => Some((file, true)),
        None => Some((File::open(path).ok()?, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_kernel_s_lists_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/plain"), "/plain");
        assert_eq!(unescape("\\9"), "\\9");
    }

    #[test]
    fn a_range_to_the_end_stays_one() {
        assert_eq!(shifted(&(512..u64::MAX), 1024), 1536..u64::MAX);
    }
}
