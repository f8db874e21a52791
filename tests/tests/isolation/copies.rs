//! Machines that write to copies of their own, whose disk is bad.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use lab::faulty_export::at;
use lab::file_system::EXT4;
use lab::frame::ata;
use lab::image::SECTOR;
use lab::{Image, Lab, Request, eventually, needs};

use super::load::{Ask, OUTSTANDING, SOURCES, source};
use super::{NEEDS, Served, Site, TIMEOUT, bad};

impl Served {
    /// Each source has a copy, with a sector of its own.
    fn have_copies(&self) -> Result<()> {
        let initiator = self.lab.open(0)?;
        for n in 0..SOURCES {
            let to = lab::link::target_mac(0);
            let mut write = Request::ata(to, bad(0), ata::WRITE_EXT, 0, 1, &[n as u8; SECTOR]);
            write.src = source(n);
            ensure!(initiator.ask(write)?.status() == 0x40, "source {n}");
        }
        Ok(())
    }
}

/// What they write is noted in memory: a page of a file on that disk is protected while it is written back, and whoever writes to it
/// waits for the disk.
#[test]
fn machines_whose_copies_are_on_a_stuck_disk_take_nothing_from_another_export() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let golden = Image::stamped(16384)?;
    let mut mounted = None;
    let site = Site {
        lines: "overlay = \"volatile\"\n",
        ..Site::default()
    };
    let mut served = Served::over(site, 128, |lab: &Lab, device: &Path| {
        let device = device.to_str().context("odd path")?;
        let place = mounted.insert(EXT4.make(&lab.target, device)?);
        let line = format!("overlay_dir = {:?}\n", place.path("overlays"));
        Ok(vec![(golden.path().to_owned(), line)])
    })?;
    served.have_copies()?;
    let place = mounted.as_ref().context("it is mounted")?.path("overlays");
    let place = at(&served.lab.target, &place, |place| {
        File::options().read(true).open(place)
    })?;
    let mut salt = 0;
    served.keeps_its_pace(|served| {
        served.disk.switches().hangs.store(true, Ordering::Relaxed);
        // All that is dirty is being written back from here on, and does not arrive.
        let place = place.try_clone()?;
        std::thread::spawn(move || nix::unistd::syncfs(&place));
        eventually("the disk is asked for something", TIMEOUT, || {
            Ok(served.disk.waiting() > 0)
        })?;
        salt += 1;
        served.press(Ask::Writes, SOURCES * OUTSTANDING, salt)
    })?;
    drop(place);
    served.target.process.stop()?;
    Ok(())
}
