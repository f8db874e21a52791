//! `xblade top` in a terminal, on a running target.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use lab::image::stamp;
use lab::needs::Need;
use lab::{Address, Image, Lab, Options, Target, needs, target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

const LIMIT: Duration = Duration::from_secs(60);
const ROWS: NonZero<u16> = NonZero::new(15).unwrap();
const COLUMNS: NonZero<u16> = NonZero::new(60).unwrap();

/// A terminal with `xblade top` in it.
struct Terminal {
    master: Option<File>,
    /// The program's side.
    side: File,
    before: Termios,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
    hangs_up: Arc<AtomicBool>,
    top: Child,
}

impl Terminal {
    fn new(control: &Path) -> Result<Terminal> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?.into_string()?;
        let mut options = File::options();
        options.read(true).write(true).custom_flags(nix::libc::O_NOCTTY);
        let side = options.open(name)?;
        let size = Winsize {
            ws_row: ROWS.get(),
            ws_col: COLUMNS.get(),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&side, size)?;
        let stdio = || -> Result<Stdio> { Ok(side.try_clone()?.into()) };
        let before = tcgetattr(&side)?;
        let top = Command::new(target::binary()?)
            .args(["top", "--interval", "100ms"])
            .env("XBLADE_CONTROL", control)
            .env("TERM", "xterm-256color")
            .stdin(stdio()?)
            .stdout(stdio()?)
            .stderr(stdio()?)
            .spawn()?;
        let master = File::from(master);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let hangs_up = Arc::new(AtomicBool::new(false));
        let reader = reader(&master, &screen, &hangs_up)?;
        Ok(Terminal {
            before,
            master: Some(master),
            side,
            screen,
            reader: Some(reader),
            hangs_up,
            top,
        })
    }

    /// As a connection that breaks; returns how the program ended.
    fn hang_up(mut self) -> Result<Option<i32>> {
        self.hangs_up.store(true, Ordering::Relaxed);
        let reader = self.reader.take().context("a reader")?;
        reader.join().map_err(|_| anyhow!("the reader panicked"))?;
        self.master = None;
        let begin = Instant::now();
        loop {
            if let Some(status) = self.top.try_wait()? {
                return Ok(status.code());
            }
            ensure!(begin.elapsed() < LIMIT, "it goes on without a terminal");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        let master = self.master.as_mut().context("hung up")?;
        Ok(master.write_all(keys.as_bytes())?)
    }

    fn text(&self) -> String {
        self.screen.lock().expect("no panic").screen().contents()
    }

    /// Waits for a screen.
    fn wait(&self, what: &str, is_it: impl Fn(&str) -> bool) -> Result<()> {
        let begin = Instant::now();
        loop {
            let text = self.text();
            if is_it(&text) {
                return Ok(());
            }
            ensure!(begin.elapsed() < LIMIT, "{what} does not come; there is\n{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for(&self, word: &str) -> Result<()> {
        self.wait(word, |text| text.contains(word))
    }

    /// Waits for the end, after which the terminal is as it was.
    fn end(mut self) -> Result<Option<i32>> {
        let code = self.top.wait()?.code();
        let is_raw = || -> Result<bool> {
            let now = tcgetattr(&self.side)?;
            Ok(now.local_modes != self.before.local_modes || now.input_modes != self.before.input_modes)
        };
        ensure!(!is_raw()?, "the terminal is still raw");
        let is_other = |text: &str| !text.contains("Exports");
        self.wait("the screen as it was", is_other)?;
        let screen = self.screen.lock().expect("no panic");
        ensure!(!screen.screen().alternate_screen() && !screen.screen().hide_cursor());
        Ok(code)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.top.kill();
        let _ = self.top.wait();
    }
}

/// Reads what comes until it is told not to, and shows it.
fn reader(
    master: &File,
    screen: &Arc<Mutex<vt100::Parser>>,
    hangs_up: &Arc<AtomicBool>,
) -> Result<JoinHandle<()>> {
    let (mut master, screen) = (master.try_clone()?, Arc::clone(screen));
    let hangs_up = Arc::clone(hangs_up);
    let turn = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    Ok(std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while !hangs_up.load(Ordering::Relaxed) {
            let is_there = poll(&mut [PollFd::new(&master, PollFlags::IN)], Some(&turn));
            if is_there.is_ok_and(|ready| ready > 0) {
                let Ok(count @ 1..) = master.read(&mut bytes) else {
                    return;
                };
                screen.lock().expect("no panic").process(&bytes[..count]);
            }
        }
    }))
}

#[test]
fn a_target_is_watched_through_its_restart() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("control.sock");
    let control = socket.to_str().context("an odd path")?;
    let args = ["serve", "1", "1", "eth0", image.as_str(), "--control", control];
    let mut target = Target::ready(&lab.target, &args, 1)?;
    let mut terminal = Terminal::new(&socket)?;
    terminal.wait_for("1/1 ready")?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(Address::new(1, 1))?;
    let is_busy = |text: &str| {
        let row = text
            .lines()
            .find(|line| line.contains("e1.1 "))
            .unwrap_or_default();
        let reads = row.split_whitespace().nth(2);
        reads.is_some_and(|reads| reads != "0")
    };
    let begin = Instant::now();
    while !is_busy(&terminal.text()) {
        ensure!(disk.read(5, 1)? == stamp(5));
        ensure!(begin.elapsed() < LIMIT, "no reads in\n{}", terminal.text());
    }
    terminal.press("2")?;
    terminal.wait_for("INITIATOR ")?;
    terminal.press("5/ready\r")?;
    terminal.wait("the filtered log", |text| {
        text.contains("e1.1 ready on eth0") && text.contains("only \"ready\"")
    })?;

    terminal.press("\x1b")?;
    terminal.wait("the whole log", |text| !text.contains("only \"ready\""))?;
    terminal.press("1")?;
    terminal.wait_for("EXPORT ")?;
    terminal.press("py")?;
    terminal.wait("a paused export", |text| {
        text.contains("0/1 ready") && text.contains("paused")
    })?;
    terminal.press("py")?;
    terminal.wait_for("1/1 ready")?;
    ensure!(disk.read(5, 1)? == stamp(5), "it is served again");

    ensure!(target.process.stop()? == 0);
    terminal.wait_for("NO ANSWER")?;
    let _target = Target::ready(&lab.target, &args, 1)?;
    terminal.wait_for("1/1 ready")?;
    terminal.press("q")?;
    ensure!(terminal.end()? == Some(0));
    Ok(())
}

#[test]
fn the_terminal_is_restored_however_it_ends() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("control.sock");
    let control = socket.to_str().context("an odd path")?;
    let args = ["serve", "1", "1", "eth0", image.as_str(), "--control", control];
    let _target = Target::ready(&lab.target, &args, 1)?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let terminal = Terminal::new(&socket)?;
        terminal.wait_for("1/1 ready")?;
        kill(Pid::from_raw(terminal.top.id().cast_signed()), signal)?;
        terminal.end().with_context(|| format!("after {signal}"))?;
    }
    let mut terminal = Terminal::new(&socket)?;
    terminal.wait_for("1/1 ready")?;
    terminal.press("\x03")?;
    terminal.end()?;
    let terminal = Terminal::new(&socket)?;
    terminal.wait_for("1/1 ready")?;
    ensure!(terminal.hang_up()? == Some(129), "as if by SIGHUP");
    let missing = Terminal::new(&directory.path().join("missing"))?;
    missing.wait_for("no xblade listens on")?;
    ensure!(missing.end()? == Some(4), "as all that talk to a target");
    Ok(())
}
