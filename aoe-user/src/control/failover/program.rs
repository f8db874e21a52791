//! The program that takes and gives back the storage of a group: for what has no lock that xblade knows.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::super::plan::LockOrder;
use crate::config::FailoverGroup;

/// How long it may take to take or give back the storage.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to find out whether the storage is still this gateway's. Longer is no answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often to look whether it has ended.
const PACE: Duration = Duration::from_millis(10);
/// Bytes of what it says that are passed on.
const SAID_BYTES: usize = 4096;
/// Characters of that which are told.
const TOLD_CHARACTERS: usize = 200;
/// How long to wait for the end of what it says, which a child of its own may keep open.
const SAID_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the program of a group, and waits for its end.
///
/// # Errors
/// When it does not end with 0: what it said on its standard error, or that it was ended because it took too long.
pub(super) fn run(group: &FailoverGroup, order: LockOrder) -> Result<(), String> {
    let Some(([program, arguments @ ..], word)) = group.command.as_deref().zip(Some(word(order))) else {
        return Ok(());
    };
    let failed = |what: String| format!("`{program} {word}`: {what}");
    let all = [program].into_iter().chain(arguments).map(String::as_str);
    let (child, stderr) = start(all.chain([word]), &group.name).map_err(|error| failed(error.to_string()))?;
    let said = listen(stderr);
    let timeout = match order {
        LockOrder::Check => CHECK_TIMEOUT,
        LockOrder::Take | LockOrder::Release => TIMEOUT,
    };
    let end = Instant::now() + timeout;
    let status = loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).map_err(|error| failed(error.to_string()))? {
            WaitStatus::Exited(_, 0) => return Ok(()),
            WaitStatus::Exited(_, code) => break format!("exit status: {code}"),
            WaitStatus::Signaled(_, signal, _) => break format!("signal: {signal}"),
            _ if Instant::now() >= end => {
                end_all(child, order);
                return Err(failed(format!("it took longer than {} s", timeout.as_secs())));
            }
            _ => std::thread::sleep(PACE),
        }
    };
    let said = said.and_then(|said| said.recv_timeout(SAID_TIMEOUT).ok());
    let said = said.unwrap_or_default();
    Err(failed(
        format!("{status} {}", one_line(&said)).trim_end().to_owned(),
    ))
}

/// Ends a program that took too long, with all that it started: a `drbdadm primary` that goes on by itself would take the storage later, for nobody.
fn end_all(program: Pid, order: LockOrder) {
    let _ = killpg(program, Signal::SIGKILL);
    let wait = move || {
        let _ = waitpid(program, None);
    };
    match order {
        // It changes nothing. What waits in the kernel for a device that hangs cannot be ended, and that must be known now.
        LockOrder::Check => {
            let waiter = std::thread::Builder::new().name("xblade-reaper".into());
            let _ = waiter.spawn(wait);
        }
        // As long as it is there it may take or give back the storage.
        LockOrder::Take | LockOrder::Release => wait(),
    }
}

/// What a program said, in one line that fits a table: where it said much, the end, which is where the reason is.
fn one_line(said: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    let lines = said
        .lines()
        .map(|line| line.chars().map(visible).collect::<String>());
    let lines: Vec<String> = lines
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    let all = lines.join("; ");
    match all.char_indices().nth_back(TOLD_CHARACTERS - 1) {
        Some((at, _)) if at > 0 => format!("…{}", &all[at..]),
        _ => all,
    }
}

/// Starts a program with its arguments. By posix_spawn(3), because `std` hands on the signals that xblade has blocked: without SIGALRM
/// `flock -w` waits for ever.
fn start<'a>(words: impl Iterator<Item = &'a str>, group: &str) -> io::Result<(Pid, PipeReader)> {
    let words = words.map(CString::new).collect::<Result<Vec<_>, _>>()?;
    let mut environment = vec![CString::new(format!("XBLADE_FAILOVER_GROUP={group}"))?];
    for (name, value) in std::env::vars_os().filter(|(name, _)| name != "XBLADE_FAILOVER_GROUP") {
        environment.push(CString::new([name.as_bytes(), value.as_bytes()].join(&b'='))?);
    }
    let (stderr, theirs) = io::pipe()?;
    let mut files = PosixSpawnFileActions::init()?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    for (fd, number) in [
        (nothing.as_raw_fd(), 0),
        (nothing.as_raw_fd(), 1),
        (theirs.as_raw_fd(), 2),
    ] {
        files.add_dup2(fd, number)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigmask(&SigSet::empty())?;
    // Which `std` has ignored in this process.
    attributes.set_sigdefault(&SigSet::from_iter([Signal::SIGPIPE]))?;
    // A process group of its own, so that it can be ended with all that it started.
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETPGROUP,
    )?;
    let program = words.first().ok_or(io::ErrorKind::InvalidInput)?;
    let pid = posix_spawnp(program, &files, &attributes, &words, &environment)?;
    Ok((pid, stderr))
}

