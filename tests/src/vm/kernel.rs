//! The guest's kernel: Debian's cloud image, downloaded and unpacked, never installed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A kernel and its modules, in a cache that outlives the tests.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What qemu boots.
    pub image: PathBuf,
    modules: PathBuf,
}

/// Where downloads are kept: `target/lab` of the workspace.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab")
}

impl Kernel {
    /// Debian's kernel from the cache, downloaded first if it is not there.
    ///
    /// # Errors
    /// When there is no network, or this is no Debian.
    pub fn get() -> Result<Kernel> {
        Kernel::cached("kernel", "linux-image-cloud-amd64")
    }

    /// Linux 6.12, whose `virtio_net` knows zero-copy AF_XDP.
    ///
    /// # Errors
    /// As [`Kernel::get`], or when this Debian has no such kernel.
    pub fn newer() -> Result<Kernel> {
        Kernel::cached("kernel-6.12", "linux-image-6.12-cloud-amd64")
    }

    fn cached(place: &str, package: &str) -> Result<Kernel> {
        let cache = cache();
        fs::create_dir_all(&cache)?;
        let lock = File::create(cache.join("lock"))?;
        lock.lock().context("locking the cache")?;
        let root = cache.join(place);
        if !root.join("complete").exists() {
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root)?;
            download(&root, package)?;
            File::create(root.join("complete"))?;
        }
        Kernel::in_directory(&root)
    }

    fn in_directory(root: &Path) -> Result<Kernel> {
        let image = entry(&root.join("boot"), "vmlinuz-")?;
        let modules = entry(&root.join("lib/modules"), "")?;
        Ok(Kernel { image, modules })
    }

    /// The files of these modules and of all they need, in the order to load them.
    ///
    /// Names that the kernel has built in are left out.
    ///
    /// # Errors
    /// When a module is neither there nor built in.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let table = fs::read_to_string(self.modules.join("modules.dep"))?;
        let builtin = fs::read_to_string(self.modules.join("modules.builtin"))?;
        let needs: HashMap<&str, &str> = table.lines().filter_map(|line| line.split_once(':')).collect();
        let mut order: Vec<&str> = Vec::new();
        for name in names {
            let file = format!("/{name}.ko");
            let Some((path, dependencies)) = needs.iter().find(|(path, _)| path.ends_with(&file)) else {
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
        Ok(order.into_iter().map(|path| self.modules.join(path)).collect())
    }
}

fn download(root: &Path, meta: &str) -> Result<()> {
    let depends = output(Command::new("apt-cache").args(["depends", meta]))
        .context("asking apt for Debian's cloud kernel")?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .with_context(|| format!("apt does not know {meta}"))?;
    output(
        Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
            .current_dir(root),
    )
    .with_context(|| format!("downloading {package}"))?;
    let archive = entry(root, "linux-image-")?;
    output(Command::new("dpkg-deb").arg("-x").args([&archive, root]))?;
    fs::remove_file(&archive)?;
    // Newer kernels come with compressed modules, which busybox does not load.
    output(
        Command::new("find")
            .arg(root)
            .args(["-name", "*.ko.xz", "-exec", "xz", "-d", "{}", "+"]),
    )?;
    let version = entry(&root.join("lib/modules"), "")?;
    let version = version
        .file_name()
        .and_then(|name| name.to_str())
        .context("no version")?;
    let depmod = crate::needs::find("depmod").context("depmod is missing (Debian package kmod)")?;
    output(Command::new(depmod).arg("-b").arg(root).arg(version))?;
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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
