//! Pausing exports beside what goes wrong meanwhile: an export that is told as paused answers nobody, and one that is not is served.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use disks::Disk;
use lab::image::{SECTOR, pattern, stamp};
use lab::needs::Need;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Request, Target, eventually, needs};
use serde_json::Value;
use tempfile::TempDir;

const NEEDS: [Need; 3] = [
    Need::Root,
    Need::File("/dev/fuse"),
    Need::File("/dev/loop-control"),
];
const TIMEOUT: Duration = Duration::from_secs(60);

/// On an image.
const GOOD: Address = Address::new(1, 1);
/// On a disk that fails on command.
const FAULTY: Address = Address::new(1, 2);
/// Proves that what is silent is not merely slow.
const WITNESS: Address = Address::new(2, 1);

struct Site {
    // Dropped in this order.
    target: Target,
    disk: Disk,
    good: Image,
    witness: Image,
    lab: Lab,
    directory: TempDir,
}

impl Site {
    fn new() -> Result<Site> {
        let lab = Lab::new(Options::default())?;
        let mut disk = Disk::new(&lab.target, 8)?;
        disk.preset(&(0..1024).flat_map(stamp).collect::<Vec<u8>>());
        let device = disk.block_device(&lab.target)?;
        let (good, witness) = (Image::stamped(64)?, Image::stamped(64)?);
        let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
        configure(&directory, [good.path(), Path::new(&device), witness.path()])?;
        let target = Target::ready(&lab.target, &daemon(directory.path())?, 3)?;
        Ok(Site {
            target,
            disk,
            good,
            witness,
            lab,
            directory,
        })
    }

    /// Runs a command that must end with this code; returns all that it printed.
    fn ask(&self, args: &[&str], code: i32) -> Result<String> {
        let output = self.target.ask(args)?;
        ensure!(output.status.code() == Some(code), "{args:?}: {}", told(&output));
        Ok(told(&output))
    }

    /// What `xblade ls` tells of an export.
    fn export(&self, name: &str) -> Result<Value> {
        let output = self.target.ask(&["ls", name, "--json"])?;
        let listed: Value = serde_json::from_slice(&output.stdout)?;
        Ok(listed["exports"][0].clone())
    }

    /// Waits until an export is as it must be.
    fn wait_until(&self, name: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        let what = format!("{name} is as it must be");
        eventually(&what, TIMEOUT, || Ok(is_so(&self.export(name)?)))
    }

    fn is_silent(&self, address: Address) -> Result<()> {
        let initiator = self.lab.open(0)?;
        let witness = initiator.find(WITNESS)?;
        let query = Request::query(lab::link::target_mac(0), address, 0, b"");
        let answers = initiator.answers(query, &witness)?;
        ensure!(answers.is_empty(), "{address:?} answers: {answers:?}");
        Ok(())
    }

    fn is_served(&self, address: Address) -> Result<()> {
        ensure!(self.lab.open(0)?.find(address)?.read(5, 1)? == stamp(5));
        Ok(())
    }
}

/// Writes the file, with the exports' images or devices.
fn configure(directory: &TempDir, [good, faulty, witness]: [&Path; 3]) -> Result<()> {
    let mut text = "[defaults]\ninterfaces = [\"eth0\"]\n".to_owned();
    for (address, path) in [(GOOD, good), (FAULTY, faulty), (WITNESS, witness)] {
        let (shelf, slot) = (address.shelf, address.slot);
        writeln!(
            text,
            "[[export]]\nshelf = {shelf}\nslot = {slot}\npath = {path:?}"
        )?;
    }
    Ok(std::fs::write(directory.path().join("xblade.toml"), text)?)
}

fn told(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[test]
fn a_pause_that_fails_leaves_silent_what_was_paused_before() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let site = Site::new()?;
    site.ask(&["export", "pause", "e1.1"], 0)?;
    site.lab
        .open(0)?
        .find(FAULTY)?
        .write(9, &pattern(9, *b"lost it!"))?;
    site.disk.switches().flushes_fail.store(true, Ordering::Relaxed);
    let failed = site.ask(&["export", "pause", "e1.*"], 1)?;
    ensure!(
        failed.contains("e1.2: it cannot be committed")
            && failed.contains("not paused: e1.2; paused as before: e1.1"),
        "{failed}"
    );
    // As it is told, so it is.
    ensure!(site.export("e1.1")?["state"] == "paused");
    site.is_silent(GOOD)?;
    ensure!(site.export("e1.2")?["state"] != "paused");
    site.is_served(FAULTY)?;
    ensure!(site.ask(&["export", "resume", "e1.*"], 0)? == "resumed e1.1\n");
    site.is_served(GOOD)
}

#[test]
fn a_pause_with_a_time_ends_by_itself() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let site = Site::new()?;
    site.ask(&["export", "pause", "e1.*", "--for", "1h"], 0)?;
    site.is_silent(GOOD)?;
    let left = site.export("e1.1")?["resumes_in_seconds"].as_f64();
    ensure!(
        left.is_some_and(|left| (3000.0..=3600.0).contains(&left)),
        "{left:?}"
    );
    let status = site.ask(&["status"], 3)?;
    ensure!(
        status.contains("e1.1: paused by the operator; served again in "),
        "{status}"
    );
    // What is said last holds.
    site.ask(&["export", "pause", "e1.2"], 0)?;
    ensure!(site.export("e1.2")?["resumes_in_seconds"].is_null());
    site.ask(&["export", "pause", "e1.1", "--for", "1s"], 0)?;
    site.wait_until("e1.1", |export| export["state"] == "ready")?;
    site.is_served(GOOD)?;
    ensure!(site.export("e1.2")?["state"] == "paused");
    site.is_silent(FAULTY)
}

#[test]
fn an_export_that_is_opened_anew_while_it_is_paused_is_not_told_as_paused() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let site = Site::new()?;
    let moved = Image::stamped(128)?;
    site.lab
        .open(0)?
        .find(FAULTY)?
        .write(9, &pattern(9, *b"not yet!"))?;
    let flushes_hang = &site.disk.switches().flushes_hang;
    flushes_hang.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let pause = scope.spawn(|| site.target.ask(&["export", "pause", "e1.2"]));
        let checked = (|| {
            site.wait_until("e1.2", |export| export["state"] == "waiting")?;
            site.is_silent(FAULTY)?;
            for change in ["pause", "resume"] {
                let refused = site.ask(&["export", change, "e1.2"], 1)?;
                ensure!(refused.contains("e1.2 is being paused"), "{refused}");
            }
            // Another store in the place of the one whose commit is under way. It answers nobody.
            configure(
                &site.directory,
                [site.good.path(), moved.path(), site.witness.path()],
            )?;
            site.target.ask(&["reload"])?;
            let bytes = 128 * SECTOR;
            site.wait_until("e1.2", |export| export["size_bytes"] == bytes)?;
            site.is_silent(FAULTY)
        })();
        flushes_hang.store(false, Ordering::Relaxed);
        let paused = pause.join().expect("it does not panic")?;
        checked?;
        let answer = told(&paused);
        ensure!(
            paused.status.code() == Some(1) && answer.contains("not paused: e1.2"),
            "{answer}"
        );
        ensure!(site.export("e1.2")?["state"] == "ready", "as it is told");
        site.is_served(FAULTY)
    })
}
