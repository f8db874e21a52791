//! File systems that a test makes on a device and mounts.

use std::mem;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use tempfile::TempDir;

use crate::{Namespace, needs, packages};

/// How one is made and mounted.
#[derive(Clone, Copy, Debug)]
pub struct FileSystem {
    /// As the kernel calls it.
    pub kind: &'static str,
    /// What its `mkfs` is told beside the device.
    pub make: &'static [&'static str],
    /// What `mount` is told.
    pub options: &'static str,
    /// The size of its disk in MiB: not every one may be small.
    pub mib: usize,
}

/// Nothing is left for the kernel to do by itself later, when a test takes the disk to be idle.
pub const EXT4: FileSystem = FileSystem {
    kind: "ext4",
    make: &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    options: "",
    mib: 64,
};

/// Without a journal whose own error would stop the file system.
pub const EXT4_WITHOUT_JOURNAL: FileSystem = FileSystem {
    make: &["-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0"],
    ..EXT4
};

/// XFS.
pub const XFS: FileSystem = FileSystem {
    kind: "xfs",
    make: &["-q", "-f"],
    options: "",
    mib: 320,
};

/// Btrfs.
pub const BTRFS: FileSystem = FileSystem {
    kind: "btrfs",
    make: &["-q", "-f"],
    options: "",
    mib: 160,
};

impl FileSystem {
    /// The same with these mount options.
    pub const fn mounted_with(self, options: &'static str) -> FileSystem {
        FileSystem { options, ..self }
    }

    /// Why it cannot be made here, if so.
    ///
    /// # Errors
    /// Without `/proc`.
    pub fn missing(&self) -> Result<Option<String>> {
        let program = self.program();
        if needs::find(&program).is_none() {
            return Ok(Some(format!("needs the program {program}")));
        }
        let _ = Command::new("modprobe").arg(self.kind).output();
        let known = std::fs::read_to_string("/proc/filesystems")?;
        let is_known = known.split_whitespace().any(|word| word == self.kind);
        Ok((!is_known).then(|| format!("needs a kernel with {}", self.kind)))
    }

    /// Makes it on a device, and mounts it.
    ///
    /// # Errors
    /// When it cannot be made or mounted.
    pub fn make(&self, namespace: &Namespace, device: &str) -> Result<Mounted> {
        let mut make = packages::command(&self.program());
        make.args(self.make).arg(device);
        namespace.output(make)?;
        self.mount(namespace, device)
    }

    /// Mounts what was made before.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn mount(&self, namespace: &Namespace, device: &str) -> Result<Mounted> {
        Mounted::new(namespace, device, self.kind, self.options)
    }

    fn program(&self) -> String {
        format!("mkfs.{}", self.kind)
    }
}

/// A file system of the target's namespace; unmounted when dropped, as soon as nobody uses it.
#[derive(Debug)]
pub struct Mounted {
    directory: TempDir,
    /// The namespace that it is seen in. Empty: it is unmounted.
    namespace: String,
}

impl Mounted {
    /// Mounts `source`.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn new(
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
        Ok(Mounted {
            directory,
            namespace: namespace.path_of("mnt"),
        })
    }

    /// Where something on it is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Unmounts it and waits until that is done: nothing of it is in memory any more.
    ///
    /// # Errors
    /// When somebody uses it.
    pub fn unmount(mut self, namespace: &Namespace) -> Result<()> {
        let mut unmount = Command::new("umount");
        unmount.arg(self.directory.path());
        namespace.output(unmount)?;
        mem::take(&mut self.namespace);
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.namespace.is_empty() {
            return;
        }
        // Where the namespace is gone, so is the mount.
        let mut unmount = Command::new("nsenter");
        unmount.arg(format!("--mount={}", self.namespace));
        unmount.args(["umount", "--lazy"]).arg(self.directory.path());
        let _ = unmount.output();
    }
}
