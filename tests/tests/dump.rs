//! `xblade dump`: what AF_XDP takes and sends, as Wireshark sees it, and what that costs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use lab::capture::dissect;
use lab::image::stamp;
use lab::needs::Need;
use lab::process::Process;
use lab::target::daemon;
use lab::vm::kernel::Kernel;
use lab::vm::machine::{Machine, mac};
use lab::vm::qemu;
use lab::{Address, Image, Initiator, Lab, Namespace, Options, Target, needs, target};
use nix::sys::signal::Signal;

const E11: Address = Address::new(1, 1);
/// What xdpdump has the kernel run.
const XDPDUMP_PROGRAM: &str = "/usr/lib/x86_64-linux-gnu/bpf/xdpdump_bpf.o";
const TIMEOUT: Duration = Duration::from_secs(60);

/// A target with a control socket.
struct Site {
    target: Target,
    lab: Lab,
    image: Image,
    _other: Image,
}

impl Site {
    fn new(mtu: u32) -> Result<Site> {
        let lab = Lab::new(Options {
            mtu,
            ..Options::default()
        })?;
        let (image, other) = (Image::stamped(4096)?, Image::stamped(64)?);
        let mut text = String::from("[defaults]\ninterfaces = [\"eth0\"]\n");
        for (slot, image) in [(1, &image), (2, &other)] {
            let path = image.path();
            writeln!(text, "[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}")?;
        }
        std::fs::write(image.directory().join("xblade.toml"), text)?;
        let target = Target::ready(&lab.target, &daemon(image.directory())?, 2)?;
        Ok(Site {
            target,
            lab,
            image,
            _other: other,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.image.directory().join(name)
    }

    /// A command that asks the target.
    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(target::binary()?);
        command.args(args).env("XBLADE_CONTROL", self.target.control());
        Ok(command)
    }

    /// A dump into a file, which has begun.
    fn dump(&self, file: &Path, args: &[&str]) -> Result<Process> {
        let control = self.target.control();
        let words = [file, &control].map(|path| path.to_str().unwrap_or_default().to_owned());
        let args = [&["dump", "-w", &words[0], "--control", &words[1]], args].concat();
        let mut process = Process::spawn(&self.lab.target, &target::binary()?, &args)?;
        process.wait_for("frames on eth0", TIMEOUT)?;
        Ok(process)
    }
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// Ends a dump as Ctrl-C does.
fn end(mut process: Process) -> Result<String> {
    process.signal(Signal::SIGINT)?;
    ensure!(process.wait(TIMEOUT)?.success(), "{}", process.log());
    Ok(process.log())
}

#[test]
fn wireshark_sees_every_request_and_its_reply() -> Result<()> {
    needs!(Need::Root, Need::Tool("tshark"));
    for mtu in [1500, 9000] {
        let site = Site::new(mtu)?;
        let file = site.path("dump.pcapng");
        let begin = now()?;
        let dump = site.dump(&file, &["eth0"])?;
        let initiator = site.lab.open(0)?;
        let disk = initiator.find(E11)?;
        let most = ((mtu - 36) / 512) as u8;
        for count in 1..=most {
            disk.read(u64::from(count), count)?;
            let data: Vec<u8> = (0..u64::from(count)).flat_map(stamp).collect();
            disk.write(u64::from(count), &data)?;
        }
        disk.flush()?;
        let said = end(dump)?;
        ensure!(said.contains("; 0 more came faster"), "{said}");

        let rows = dissect(
            &file,
            "aoe",
            &[
                "frame.interface_name",
                "aoe.response",
                "frame.packet_flags_direction",
                "frame.time_epoch",
            ],
        )?;
        ensure!(rows.len() >= 2 * (2 * usize::from(most) + 2), "{rows:?}");
        for row in &rows {
            let [interface, response, direction, time] = &row[..] else {
                anyhow::bail!("{row:?}");
            };
            ensure!(interface == "eth0", "{row:?}");
            let is_response = ["1", "True"].contains(&response.as_str());
            let is_sent = direction.trim_start_matches("0x").trim_start_matches('0') == "2";
            ensure!(is_response == is_sent, "{row:?}");
            let time: f64 = time.parse()?;
            ensure!(begin <= time && time <= now()?, "{row:?}");
            ensure!(
                row[3].split('.').nth(1).is_some_and(|digits| digits.len() == 9),
                "{row:?}"
            );
        }
        for filter in [
            "_ws.malformed",
            "aoe.cmd == 0 && aoe.response == 0 && !aoe.response_in",
            "frame.cap_len < frame.len",
        ] {
            let rows = dissect(&file, filter, &["frame.number"])?;
            ensure!(rows.is_empty(), "MTU {mtu}: {filter}: {rows:?}");
        }
    }
    Ok(())
}

/// In a guest: not every host's kernel can trace programs.
#[test]
fn xdpdump_attaches_to_the_program_that_runs() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::Tool("xdpdump"),
        Need::Tool("xz"),
        Need::File("/bin/busybox"),
        Need::File(XDPDUMP_PROGRAM)
    );
    qemu::ensure()?;
    let namespace = Namespace::new("outside")?;
    let xblade = target::binary()?;
    let device = format!("virtio-net-pci,netdev=net0,mac={},romfile=", mac(0));
    let machine = Machine {
        kernel: Kernel::with_all_drivers()?,
        modules: &["virtio_pci", "virtio_net"],
        programs: &["ip", "xdpdump"],
        files: &[XDPDUMP_PROGRAM],
        xblade: Path::new(&xblade),
        devices: &[device],
        cables: 1,
        queues: 1,
    };
    let mut shell = machine.boot(&namespace)?;
    shell.must("truncate -s 1M /tmp/image; ip link set eth0 up")?;
    shell.must("/opt/xblade serve 1 1 eth0 /tmp/image >/tmp/log 2>&1 &")?;
    shell.until("grep ' ready on ' /tmp/log", |line| !line.is_empty())?;
    shell.must("/opt/xdpdump -i eth0 --rx-capture entry,exit >/tmp/dump 2>&1 & dump=$!")?;
    shell.until("cat /tmp/dump", |said| said.contains("listening on eth0"))?;
    let initiator = Initiator::open(&namespace, "tap0")?;
    let disk = initiator.find(E11)?;
    for lba in 0..100 {
        disk.read(lba, 1)?;
    }
    shell.must("kill $dump; wait $dump")?;
    for word in ["aoe_filter()@entry", "aoe_filter()@exit[REDIRECT]"] {
        let said = shell.must(&format!("grep -cF '{word}' /tmp/dump"))?;
        let count: u32 = said.trim().parse()?;
        ensure!(count >= 100, "{word}: {count}");
    }
    Ok(())
}

