//! The program that takes and gives back the storage of a group: for what has no lock that xblade knows.

use std::io::Read as _;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::super::plan::LockOrder;
use crate::config::FailoverGroup;

/// How long it may take to take or give back the storage.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to find out whether the storage is still this gateway's. Longer is no answer.
const CHECK_PATIENCE: Duration = Duration::from_secs(5);
/// How often to look whether it has ended.
const PACE: Duration = Duration::from_millis(10);
/// Bytes of what it says that are passed on.
const SAID_BYTES: usize = 4096;
/// How long to wait for the end of what it says, which a child of its own may keep open.
const SAID_PATIENCE: Duration = Duration::from_secs(1);

/// Runs the program of a group, and waits for its end.
///
/// # Errors
/// When it does not end with 0: what it said on its standard error, or that it was ended because it took too long.
pub(super) fn run(group: &FailoverGroup, order: LockOrder) -> Result<(), String> {
    let Some(([program, arguments @ ..], word)) = group.command.as_deref().zip(Some(word(order))) else {
        return Ok(());
    };
    let failed = |what: String| format!("`{program} {word}`: {what}");
    let mut child = Command::new(program)
        .args(arguments)
        .arg(word)
        .env("XBLADE_FAILOVER_GROUP", &group.name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let said = child.stderr.take().and_then(listen);
    let patience = match order {
        LockOrder::Check => CHECK_PATIENCE,
        LockOrder::Take | LockOrder::Release => PATIENCE,
    };
    let end = Instant::now() + patience;
    let status = loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(status) => break status,
            None if Instant::now() >= end => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("it took longer than {} s", patience.as_secs())));
            }
            None => std::thread::sleep(PACE),
        }
    };
    if status.success() {
        return Ok(());
    }
    let said = said.and_then(|said| said.recv_timeout(SAID_PATIENCE).ok());
    let said = said.unwrap_or_default();
    Err(failed(format!("{status} {}", said.trim()).trim().to_owned()))
}

/// Reads all that it says, since it would wait for that, and gives the first of it. What is no text is replaced.
fn listen(mut from: ChildStderr) -> Option<Receiver<String>> {
    let (sender, receiver) = channel();
    let read = move || {
        let (mut said, mut buffer) = (Vec::new(), [0; SAID_BYTES]);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            said.extend_from_slice(&buffer[..count.min(SAID_BYTES - said.len())]);
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
            reason.contains("exit status: 3 xxx") && reason.len() < 5000,
            "{reason}"
        );
        let missing = run(&group("/no/such/program"), LockOrder::Take).unwrap_err();
        assert!(missing.contains("/no/such/program"), "{missing}");
    }
}
