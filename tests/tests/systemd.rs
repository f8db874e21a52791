//! What systemd is told, and what the unit files say.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::needs::Need;
use lab::process::Process;
use lab::{Image, Lab, Options, needs, target};

/// docs/security.md tells it.
const LEVEL: f64 = 2.9;
const LIMIT: Duration = Duration::from_secs(60);

/// Takes the place of systemd's socket.
struct Manager(UnixDatagram);

impl Manager {
    /// Waits for a message with this line.
    fn hears(&self, wanted: &str) -> Result<()> {
        let mut bytes = [0; 4096];
        loop {
            let count = self
                .0
                .recv(&mut bytes)
                .with_context(|| format!("waiting for {wanted}"))?;
            let message = std::str::from_utf8(&bytes[..count])?;
            if message.lines().any(|line| line == wanted) {
                return Ok(());
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
    manager.hears("READY=1")?;
    manager.hears("STATUS=1 of 2 exports open, on eth0")?;
    manager.hears("WATCHDOG=1")?;
    std::fs::File::create(&second)?.set_len(1 << 20)?;
    manager.hears("STATUS=2 of 2 exports open, on eth0")?;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1")?;
    }
    process.signal(nix::sys::signal::Signal::SIGTERM)?;
    manager.hears("STOPPING=1")?;
    ensure!(process.wait(LIMIT)?.success());
    Ok(())
}

/// The sandbox is as tight as the documentation says.
#[test]
fn the_unit_is_exposed_as_little_as_is_told() -> Result<()> {
    needs!(Need::Tool("systemd-analyze"));
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/xblade.service");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true"])
        .arg(&unit)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let level = text
        .lines()
        .find_map(|line| line.split_once("exposure level for xblade.service: "))
        .and_then(|(_, rest)| rest.split(' ').next())
        .with_context(|| format!("no level in {text}"))?;
    ensure!(level.parse::<f64>()? <= LEVEL, "{text}");
    Ok(())
}
