//! A fault of our own in control code costs what it happened in, not the process: exports are served on, control answers.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::image::stamp;
use lab::needs::Need;
use lab::process::Process;
use lab::target::binary;
use lab::{Address, Image, Lab, Options, needs};
use nix::sys::signal::Signal;
use xblade::config::{Config, file};
use xblade::control::api::types::LogLines;
use xblade::control::{Service, run};

const E11: Address = Address::new(1, 1);
const TIMEOUT: Duration = Duration::from_secs(60);
/// Tells this program, started again, that it is the daemon, and where its files are.
const DIRECTORY: &str = "XBLADE_TEST_PANICS";
const NAME: &str = "panics::a_panic_in_control_code_is_survived";

/// The daemon as `xblade daemon` runs it, but what it has read and what is logged panics: the one while the file `panic`
/// is there, the other always.
fn daemon(directory: &Path) -> Result<()> {
    let (config, panics) = (directory.join("xblade.toml"), directory.join("panic"));
    let state = directory.join("state");
    run(Service {
        load: Arc::new(move || {
            assert!(!panics.exists(), "on purpose, for a test");
            let file = file::load(&config).map_err(|problems| anyhow::anyhow!("{problems}"))?;
            Ok(Config {
                state_dir: Some(state.clone()),
                state_required: false,
                ..file.config
            })
        }),
        reloads: true,
        must_start: false,
        control: Some(directory.join("control.sock")),
        set_log: Arc::new(|_| panic!("on purpose, for a test")),
        read_log: Arc::new(|_| LogLines::default()),
    })
}

fn ask(directory: &Path, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command
        .args(args)
        .env("XBLADE_CONTROL", directory.join("control.sock"));
    Ok(command.output()?)
}

#[test]
fn a_panic_in_control_code_is_survived() -> Result<()> {
    needs!(Need::Root);
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return daemon(&PathBuf::from(directory));
    }
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let directory = image.directory();
    let text = format!(
        "[[export]]\nshelf = 1\nslot = 1\npath = {:?}\ninterfaces = [\"eth0\"]\n",
        image.path()
    );
    std::fs::write(directory.join("xblade.toml"), text)?;
    let program = std::env::current_exe()?;
    let mut process = Process::spawn_with(
        &lab.target,
        program.to_str().context("odd path")?,
        &[NAME, "--exact", "--nocapture"],
        &[(DIRECTORY, directory.to_str().context("odd path")?)],
    )?;
    let begin = Instant::now();
    while ask(directory, &["status"])?.status.code() != Some(0) {
        ensure!(
            process.is_running() && begin.elapsed() < TIMEOUT,
            "{}",
            process.log()
        );
    }
    let reads = || -> Result<()> {
        ensure!(lab.open(0)?.find(E11)?.read(5, 1)? == stamp(5));
        Ok(())
    };
    reads()?;
    // In answering a request.
    let refused = ask(directory, &["log", "debug"])?;
    let told = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        refused.status.code() == Some(1) && told.contains("could not answer"),
        "{told}"
    );
    // In a job.
    std::fs::write(directory.join("panic"), "")?;
    let refused = ask(directory, &["reload"])?;
    let told = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        refused.status.code() == Some(1) && told.contains("internal error"),
        "{told}"
    );
    reads()?;
    ensure!(ask(directory, &["status"])?.status.code() == Some(0));
    // What works works again.
    std::fs::remove_file(directory.join("panic"))?;
    ensure!(ask(directory, &["reload"])?.status.success());
    process.signal(Signal::SIGTERM)?;
    ensure!(
        process.wait(TIMEOUT)?.code() == Some(0),
        "it ended otherwise:\n{}",
        process.log()
    );
    Ok(())
}
