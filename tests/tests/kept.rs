//! `xblade state` about exports that are not served: it is done at once, or not at all.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use disks::Disk;
use lab::faulty_export::at;
use lab::file_system::{EXT4, Mounted};
use lab::image::stamp;
use lab::needs::Need;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Request, Target, eventually, needs};
use nix::sys::signal::Signal;

/// Longest wait for what must happen; generous, the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(60);

const E11: Address = Address::new(1, 1);

struct Site {
    // Dropped in this order.
    target: Target,
    image: Image,
    lab: Lab,
}

impl Site {
    /// Serves e1.1 over eth0 with a state directory elsewhere.
    fn with_state(lab: Lab, state: &Path) -> Result<Site> {
        let image = Image::stamped(64)?;
        configure(&image, &(export(1, image.as_str()) + "wire_admin = true\n"))?;
        let state = state.to_str().context("odd path")?;
        let args = [
            "daemon",
            "--config",
            &file(&image, "xblade.toml")?,
            "--state-dir",
            state,
        ];
        let target = Target::ready(&lab.target, &args, 1)?;
        Ok(Site { target, image, lab })
    }

    /// Has an initiator set a config string and shut all others out.
    fn change(&self, string: &[u8]) -> Result<()> {
        let initiator = self.lab.open(0)?;
        let disk = initiator.find(Address::new(1, 1))?;
        disk.query(4, string)?.context("no answer")?;
        let own = initiator.mac();
        initiator.ask(Request::mask(disk.mac, E11, 1, &[(1, own)]))?;
        self.has(string, 1)
    }

    /// Has one try the same where it cannot be kept: there is no answer, and nothing changes.
    fn change_in_vain(&mut self, before: &[u8]) -> Result<()> {
        let mark = self.target.process.mark();
        let initiator = self.lab.open(0)?;
        let mac = initiator.find(E11)?.mac;
        let mut mask = Request::mask(mac, E11, 1, &[(1, initiator.mac())]);
        let mut string = Request::query(mac, E11, 4, b"refused");
        for request in [&mut mask, &mut string] {
            request.src = initiator.mac();
            initiator.send(&request.bytes())?;
        }
        let told = |line: &str| line.contains("the initiator's change is not in force");
        self.target.process.wait_for_after(mark, told, TIMEOUT)?;
        self.has(before, 0)
    }

    /// Holds config string and length of the mask against what they should be.
    fn has(&self, string: &[u8], masked: u8) -> Result<()> {
        let initiator = self.lab.open(0)?;
        let disk = initiator.find(E11)?;
        let now = disk.query(0, b"")?.context("no answer")?.config().2;
        let mask = initiator.ask(Request::mask(disk.mac, E11, 0, &[]))?;
        ensure!(now == string && mask.argument[3] == masked, "{now:?} {mask:?}");
        Ok(())
    }

