//! A system in a container, over a tree that is never written to: a Debian with its own systemd as process 1, or this machine's own
//! programs without one.
//!
//! All that it mounts is in a mount namespace of its own and all that it writes in a tmpfs there, so it leaves nothing
//! behind. It shares the network namespace it is started in.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::needs::Need;
use crate::net::Namespace;
use crate::packages;
use crate::poll::eventually;
use crate::process::Process;

/// What a container with a Debian needs of the machine.
pub const NEEDS: [Need; 2] = [Need::Root, Need::Tool("debootstrap")];

/// How long a step may take on a slow machine.
pub const STEP: Duration = Duration::from_secs(120);

/// Makes the mounts and starts process 1. Arguments: an empty folder, the tree, what to start.
///
/// `/sys` and `/proc/sys` are read-only: what they show beyond the namespaces is the host's. The cgroup is one below that
/// of the test, removed at the end.
const BOOT: &str = r#"
set -e
place=$1 tree=$2 init=$3
mount --make-rprivate /
mount -t tmpfs tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root" "$place/cgroup"
mount -t cgroup2 cgroup2 "$place/cgroup"
home=$place/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
group=$home/xblade-lab-$$
mkdir "$group"
echo $$ > "$group/cgroup.procs"
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$place/upper,workdir=$place/work" "$place/root"
setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --uts --ipc --cgroup sh -ec '
    cd "$1/root"
    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs tmpfs run
    mount -t tmpfs -o mode=755 tmpfs dev
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    for device in null zero full random urandom tty; do
        touch "dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    mkdir -p etc/systemd/system
    ln -sf /dev/null etc/systemd/system/console-getty.service
    : > etc/machine-id
    mkdir old
    pivot_root . old
    umount -l old
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=xblade-lab $2
' sh "$place" "$init" || :
echo $$ > "$home/cgroup.procs"
find "$group" -depth -type d -exec rmdir {} +
"#;

/// Process 1 of a Debian.
const SYSTEMD: &str = "/lib/systemd/systemd --unit=multi-user.target";
/// Process 1 where nothing is started.
const IDLE: &str = "sleep infinity";

/// A tree of this release, with systemd; made once for this workspace.
///
/// # Errors
/// When debootstrap fails.
pub fn tree(codename: &str) -> Result<PathBuf> {
    packages::debian(codename, codename, &["systemd", "systemd-sysv", "dbus"])
}

/// A running system; ended when dropped.
#[derive(Debug)]
pub struct Container {
    process: Process,
    init: i32,
    _place: tempfile::TempDir,
}

impl Container {
    /// Boots the tree in a network namespace and waits till systemd has started all.
    ///
    /// # Errors
    /// When it does not.
    pub fn boot(namespace: &Namespace, tree: &Path) -> Result<Container> {
        let container = Container::start(namespace, tree, SYSTEMD)?;
        eventually("systemd has started all", STEP, || {
            let state = container.run(&["systemctl", "is-system-running"])?;
            let state = String::from_utf8_lossy(&state.stdout).into_owned();
            Ok(["running", "degraded"].contains(&state.trim()))
        })?;
        Ok(container)
    }

    /// This machine's own files, in a network namespace, with nothing running: whatever is done to the files is undone at the end.
    /// Of other file systems than the root's only the folders are there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn of_this_machine(namespace: &Namespace) -> Result<Container> {
        Container::start(namespace, Path::new("/"), IDLE)
    }

    fn start(namespace: &Namespace, tree: &Path, first: &str) -> Result<Container> {
        let place = tempfile::Builder::new().prefix("xblade-container-").tempdir()?;
        let args = ["-c", BOOT, "sh", utf8(place.path())?, utf8(tree)?, first];
        let mut process = Process::spawn(namespace, "sh", &args)?;
        let program = first.split([' ']).next().and_then(|path| path.rsplit('/').next());
        let mut init = None;
        eventually("process 1 runs", STEP, || {
            ensure!(process.is_running(), "{}", process.log());
            // The shell, unshare, process 1: itself when it has been through all mounts.
            init = child_of(process.pid()).and_then(child_of);
            let name = init.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
            Ok(name.is_some_and(|name| Some(name.trim()) == program))
        })?;
        Ok(Container {
            process,
            init: init.context("no process 1")?,
            _place: place,
        })
    }

    /// A file of the system, seen from outside.
    pub fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{file}", self.init))
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().context("no folder")?)?;
        std::fs::write(path, text).with_context(|| format!("writing {file}"))
    }

    /// A command to run in the system. What it starts ends with the system at the latest.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--all", "--target", &self.init.to_string(), "env", "-i"])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"])
            .args(words);
        command
    }

    /// Runs a command in the system, to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        let output = self.command(words).output();
        output.with_context(|| format!("running {words:?}"))
    }

    /// As [`Container::run`], and it must succeed; gives what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn done(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "{words:?}: {}: {}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The shell outside tidies up when process 1 is gone, and the rest with it.
        let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
        if let Err(error) = self.process.wait(STEP) {
            eprintln!("{error:#}");
        }
    }
}

fn child_of(pid: i32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("odd path")
}
