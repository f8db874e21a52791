//! The guest's first file system, a cpio archive ("newc") made in memory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages;

/// An archive under construction.
#[derive(Debug, Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    present: BTreeSet<String>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_600;

impl Initramfs {
    /// An archive with busybox, a console and the usual directories.
    ///
    /// # Errors
    /// When busybox is missing.
    pub fn new() -> Result<Initramfs> {
        let mut archive = Initramfs::default();
        for directory in [
            "bin", "dev", "proc", "sys", "tmp", "mnt", "etc", "modules", "run", "root",
        ] {
            archive.directory(directory);
        }
        archive.entry("dev/console", CHARACTER, (5, 1), &[]);
        archive.host_file("/bin/busybox", "bin/busybox")?;
        Ok(archive)
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, permissions: u32, data: &[u8]) {
        self.parents(path);
        self.entry(path, REGULAR | permissions, (0, 0), data);
    }

    /// Adds a file of the host under a path of the guest.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn host_file(&mut self, from: impl AsRef<Path>, to: &str) -> Result<()> {
        let from = from.as_ref();
        let data = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        let permissions = fs::metadata(from)?.permissions().mode() & 0o777;
        self.file(to, permissions, &data);
        Ok(())
    }

    /// Adds a program of the host with its shared libraries.
    ///
    /// # Errors
    /// When it is missing.
    pub fn program(&mut self, name: &str) -> Result<()> {
        let path = crate::needs::find(name)
            .with_context(|| format!("there is no program {name} on this machine"))?;
        self.program_file(&path, name)
    }

    /// Adds an executable file of the host, under a name of its own, with its shared libraries.
    ///
    /// # Errors
    /// When it is missing.
    pub fn program_file(&mut self, path: &Path, name: &str) -> Result<()> {
        self.host_file(path, &format!("opt/{name}"))?;
        let mut ldd = Command::new("ldd");
        ldd.arg(path);
        let set = packages::set_of(path);
        if let Some(set) = &set {
            ldd.env("LD_LIBRARY_PATH", packages::library_path(set));
        }
        let ldd = ldd.output().context("starting ldd")?;
        for line in String::from_utf8_lossy(&ldd.stdout).lines() {
            // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
            let library = line.split_whitespace().find(|word| word.starts_with('/'));
            if let Some(library) = library {
                ensure!(Path::new(library).exists(), "{name} needs {library}");
                // What is unpacked in a folder of ours lies in the usual places of the guest.
                let place = set.as_ref().and_then(|set| library.strip_prefix(set.to_str()?));
                self.host_file(library, place.unwrap_or(library).trim_start_matches('/'))?;
            }
        }
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, LINK, (0, 0), target.as_bytes());
    }

    /// The archive, ended and padded.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn directory(&mut self, path: &str) {
        self.parents(path);
        self.entry(path, DIRECTORY, (0, 0), &[]);
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        if !self.present.insert(path.to_owned()) {
            return;
        }
        self.inode += 1;
        let size = u32::try_from(data.len()).expect("files under 4 GiB");
        let name_size = path.len() as u32 + 1;
        let fields = [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_aligned_entries_parents_first_and_a_trailer() {
        let mut archive = Initramfs::default();
        archive.file("a/b/c", 0o755, b"hello");
        archive.link("a/l", "b/c");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(at("a") < at("a/b") && at("a/b") < at("a/b/c"));
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(text.matches("070701").count(), 5);
        assert!(text.contains("TRAILER!!!"));
    }
}
