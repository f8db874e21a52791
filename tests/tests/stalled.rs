//! A target that stalls with requests in its ring, while others are answered by another path to the same image: what it finds
//! there afterwards undoes nothing.

mod hung_flush;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::frame::ata;
use lab::image::{SECTOR, pattern};
use lab::needs::Need;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Request, Target, eventually, needs};
use nix::sys::signal::Signal;

const ADDRESS: Address = Address::new(7, 3);
const TIMEOUT: Duration = Duration::from_secs(60);
/// The sector that is written.
const LBA: u64 = 100;

/// A daemon on one of the links that shares the image with the other one.
fn serve(lab: &Lab, link: u32, image: &Image, directory: &Path, more: &str) -> Result<Target> {
    let directory = directory.join(format!("daemon{link}"));
    std::fs::create_dir(&directory)?;
    let text = format!(
        "[[export]]\nshelf = 7\nslot = 3\npath = {:?}\ninterfaces = [\"eth{link}\"]\nstore = \"direct\"\nshared = true\n{more}",
        image.path()
    );
    std::fs::write(directory.join("xblade.toml"), text)?;
    Target::ready(&lab.target, &daemon(&directory)?, 1)
}

/// What is in a sector in the end that was written anew while a copy of an older write lay in the ring of a process that had
/// been stopped.
fn after_a_stall(more: &str) -> Result<Vec<u8>> {
    let lab = Lab::new(Options {
        links: 2,
        ..Options::default()
    })?;
    let (image, directory) = (Image::sparse(1024)?, tempfile::tempdir()?);
    let stalled = serve(&lab, 0, &image, directory.path(), more)?;
    let _other = serve(&lab, 1, &image, directory.path(), more)?;
    let (one, two) = (lab.open(0)?, lab.open(1)?);
    let (slow, quick) = (one.find(ADDRESS)?, two.find(ADDRESS)?);
    ensure!(slow.read(LBA, 1)? == [0; SECTOR]);

    stalled.process.signal(Signal::SIGSTOP)?;
    let state = format!("/proc/{}/stat", stalled.process.pid());
    eventually("it stands still", TIMEOUT, || {
        Ok(std::fs::read_to_string(&state)?.contains(") T "))
    })?;
    let old = pattern(LBA, *b"is old!!");
    let mut write = Request::ata(lab::link::target_mac(0), ADDRESS, ata::WRITE_EXT, LBA, 1, &old);
    (write.src, write.tag) = (one.mac(), 0x5000_0000);
    one.send(&write.bytes())?;
    // Nobody answers; so the initiator asks by its other path, and goes on.
    quick.write(LBA, &old)?;
    quick.write(LBA, &pattern(LBA, *b"is newer"))?;
    quick.flush()?;
    // This is what `stale_after` is about: 100 ms.
    std::thread::sleep(Duration::from_millis(300));

    stalled.process.signal(Signal::SIGCONT)?;
    // Behind the write in the ring, and of the same sector: answered when that has been carried out, or dropped.
    slow.read(LBA, 1)?;
    let found = quick.read(LBA, 1)?;
    ensure!(image.read(LBA, 1)? == found);
    Ok(found)
}

#[test]
fn what_a_stalled_target_finds_in_its_ring_undoes_no_newer_write() -> Result<()> {
    needs!(Need::Root);
    ensure!(after_a_stall("")? == pattern(LBA, *b"is newer"));
    Ok(())
}

/// The control: a target that takes an hour for short does undo it. So the test above can see it.
#[test]
fn one_that_carries_out_what_is_old_does_undo_it() -> Result<()> {
    needs!(Need::Root);
    ensure!(after_a_stall("stale_after = \"1h\"\n")? == pattern(LBA, *b"is old!!"));
    Ok(())
}
