//! A daemon serves what it can; what it cannot is FAILED, told once, and tried again until it works.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::image::stamp;
use lab::needs::Need;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Target, needs};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Longest wait for what must happen; generous, the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A config file and what its daemon keeps.
struct Site {
    directory: TempDir,
}

impl Site {
    fn new() -> Result<Site> {
        let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
        Ok(Site { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the file anew: `(slot, image, interface and further lines)`.
    fn write(&self, exports: &[(u8, &Path, &str)]) -> Result<()> {
        let mut text = String::new();
        for (slot, image, lines) in exports {
            writeln!(
                text,
                "[[export]]\nshelf = 1\nslot = {slot}\npath = {image:?}\n{lines}\n"
            )?;
        }
        Ok(std::fs::write(self.path("xblade.toml"), text)?)
    }

    fn start(&self, lab: &Lab) -> Result<Target> {
        Target::start(&lab.target, &daemon(self.directory.path())?)
    }
}

const ETH0: &str = "interfaces = [\"eth0\"]";

/// Tells the daemon to read its file again and waits for the line that says what came of it.
fn reload(target: &mut Target) -> Result<String> {
    let mark = target.process.mark();
    target.process.signal(Signal::SIGHUP)?;
    let told = |line: &str| line.contains("was reloaded");
    Ok(target.process.wait_for_after(mark, told, TIMEOUT)?.1)
}

fn reads(lab: &Lab, slot: u8) -> Result<()> {
    let sector = lab.open(0)?.find(Address::new(1, slot))?.read(5, 1)?;
    ensure!(sector == stamp(5), "1.{slot} reads something else");
    Ok(())
}

#[test]
fn a_missing_image_keeps_nobody_else_from_being_served() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let (site, image) = (Site::new()?, Image::stamped(64)?);
    let late = site.path("late.raw");
    site.write(&[(1, image.path(), ETH0), (2, &late, ETH0)])?;
    let mut target = site.start(&lab)?;
    target.wait_ready(0, 1)?;
    let failed = target.process.wait_for("e1.2 FAILED", TIMEOUT)?;
    ensure!(
        failed.contains("late.raw") && failed.contains("no such file"),
        "{failed}"
    );
    reads(&lab, 1)?;
    let mark = target.process.mark();
    std::fs::copy(image.path(), &late)?;
    target.wait_ready(mark, 1)?;
    reads(&lab, 2)?;
    let log = target.process.log();
    ensure!(
        log.matches("e1.2 FAILED").count() == 1,
        "told more than once:\n{log}"
    );
    ensure!(target.process.stop()? == 0);
    Ok(())
}

#[test]
fn an_interface_that_is_missing_is_served_when_it_comes() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options {
        links: 2,
        ..Options::default()
    })?;
    lab.unplug(1)?;
    let (site, image) = (Site::new()?, Image::stamped(64)?);
    site.write(&[(1, image.path(), "interfaces = [\"eth0\", \"eth1\", \"em*\"]")])?;
    let mut target = site.start(&lab)?;
    target.process.wait_for("eth1 does not exist", TIMEOUT)?;
    target.wait_ready(0, 1)?;
    reads(&lab, 1)?;
    let mark = target.process.mark();
    lab.plug(1)?;
    target.wait_ready(mark, 1)?;
    ensure!(lab.open(1)?.find(Address::new(1, 1))?.read(5, 1)? == stamp(5));
    Ok(())
}

#[test]
fn a_glob_that_matches_nothing_yet_waits() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    lab.unplug(0)?;
    let (site, image) = (Site::new()?, Image::stamped(64)?);
    site.write(&[(1, image.path(), "interfaces = [\"et*\"]")])?;
    let mut target = site.start(&lab)?;
    target.process.wait_for("no interface matches et* yet", TIMEOUT)?;
    let mark = target.process.mark();
    lab.plug(0)?;
    target.wait_ready(mark, 1)?;
    reads(&lab, 1)
}