#[test]
fn a_dump_ends_after_its_frames_and_shows_what_was_asked_for() -> Result<()> {
    needs!(Need::Root, Need::Tool("tshark"));
    let site = Site::new(9000)?;
    let file = site.path("dump.pcapng");
    // Another export has no frames, and the headers are all that is wanted.
    let other = site.dump(&site.path("other.pcapng"), &["e1.2"])?;
    let mut dump = site.dump(&file, &["eth0", "e1.1", "--snaplen", "64", "--count", "20"])?;
    let disk = site.lab.open(0)?;
    let disk = disk.find(E11)?;
    for lba in 0..20 {
        disk.read(lba, 4)?;
    }
    ensure!(dump.wait(TIMEOUT)?.success(), "{}", dump.log());
    let rows = dissect(&file, "aoe", &["frame.cap_len", "aoe.major", "aoe.minor"])?;
    ensure!(rows.len() == 20, "{} frames", rows.len());
    ensure!(
        rows.iter()
            .all(|row| row[0].parse::<u32>().is_ok_and(|len| len <= 64)),
        "{rows:?}"
    );
    end(other)?;
    let rows = dissect(
        &site.path("other.pcapng"),
        "aoe.major == 1 && aoe.minor == 1",
        &["frame.number"],
    )?;
    ensure!(rows.is_empty(), "{rows:?}");

    // A terminal is no place for it; a pipe is.
    let piped = site
        .command(&["dump", "-c", "2"])?
        .stdout(Stdio::piped())
        .spawn()?;
    while site.command(&["status"])?.output()?.status.success() {
        disk.read(0, 1)?;
        if std::fs::read_to_string(format!("/proc/{}/stat", piped.id()))?.contains(") Z ") {
            break;
        }
    }
    let output = piped.wait_with_output()?;
    ensure!(
        output.status.success() && output.stdout.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]),
        "{output:?}"
    );
    let refused = site.command(&["dump", "e9.9"])?.stdout(Stdio::null()).output()?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(said.contains("e9.9 matches no export"), "{said}");
    let refused = site.command(&["dump", "eth9"])?.stdout(Stdio::null()).output()?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(
        said.contains("nothing is served on eth9; there are: eth0"),
        "{said}"
    );
    Ok(())
}

