//! The real `xblade`, started in a namespace.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::net::{MEMORY, Namespace};
use crate::process::Process;

/// Longest wait for the word `ready`.
pub const START: Duration = Duration::from_secs(60);

/// Where the binary is: `XBLADE`, or beside the running test's directory.
///
/// # Errors
/// When it has not been built.
pub fn binary() -> Result<String> {
    let path = match std::env::var_os("XBLADE") {
        Some(path) => PathBuf::from(path),
        // target/debug/deps/some_test → target/debug/xblade
        None => std::env::current_exe()?
            .ancestors()
            .nth(2)
            .context("odd place")?
            .join("xblade"),
    };
    ensure!(
        path.exists(),
        "{} does not exist: `cargo build -p xblade` first",
        path.display()
    );
    Ok(path.to_str().context("odd path")?.to_owned())
}

/// The words that start a daemon whose configuration is `xblade.toml` in a folder, and whose state is in `state` there.
///
/// # Errors
/// When the folder's name is not UTF-8.
pub fn daemon(folder: &Path) -> Result<[String; 5]> {
    let [config, state] = ["xblade.toml", "state"].map(|name| {
        let path = folder.join(name);
        path.to_str().map(str::to_owned).context("odd path")
    });
    Ok([
        "daemon".to_owned(),
        "--config".to_owned(),
        config?,
        "--state-dir".to_owned(),
        state?,
    ])
}

fn socket(directory: &TempDir) -> PathBuf {
    directory.path().join("control.sock")
}

/// A running `xblade`; killed when dropped, its log printed when the test panics.
#[derive(Debug)]
pub struct Target {
    /// The process.
    pub process: Process,
    /// Where a daemon's control socket is: of its own, many run at a time.
    directory: TempDir,
}

impl Target {
    /// Starts `xblade` with these arguments and does not wait.
    ///
    /// # Errors
    /// When it cannot be started, or would keep its state where other tests and the machine's own xblade do.
    pub fn start(namespace: &Namespace, args: &[impl AsRef<str>]) -> Result<Target> {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        ensure!(
            args.first() != Some(&"daemon") || args.contains(&"--state-dir"),
            "{args:?}: a daemon needs a --state-dir of its own"
        );
        let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
        let control = socket(&directory);
        let control = control.to_str().context("odd path")?;
        // As a unit's runtime directory: nothing is left in the machine's own.
        let environment = [("XBLADE_CONTROL", control), ("RUNTIME_DIRECTORY", MEMORY)];
        Ok(Target {
            process: Process::spawn_with(namespace, &binary()?, &args, &environment)?,
            directory,
        })
    }

    /// The daemon's control socket.
    pub fn control(&self) -> PathBuf {
        socket(&self.directory)
    }

    /// Runs a command that talks to the daemon, to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ask(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary()?);
        command.args(args).env("XBLADE_CONTROL", self.control());
        command
            .output()
            .with_context(|| format!("running xblade {args:?}"))
    }

    /// The value of a metric: its name with its labels, as `xblade metrics` prints them.
    ///
    /// # Errors
    /// When there is none, or the daemon does not answer.
    pub fn metric(&self, sample: &str) -> Result<f64> {
        let metrics = String::from_utf8(self.ask(&["metrics"])?.stdout)?;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        let value = line.with_context(|| format!("no {sample} in:\n{metrics}"))?;
        value.parse().with_context(|| format!("{sample}: {value}"))
    }

    /// Starts `xblade` and waits till it says `ready` this many times.
    ///
    /// # Errors
    /// When it ends or does not get ready.
    pub fn ready(namespace: &Namespace, args: &[impl AsRef<str>], times: usize) -> Result<Target> {
        let mut target = Target::start(namespace, args)?;
        target.wait_ready(0, times)?;
        Ok(target)
    }

    /// As [`Target::ready`], after a kill: the kernel frees the locks of a dead process when the disk has answered its last
    /// requests, and till then the image is in use.
    ///
    /// # Errors
    /// As [`Target::ready`].
    pub fn ready_again(namespace: &Namespace, args: &[impl AsRef<str>], times: usize) -> Result<Target> {
        let killed = Instant::now();
        loop {
            match Target::ready(namespace, args, times) {
                Err(error)
                    if killed.elapsed() < START && format!("{error:#}").contains("in use by another") =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                result => return result,
            }
        }
    }

    /// Waits for lines with the word `ready` after a mark ([`Process::mark`]) and returns the last.
    ///
    /// # Errors
    /// When it ends or does not get ready.
    pub fn wait_ready(&mut self, mark: usize, times: usize) -> Result<String> {
        let (mut from, mut last) = (mark, String::new());
        for _ in 0..times {
            let is_ready = |line: &str| {
                line.split(|c: char| !c.is_alphanumeric())
                    .any(|word| word == "ready")
            };
            let (at, line) = self
                .process
                .wait_for_after(from, is_ready, START)
                .context("waiting for ready")?;
            (from, last) = (at + 1, line);
        }
        Ok(last)
    }
}
