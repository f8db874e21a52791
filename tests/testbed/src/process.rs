//! Processes that cannot outlive their test.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::Namespace;
use crate::packages;

/// How long a process that was told to end may take on a busy machine.
const END: Duration = Duration::from_secs(60);

/// A running process with its output collected line by line; killed when dropped.
///
/// When the thread drops it in a panic, the output is printed first.
#[derive(Debug)]
pub struct Process {
    label: String,
    child: Child,
    log: Arc<Log>,
    stdin: Option<ChildStdin>,
}

#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Lines>,
    grew: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    read: Vec<String>,
    /// Pipes that are not at their end.
    open: usize,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().expect("no reader panics")
    }

    /// Waits till all is read that an ended process has printed. A child of its own may hold the pipes: no longer than a
    /// few seconds for that.
    fn complete(&self) {
        let deadline = Duration::from_secs(5);
        let lines = self.lock();
        let _ = self
            .grew
            .wait_timeout_while(lines, deadline, |lines| lines.open > 0);
    }
}

impl Process {
    /// Starts `program` with `args` in the namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(namespace: &Namespace, program: &str, args: &[&str]) -> Result<Process> {
        Process::spawn_with(namespace, program, args, &[])
    }

    /// As [`Process::spawn`], with further variables in its environment.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_with(
        namespace: &Namespace,
        program: &str,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Process> {
        // The kernel kills the process when the namespace's thread ends, so that even a killed test leaves nothing.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.args(packages::words(program)).args(args);
        command.envs(variables.iter().copied());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = namespace
            .run(move || command.spawn())
            .with_context(|| format!("starting {program} in {}", namespace.label()))?;
        let log = Arc::new(Log::default());
        collect(child.stdout.take(), &log);
        collect(child.stderr.take(), &log);
        let label = program.rsplit('/').next().unwrap_or(program).to_owned();
        let stdin = child.stdin.take();
        Ok(Process {
            label,
            child,
            log,
            stdin,
        })
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are small")
    }

    /// Writes a line to the standard input.
    ///
    /// # Errors
    /// When the process has closed it.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .context("writing to standard input")?;
        Ok(stdin.flush()?)
    }

    /// Everything it printed so far, standard output and error together.
    pub fn log(&self) -> String {
        self.log.lock().read.join("\n")
    }

    /// Some of the lines that it printed so far.
    pub fn lines(&self, range: std::ops::Range<usize>) -> Vec<String> {
        self.log.lock().read.get(range).unwrap_or_default().to_vec()
    }

    /// How many lines it has printed so far: a mark for [`Process::wait_for_after`].
    pub fn mark(&self) -> usize {
        self.log.lock().read.len()
    }

    /// Waits for a line that contains `word` and returns it.
    ///
    /// # Errors
    /// When the process ends or `timeout` passes first; the message has the output.
    pub fn wait_for(&mut self, word: &str, timeout: Duration) -> Result<String> {
        self.wait_for_after(0, |line| line.contains(word), timeout)
            .with_context(|| format!("waiting for {word:?}"))
            .map(|(_, line)| line)
    }

    /// Waits for a line number `mark` or later that `wanted` accepts; returns its number and the line.
    ///
    /// # Errors
    /// When the process ends or `timeout` passes first; the message has the output.
    pub fn wait_for_after(
        &mut self,
        mark: usize,
        wanted: impl Fn(&str) -> bool,
        timeout: Duration,
    ) -> Result<(usize, String)> {
        let deadline = Instant::now() + timeout;
        let mut seen = mark;
        loop {
            let ended = self.child.try_wait()?;
            {
                let (lines, _) = self
                    .log
                    .grew
                    .wait_timeout_while(self.log.lock(), Duration::from_millis(20), |lines| {
                        lines.read.len() <= seen
                    })
                    .expect("no reader panics");
                if let Some(at) = lines.read.iter().skip(seen).position(|line| wanted(line)) {
                    return Ok((seen + at, lines.read[seen + at].clone()));
                }
                seen = seen.max(lines.read.len());
            }
            if let Some(status) = ended {
                self.log.complete();
                let lines = &self.log.lock().read;
                if let Some(at) = lines.iter().skip(mark).position(|line| wanted(line)) {
                    return Ok((mark + at, lines[mark + at].clone()));
                }
                bail!(
                    "{} ended with {status}; it printed:\n{}",
                    self.label,
                    lines.join("\n")
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{} did not within {timeout:?}; it printed:\n{}",
                    self.label,
                    self.log()
                );
            }
        }
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid()), signal).with_context(|| format!("sending {signal} to {}", self.label))
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.log.complete();
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} still ran after {timeout:?}; it printed:\n{}",
                    self.label,
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to end (SIGTERM) and waits for that; returns its exit code.
    ///
    /// # Errors
    /// When it does not end within a minute, or a signal ended it.
    pub fn stop(&mut self) -> Result<i32> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(END)?;
        status
            .code()
            .with_context(|| format!("{} was ended by signal {:?}", self.label, status.signal()))
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(END).map(drop)
    }

    /// Processor time used so far, by threads that have ended as well.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        let clock =
            nix::time::clock_getcpuclockid(Pid::from_raw(self.pid())).context("the process is gone")?;
        Ok(clock.now()?.into())
    }

    /// How often its threads were switched, willingly or not: an asleep process's number stands still.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn context_switches(&self) -> Result<u64> {
        let mut switches = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let status = std::fs::read_to_string(task?.path().join("status"))?;
            for line in status.lines().filter(|line| line.contains("ctxt_switches")) {
                switches += line.rsplit(':').next().unwrap_or("0").trim().parse::<u64>()?;
            }
        }
        Ok(switches)
    }

    /// What each of its threads waits for in the kernel, for whoever reads why a test failed; root sees the stacks.
    pub fn threads(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        let of_task = |path: PathBuf| {
            let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default();
            format!("{}{}", read("stat"), read("stack"))
        };
        tasks
            .into_iter()
            .flatten()
            .flatten()
            .map(|task| of_task(task.path()))
            .collect()
    }

    /// Anonymous resident memory, in KiB: what the process has allocated, not what it has mapped.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn anonymous_kib(&self) -> Result<u64> {
        self.memory_kib("RssAnon")
    }

    /// Resident memory of one kind, in KiB: `RssAnon`, or `RssFile`, what it has mapped of files.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn memory_kib(&self, kind: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(kind)?.strip_prefix(':'))
            .with_context(|| format!("no {kind}"))?;
        Ok(line.split_whitespace().next().context("no value")?.parse()?)
    }
}

/// How long a process that was killed may take to be gone.
const KILLED: Duration = Duration::from_secs(20);

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
        }
        // One that waits for a disk ends when the disk answers, which the test's own end sees to.
        if let Err(error) = self.wait(KILLED) {
            eprintln!("{error:#}");
        }
        if std::thread::panicking() {
            eprintln!(
                "--- {} (pid {}) printed:\n{}\n---",
                self.label,
                self.pid(),
                self.log()
            );
        }
    }
}

/// Reads lines till the end on a thread of its own.
fn collect(pipe: Option<impl Read + Send + 'static>, log: &Arc<Log>) {
    let Some(pipe) = pipe else { return };
    let log = Arc::clone(log);
    log.lock().open += 1;
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            log.lock().read.push(text);
            log.grew.notify_all();
            line.clear();
        }
        log.lock().open -= 1;
        log.grew.notify_all();
    });
}