/// Ended when dropped.
struct Stuck(Child);

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn readers_that_stall_are_told_what_they_missed_and_hold_up_nobody() -> Result<()> {
    needs!(Need::Root, Need::Tool("tshark"));
    let mut site = Site::new(9000)?;
    let mut stuck = Vec::new();
    for _ in 0..4 {
        // Nobody reads the pipe.
        let child = site
            .command(&["dump"])?
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        stuck.push(Stuck(child));
    }
    let disk = site.lab.open(0)?;
    let disk = disk.find(E11)?;
    let deadline = Instant::now() + TIMEOUT;
    while !fifth_is_refused(&site, &|| disk.read(0, 1).map(drop))? {
        ensure!(Instant::now() < deadline, "four dumps do not come to be");
        disk.read(0, 1)?;
    }
    // More than all that lies between: rings, sockets and pipes.
    for round in 0..3000u64 {
        let lba = round % 4000;
        ensure!(disk.read(lba, 16)?[..512] == stamp(lba));
    }
    // One of them reads on: it gets what is old, then what is new, with the number of those in between.
    let file = site.path("late.pcapng");
    let mut late = stuck.remove(0);
    let out = late.0.stdout.take().context("no pipe")?;
    let copy = std::thread::spawn({
        let file = file.clone();
        move || {
            std::io::copy(
                &mut std::io::BufReader::new(out),
                &mut std::fs::File::create(file)?,
            )
        }
    });
    drop(stuck);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        disk.read(1, 1)?;
        if holds_a_loss(&std::fs::read(&file)?) {
            break;
        }
        ensure!(Instant::now() < deadline, "no word of lost frames");
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(late.0.id())?),
        Signal::SIGINT,
    )?;
    late.0.wait()?;
    copy.join().map_err(|_| anyhow::anyhow!("the copy panicked"))??;
    ensure!(dissect(&file, "_ws.malformed", &["frame.number"])?.is_empty());
    ensure!(site.command(&["status"])?.output()?.status.success());
    site.target.process.stop()?;
    Ok(())
}

/// Whether a frame says that others were lost before it.
fn holds_a_loss(pcapng: &[u8]) -> bool {
    let u32_at = |at: usize| Some(u32::from_le_bytes(pcapng.get(at..at + 4)?.try_into().ok()?));
    let mut at = 0;
    while let (Some(kind), Some(len)) = (u32_at(at), u32_at(at + 4)) {
        if kind == 6 {
            let kept = u32_at(at + 20).unwrap_or(0).next_multiple_of(4) as usize;
            // The direction, then the losses if there were any.
            if u32_at(at + 28 + kept + 8) == Some(0x0008_0004) {
                return true;
            }
        }
        at += len as usize;
    }
    false
}

fn fifth_is_refused(site: &Site, read: &dyn Fn() -> Result<()>) -> Result<bool> {
    let mut child = site
        .command(&["dump", "-c", "1"])?
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // One that is not refused waits for a frame.
    let deadline = Instant::now() + TIMEOUT;
    while child.try_wait()?.is_none() {
        read()?;
        ensure!(Instant::now() < deadline, "a dump of one frame does not end");
    }
    let said = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&said.stderr).contains("4 dumps are running"))
}
