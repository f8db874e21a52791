//! More than one thing at a time: two disks that hang, an export that is taken away and put back while its disk hangs, a file system
//! that does not even find a file.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use disks::Disk;
use disks::io_engine::{IoEngine, WAYS};
use lab::faulty_export::at;
use lab::file_system::EXT4;
use lab::frame::ata;
use lab::image::{SECTOR, stamp};
use lab::{Address, Request, needs};
use nix::sys::signal::Signal;

use super::{HUNG, NEEDS, Served, TIMEOUT};

/// On the second disk.
const OTHER: Address = Address::new(1, 3);

fn export(slot: u8, path: &Path) -> String {
    format!("[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\n")
}

impl Served {
    /// Has other exports from now on, all with this store.
    fn reload(&mut self, store: &str, exports: &[(u8, PathBuf)]) -> Result<usize> {
        let mut text = format!("[defaults]\ninterfaces = [\"eth0\"]\nstore = \"{store}\"\n");
        exports
            .iter()
            .for_each(|(slot, path)| text += &export(*slot, path));
        std::fs::write(self.config(), text)?;
        let mark = self.target.process.mark();
        self.target.process.signal(Signal::SIGHUP)?;
        Ok(mark)
    }

    /// Reads, writes, flushes and trims an export on a disk that hangs, and waits for nothing.
    fn press(&self, address: Address) -> Result<()> {
        let initiator = self.lab.open(0)?;
        let mac = lab::link::target_mac(0);
        for n in 0..64u64 {
            let mut range = [0; SECTOR];
            range[..8].copy_from_slice(&((8192 + 64 * n) | 64 << 48).to_le_bytes());
            let mut requests = [
                Request::ata(mac, address, ata::READ_EXT, 2048 + 8 * n, 1, &[]),
                Request::ata(mac, address, ata::WRITE_EXT, 4096 + 8 * n, 1, &[7; SECTOR]),
                Request::ata(mac, address, ata::FLUSH_EXT, 0, 0, &[]),
                Request::ata(mac, address, ata::DATA_SET_MANAGEMENT, 1, 1, &range),
            ];
            for (kind, request) in requests.iter_mut().enumerate() {
                (request.src, request.tag) = (initiator.mac(), 0x8100_0000 + (n as u32) * 4 + kind as u32);
                initiator.send(&request.bytes())?;
            }
        }
        Ok(())
    }

    fn reads(&self, address: Address) -> Result<()> {
        ensure!(self.lab.open(0)?.find(address)?.read(5, 1)? == stamp(5));
        Ok(())
    }

    fn is_answered(&mut self) -> Result<()> {
        let mark = self.target.process.mark();
        self.target.process.signal(Signal::SIGUSR1)?;
        let told = |line: &str| line.contains("exports are open");
        self.target.process.wait_for_after(mark, told, TIMEOUT)?;
        Ok(())
    }
}

/// A disk that answers, with stamps on it, as a block device.
fn second_disk(served: &Served) -> Result<(Disk, PathBuf)> {
    let mut disk = Disk::new(&served.lab.target, 8)?;
    disk.preset(&(0..1024).flat_map(stamp).collect::<Vec<u8>>());
    let device = PathBuf::from(disk.block_device(&served.lab.target)?);
    Ok((disk, device))
}

#[test]
fn of_two_disks_that_hang_each_costs_its_own_export_and_one_may_come_back_before_the_other() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for (store, engine) in WAYS {
        let mut served = Served::with(store, "", engine)?;
        // Dropped before the target's end is waited for.
        let (other, device) = second_disk(&served)?;
        let exports = [
            (1, served.device.clone()),
            (2, served.image.path().to_owned()),
            (3, device),
        ];
        let mark = served.reload(store, &exports)?;
        served.target.wait_ready(mark, 1)?;
        served.disk_hangs(true);
        other.switches().hangs.store(true, Ordering::Relaxed);
        for _ in 0..10 {
            served.press(HUNG)?;
            served.press(OTHER)?;
            served
                .healthy_reads()
                .with_context(|| served.target.process.threads())?;
        }
        served.is_answered()?;
        other.switches().hangs.store(false, Ordering::Relaxed);
        served.reads(OTHER)?;
        served.healthy_reads()?;
        ensure!(served.disk.waiting() > 0, "{store}: the first has answered");
        served.disk_hangs(false);
        served.reads(HUNG)?;
        ensure!(served.target.process.stop()? == 0);
    }
    Ok(())
}

