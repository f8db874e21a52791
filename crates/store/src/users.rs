//! Who else uses the bytes of a file or block device, by whatever path: loop devices, mounts, swap, device mapper, RAID.
//!
//! The kernel keeps two exclusive users off one block device, but a loop device is a disk of its own: neither does it keep anybody
//! off the file below it, nor does the file's user notice. So who exports a loop device (or a partition of one, or a mapping over
//! one) locks the file's range below it as well, and who exports a file looks for loop devices over it.

use crate::file_identity::FileIdentity;
use std::fs::{self, File, Metadata};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Layers of devices on devices to look through; more than anybody stacks.
const LAYERS: u32 = 8;
/// Unit of sysfs.
const SYSFS_SECTOR: u64 = 512;

/// The bytes of a file or of another block device that a block device is made of, by way of a loop device.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Below {
    /// The file.
    pub(crate) path: PathBuf,
    /// Its bytes; up to `u64::MAX`: to the end, wherever that will be.
    pub(crate) bytes: Range<u64>,
    /// The loop device that is made of it, on the way from the device that was asked about.
    through: u64,
}

/// What the kernel says of its devices, in sysfs and procfs.
#[derive(Debug)]
pub(super) struct Kernel<'a> {
    /// Where both are mounted below.
    root: &'a str,
}

/// The one that runs.
pub(super) const HERE: Kernel<'static> = Kernel { root: "/" };