/// Another process has the image, then the interface, then the state directory.
#[test]
fn what_others_hold_is_taken_when_they_let_go() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options {
        links: 2,
        ..Options::default()
    })?;
    let (site, one, two) = (Site::new()?, Image::stamped(64)?, Image::stamped(64)?);
    let state = site.path("state");
    let state = state.to_str().context("odd path")?;
    let holder = ["serve", "9", "9", "eth1", one.as_str(), "--state-dir", state];
    let mut holder = Target::ready(&lab.target, &holder, 1)?;
    site.write(&[
        (1, one.path(), ETH0),
        (2, two.path(), "interfaces = [\"eth0\", \"eth1\"]"),
    ])?;
    let mut target = site.start(&lab)?;
    let locked = target.process.wait_for("no export can be served yet", TIMEOUT)?;
    ensure!(locked.contains("state") && locked.contains("in use"), "{locked}");
    let mark = target.process.mark();
    holder.process.kill()?;
    target.wait_ready(mark, 3)?;
    reads(&lab, 1)?;
    reads(&lab, 2)?;
    ensure!(target.process.stop()? == 0);
    Ok(())
}

#[test]
fn wrong_syntax_ends_the_start_and_changes_nothing_later() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let (site, image) = (Site::new()?, Image::stamped(64)?);
    std::fs::write(site.path("xblade.toml"), "[[export]\nshelf = 1")?;
    let mut target = site.start(&lab)?;
    let status = target.process.wait(TIMEOUT)?;
    ensure!(status.code() == Some(1), "{status}: {}", target.process.log());
    site.write(&[(1, image.path(), ETH0)])?;
    let mut target = site.start(&lab)?;
    target.wait_ready(0, 1)?;
    std::fs::write(site.path("xblade.toml"), "[[export]\nshelf = 1")?;
    target.process.signal(Signal::SIGHUP)?;
    target.process.wait_for("stays as it was", TIMEOUT)?;
    reads(&lab, 1)?;
    // A dead interface and a missing image do not stand in the way of what else is new.
    let missing = site.path("missing.raw");
    let other = Image::stamped(64)?;
    site.write(&[
        (1, image.path(), "interfaces = [\"eth0\", \"eth7\"]"),
        (2, &missing, ETH0),
        (3, other.path(), ETH0),
    ])?;
    let mark = target.process.mark();
    let line = reload(&mut target)?;
    ensure!(
        line.contains("added 2 (e1.2, e1.3)") && line.contains("failed 1 (e1.2)"),
        "{line}"
    );
    target.wait_ready(mark, 1)?;
    reads(&lab, 3)
}

#[test]
fn serve_fails_at_once_unless_it_waits() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let (site, image) = (Site::new()?, Image::stamped(64)?);
    let late = site.path("late.raw");
    let late_text = late.to_str().context("odd path")?;
    let args = ["serve", "1", "1", "eth0", late_text];
    let mut target = Target::start(&lab.target, &args)?;
    ensure!(target.process.wait(TIMEOUT)?.code() == Some(1));
    let mut target = Target::start(&lab.target, &[&args[..], &["--wait"]].concat())?;
    target.process.wait_for("FAILED", TIMEOUT)?;
    std::fs::copy(image.path(), &late)?;
    target.wait_ready(0, 1)?;
    reads(&lab, 1)
}

#[test]
fn read_only_and_back_works_each_time() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let (site, image, other) = (Site::new()?, Image::stamped(64)?, Image::stamped(64)?);
    site.write(&[(1, image.path(), ETH0), (2, other.path(), ETH0)])?;
    let mut target = site.start(&lab)?;
    target.wait_ready(0, 2)?;
    for round in 0..10 {
        let read_only = format!("{ETH0}\nread_only = {}", round % 2 == 0);
        site.write(&[(1, image.path(), &read_only), (2, other.path(), ETH0)])?;
        let line = reload(&mut target)?;
        ensure!(
            line.contains("changed 1 (e1.1)") && !line.contains("failed"),
            "round {round}: {line}"
        );
        reads(&lab, 1)?;
    }
    let log = target.process.log();
    ensure!(!log.contains("FAILED"), "{log}");
    Ok(())
}

