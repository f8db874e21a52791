//! Throw-away network namespaces.
//!
//! A [`Namespace`] has no name in `/run/netns`: it lives as long as the thread that made it and the processes
//! started in it, so nothing is left behind however a test ends, not even when it is killed.

use std::fs;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with its own `/sys`, and the thread that lives in it.
#[derive(Debug)]
pub struct Namespace {
    label: String,
    tid: i32,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes a namespace with the loopback interface up and IPv6 off (no traffic that no test asked for).
    ///
    /// `label` only appears in messages.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn new(label: &str) -> Result<Namespace> {
        let (jobs, inbox) = channel::<Job>();
        let (ready, is_ready) = channel();
        let thread = std::thread::Builder::new()
            .name(label.to_owned())
            .spawn(move || {
                let entered = enter();
                let failed = entered.is_err();
                let _ = ready.send(entered);
                if failed {
                    return;
                }
                while let Ok(job) = inbox.recv() {
                    job();
                }
            })?;
        let tid = is_ready.recv().context("the namespace's thread died")??;
        let namespace = Namespace {
            label: label.to_owned(),
            tid,
            jobs: Some(jobs),
            thread: Some(thread),
        };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `job` in the namespace and returns what it returned.
    ///
    /// # Panics
    /// When `job` does.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job = Box::new(move || {
            let _ = done.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
        });
        self.jobs
            .as_ref()
            .expect("open till dropped")
            .send(job)
            .expect("the namespace's thread lives");
        match result.recv().expect("the namespace's thread lives") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs a command to its end and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails; the message has what it printed.
    pub fn output(&self, mut command: Command) -> Result<String> {
        let shown = format!("{command:?}");
        let output = self
            .run(move || command.output())
            .with_context(|| format!("starting {shown}"))?;
        ensure!(
            output.status.success(),
            "in {}: {shown}: {}: {}{}",
            self.label,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `ip` with these words.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn ip(&self, words: &str) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(words.split_whitespace());
        self.output(command)
    }

    /// The path by which `ip … netns PATH` finds this namespace.
    pub fn path(&self) -> String {
        self.path_of("net")
    }

    /// The path of its namespace of this kind: `net`, or `mnt` for its mounts.
    pub fn path_of(&self, kind: &str) -> String {
        format!("/proc/{}/task/{}/ns/{kind}", std::process::id(), self.tid)
    }

    /// The label it was made with.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Writes to a file as it is seen in the namespace (`/sys/class/net/…`, `/proc/sys/net/…`).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let (path, text) = (path.to_owned(), text.to_owned());
        self.run(move || fs::write(&path, text).with_context(|| format!("writing {path}")))
    }

    /// Reads a file as it is seen in the namespace.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, path: &str) -> Result<String> {
        let path = path.to_owned();
        self.run(move || fs::read_to_string(&path).with_context(|| format!("reading {path}")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A tmpfs of the namespace's own, which is a target's runtime directory.
pub const MEMORY: &str = "/mnt";

/// Moves the calling thread into new namespaces and returns its id.
fn enter() -> Result<i32> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("making a network namespace (this needs root)")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).context("making mounts private")?;
    // sysfs shows the interfaces of the namespace that mounted it.
    let _ = umount2("/sys", MntFlags::MNT_DETACH);
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mounting /sys")?;
    let _ = mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none);
    // What xblade keeps for this boot of the host goes with the namespace.
    mount(Some("tmpfs"), MEMORY, Some("tmpfs"), MsFlags::empty(), none).context("mounting a tmpfs")?;
    for which in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        if let Err(error) = fs::write(&path, "1")
            && error.kind() != std::io::ErrorKind::NotFound
        {
            bail!("writing {path}: {error}");
        }
    }
    Ok(nix::unistd::gettid().as_raw())
}
