//! Miri, the interpreter that finds undefined behaviour, on the tests of crates that need no system call to be tested.
//!
//! It comes with nightly compilers only; rustup fetches one into a folder of ours, so that the user's toolchains stay as they
//! are. The engine and the initiator forbid unsafe code and are left out; so is the store, whose unsafe code is about system
//! calls.

use std::process::Command;

use anyhow::{Context, Result};
use lab::packages;

use super::harness::{self, Outcome};
use crate::sh;

/// Whose tests it runs.
const CRATES: [&str; 3] = ["aoe-common", "xsk", "failover"];

/// Runs the tests; where no compiler with Miri is to be had, they are skipped.
pub(super) fn run() -> Outcome {
    let home = match packages::cached("rustup", install) {
        Ok(home) => home,
        Err(error) => return Outcome::skipped(&format!("{error:#}")),
    };
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(sh::root())
        .env("RUSTUP_HOME", home)
        // Where it keeps the standard library that it builds.
        .env("XDG_CACHE_HOME", packages::cache())
        // What the compiler that runs this command was told.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .args(["+nightly", "miri", "test", "--locked", "--lib", "--no-fail-fast"])
        .args(["--target-dir", "target/miri"]);
    for name in CRATES {
        cargo.args(["--package", name]);
    }
    harness::run(&mut cargo).unwrap_or_else(|error| Outcome::of_error(&error))
}

/// Has rustup put a nightly compiler into `home`.
fn install(home: &std::path::Path) -> Result<()> {
    let needs = "Miri needs a nightly compiler";
    let rustup =
        sh::find("rustup").with_context(|| format!("{needs}, and there is no rustup to fetch one"))?;
    let mut install = Command::new(rustup);
    install
        .env("RUSTUP_HOME", home)
        .args(["toolchain", "install", "nightly", "--no-self-update"])
        .args(["--profile", "minimal", "--component", "miri,rust-src"]);
    sh::output(&mut install).with_context(|| format!("{needs}, and rustup could not fetch one"))?;
    Ok(())
}
