//! Lost writes of the golden image itself.

use std::sync::atomic::Ordering;

use disks::Disk;

use super::*;

#[test]
fn a_failed_last_commit_of_the_image_is_not_forgotten() -> Result<()> {
    needs!(
        Need::Root,
        Need::File("/dev/fuse"),
        Need::File("/dev/loop-control")
    );
    let room = Room::new()?;
    let mut disk = Disk::new(&room.lab.target, 8)?;
    disk.preset(&(0..SECTORS).flat_map(stamp).collect::<Vec<u8>>());
    let device = disk.block_device(&room.lab.target)?;
    let config = room.config("flush_interval = \"1h\"", "overlay = \"none\"\n")?;
    let text = std::fs::read_to_string(&config)?.replace(room.golden.as_str(), &device);
    std::fs::write(&config, text)?;
    let start = || room.start_config(&config);
    let mut target = start()?;
    let initiator = room.lab.open(0)?;
    let (pc, stranger) = (machine(&initiator, PC[0]), machine(&initiator, STRANGER));
    pc.find()?;
    pc.write(5, *b"changed.")?;

    let commit = ["overlay", "commit", "--force", "e12.9", "pc17"];
    let refused = |target: &Target, why: &str| -> Result<()> {
        let output = target.ask(&commit)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(why), "{said}");
        Ok(())
    };
    disk.switches().flushes_fail.store(true, Ordering::Relaxed);
    refused(&target, "the last commit of the image failed")?;
    // The disk is well again before anybody asks.
    disk.switches().flushes_fail.store(false, Ordering::Relaxed);
    refused(&target, "acknowledged writes are lost")?;
    ensure!(stranger.hears_nothing()?);
    target.process.kill()?;
    let target = start()?;
    refused(&target, "acknowledged writes are lost")?;
    done(&target, &["state", "clear", "--lost-writes", "12", "9"])?;
    pc.write(5, *b"by now!!")?;
    done(&target, &commit)?;
    stranger.boot()?;
    ensure!(stranger.read(5)? == pattern(5, *b"by now!!") && stranger.read(6)? == stamp(6));
    Ok(())
}
