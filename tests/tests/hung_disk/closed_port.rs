//! What hangs at a disk when its port is closed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use disks::Disk;
use lab::frame::ata;
use lab::image::pattern;
use lab::{Lab, Options, Reply, Request, eventually, needs};

use super::{HUNG, Served, TIMEOUT};

/// Sectors of a write: a whole block of the disk, of which no part has to be read first.
const SECTORS: u8 = 8;

fn sectors(lba: u64, word: [u8; 8]) -> Vec<u8> {
    let numbers = lba..lba + u64::from(SECTORS);
    numbers.flat_map(|lba| pattern(lba, word)).collect()
}

impl Served {
    /// Sends a write to the export whose disk hangs until something is so; whether it was answered.
    fn write_until(&self, lba: u64, word: [u8; 8], is_so: impl Fn() -> bool) -> Result<bool> {
        const TAG: u32 = 0x8300_0000;
        let initiator = self.lab.open(0)?;
        let start = Instant::now();
        loop {
            ensure!(start.elapsed() < TIMEOUT, "it does not come to that");
            let mac = lab::link::target_mac(0);
            let mut write = Request::ata(mac, HUNG, ata::WRITE_EXT, lba, SECTORS, &sectors(lba, word));
            (write.src, write.tag) = (initiator.mac(), TAG + lba as u32);
            initiator.send(&write.bytes())?;
            let again = Instant::now() + Duration::from_millis(500);
            while Instant::now() < again {
                if let Some(frame) = initiator.receive(Duration::from_millis(10))?
                    && Reply::parse(&frame).is_ok_and(|reply| reply.tag == write.tag)
                {
                    return Ok(true);
                }
                if is_so() {
                    return Ok(false);
                }
            }
        }
    }
}

/// A lone write is the committer's, which nobody can take it back from. So its sectors stay taken when its port is closed, and what is
/// written there later waits.
#[test]
fn what_a_closed_port_has_left_at_the_disk_lands_before_what_is_written_later() -> Result<()> {
    needs!(super::NEEDS[0], super::NEEDS[1], super::NEEDS[2]);
    let lab = Lab::new(Options {
        mtu: 9000,
        ..Options::default()
    })?;
    // The file itself: a loop device would do one write after the other. Of two that it has, the disk does the later one first.
    let disk = Disk::new(&lab.target, 8)?;
    disk.switches().newest_first.store(true, Ordering::Relaxed);
    let path = disk.path();
    let mut served = Served::over(lab, (disk, path), "direct", "sync = true")?;
    let switches = served.disk.switches();
    switches.writes_hang.store(true, Ordering::Relaxed);
    ensure!(!served.write_until(8, *b"is old!!", || served.disk.waiting() > 0)?);
    // It is one, with those that were sent again.
    std::thread::sleep(Duration::from_millis(200)); // older than what would be waited for
    let process = &mut served.target.process;
    let mark = process.mark();
    served.lab.target.ip("link set eth0 mtu 8000")?;
    process.wait_for_after(mark, |line| line.contains("e1.2 ready"), TIMEOUT)?;
    // Taken up by the new worker, since it answers what comes behind it.
    let turns = std::cell::Cell::new(0);
    let taken_up = || {
        turns.set(turns.get() + 1);
        served.healthy_reads().is_ok() && turns.get() > 3
    };
    ensure!(
        !served.write_until(8, *b"is newer", taken_up)?,
        "it has overtaken"
    );
    ensure!(served.disk.waiting() == 1, "it has been begun");
    served.disk.switches().writes_hang.store(false, Ordering::Relaxed);
    ensure!(served.write_until(8, *b"is newer", || false)?);
    eventually("the disk has answered all", TIMEOUT, || {
        Ok(served.disk.waiting() == 0)
    })?;
    let found = served.lab.open(0)?.find(HUNG)?.read(8, SECTORS)?;
    ensure!(
        found == sectors(8, *b"is newer"),
        "the old one has landed after it"
    );
    ensure!(served.target.process.stop()? == 0);
    Ok(())
}
