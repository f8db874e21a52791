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
        Kernel::cached("kernel", |root| {
            let apt = Apt::of_this_system();
            let package = apt.dependency("linux-image-cloud-amd64")?;
            download(root, &apt, &package)
        })
    }

    /// Linux 6.18 from Debian's backports: its `virtio_net` has zero-copy AF_XDP, which came for both directions after 6.12.
    ///
    /// # Errors
    /// As [`Kernel::get`].
    pub fn newer() -> Result<Kernel> {
        Kernel::cached("kernel-6.18", |root| {
            let apt = Apt::of_backports(root)?;
            let package = apt.newest("linux-image-6.18.", "-cloud-amd64")?;
            download(root, &apt, &package)
        })
    }

    fn cached(place: &str, fetch: impl FnOnce(&Path) -> Result<()>) -> Result<Kernel> {
        let cache = cache();
        fs::create_dir_all(&cache)?;
        let lock = File::create(cache.join("lock"))?;
        lock.lock().context("locking the cache")?;
        let root = cache.join(place);
        if !root.join("complete").exists() {
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root)?;
            fetch(&root)?;
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

/// Where packages come from.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// What this system is set up for.
    fn of_this_system() -> Apt {
        Apt {
            options: vec!["-oAPT::Sandbox::User=root".to_owned()],
        }
    }

    /// The backports of Debian 13, without touching what this system is set up for.
    fn of_backports(root: &Path) -> Result<Apt> {
        let apt = root.join("apt");
        fs::create_dir_all(apt.join("lists/partial"))?;
        let source = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                      http://deb.debian.org/debian trixie-backports main\n";
        fs::write(apt.join("sources.list"), source)?;
        let at = fs::canonicalize(&apt)?.display().to_string();
        let mut backports = Apt::of_this_system();
        backports.options.extend([
            format!("-oDir::Etc::SourceList={at}/sources.list"),
            "-oDir::Etc::SourceParts=/dev/null".to_owned(),
            format!("-oDir::State::Lists={at}/lists"),
            format!("-oDir::Cache={at}"),
        ]);
        output(backports.command("apt-get").args(["-q", "update"]))
            .context("asking for Debian's backports")?;
        Ok(backports)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// The kernel that a package without contents stands for.
    fn dependency(&self, package: &str) -> Result<String> {
        let depends = output(self.command("apt-cache").args(["depends", package]))
            .context("asking apt for Debian's cloud kernel")?;
        let depends = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        depends
            .map(str::to_owned)
            .find(|name| name.starts_with("linux-image-"))
            .with_context(|| format!("apt does not know {package}"))
    }

    /// The highest version of the packages with such a name.
    fn newest(&self, prefix: &str, suffix: &str) -> Result<String> {
        let names = output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        let version = |name: &str| -> Vec<u32> {
            name.split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect()
        };
        let names = names.lines().filter(|name| name.ends_with(suffix));
        names
            .max_by_key(|name| version(name))
            .map(str::to_owned)
            .with_context(|| format!("no package {prefix}*{suffix}"))
    }
}

fn download(root: &Path, apt: &Apt, package: &str) -> Result<()> {
    output(
        apt.command("apt-get")
            .args(["-q", "download", package])
            .current_dir(root),
    )
    .with_context(|| format!("downloading {package}"))?;
    let archive = entry(root, "linux-image-")?;
    output(Command::new("dpkg-deb").arg("-x").args([&archive, root]))?;
    fs::remove_file(&archive)?;
    // Newer packages no longer use the directories of old.
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
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
