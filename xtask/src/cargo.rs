//! Building with cargo, and finding what was built.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::sh;

/// An executable that cargo has built.
#[derive(Debug)]
pub(crate) struct Executable {
    /// Name of the binary, library or test file it was built from.
    pub target: String,
    /// Its package, by the name of its directory.
    pub package: String,
    /// Its package's directory.
    pub directory: PathBuf,
    /// True for a test harness.
    pub is_test: bool,
    /// Where it is.
    pub path: PathBuf,
}

/// Runs cargo with these arguments, progress and diagnostics shown, and returns the executables.
///
/// # Errors
/// When the build fails.
pub(crate) fn build(args: &[&str]) -> Result<Vec<Executable>> {
    build_as(args, None)
}

/// As [`build`], with other flags for the compiler: in a target directory of their own, or all is built anew.
///
/// # Errors
/// When the build fails.
pub(crate) fn build_as(args: &[&str], rustflags: Option<&str>) -> Result<Vec<Executable>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(sh::root()).args(args);
    if let Some(flags) = rustflags {
        cargo.env("RUSTFLAGS", flags);
    }
    eprintln!("$ {}", sh::line(&cargo));
    cargo
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let mut child = cargo.spawn().context("starting cargo")?;
    let messages = BufReader::new(child.stdout.take().context("no pipe")?);
    let mut executables = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(&line?).context("cargo's messages")?;
        executables.extend(executable(&message));
    }
    ensure!(child.wait()?.success(), "the build failed");
    Ok(executables)
}

fn executable(message: &Value) -> Option<Executable> {
    let path = message.get("executable")?.as_str()?;
    let manifest = Path::new(message.get("manifest_path")?.as_str()?);
    let directory = manifest.parent()?;
    Some(Executable {
        target: message.pointer("/target/name")?.as_str()?.to_owned(),
        package: directory.file_name()?.to_str()?.to_owned(),
        directory: directory.to_owned(),
        is_test: message.pointer("/profile/test")?.as_bool()?,
        path: path.into(),
    })
}

/// Builds `xblade` as it is released and returns its path.
///
/// # Errors
/// When the build fails.
pub(crate) fn xblade() -> Result<PathBuf> {
    one("release", &["--bin", "xblade"], "xblade")
}

/// Builds `xblade` for who waits for it, in half the time of the release, and returns its path. It has no `xblade top`: the
/// demonstration does not show it, and a terminal library takes a while to build.
///
/// # Errors
/// When the build fails.
pub(crate) fn demo() -> Result<PathBuf> {
    one("demo", &["--no-default-features", "--bin", "xblade"], "xblade")
}

/// As [`demo`], with `xblade top`.
///
/// # Errors
/// When the build fails.
pub(crate) fn demo_with_top() -> Result<PathBuf> {
    one("demo", &["--bin", "xblade"], "xblade")
}

/// Builds the AF_XDP echo, in release, and returns its path.
///
/// # Errors
/// When the build fails.
pub(crate) fn echo() -> Result<PathBuf> {
    one("release", &["--example", "echo"], "echo")
}

/// Builds the measurement of threads that share an export (`crates/store/examples/scale`), in release, and returns its path.
///
/// # Errors
/// When the build fails.
pub(crate) fn scale() -> Result<PathBuf> {
    let args = [
        "build",
        "--release",
        "--locked",
        "--package",
        "store",
        "--example",
        "scale",
    ];
    let built = build(&args)?;
    let scale = built.into_iter().find(|built| built.target == "scale");
    Ok(scale.context("cargo built no scale")?.path)
}

/// Builds one executable of the user half.
fn one(profile: &str, what: &[&str], name: &str) -> Result<PathBuf> {
    let mut args = vec!["build", "--profile", profile, "--locked", "--package", "xblade"];
    args.extend(what);
    let built = build(&args)?;
    let binary = built
        .into_iter()
        .find(|built| built.target == name && !built.is_test);
    Ok(binary.with_context(|| format!("cargo built no {name}"))?.path)
}
