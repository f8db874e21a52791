//! Debian packages in a folder of our own, `target/lab`: what the tests need in another version than the machine has is
//! downloaded and unpacked there, never installed, and used from there.

mod apt;
mod sources;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

pub(crate) use apt::output;
pub use apt::{Apt, Plan, codename};

/// The mirror of Debian's archive that this machine uses.
///
/// # Errors
/// When its sources of packages name none.
pub fn mirror() -> Result<String> {
    sources::mirror(Path::new("/etc/apt"), &codename()?)
}

/// A tree of this release of Debian with these packages besides the smallest set, made once for this workspace and never written to afterwards.
///
/// # Errors
/// Without root, debootstrap or network.
pub fn debian(place: &str, codename: &str, include: &[&str]) -> Result<PathBuf> {
    let root = cached(&format!("debian/{place}"), |root| {
        let mut debootstrap = Command::new(find_program("debootstrap").context("no debootstrap")?);
        debootstrap
            .args(["--variant=minbase", &format!("--include={}", include.join(","))])
            .arg(codename)
            .arg(root.join("tree"))
            .arg(mirror()?);
        let output = debootstrap.output().context("starting debootstrap")?;
        anyhow::ensure!(
            output.status.success(),
            "debootstrap: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(())
    })?;
    Ok(root.join("tree"))
}

/// Where downloads are kept: `target/lab` of the workspace.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab")
}

/// A directory of the cache, filled by `fetch` if it is not there already.
///
/// # Errors
/// When `fetch` fails; the next call tries again.
pub fn cached(place: &str, fetch: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
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
    Ok(root)
}

/// Unpacks packages beside the machine's, with all they depend on that it lacks or has in another version.
///
/// # Errors
/// When apt does not know them, or without network.
pub fn unpack(set: &str, packages: &[&str], apt: impl FnOnce(&Path) -> Result<Apt>) -> Result<PathBuf> {
    cached(&format!("unpacked/{set}"), |root| {
        let lists = cache().join("apt");
        let apt = apt(&lists)?;
        let plan = apt.plan(packages)?;
        // With an own libc not even the loader would fit.
        anyhow::ensure!(
            !plan.installs.iter().any(|package| package.starts_with("libc6=")),
            "{} needs another libc than this machine has; upgrade the machine first",
            packages.join(", ")
        );
        apt.unpack(&plan.installs, root)
    })
}

/// True for a package that has been unpacked here by its name.
pub fn is_unpacked(package: &str) -> bool {
    let names = sets()
        .into_iter()
        .filter_map(|set| Some(set.file_name()?.to_string_lossy().into_owned()));
    names
        .into_iter()
        .any(|names| names.split('+').any(|name| name == package))
}

/// The packages unpacked here, each set in its directory.
fn sets() -> Vec<PathBuf> {
    let entries = fs::read_dir(cache().join("unpacked")).into_iter().flatten();
    let mut sets: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|set| set.join("complete").exists())
        .collect();
    sets.sort();
    sets
}

/// Where a program is: among the unpacked packages, in `PATH`, or in a system directory.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let unpacked = sets()
        .into_iter()
        .flat_map(|set| ["usr/bin", "usr/sbin", "bin", "sbin"].map(|bin| set.join(bin)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    unpacked
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// Where a file that a package brings is: `/usr/lib/ipxe/ipxe.lkrn`, for one, here or on the machine.
pub fn find_file(path: &str) -> Option<PathBuf> {
    sets()
        .into_iter()
        .map(|set| set.join(path.trim_start_matches('/')))
        .chain([PathBuf::from(path)])
        .find(|file| file.exists())
}

/// The set that a file belongs to, if it is unpacked here.
pub fn set_of(file: &Path) -> Option<PathBuf> {
    sets().into_iter().find(|set| file.starts_with(set))
}

/// Value of `LD_LIBRARY_PATH` for the programs of a set.
pub fn library_path(set: &Path) -> OsString {
    let mut directories = Vec::new();
    for lib in ["usr/lib", "lib"].map(|lib| set.join(lib)) {
        let inner = fs::read_dir(&lib).into_iter().flatten().filter_map(Result::ok);
        // lib/x86_64-linux-gnu, for one
        let of_machine = |path: &PathBuf| path.to_string_lossy().contains("-linux-gnu");
        directories.extend(inner.map(|entry| entry.path()).filter(of_machine));
        directories.push(lib);
    }
    std::env::join_paths(directories).unwrap_or_default()
}

/// A command for a program, wherever it is, that finds its libraries.
pub fn command(program: &str) -> Command {
    let words = words(program);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// The words that start a program, to which its arguments are added.
pub fn words(program: &str) -> Vec<OsString> {
    let unpacked = find_program(program).filter(|path| set_of(path).is_some());
    unpacked.map_or_else(|| vec![program.into()], |path| start(&path))
}

/// The words that start the program that a package brings under this path, `/usr/bin/rustc` for one.
pub fn words_of_file(path: &str) -> Vec<OsString> {
    start(&find_file(path).unwrap_or_else(|| path.into()))
}

fn start(path: &Path) -> Vec<OsString> {
    match set_of(path) {
        Some(set) => {
            let mut libraries = OsString::from("LD_LIBRARY_PATH=");
            libraries.push(library_path(&set));
            vec!["env".into(), libraries, path.into()]
        }
        None => vec![path.into()],
    }
}
