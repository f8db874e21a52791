//! A machine with network cards of choice that the test works by a shell on its console: xblade runs in it, on drivers of real
//! cards, and its initiators are outside, at the other ends of its cables.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aoe_common::Mac;
use tempfile::{NamedTempFile, TempDir};

use super::host::strip;
use super::initramfs::Initramfs;
use super::kernel::{Kernel, Module};
use super::{PRELUDE, STEP, qemu};
use crate::net::Namespace;
use crate::packages::find_file;
use crate::process::Process;

/// How often a condition in the guest is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Reads commands from the console, one a line, and says what became of each.
const SHELL: &str = r#"
echo; echo "@@ok shell"
while read -r line; do
    eval "$line" >/tmp/said 2>&1
    code=$?
    sed 's/^/@>/' /tmp/said
    echo; echo "@@ran $code"
done
finish
"#;

/// What a machine is made of.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The kernel it boots.
    pub kernel: Kernel,
    /// Drivers, in the order to load them. What a card needs goes without saying for none of them.
    pub modules: &'a [&'a str],
    /// Programs of the host.
    pub programs: &'a [&'a str],
    /// Files of the host, which have the same place in the guest.
    pub files: &'a [&'a str],
    /// The binary.
    pub xblade: &'a Path,
    /// QEMU's devices, one `-device` for each: `netdev=net0` is the cable `tap0`, and so on.
    pub devices: &'a [String],
    /// Cables: `tap0` and so on in the namespace.
    pub cables: usize,
    /// Queues of each cable, for cards that have as many as that.
    pub queues: usize,
}

/// A machine that runs.
#[derive(Debug)]
pub struct Shell {
    process: Process,
    mark: usize,
    monitor: BufReader<UnixStream>,
    _files: (NamedTempFile, TempDir),
}

/// Address of the card on cable `n`, for the device's properties.
pub fn mac(n: usize) -> Mac {
    Mac([2, 0, 0, 0, n as u8, 0x22])
}

