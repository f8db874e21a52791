//! Captures of what went over a link, and Wireshark's opinion of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::frame::{Address, Request};
use crate::initiator::{Initiator, TIMEOUT};
use crate::net::Namespace;
use crate::packages;
use crate::process::Process;

/// A running capture of the AoE frames on one interface.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    directory: TempDir,
    sender: Initiator,
}

/// A finished capture.
#[derive(Debug)]
pub struct Captured {
    directory: TempDir,
}

impl Capture {
    /// Starts dumpcap on an interface; it captures when this returns.
    ///
    /// # Errors
    /// When dumpcap is missing (it comes with tshark).
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Capture> {
        let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
        let file = directory.path().join("capture.pcap");
        let file = file.to_str().context("odd path")?;
        let filter = "ether proto 0x88a2 or (vlan and ether proto 0x88a2)";
        let args = ["-q", "-P", "-B", "64", "-i", interface, "-w", file, "-f", filter];
        let mut process = Process::spawn(namespace, "dumpcap", &args)?;
        process.wait_for("File:", TIMEOUT)?;
        Ok(Capture {
            process,
            directory,
            sender: Initiator::open(namespace, interface)?,
        })
    }

    /// Ends the capture once all that has passed so far is written: a last frame, which nobody takes, tells that.
    ///
    /// # Errors
    /// When dumpcap lost frames.
    pub fn stop(mut self) -> Result<Captured> {
        let last = last_frame(self.sender.mac());
        self.sender.send(&last)?;
        let file = self.directory.path().join("capture.pcap");
        let deadline = Instant::now() + TIMEOUT;
        // The file may end in the middle of a frame while it is written.
        while !frames(&file).is_ok_and(|frames| frames.contains(&last)) {
            ensure!(Instant::now() < deadline, "the last frame was not captured");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(TIMEOUT)?;
        let log = self.process.log();
        // "Packets received/dropped on interface 'eth0': 12/0 (pcap:0/…"
        let counts = log
            .lines()
            .find(|line| line.contains("received/dropped"))
            .and_then(|line| line.split("': ").nth(1));
        let dropped = counts.and_then(|counts| counts.split(['/', ' ']).nth(1));
        ensure!(dropped == Some("0"), "the capture has holes: {log}");
        Ok(Captured {
            directory: self.directory,
        })
    }
}

impl Captured {
    /// The file, in pcap format.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("capture.pcap")
    }

    /// The frames, tags included.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn frames(&self) -> Result<Vec<Vec<u8>>> {
        frames(&self.path())
    }

    /// The frames, each with the time since 1970 at which it passed.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn timed_frames(&self) -> Result<Vec<(Duration, Vec<u8>)>> {
        timed_frames(&self.path())
    }

    /// As [`dissect`].
    ///
    /// # Errors
    /// When tshark fails.
    pub fn fields(&self, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        dissect(&self.path(), filter, fields)
    }
}

/// Runs tshark with a display filter on a file and returns these fields, one row a frame.
///
/// # Errors
/// When tshark fails.
pub fn dissect(file: &Path, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
    let mut command = packages::command("tshark");
    command
        .args(["-n", "-2", "-r"])
        .arg(file)
        .args(["-T", "fields", "-E", "separator=|", "-Y", filter]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().context("starting tshark")?;
    ensure!(
        output.status.success(),
        "tshark: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .lines()
        .map(|line| line.split('|').map(str::to_owned).collect())
        .collect())
}

/// A response to nobody's request, for an address that nobody has.
fn last_frame(src: Mac) -> Vec<u8> {
    let mut frame = Request::new(Mac([2, 0, 0, 0, 0xff, 0xff]), Address::new(0, 0), 1, vec![0; 36]);
    (frame.src, frame.tag, frame.ver_flags) = (src, 0x00ff_ffff, 0x18);
    frame.bytes()
}

/// Reads a little-endian pcap file with microseconds, as dumpcap writes it on every machine we run on.
fn timed_frames(path: &Path) -> Result<Vec<(Duration, Vec<u8>)>> {
    let bytes = std::fs::read(path)?;
    ensure!(
        bytes.get(..4) == Some(&[0xd4, 0xc3, 0xb2, 0xa1]),
        "no pcap file: {}",
        path.display()
    );
    let mut frames = Vec::new();
    let mut rest = bytes.get(24..).context("no frame yet")?;
    while rest.len() >= 16 {
        let word = |at: usize| -> Result<u32> { Ok(u32::from_le_bytes(rest[at..at + 4].try_into()?)) };
        let length = word(8)? as usize;
        ensure!(rest.len() >= 16 + length, "the capture ends in a frame");
        let time = Duration::from_secs(word(0)?.into()) + Duration::from_micros(word(4)?.into());
        frames.push((time, rest[16..16 + length].to_vec()));
        rest = &rest[16 + length..];
    }
    Ok(frames)
}

fn frames(path: &Path) -> Result<Vec<Vec<u8>>> {
    let frames = timed_frames(path)?;
    Ok(frames.into_iter().map(|(_, frame)| frame).collect())
}