    /// Waits until `xblade status` ends with this code and says this.
    fn wait_status(&self, code: i32, word: &str) -> Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let output = self.target.ask(&["status"])?;
            let said = told(&output);
            if output.status.code() == Some(code) && said.contains(word) {
                return Ok(said);
            }
            ensure!(Instant::now() < deadline, "{said}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Serves e1.1 over eth0, and what else `more` says.
    fn new(more: &str) -> Result<Site> {
        let lab = Lab::new(Options::default())?;
        let image = Image::stamped(64)?;
        configure(&image, &(export(1, image.as_str()) + more))?;
        let target = Target::ready(&lab.target, &daemon(image.directory())?, 1)?;
        Ok(Site { target, image, lab })
    }

    /// Runs a command that must end with this code; returns all that it printed.
    fn ask(&self, args: &[&str], code: i32) -> Result<String> {
        let output = self.target.ask(args)?;
        ensure!(output.status.code() == Some(code), "{args:?}: {}", told(&output));
        Ok(told(&output))
    }
}

fn file(image: &Image, name: &str) -> Result<String> {
    let path = image.directory().join(name);
    path.to_str().map(str::to_owned).context("odd path")
}

fn configure(image: &Image, text: &str) -> Result<()> {
    Ok(std::fs::write(file(image, "xblade.toml")?, text)?)
}

fn export(slot: u8, path: &str) -> String {
    format!("[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\ninterfaces = [\"eth0\"]\n")
}

fn told(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[test]
fn the_state_of_an_export_whose_store_does_not_open_is_cleared_at_once() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new("")?;
    site.lab.open(0)?.find(Address::new(1, 1))?.query(4, b"a label")?;
    configure(&site.image, &export(1, "/nonexistent/image"))?;
    site.ask(&["reload"], 3)?;
    ensure!(site.ask(&["state", "list"], 0)?.contains("a label"));
    site.ask(&["state", "clear", "1", "1", "--string"], 0)?;
    ensure!(!site.ask(&["state", "list"], 0)?.contains("a label"));
    let nothing = site.ask(&["state", "clear", "1", "1", "--lost-writes"], 1)?;
    ensure!(nothing.contains("no lost writes of 1.1"), "{nothing}");
    Ok(())
}

#[test]
fn what_another_gateway_serves_is_decided_there() -> Result<()> {
    needs!(Need::Root);
    let standby = Image::stamped(64)?;
    let group = "[[failover]]\nname = \"san1\"\nmac = \"02:78:62:00:00:01\"\npeers = [\"02:00:00:00:00:07\"]\n\
                 command = \"/bin/false\"\n";
    let member = export(2, standby.as_str()) + "failover = \"san1\"\nsync = true\n";
    let site = Site::new(&format!("{member}{group}"))?;
    let refused = site.ask(&["state", "clear", "1", "2"], 1)?;
    ensure!(
        refused.contains("e1.2 is not served here") && refused.contains("san1"),
        "{refused}"
    );
    Ok(())
}

/// As `mount -o remount` does it.
fn remount(lab: &Lab, at: &Path, options: &str) -> Result<()> {
    let mut mount = Command::new("mount");
    mount.args(["-o", &format!("remount,{options}")]).arg(at);
    lab.target.output(mount).map(drop)
}

#[test]
fn a_full_state_directory_refuses_changes_and_takes_them_when_there_is_room() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let place = Mounted::new(&lab.target, "tmpfs", "tmpfs", "size=128k")?;
    let mut site = Site::with_state(lab, &place.path("state"))?;
    site.lab.open(0)?.find(E11)?.query(4, b"before")?;
    site.wait_status(0, "")?;
    let filler = place.path("filler");
    at(&site.lab.target, &filler, |path| {
        let mut file = std::fs::File::create(path)?;
        while file.write_all(&[0; 512]).is_ok() {}
        Ok(())
    })?;
    site.change_in_vain(b"before")?;
    let said = site.wait_status(3, "No space left on device")?;
    ensure!(
        said.contains("masks, reservations and config strings cannot be changed"),
        "{said}"
    );
    let read = site.lab.open(0)?.find(E11)?.read(5, 1)?;
    ensure!(read == stamp(5), "data is served all the same");
    at(&site.lab.target, &filler, |path| std::fs::remove_file(path))?;
    site.wait_status(0, "")?;
    site.has(b"before", 0)?;
    site.change(b"after")?;
    ensure!(site.target.process.stop()? == 0);
    Ok(())
}