/// Reads all that it says, since it would wait for that, and gives the last of it. What is no text is replaced.
fn listen(mut from: PipeReader) -> Option<Receiver<String>> {
    let (sender, receiver) = channel();
    let read = move || {
        let (mut said, mut buffer) = (Vec::new(), [0; SAID_BYTES]);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            said.extend_from_slice(&buffer[..count]);
            said.drain(..said.len().saturating_sub(SAID_BYTES));
        }
        // Whoever waited may have given up.
        let _ = sender.send(String::from_utf8_lossy(&said).into_owned());
    };
    let thread = std::thread::Builder::new().name("xblade-said".into()).spawn(read);
    thread.ok().map(|_| receiver)
}

const fn word(order: LockOrder) -> &'static str {
    match order {
        LockOrder::Take => "take",
        LockOrder::Release => "release",
        LockOrder::Check => "check",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::file::parse;

    fn group(command: &str) -> FailoverGroup {
        let text = format!(
            "[[failover]]\nname = \"g\"\nmac = \"02:00:00:00:00:01\"\npeers = [\"02:00:00:00:00:02\"]\ncommand = {command:?}\n\
             [[export]]\nshelf = 1\nslot = 1\npath = \"/x\"\ninterfaces = [\"e\"]\nfailover = \"g\"\n"
        );
        let config = parse(Path::new("x.toml"), text).unwrap().config;
        (**config.exports[0].failover.as_ref().unwrap()).clone()
    }

    #[test]
    fn it_is_told_what_to_do_and_its_words_are_passed_on() {
        let says = group("/bin/sh -c 'echo \"$XBLADE_FAILOVER_GROUP $1 refused\" >&2; [ $1 = take ]' lock");
        assert_eq!(run(&says, LockOrder::Take), Ok(()));
        let reason = run(&says, LockOrder::Check).unwrap_err();
        assert!(
            reason.contains("/bin/sh check") && reason.contains("g check refused"),
            "{reason}"
        );
        let talks = group("/bin/sh -c 'head -c 300000 /dev/zero | tr \"\\0\" x >&2; exit 3' lock");
        let reason = run(&talks, LockOrder::Check).unwrap_err();
        assert!(
            reason.contains("exit status: 3 …xxx") && reason.len() < 400,
            "{reason}"
        );
        let lines = group("/bin/sh -c 'for i in $(seq 500); do echo line $i; done >&2; exit 3' lock");
        let reason = run(&lines, LockOrder::Check).unwrap_err();
        assert!(
            !reason.contains('\n') && reason.ends_with("line 499; line 500") && reason.len() < 400,
            "{reason}"
        );
        let killed = run(&group("/bin/sh -c 'kill -9 $$'"), LockOrder::Take).unwrap_err();
        assert!(killed.contains("SIGKILL"), "{killed}");
        let missing = run(&group("/no/such/program"), LockOrder::Take).unwrap_err();
        assert!(missing.contains("/no/such/program"), "{missing}");
    }

    /// xblade's threads have nearly all signals blocked, and a program that waits with a limit needs SIGALRM.
    #[test]
    fn it_has_no_signals_blocked() {
        SigSet::all().thread_block().unwrap();
        let blocked = group("/bin/sh -c 'grep SigBlk: /proc/self/status >&2; exit 1'");
        let reason = run(&blocked, LockOrder::Take).unwrap_err();
        assert!(reason.contains("SigBlk: 0000000000000000"), "{reason}");
    }

    /// What it started would otherwise go on, and take the storage when nobody expects it.
    #[test]
    fn one_that_takes_too_long_is_ended_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let reason = run(&group(&format!("/bin/sh -c '{script}'")), LockOrder::Check).unwrap_err();
        assert!(reason.contains("it took longer than 5 s"), "{reason}");
        let pid = std::fs::read_to_string(file).unwrap();
        // Whoever adopts it may not have waited for it yet: then it is a zombie.
        let is_there = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
            status.is_ok_and(|status| !status.contains("State:\tZ"))
        };
        let end = Instant::now() + Duration::from_secs(60);
        while is_there() {
            assert!(Instant::now() < end, "it goes on");
            std::thread::sleep(PACE);
        }
    }
}