impl Kernel<'_> {
    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.root).join(name)
    }

    /// The files below a block device's bytes.
    pub(super) fn files_below(&self, device: u64, bytes: Range<u64>) -> Vec<Below> {
        let mut found = Vec::new();
        self.descend(device, bytes, LAYERS, &mut found);
        found
    }

    fn descend(&self, device: u64, bytes: Range<u64>, layers: u32, found: &mut Vec<Below>) {
        let Some(left) = layers.checked_sub(1) else {
            return;
        };
        let sys = self.sysfs(device);
        if let Some((disk, bytes)) = self.in_disk(device, &bytes) {
            self.descend(disk, bytes, left, found);
        } else if let Some(over) = Loop::read(&sys) {
            let bytes = shifted(&bytes, over.bytes.start);
            let bytes = bytes.start..bytes.end.min(over.bytes.end);
            let Ok(meta) = fs::metadata(&over.file) else {
                // Deleted, or on a mount that is not seen from here: no path leads to it.
                return;
            };
            found.push(Below {
                path: over.file,
                bytes: bytes.clone(),
                through: device,
            });
            if meta.file_type().is_block_device() {
                self.descend(meta.rdev(), bytes, left, found);
            }
        } else {
            // What a mapping does with its disks is not for sysfs to tell: all of each.
            for below in entries(&sys.join("slaves")) {
                if let Some(device) = device_number(&below) {
                    self.descend(device, 0..u64::MAX, left, found);
                }
            }
        }
    }

    /// Who uses these bytes of a file or device through a loop device or as swap; `except` is a device through which we come ourselves.
    ///
    /// Two readers do not disturb each other.
    pub(super) fn other_user(
        &self,
        meta: &Metadata,
        bytes: &Range<u64>,
        writes: bool,
        except: Option<u64>,
    ) -> Option<String> {
        for sys in entries(&self.path("sys/block")) {
            let Some(over) = Loop::read(&sys) else { continue };
            let reads_only = number(&sys.join("ro")) == Some(1);
            if (reads_only && !writes) || !self.shares(meta, bytes, &over) {
                continue;
            }
            let device = device_number(&sys);
            if device.is_none() || device == except {
                continue;
            }
            let name = sys.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mounted = device.and_then(|device| self.mount_of(device));
            let mounted = mounted.map_or_else(String::new, |at| format!(", mounted at {at}"));
            return Some(format!(
                "the loop device /dev/{name}{mounted} (`losetup -l` lists them)"
            ));
        }
        writes.then(|| self.swap_on(meta)).flatten()
    }

    /// The same of what is below a loop device that we come through.
    pub(super) fn other_user_below(&self, below: &Below, meta: &Metadata, writes: bool) -> Option<String> {
        let device = (writes && meta.file_type().is_block_device()).then(|| meta.rdev());
        let holder = self
            .other_user(meta, &below.bytes, writes, Some(below.through))
            .or_else(|| self.kernel_user(device?))?;
        Some(format!("{holder}, over {}", below.path.display()))
    }

    /// What the kernel knows of a device that is in use: a mount, swap, or a device made of it or of one of its partitions.
    pub(super) fn kernel_user(&self, device: u64) -> Option<String> {
        let sys = fs::canonicalize(self.sysfs(device)).ok()?;
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
            if let Some(at) = self.mount_of(own) {
                return Some(format!("the mount{of} at {at}"));
            }
            if self
                .swaps()
                .any(|path| fs::metadata(path).is_ok_and(|meta| meta.rdev() == own))
            {
                return Some(format!("the kernel, as swap space{of}"));
            }
            let holder = entries(&sys.join("holders")).into_iter().next()?;
            Some(format!("{}{of}", describe_holder(&holder)))
        })
    }

    fn swap_on(&self, meta: &Metadata) -> Option<String> {
        self.swaps()
            .any(|path| is_same(meta, &path))
            .then(|| "the kernel, as swap space".to_owned())
    }

    fn swaps(&self) -> impl Iterator<Item = PathBuf> {
        let text = fs::read_to_string(self.path("proc/swaps")).unwrap_or_default();
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
    fn mount_of(&self, device: u64) -> Option<String> {
        let mounts = fs::read_to_string(self.path("proc/self/mountinfo")).unwrap_or_default();
        let id = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        mounts.lines().find_map(|line| {
            let (first, second) = line.split_once(" - ")?;
            let mut fields = first.split(' ').skip(2);
            let (number, at) = (fields.next()?, fields.nth(1)?);
            let from = || second.split(' ').nth(1).map(unescape);
            let is_it = number == id
                || number.starts_with("0:")
                    && from().is_some_and(|from| {
                        from.starts_with("/dev/")
                            && fs::metadata(from).is_ok_and(|meta| meta.rdev() == device)
                    });
            is_it.then(|| unescape(at))
        })
    }

    fn sysfs(&self, device: u64) -> PathBuf {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        self.path(&format!("sys/dev/block/{major}:{minor}"))
    }

    /// The disk of a partition, and where these bytes of the partition lie in it.
    fn in_disk(&self, device: u64, bytes: &Range<u64>) -> Option<(u64, Range<u64>)> {
        let sys = self.sysfs(device);
        if !sys.join("partition").exists() {
            return None;
        }
        let disk = device_number(fs::canonicalize(&sys).ok()?.parent()?)?;
        let start = number(&sys.join("start"))? * SYSFS_SECTOR;
        let end = start + number(&sys.join("size"))? * SYSFS_SECTOR;
        let bytes = shifted(bytes, start);
        Some((disk, bytes.start..bytes.end.min(end)))
    }

    /// Whether bytes of a file or device are among those that a loop device is made of.
    fn shares(&self, meta: &Metadata, bytes: &Range<u64>, over: &Loop) -> bool {
        let overlap = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        let Ok(other) = fs::metadata(&over.file) else {
            return false;
        };
        if !meta.file_type().is_block_device() {
            return FileIdentity::of(&other) == FileIdentity::of(meta) && overlap(bytes, &over.bytes);
        }
        let place =
            |device, bytes: &Range<u64>| self.in_disk(device, bytes).unwrap_or((device, bytes.clone()));
        let (own, other) = match other.file_type().is_block_device() {
            true => (place(meta.rdev(), bytes), place(other.rdev(), &over.bytes)),
            false => return false,
        };
        own.0 == other.0 && overlap(&own.1, &other.1)
    }
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
        false => FileIdentity::of(&other) == FileIdentity::of(meta),
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

    /// A kernel of our own making: a disk 8:0 with partitions 8:1 and 8:2, and what is made of them.
    struct Made(tempfile::TempDir);

    impl Made {
        fn new() -> Made {
            let made = Made(tempfile::tempdir().unwrap());
            for (number, path) in [
                ("8:0", "sda"),
                ("8:1", "sda/sda1"),
                ("8:2", "sda/sda2"),
                ("253:0", "dm-0"),
                ("9:127", "md127"),
                ("7:0", "loop0"),
            ] {
                made.write(&format!("sys/devices/{path}/dev"), number);
                let link = made.0.path().join("sys/dev/block").join(number);
                fs::create_dir_all(link.parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(format!("../../devices/{path}"), link).unwrap();
            }
            for (part, start) in [("sda1", "2048"), ("sda2", "4096")] {
                made.write(&format!("sys/devices/sda/{part}/partition"), &part[3..]);
                made.write(&format!("sys/devices/sda/{part}/start"), start);
                made.write(&format!("sys/devices/sda/{part}/size"), "2048");
            }
            made
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// `lower` becomes part of `upper`.
        fn hold(&self, lower: &str, upper: &str) {
            for (at, name, to) in [(lower, "holders", upper), (upper, "slaves", lower)] {
                let directory = self.0.path().join("sys/devices").join(at).join(name);
                fs::create_dir_all(&directory).unwrap();
                let link = directory.join(to.rsplit('/').next().unwrap());
                std::os::unix::fs::symlink(self.0.path().join("sys/devices").join(to), link).unwrap();
            }
        }

        fn user(&self, major: u32, minor: u32) -> Option<String> {
            self.kernel().kernel_user(rustix::fs::makedev(major, minor))
        }

        fn kernel(&self) -> Kernel<'_> {
            Kernel {
                root: self.0.path().to_str().unwrap(),
            }
        }
    }

    #[test]
    fn a_disk_that_nobody_uses_is_free() {
        let made = Made::new();
        assert_eq!(
            [0, 1, 2].map(|minor| made.user(8, minor)),
            [const { None::<String> }; 3]
        );
        assert_eq!(made.user(250, 0), None, "a device that sysfs does not know");
    }

    #[test]
    fn device_mapper_and_raid_are_named_to_who_asks_for_the_partition_or_its_disk() {
        let made = Made::new();
        made.write("sys/devices/dm-0/dm/name", "vg0-lv1\n");
        made.hold("sda/sda1", "dm-0");
        let expected = "the device-mapper device vg0-lv1 (/dev/dm-0)";
        assert_eq!(made.user(8, 1).as_deref(), Some(expected));
        assert_eq!(
            made.user(8, 0),
            Some(format!("{expected} of /dev/sda1")),
            "the disk"
        );
        assert_eq!(made.user(8, 2), None, "the other partition");
        assert_eq!(made.user(253, 0), None, "what is made of it is free itself");
        fs::create_dir_all(made.0.path().join("sys/devices/md127/md")).unwrap();
        made.hold("sda/sda2", "md127");
        assert_eq!(made.user(8, 2).as_deref(), Some("the RAID /dev/md127"));
    }

    #[test]
    fn swap_and_mounts_are_named_to_who_asks_for_the_partition_or_its_disk() {
        let made = Made::new();
        made.write(
            "proc/self/mountinfo",
            "21 1 8:2 / /srv/a\\040b rw - ext4 /dev/sda2 rw\n",
        );
        assert_eq!(made.user(8, 2).as_deref(), Some("the mount at /srv/a b"));
        assert_eq!(
            made.user(8, 0).as_deref(),
            Some("the mount of /dev/sda2 at /srv/a b")
        );
        assert_eq!(made.user(8, 1), None);
        // Swap is listed by path: any device node will do for the number.
        let node = fs::metadata("/dev/null").unwrap().rdev();
        let id = format!("{}:{}", rustix::fs::major(node), rustix::fs::minor(node));
        made.write("sys/devices/sdb/dev", &id);
        let link = made.0.path().join("sys/dev/block").join(&id);
        std::os::unix::fs::symlink("../../devices/sdb", link).unwrap();
        made.write(
            "proc/swaps",
            "Filename Type Size Used Priority\n/dev/null partition 1 0 -2\n",
        );
        let user = made.kernel().kernel_user(node);
        assert_eq!(user.as_deref(), Some("the kernel, as swap space"));
    }

    #[test]
    fn a_mapping_over_a_loop_device_comes_through_it() {
        let made = Made::new();
        let file = made.0.path().join("disk");
        fs::write(&file, "").unwrap();
        made.write("sys/devices/loop0/loop/backing_file", file.to_str().unwrap());
        made.write("sys/devices/loop0/loop/offset", "512");
        made.hold("loop0", "dm-0");
        fs::create_dir_all(made.0.path().join("sys/block")).unwrap();
        std::os::unix::fs::symlink("../devices/loop0", made.0.path().join("sys/block/loop0")).unwrap();
        let kernel = made.kernel();
        let below = kernel.files_below(rustix::fs::makedev(253, 0), 0..1024);
        assert_eq!(below.len(), 1);
        assert_eq!((&below[0].path, &below[0].bytes), (&file, &(512..u64::MAX)));
        let meta = fs::metadata(&file).unwrap();
        assert_eq!(
            kernel.other_user_below(&below[0], &meta, true),
            None,
            "the way itself"
        );
        let user = kernel.other_user(&meta, &(0..1024), true, None).unwrap();
        assert!(user.contains("/dev/loop0"), "{user}");
    }

    #[test]
    fn a_partition_ends_where_it_ends() {
        let made = Made::new();
        let kernel = made.kernel();
        let disk = rustix::fs::makedev(8, 0);
        let place = kernel.in_disk(rustix::fs::makedev(8, 1), &(0..u64::MAX));
        assert_eq!(place, Some((disk, 2048 * 512..4096 * 512)));
        assert_eq!(kernel.in_disk(disk, &(0..512)), None);
    }
}
