//! What systemd is told, what the unit files say, and the package under a real systemd with I/O going on.

mod lintian;
mod operator;
mod package;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::container::{self, Container, STEP};
use lab::image::SECTOR;
use lab::link::target_mac;
use lab::needs::Need;
use lab::process::Process;
use lab::writer::{self, Writer};
use lab::{Address, Image, Lab, Options, eventually, needs, seed, target};

/// What docs/security.md says `systemd-analyze security` says, and with packaging/hardened.conf.
const LEVELS: [f64; 2] = [2.4, 2.0];
/// What the right to lock memory adds, which the unit gets here where its limit cannot be raised.
const LOCK_RIGHT: f64 = 0.1;
const LIMIT: Duration = Duration::from_secs(60);

/// Takes the place of systemd's socket.
struct Manager(UnixDatagram);

impl Manager {
    /// Waits for a message with this line, and gives all of it.
    fn hears(&self, wanted: &str) -> Result<String> {
        let mut bytes = [0; 4096];
        loop {
            let count = self
                .0
                .recv(&mut bytes)
                .with_context(|| format!("waiting for {wanted}"))?;
            let message = std::str::from_utf8(&bytes[..count])?;
            if message.lines().any(|line| line == wanted) {
                return Ok(message.to_owned());
            }
        }
    }
}

#[test]
fn systemd_is_told_how_it_is() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let path = |name: &str| image.directory().join(name);
    let socket = UnixDatagram::bind(path("notify"))?;
    socket.set_read_timeout(Some(LIMIT))?;
    let manager = Manager(socket);
    let export = |slot, file: &Path| {
        format!("[[export]]\nshelf = 1\nslot = {slot}\npath = {file:?}\ninterfaces = [\"eth0\"]\n")
    };
    let second = path("second.raw");
    std::fs::write(path("x.toml"), export(1, image.path()) + &export(2, &second))?;
    let words = [
        path("x.toml"),
        path("state"),
        path("control.sock"),
        path("notify"),
    ];
    let [config, state, control, notify] = words.each_ref().map(|path| path.to_string_lossy());
    let args = [
        "daemon",
        "--config",
        &config,
        "--state-dir",
        &state,
        "--control",
        &control,
    ];
    let variables = [("NOTIFY_SOCKET", &*notify), ("WATCHDOG_USEC", "400000")];
    let mut process = Process::spawn_with(&lab.target, &target::binary()?, &args, &variables)?;
    let ready = manager.hears("READY=1")?;
    ensure!(
        ready
            .lines()
            .any(|line| line == "STATUS=1 of 2 exports open, on eth0"),
        "{ready}"
    );
    manager.hears("WATCHDOG=1")?;
    File::create(&second)?.set_len(1 << 20)?;
    manager.hears("STATUS=2 of 2 exports open, on eth0")?;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1")?;
    }
    process.signal(nix::sys::signal::Signal::SIGTERM)?;
    manager.hears("STOPPING=1")?;
    ensure!(process.wait(LIMIT)?.success());
    Ok(())
}

/// The export that initiators write to meanwhile.
const SECTORS: u64 = 1024;
const IMAGE: &str = "/srv/a.raw";
const CONFIG: &str = "[[export]]\nshelf = 1\nslot = 1\npath = \"/srv/a.raw\"\ninterfaces = [\"eth0\"]\n";
const SECOND: &str = "[[export]]\nshelf = 1\nslot = 2\npath = \"/srv/b.raw\"\ninterfaces = [\"eth0\"]\n";

/// A Debian system on the target's side, and a writer on the other.
struct Site {
    system: Container,
    writer: Writer,
    lab: Lab,
}

impl Site {
    fn new(codename: &str, links: u32) -> Result<Site> {
        let lab = Lab::new(Options {
            links,
            ..Options::default()
        })?;
        let system = Container::boot(&lab.target, &container::tree(codename)?)?;
        let writer = Writer::new(
            lab.open(0)?,
            writer::Options {
                seed: seed(),
                address: Address::new(1, 1),
                target: target_mac(0),
                sectors: SECTORS,
                per_write: 2,
                depth: 8,
                patience: Duration::from_millis(200),
            },
        );
        Ok(Site { system, writer, lab })
    }

    fn systemctl(&self, words: &[&str]) -> Result<String> {
        self.system.done(&[&["systemctl"], words].concat())
    }

    fn property(&self, name: &str) -> Result<String> {
        let value = self.systemctl(&["show", "xblade", "--value", "--property", name])?;
        Ok(value.trim().to_owned())
    }