#[test]
fn an_export_that_is_taken_away_and_put_back_while_its_disk_hangs_is_served_when_it_answers() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for (store, engine) in WAYS {
        let mut served = Served::with(store, "", engine)?;
        let healthy = (2, served.image.path().to_owned());
        let hung = (1, served.device.clone());
        served.disk_hangs(true);
        served.press(HUNG)?;
        served.healthy_reads()?;
        for _ in 0..2 {
            for exports in [&[healthy.clone()][..], &[hung.clone(), healthy.clone()]] {
                let mark = served.reload(store, exports)?;
                let told = |line: &str| line.contains("was reloaded");
                served.target.process.wait_for_after(mark, told, TIMEOUT)?;
                served
                    .healthy_reads()
                    .with_context(|| served.target.process.threads())?;
                served.is_answered()?;
            }
        }
        served.disk_hangs(false);
        served.reads(HUNG)?;
        served.takes_writes_again().context(store)?;
        ensure!(served.target.process.stop()? == 0);
    }
    Ok(())
}

/// What names a file has to be read from the disk first: whoever looks for it waits.
#[test]
fn an_image_whose_file_system_does_not_answer_is_looked_for_by_nobody_who_has_other_things_to_do()
-> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let mut served = Served::new("mmap")?;
    let mut disk = Disk::new(&served.lab.target, 64)?;
    let device = disk.block_device(&served.lab.target)?;
    let fill = EXT4.make(&served.lab.target, &device)?;
    at(&served.lab.target, &fill.path("far"), |path| {
        std::fs::create_dir(path)?;
        std::fs::write(path.join("image"), (0..64).flat_map(stamp).collect::<Vec<u8>>())
    })?;
    fill.unmount(&served.lab.target)?;
    // Mounted anew, nothing of the directory is in memory.
    let mounted = EXT4.mount(&served.lab.target, &device)?;
    disk.switches().reads_hang.store(true, Ordering::Relaxed);
    let exports = [
        (1, served.device.clone()),
        (2, served.image.path().to_owned()),
        (3, mounted.path("far/image")),
    ];
    served.reload("mmap", &exports)?;
    lab::eventually("the disk is asked", TIMEOUT, || Ok(disk.waiting() > 0))?;
    served.healthy_reads()?;
    served.reads(HUNG)?;
    served.is_answered().context("control waits for the disk")?;
    // Another reload, and a look at it, are no worse off.
    let mark = served.reload("mmap", &exports)?;
    let is_read = |line: &str| line.contains("was reloaded");
    served.target.process.wait_for_after(mark, is_read, TIMEOUT)?;
    served.is_answered()?;
    let status = served.target.ask(&["status"])?;
    ensure!(status.status.code() == Some(3), "{status:?}");
    disk.switches().reads_hang.store(false, Ordering::Relaxed);
    served.reads(OTHER)?;
    ensure!(served.target.process.stop()? == 0);
    Ok(())
}

/// A machine's copy is on a disk that is well: what the machine has written is read from there, and what other exports do goes on. Who has
/// no copy yet gets one when the golden image's disk answers.
#[test]
fn a_golden_image_whose_disk_hangs_keeps_nothing_but_its_own_sectors() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for store in ["mmap", "direct"] {
        let lines = "overlay = \"volatile\"\noverlay_dir = \"overlays\"";
        let mut served = Served::with(store, lines, IoEngine::Uring)?;
        let initiator = served.lab.open(0)?;
        let disk = initiator.find(HUNG)?;
        ensure!(disk.read(5, 1)? == stamp(5));
        disk.write(64, &[9; 2 * SECTOR])?;
        served.hang_with_reads()?;
        served.healthy_reads()?;
        ensure!(disk.read(64, 2)? == [9; 2 * SECTOR], "{store}");
        disk.write(128, &[8; 2 * SECTOR])?;
        ensure!(disk.read(128, 2)? == [8; 2 * SECTOR], "{store}");
        let stranger = Mac([2, 0, 0, 0, 0x77, 1]);
        served.send_reads(stranger, 0x8400_0000)?;
        for _ in 0..10 {
            served
                .healthy_reads()
                .with_context(|| served.target.process.threads())?;
        }
        served.is_answered()?;
        served.disk_hangs(false);
        let mut read = Request::ata(lab::link::target_mac(0), HUNG, ata::READ_EXT, 5, 1, &[]);
        read.src = stranger;
        ensure!(initiator.ask(read)?.data()[..SECTOR] == stamp(5));
        ensure!(served.target.process.stop()? == 0);
    }
    Ok(())
}
