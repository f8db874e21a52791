//! The real binary, run in a directory.

use std::path::Path;
use std::process::{Command, Output};

pub(crate) fn xblade(dir: &Path, line: &str) -> Output {
    let args = line.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_xblade"))
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap()
}

#[track_caller]
pub(crate) fn done(dir: &Path, line: &str) -> String {
    let output = xblade(dir, line);
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