impl Machine<'_> {
    /// Lays the cables in the namespace and boots.
    ///
    /// # Errors
    /// When something is missing, or the guest does not get to its shell.
    pub fn boot(&self, namespace: &Namespace) -> Result<Shell> {
        for n in 0..self.cables {
            let multi_queue = if self.queues > 1 { "multi_queue" } else { "" };
            namespace.ip(&format!("tuntap add tap{n} mode tap {multi_queue}"))?;
            namespace.ip(&format!("link set tap{n} mtu 9000 up"))?;
        }
        let initrd = self.initrd()?;
        let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
        let monitor = directory.path().join("monitor");
        let text = |path: &Path| path.to_str().map(str::to_owned).context("odd path");
        let mut words: Vec<String> =
            "-accel tcg,thread=multi -machine q35,graphics=off -cpu max -smp 2 -m 1024 -nodefaults -display none -no-reboot \
             -serial stdio"
                .split_whitespace()
                .map(str::to_owned)
                .collect();
        words.extend(qemu::firmware());
        // Linux 6.18's virtio_net maps the header of zero-copy frames from its module's memory as if that were the kernel's own (`xsk_hdr`, by its
        // source). Where addresses are drawn at random that is somebody's page in one boot of some twenty, and the host drops every frame, as was seen.
        // The processor's counter is the host's. A guest that boots while the host is busy mistakes its speed, and its clock goes at many times the right one: a
        // second is over in a tenth of one. The emulated HPET and PM timer go right.
        let append = "console=ttyS0 loglevel=1 panic=-1 mitigations=off no_timer_check tsc=unstable nokaslr";
        let (image, files) = (text(&self.kernel.image)?, text(initrd.path())?);
        words.extend(["-kernel", &image, "-initrd", &files, "-append", append].map(str::to_owned));
        let socket = format!("socket,id=monitor,path={},server=on,wait=off", text(&monitor)?);
        words.extend(["-chardev", &socket, "-mon", "chardev=monitor,mode=control"].map(str::to_owned));
        for n in 0..self.cables {
            let queues = self.queues;
            let cable = format!("tap,id=net{n},ifname=tap{n},script=no,downscript=no,queues={queues}");
            words.extend(["-netdev".to_owned(), cable]);
        }
        for device in self.devices {
            words.extend(["-device".to_owned(), device.clone()]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut process = Process::spawn(namespace, qemu::PROGRAM, &words)?;
        let ready = |line: &str| line.contains("@@ok shell") || line.contains("@@fail");
        let (at, line) = process
            .wait_for_after(0, ready, STEP)
            .context("waiting for the guest's shell")?;
        ensure!(
            line.contains("@@ok"),
            "the guest did not get there:\n{}",
            process.log()
        );
        Ok(Shell {
            process,
            mark: at + 1,
            monitor: open_monitor(&monitor)?,
            _files: (initrd, directory),
        })
    }

    fn initrd(&self) -> Result<NamedTempFile> {
        let mut archive = Initramfs::new()?;
        for (n, Module { file_name, bytes }) in self.kernel.modules(self.modules)?.iter().enumerate() {
            archive.file(&format!("modules/{n:02}-{file_name}"), 0o644, bytes);
        }
        let mut script = PRELUDE.to_owned();
        for program in self.programs {
            archive.program(program)?;
            // busybox's shell prefers its own applets to what is in PATH, but functions to both.
            script += &format!("{program}() {{ /opt/{program} \"$@\"; }}\n");
        }
        for file in self.files {
            let from = find_file(file).with_context(|| format!("no {file}"))?;
            archive.host_file(from, file.trim_start_matches('/'))?;
        }
        let (_stripped, xblade) = strip(self.xblade)?;
        archive.program_file(&xblade, "xblade")?;
        archive.file("init", 0o755, (script + SHELL).as_bytes());
        let mut initrd = NamedTempFile::with_prefix("xblade-")?;
        initrd.write_all(&archive.finish())?;
        Ok(initrd)
    }
}

impl Shell {
    /// Runs a command in the guest; gives its exit code and what it printed.
    ///
    /// # Errors
    /// When the guest dies or [`STEP`] passes.
    pub fn run(&mut self, command: &str) -> Result<(i32, String)> {
        self.process.type_line(command)?;
        let (at, line) = self
            .process
            .wait_for_after(self.mark, |line| line.starts_with("@@ran "), STEP)
            .with_context(|| format!("{command:?} in the guest"))?;
        let said = self.process.lines(self.mark..at);
        self.mark = at + 1;
        let said: Vec<&str> = said.iter().filter_map(|line| line.strip_prefix("@>")).collect();
        let code = line.trim_start_matches("@@ran ").trim();
        // Shown where the test fails.
        println!("+ {command}\n{} ({code})", said.join("\n"));
        Ok((code.parse().context("an exit code")?, said.join("\n")))
    }

    /// Runs a command that has to succeed, and gives what it printed.
    ///
    /// # Errors
    /// When it fails; the message has what it printed.
    pub fn must(&mut self, command: &str) -> Result<String> {
        let (code, said) = self.run(command)?;
        ensure!(code == 0, "{command:?} in the guest: exit code {code}: {said}");
        Ok(said)
    }

    /// Runs a command until what it prints is accepted, and gives that.
    ///
    /// # Errors
    /// When it is not within [`STEP`].
    pub fn until(&mut self, command: &str, accept: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + STEP;
        loop {
            let (_, said) = self.run(command)?;
            if accept(&said) {
                return Ok(said);
            }
            if Instant::now() >= deadline {
                bail!("{command:?} in the guest still prints: {said}");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Pulls the cable of a card out or puts it back, as the card sees it.
    ///
    /// # Errors
    /// When QEMU knows no such card.
    pub fn set_link(&mut self, card: &str, up: bool) -> Result<()> {
        self.ask_monitor(&format!(
            r#"{{"execute":"set_link","arguments":{{"name":"{card}","up":{up}}}}}"#
        ))
    }

    fn ask_monitor(&mut self, request: &str) -> Result<()> {
        writeln!(self.monitor.get_mut(), "{request}")?;
        loop {
            let mut line = String::new();
            ensure!(
                self.monitor.read_line(&mut line)? > 0,
                "QEMU has closed its monitor"
            );
            ensure!(!line.contains("\"error\""), "{request}: {line}");
            // What else it says are events.
            if line.contains("\"return\"") {
                return Ok(());
            }
        }
    }
}

/// Opens QEMU's monitor, which speaks QMP.
fn open_monitor(path: &Path) -> Result<BufReader<UnixStream>> {
    let stream = UnixStream::connect(path).context("opening QEMU's monitor")?;
    stream.set_read_timeout(Some(STEP))?;
    let mut monitor = BufReader::new(stream);
    for request in ["", r#"{"execute":"qmp_capabilities"}"#] {
        writeln!(monitor.get_mut(), "{request}")?;
        monitor.read_line(&mut String::new())?;
    }
    Ok(monitor)
}