#[test]
fn an_image_that_was_replaced_is_taken_up_by_a_reload() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let (site, image, other) = (Site::new()?, Image::sparse(64)?, Image::stamped(64)?);
    site.write(&[(1, image.path(), ETH0), (2, other.path(), ETH0)])?;
    let mut target = site.start(&lab)?;
    target.wait_ready(0, 2)?;
    let new = image.directory().join("new.raw");
    std::fs::copy(other.path(), &new)?;
    std::fs::rename(&new, image.path())?;
    let line = reload(&mut target)?;
    ensure!(line.contains("renewed 1 (e1.1)"), "{line}");
    reads(&lab, 1)?;
    let line = reload(&mut target)?;
    ensure!(line.contains("nothing changed"), "{line}");
    Ok(())
}

/// Reads without pause while `work` is done; the longest time between two answers.
fn longest_silence(lab: &Lab, slot: u8, work: impl FnOnce() -> Result<()> + Send) -> Result<Duration> {
    let initiator = lab.open(0)?;
    let disk = initiator.find(Address::new(1, slot))?;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let result = work();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            result
        });
        let (mut longest, mut last) = (Duration::ZERO, Instant::now());
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            disk.read(5, 1)?;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        worker.join().expect("it does not panic")?;
        Ok(longest)
    })
}

#[test]
fn spin_pinning_and_rates_change_without_a_new_port() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let (site, image, other) = (Site::new()?, Image::stamped(64)?, Image::stamped(64)?);
    site.write(&[(1, image.path(), ETH0), (2, other.path(), ETH0)])?;
    let mut target = site.start(&lab)?;
    target.wait_ready(0, 2)?;
    let program = || -> Result<String> {
        let link = lab.target.ip("-d link show eth0")?;
        let at = link.find("prog/xdp").context("no program")?;
        Ok(link[at..]
            .split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" "))
    };
    let before = program()?;
    for more in [
        "spin_us = 700",
        "rate_limit = \"90k/s\"",
        "spin_us = 0\nsmart = true",
    ] {
        site.write(&[
            (1, image.path(), ETH0),
            (2, other.path(), &format!("{ETH0}\n{more}")),
        ])?;
        let line = reload(&mut target)?;
        ensure!(line.contains("changed 1 (e1.2)"), "{line}");
    }
    let text = std::fs::read_to_string(site.path("xblade.toml"))?;
    std::fs::write(
        site.path("xblade.toml"),
        format!("[defaults]\ncpus = [0]\n{text}"),
    )?;
    reload(&mut target)?;
    ensure!(program()? == before, "the port was opened again");
    reads(&lab, 1)?;
    let log = target.process.log();
    ensure!(!log.contains("opening it again"), "{log}");
    Ok(())
}

/// What an export that a reload does not change may be silent for.
const UNNOTICED: Duration = Duration::from_millis(50);
const TRIES: usize = 10;

#[test]
fn thousands_of_exports_notice_nothing_of_a_reload() -> Result<()> {
    needs!(Need::Root);
    const EXPORTS: usize = 4097;
    let lab = Lab::new(Options::default())?;
    let (site, image) = (Site::new()?, Image::stamped(64)?);
    let mut text = String::from("[defaults]\ninterfaces = [\"eth0\"]\nstore = \"ram\"\nread_only = true\n");
    for n in 0..EXPORTS {
        let (shelf, slot) = (1 + n / 250, n % 250);
        writeln!(
            text,
            "[[export]]\nshelf = {shelf}\nslot = {slot}\npath = {:?}",
            image.as_str()
        )?;
    }
    std::fs::write(site.path("xblade.toml"), &text)?;
    let mut target = site.start(&lab)?;
    target.wait_ready(0, 1)?;
    target.process.wait_for(
        &format!("e{}.{} ready", 1 + (EXPORTS - 1) / 250, (EXPORTS - 1) % 250),
        TIMEOUT,
    )?;
    let more = "[[export]]\nshelf = 99\nslot = 1\npath = \"/missing\"\nlength = 8\n";
    let mut silences = Vec::new();
    for (what, texts) in [
        ("unchanged", [text.clone(), text.clone()]),
        ("one comes and goes", [format!("{text}{more}"), text.clone()]),
    ] {
        let mut quickest = Duration::MAX;
        // A busy machine has pauses of its own: what holds the exports up does so each time.
        for text in texts.iter().cycle().take(TRIES) {
            std::fs::write(site.path("xblade.toml"), text)?;
            let target = &mut target;
            quickest = quickest.min(longest_silence(&lab, 7, move || reload(target).map(drop))?);
            if quickest < UNNOTICED {
                break;
            }
        }
        silences.push((what, quickest));
    }
    ensure!(
        silences.iter().all(|(_, silence)| *silence < UNNOTICED),
        "{silences:?}"
    );
    let start = Instant::now();
    ensure!(target.process.stop()? == 0);
    eprintln!("silences {silences:?}, stopped in {:?}", start.elapsed());
    Ok(())
}