#[test]
fn a_state_directory_that_can_only_be_read_gives_what_it_keeps_and_takes_changes_when_it_can() -> Result<()> {
    needs!(Need::Root);
    for has_lock in [true, false] {
        let lab = Lab::new(Options::default())?;
        let place = Mounted::new(&lab.target, "tmpfs", "tmpfs", "size=1m")?;
        let (root, state) = (place.path(""), place.path("state"));
        let mut site = Site::with_state(lab, &state)?;
        site.lab.open(0)?.find(E11)?.query(4, b"kept")?;
        ensure!(site.target.process.stop()? == 0);
        if !has_lock {
            at(&site.lab.target, &state.join("lock"), |path| {
                std::fs::remove_file(path)
            })?;
        }
        remount(&site.lab, &root, "ro")?;
        let Site { lab, .. } = site;
        let mut site = Site::with_state(lab, &state)?;
        site.has(b"kept", 0)?;
        site.wait_status(3, "Read-only file system")?;
        site.change_in_vain(b"kept")?;
        site.wait_status(3, "Read-only file system")?;
        remount(&site.lab, &root, "rw")?;
        site.wait_status(0, "")?;
        site.change(b"after")?;
        ensure!(site.target.process.stop()? == 0);
    }
    Ok(())
}

/// A state directory on a disk of its own, which hangs on command; the last field to be dropped.
struct StateDisk {
    place: Mounted,
    disk: Disk,
}

impl StateDisk {
    fn new(lab: &Lab) -> Result<StateDisk> {
        let mut disk = Disk::new(&lab.target, 32)?;
        let device = disk.block_device(&lab.target)?;
        let place = EXT4.make(&lab.target, &device)?;
        Ok(StateDisk { place, disk })
    }

    fn hang(&self, hangs: bool) {
        self.disk.switches().hangs.store(hangs, Ordering::Relaxed);
    }
}

impl Drop for StateDisk {
    /// The target cannot end before the disk answers.
    fn drop(&mut self) {
        self.hang(false);
    }
}

/// Has an initiator set a config string, and waits until the state directory's disk has been asked to keep it.
fn change_that_waits(site: &Site, disk: &Disk, string: &[u8]) -> Result<()> {
    disk.switches().held.store(0, Ordering::Relaxed);
    let initiator = site.lab.open(0)?;
    let mac = initiator.find(E11)?.mac;
    let mut string = Request::query(mac, E11, 4, string);
    string.src = initiator.mac();
    eventually("the disk is asked to keep it", TIMEOUT, || {
        initiator.send(&string.bytes())?;
        Ok(disk.switches().held.load(Ordering::Relaxed) > 0)
    })
}

#[test]
fn a_state_directory_whose_disk_hangs_holds_up_changes_alone() -> Result<()> {
    needs!(
        Need::Root,
        Need::File("/dev/fuse"),
        Need::File("/dev/loop-control")
    );
    let lab = Lab::new(Options::default())?;
    let kept = StateDisk::new(&lab)?;
    let mut site = Site::with_state(lab, &kept.place.path("state"))?;
    site.change(b"before")?;
    kept.hang(true);
    change_that_waits(&site, &kept.disk, b"later")?;
    // Nothing is answered that is not kept, and everything else is.
    for lba in 0..20 {
        let initiator = site.lab.open(0)?;
        let disk = initiator.find(E11)?;
        ensure!(disk.read(lba, 1)? == stamp(lba));
        let mark = site.target.process.mark();
        site.target.process.signal(Signal::SIGUSR1)?;
        let told = |line: &str| line.contains("1 of 1 exports are open");
        site.target.process.wait_for_after(mark, told, TIMEOUT)?;
    }
    site.wait_status(0, "")?;
    let initiator = site.lab.open(0)?;
    ensure!(
        initiator
            .find(E11)?
            .query(0, b"")?
            .context("no answer")?
            .config()
            .2
            == b"before"
    );
    kept.hang(false);
    eventually("the change is in force", TIMEOUT, || {
        initiator.find(E11)?.query(4, b"later")?;
        Ok(site.has(b"later", 1).is_ok())
    })?;
    // The end does not wait for it either.
    kept.hang(true);
    change_that_waits(&site, &kept.disk, b"never")?;
    site.target.process.signal(Signal::SIGTERM)?;
    let left = "left behind: the disk of the state directory has not answered yet";
    site.target.process.wait_for(left, TIMEOUT)?;
    kept.hang(false);
    ensure!(site.target.process.wait(TIMEOUT)?.code() == Some(1));
    Ok(())
}
