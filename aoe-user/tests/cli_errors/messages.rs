//! Where messages go: closed and full pipes, and what is logged.

use std::io::Write as _;
use std::process::Command;

use super::place::XBLADE;

/// Runs a shell line in which `$x` is the binary; its exit code and what it said on standard error.
fn shell(line: &str) -> (Option<i32>, String) {
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", line])
        .env("x", XBLADE)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn closed_pipes_end_tools_quietly() {
    for line in [
        "$x completions bash | true",
        "$x man | true",
        "$x doctor lo | true",
        "$x --help | true",
        "$x bench lo --json 2>/dev/null | true",
        "$x check -c /nonexistent 2>&1 >/dev/null | true",
        "$x create /dev/null/x 1G 2>&1 | true",
        "$x import vblade /dev/null | true",
        "$x state list --state-dir /nonexistent | true",
        "$x state list --state-dir /nonexistent --json | true",
        "$x ls --control /nonexistent 2>&1 | true",
        "$x discover lo 2>&1 | true",
    ] {
        for _ in 0..3 {
            let (code, stderr) = shell(line);
            assert!(matches!(code, Some(0..=4)), "{line}: {code:?} {stderr}");
            assert!(
                !stderr.contains("panicked") && !stderr.contains("Broken pipe"),
                "{line}: {stderr}"
            );
        }
    }
    // A disk that is full is another matter.
    let (code, stderr) = shell("$x completions bash > /dev/full");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("cannot write to standard output"), "{stderr}");
    let (code, stderr) = shell("$x completions bash >&- 2>&-");
    assert!(code == Some(0) || code == Some(1), "{code:?} {stderr}");
}

#[test]
fn a_closed_or_full_standard_error_changes_no_exit_code() {
    assert_eq!(shell("$x check -c /nonexistent 2>/dev/full").0, Some(1));
    assert_eq!(shell("$x check -c /nonexistent 2>&-").0, Some(1));
    // A pipe that is full and that nobody reads.
    let (reader, writer) = std::io::pipe().unwrap();
    let full = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    (&writer).write_all(&vec![b'x'; full as usize]).unwrap();
    let status = Command::new(XBLADE)
        .args(["check", "-c", "/nonexistent"])
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    drop(reader);
}

#[test]
fn variables_say_what_to_log_where_no_option_does() {
    let said = |variables: &[(&str, &str)], args: &[&str]| {
        let output = Command::new(XBLADE)
            .env_remove("RUST_LOG")
            .env_remove("XBLADE_LOG")
            .envs(variables.iter().copied())
            .args(args)
            .args(["completions", "bash"])
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(said(&[("RUST_LOG", "debug"), ("XBLADE_LOG", "off")], &[]), "");
    let wrong = said(&[("RUST_LOG", "x=y=z")], &[]);
    assert!(wrong.contains("WARN RUST_LOG is no log filter"), "{wrong}");
    assert_eq!(said(&[("RUST_LOG", "x=y=z")], &["--log", "info"]), "");
    let level = said(&[("RUST_LOG", "debug")], &[]);
    assert!(level.contains("DEBUG"), "{level}");
    assert_eq!(said(&[("RUST_LOG", "debug")], &["--log", "info"]), "");
}