#[test]
fn rules_that_outgrow_the_filter_get_a_larger_one() -> Result<()> {
    needs!(Need::Root);
    // A filter has room for some 32 000 members of access lists when it begins with few.
    const MEMBERS: u32 = 33_000;
    let lab = Lab::new(Options::default())?;
    let (site, image) = (Site::new()?, Image::stamped(64)?);
    site.write(&[(1, image.path(), ETH0)])?;
    let mut target = site.start(&lab)?;
    target.wait_ready(0, 1)?;
    reads(&lab, 1)?;
    let mut list = format!("{ETH0}\nallow = [\"{}\"", lab::link::initiator_mac(0));
    for n in 0..MEMBERS {
        let [_, a, b, c] = n.to_be_bytes();
        write!(list, ",\n\"06:00:00:{a:02x}:{b:02x}:{c:02x}\"")?;
    }
    list.push(']');
    site.write(&[(1, image.path(), &list)])?;
    let mark = target.process.mark();
    reload(&mut target)?;
    target
        .process
        .wait_for_after(mark, |line: &str| line.contains("larger maps"), TIMEOUT)?;
    reads(&lab, 1)?;
    let log = target.process.log();
    ensure!(!log.contains("old rules") && !log.contains("FAILED"), "{log}");
    // The new rules are in force: who is on no list gets no answer.
    site.write(&[(
        1,
        image.path(),
        &list.replace(&lab::link::initiator_mac(0).to_string(), "06:01:00:00:00:01"),
    )])?;
    let line = reload(&mut target)?;
    ensure!(line.contains("changed 1"), "{line}");
    ensure!(
        lab.open(0)?.find(Address::new(1, 1)).is_err(),
        "a stranger was answered"
    );
    Ok(())
}

#[test]
fn a_pipe_in_the_place_of_a_file_holds_nothing_up() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let (site, image) = (Site::new()?, Image::stamped(64)?);
    site.write(&[(1, image.path(), ETH0)])?;
    let mut target = site.start(&lab)?;
    target.wait_ready(0, 1)?;
    let config = site.path("xblade.toml");
    std::fs::remove_file(&config)?;
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU)?;
    let mark = target.process.mark();
    target.process.signal(Signal::SIGHUP)?;
    // Nobody writes into it: while it is waited for, control answers.
    target.process.signal(Signal::SIGUSR1)?;
    let open = |line: &str| line.contains("1 of 1 exports are open");
    target.process.wait_for_after(mark, open, TIMEOUT)?;
    let kept = |line: &str| line.contains("the configuration stays as it was");
    target.process.wait_for_after(mark, kept, TIMEOUT)?;
    reads(&lab, 1)?;
    ensure!(target.process.stop()? == 0);
    // A state file of that kind keeps its export shut, and nothing else.
    std::fs::remove_file(&config)?;
    let other = Image::stamped(64)?;
    let state = site.path("state").join("1.1.state");
    let _ = std::fs::remove_file(&state);
    nix::unistd::mkfifo(&state, nix::sys::stat::Mode::S_IRWXU)?;
    site.write(&[(1, image.path(), ETH0), (2, other.path(), ETH0)])?;
    let mut target = site.start(&lab)?;
    target.process.wait_for("a FIFO", TIMEOUT)?;
    target.wait_ready(0, 1)?;
    reads(&lab, 2)?;
    ensure!(target.process.stop()? == 0);
    Ok(())
}