    fn install(&self, package: &Path) -> Result<()> {
        std::fs::copy(package, self.system.path("/root/xblade.deb"))?;
        self.system
            .done(&["dpkg", "--install", "/root/xblade.deb"])
            .map(drop)
    }

    /// Writes of the initiator are acknowledged.
    fn goes_on(&mut self, since: &str) -> Result<()> {
        let more = self.writer.run_till(50, STEP);
        more.with_context(|| format!("after {since}: {}", self.journal()))
    }

    /// Until the service runs as another process, with writes going on.
    fn is_another(&mut self, before: &str) -> Result<()> {
        eventually("another process", STEP, || {
            let now = self.property("MainPID")?;
            Ok(now != "0" && now != before && self.property("ActiveState")? == "active")
        })
    }

    fn journal(&self) -> String {
        let text = self.system.run(&["journalctl", "--unit", "xblade", "--no-pager"]);
        text.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    /// What systemd-analyze says of the running unit.
    fn level(&self) -> Result<f64> {
        let output = self
            .system
            .run(&["systemd-analyze", "security", "--no-pager", "xblade.service"])?;
        let text = String::from_utf8(output.stdout)?;
        let level = text
            .lines()
            .find_map(|line| line.split_once("exposure level for xblade.service: "))
            .and_then(|(_, rest)| rest.split(' ').next())
            .with_context(|| format!("no level in {text}"))?;
        Ok(level.parse()?)
    }

    /// A file for the unit beside its own.
    fn drop_in(&self, name: &str, text: &str) -> Result<()> {
        self.system
            .write(&format!("/etc/systemd/system/xblade.service.d/{name}.conf"), text)?;
        self.systemctl(&["daemon-reload"]).map(drop)
    }

    /// Where even root may not lock more memory than is usual, the right to do so takes the limit's place.
    fn may_lock_memory(&self) -> Result<()> {
        let limit = self.system.run(&["sh", "-c", "ulimit -l unlimited"])?;
        if limit.status.success() {
            return Ok(());
        }
        let right = "CAP_IPC_LOCK";
        let text = format!("[Service]\nAmbientCapabilities={right}\nCapabilityBoundingSet={right}\n");
        self.drop_in("lock", &text)
    }

    /// Makes the image that is written to, which belongs to root. Gives it open.
    fn image(&self) -> Result<File> {
        let image = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.system.path(IMAGE))?;
        image.set_len(SECTORS * SECTOR as u64)?;
        self.system.done(&["chmod", "600", IMAGE])?;
        Ok(image)
    }

    /// Installed from nothing, configured and enabled. Gives the image that initiators write to, open.
    fn is_installed_and_started(&mut self, package: &Path) -> Result<File> {
        self.install(package)?;
        ensure!(
            self.property("ActiveState")? == "inactive",
            "started by its installation"
        );
        ensure!(
            self.property("UnitFileState")? == "disabled",
            "enabled by its installation"
        );
        self.may_lock_memory()?;

        // An image that belongs to root, and one that is not there.
        let image = self.image()?;
        self.system
            .write("/etc/xblade/xblade.toml", &[CONFIG, SECOND].concat())?;
        self.systemctl(&["enable", "--now", "xblade"])?;
        ensure!(
            self.property("StatusText")?.starts_with("1 of 2 exports open"),
            "{}",
            self.journal()
        );
        self.goes_on("the start")?;
        ensure!(self.level()? <= LEVELS[0] + LOCK_RIGHT, "{}", self.level()?);
        let warnings = self.system.done(&[
            "journalctl",
            "--unit",
            "xblade",
            "--priority",
            "warning",
            "--output",
            "cat",
        ])?;
        ensure!(warnings.contains("/srv/b.raw"), "{warnings:?}");
        // The message of what is ready, by its number in docs/operations.md.
        let ready = [
            "MESSAGE_ID=938c79a84bfd4358ad2a207a4e7b6e62",
            "XBLADE_EXPORT=e1.1",
        ];
        let words = [&["journalctl", "--output", "cat"], &ready[..]].concat();
        eventually("the journal has it", STEP, || {
            let found = self.system.run(&words)?.stdout;
            Ok(found.starts_with(b"e1.1 ready on eth0"))
        })?;
        Ok(image)
    }

    fn is_upgraded(&mut self, package: &Path) -> Result<()> {
        let first = self.property("MainPID")?;
        self.install(package)?;
        self.is_another(&first)?;
        self.goes_on("the upgrade")
    }

