//! An image to try with, and the binary's answers.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

pub(crate) const XBLADE: &str = env!("CARGO_BIN_EXE_xblade");

/// A directory with an image of 8 sectors.
pub(crate) struct Place {
    pub dir: tempfile::TempDir,
    pub image: String,
}

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.raw");
        fs::File::create(&image).unwrap().set_len(8 * 512).unwrap();
        let image = image.to_str().unwrap().to_owned();
        Place { dir, image }
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Runs the binary to its end.
pub(crate) fn xblade(args: &[&str]) -> Output {
    Command::new(XBLADE).args(args).output().unwrap()
}

/// It must have ended with this code and said this on standard error.
#[track_caller]
pub(crate) fn refused(output: &Output, code: i32, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(expected), "expected {expected:?} in:\n{stderr}");
    assert!(output.stdout.is_empty(), "nothing goes to standard output");
    assert!(!stderr.contains("panicked"), "{stderr}");
}
