//! The guest's kernel: Debian's cloud image, downloaded and unpacked, never installed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{Apt, cached, find_program, output};

/// A kernel and its modules, in a cache that outlives the tests.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What qemu boots.
    pub image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// Debian's kernel from the cache, downloaded first if it is not there.
    ///
    /// # Errors
    /// When there is no network, or this is no Debian.
    pub fn get() -> Result<Kernel> {
        let root = cached("kernel", |root| {
            let apt = Apt::of_this_machine();
            let package = apt
                .dependency("linux-image-cloud-amd64", "linux-image-")
                .context("asking apt for Debian's cloud kernel")?;
            download(root, &apt, package)
        })?;
        Kernel::in_directory(&root)
    }

    /// Linux 6.18 from the backports of Debian 13 with the drivers of real cards, which the cloud kernels lack. Its `igb` and
    /// `virtio_net` have zero-copy AF_XDP.
    ///
    /// # Errors
    /// As [`Kernel::get`].
    pub fn with_all_drivers() -> Result<Kernel> {
        let root = cached("kernel-6.18-all-drivers", |root| {
            let apt = Apt::of_suites(&root.join("apt"), &["trixie-backports".to_owned()])?;
            // Not the variants: their names go on, as in `+deb13-cloud-amd64`.
            let package = apt.newest("linux-image-6.18.", "+deb13-amd64")?;
            download(root, &apt, package)
        })?;
        Kernel::in_directory(&root)
    }

    fn in_directory(root: &Path) -> Result<Kernel> {
        let image = entry(&root.join("boot"), "vmlinuz-")?;
        let modules = entry(&root.join("lib/modules"), "")?;
        Ok(Kernel { image, modules })
    }

    /// These modules and all they need, in the order to load them.
    ///
    /// Names that the kernel has built in are left out.
    ///
    /// # Errors
    /// When a module is neither there nor built in.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let table = fs::read_to_string(self.modules.join("modules.dep"))?;
        let builtin = fs::read_to_string(self.modules.join("modules.builtin"))?;
        let needs: HashMap<&str, &str> = table.lines().filter_map(|line| line.split_once(':')).collect();
        let mut order: Vec<&str> = Vec::new();
        for name in names {
            let file = format!("/{name}.ko");
            let is_it = |path: &str| path.trim_end_matches(".xz").ends_with(&file);
            let Some((path, dependencies)) = needs.iter().find(|(path, _)| is_it(path)) else {
                ensure!(builtin.contains(&file), "the kernel has no module {name}");
                continue;
            };
            // modules.dep lists dependencies so that the last must be loaded first.
            for path in dependencies.split_whitespace().rev().chain([*path]) {
                if !order.contains(&path) {
                    order.push(path);
                }
            }
        }
        order
            .into_iter()
            .map(|path| Module::read(&self.modules.join(path)))
            .collect()
    }
}

/// A module of the kernel.
#[derive(Debug, Clone)]
pub struct Module {
    /// As in `igb.ko`.
    pub file_name: String,
    /// Its contents, decompressed: busybox loads no others.
    pub bytes: Vec<u8>,
}

impl Module {
    fn read(path: &Path) -> Result<Module> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.context("a module without a name")?;
        let plain = name.trim_end_matches(".xz");
        let bytes = if plain == name {
            fs::read(path).with_context(|| format!("reading {}", path.display()))?
        } else {
            let unpacked = Command::new("xz").arg("-dc").arg(path).output();
            let unpacked = unpacked.context("starting xz (Debian package xz-utils)")?;
            ensure!(unpacked.status.success(), "xz -dc {}", path.display());
            unpacked.stdout
        };
        Ok(Module {
            file_name: plain.to_owned(),
            bytes,
        })
    }
}

fn download(root: &Path, apt: &Apt, package: String) -> Result<()> {
    apt.unpack(&[package], root)?;
    // Newer packages no longer use the directories of old.
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
    let version = entry(&root.join("lib/modules"), "")?;
    let version = version
        .file_name()
        .and_then(|name| name.to_str())
        .context("no version")?;
    let depmod = find_program("depmod").context("depmod is missing (Debian package kmod)")?;
    output(Command::new(depmod).arg("-b").arg(root).arg(version))?;
    Ok(())
}

/// The first entry of a directory whose name begins so.
fn entry(directory: &Path, prefix: &str) -> Result<PathBuf> {
    fs::read_dir(directory)
        .with_context(|| format!("reading {}", directory.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .with_context(|| format!("{} has no {prefix}…", directory.display()))
}