    fn is_reloaded(&mut self) -> Result<()> {
        File::create(self.system.path("/srv/b.raw"))?.set_len(1 << 20)?;
        self.systemctl(&["reload", "xblade"])?;
        eventually("the second export is open", STEP, || {
            Ok(self.property("StatusText")?.starts_with("2 of 2"))
        })?;
        self.system
            .write("/etc/xblade/xblade.toml", "[[export]]\nshelf = \"no\"\n")?;
        ensure!(
            !self
                .system
                .run(&["systemctl", "reload", "xblade"])?
                .status
                .success(),
            "a wrong file was taken"
        );
        self.goes_on("a reload that failed")?;
        self.system.write("/etc/xblade/xblade.toml", CONFIG)?;
        self.systemctl(&["reload", "xblade"])?;
        Ok(())
    }

    fn is_killed(&mut self) -> Result<()> {
        let second = self.property("MainPID")?;
        self.systemctl(&["kill", "--signal", "KILL", "xblade"])?;
        self.is_another(&second)?;
        self.goes_on("a kill")
    }

    fn is_ended_by_the_watchdog(&mut self) -> Result<()> {
        self.drop_in("watchdog", "[Service]\nWatchdogSec=5s\n")?;
        self.systemctl(&["restart", "xblade"])?;
        let third = self.property("MainPID")?;
        self.systemctl(&["kill", "--signal", "STOP", "xblade"])?;
        self.is_another(&third)?;
        ensure!(self.journal().contains("Watchdog timeout"), "{}", self.journal());
        self.goes_on("the watchdog")
    }

    fn is_hardened(&mut self) -> Result<()> {
        let hardened = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/hardened.conf");
        self.drop_in("hardened", &std::fs::read_to_string(hardened)?)?;
        self.system.done(&["chown", "xblade", IMAGE])?;
        self.systemctl(&["restart", "xblade"])?;
        self.goes_on("hardening")?;
        ensure!(self.level()? <= LEVELS[1] + LOCK_RIGHT, "{}", self.level()?);
        Ok(())
    }

    fn is_removed_and_purged(&self) -> Result<()> {
        self.system.done(&["dpkg", "--remove", "xblade"])?;
        ensure!(
            self.property("ActiveState")? == "inactive",
            "it runs from a file that is gone"
        );
        ensure!(
            self.system.path("/etc/xblade/xblade.toml").exists()
                && self.system.path("/var/lib/xblade").exists()
        );
        self.system.done(&["dpkg", "--purge", "xblade"])?;
        for gone in [
            "/etc/xblade",
            "/var/lib/xblade",
            "/etc/systemd/system/multi-user.target.wants/xblade.service",
        ] {
            ensure!(
                std::fs::symlink_metadata(self.system.path(gone)).is_err(),
                "{gone} is still there"
            );
        }
        Ok(())
    }

    /// All that was acknowledged is in the image.
    fn has_kept_all(&mut self, image: &File) -> Result<()> {
        self.writer.drain()?;
        let read = |lba: u64| {
            let mut sector = vec![0; SECTOR];
            image.read_exact_at(&mut sector, lba * SECTOR as u64)?;
            Ok(sector)
        };
        self.writer.judge(read)?.nothing_lost()
    }
}

/// Installed, enabled, upgraded, reloaded, killed, stopped by the watchdog, hardened, removed and purged, while an initiator writes.
fn the_package_lives_in(codename: &str) -> Result<()> {
    let mut site = Site::new(codename, 1)?;
    let folder = tempfile::Builder::new().prefix("xblade-package-").tempdir()?;
    let image = site.is_installed_and_started(&package::build(folder.path(), "0.1.0")?)?;
    site.is_upgraded(&package::build(folder.path(), "0.1.1")?)?;
    site.is_reloaded()?;
    site.is_killed()?;
    site.is_ended_by_the_watchdog()?;
    site.is_hardened()?;
    site.is_removed_and_purged()?;
    site.has_kept_all(&image)
}

#[test]
fn the_package_lives_under_systemd_while_an_initiator_writes() -> Result<()> {
    needs!(container::NEEDS[0], container::NEEDS[1]);
    the_package_lives_in("bookworm")
}

#[test]
fn the_package_lives_in_debian_13_as_well() -> Result<()> {
    needs!(container::NEEDS[0], container::NEEDS[1]);
    the_package_lives_in("trixie")
}
