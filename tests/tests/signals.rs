//! No signal ends a daemon by surprise, at no moment, and those that ask for something get it at once.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::frame::ata;
use lab::image::stamp;
use lab::needs::Need;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Request, Stopwatch, Target, needs, slowdown};
use nix::sys::signal::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

const E11: Address = Address::new(1, 1);
const TIMEOUT: Duration = Duration::from_secs(60);

/// As it hastens exports that failed.
#[test]
fn a_hangup_hastens_listening_on_the_control_socket() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let control = image.directory().join("taken.sock");
    let other = std::os::unix::net::UnixListener::bind(&control)?;
    let control = control.to_str().context("an odd path")?;
    let arguments = ["serve", "--control", control, "1", "1", "eth0", image.as_str()];
    let mut target = Target::ready(&lab.target, &arguments, 1)?;
    // Each try asks whether somebody is there. The next comes a second after the first, then 2, 4, 8.
    for _ in 0..4 {
        other.accept()?;
    }
    drop(other);
    let watch = Stopwatch::start()?;
    let mark = target.process.mark();
    target.process.signal(Signal::SIGHUP)?;
    target
        .process
        .wait_for_after(mark, |line| line.contains("taken.sock: listening"), TIMEOUT)?;
    let took = watch.idle_time()?;
    // The next try of its own would have come after eight.
    ensure!(took < Duration::from_secs(7), "{took:?}");
    Ok(())
}

#[test]
fn a_daemon_survives_what_ends_other_programs() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let mut target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
    lab.open(0)?.find(E11)?.read(5, 1)?;
    for signal in [
        Signal::SIGHUP,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGVTALRM,
        Signal::SIGPROF,
        Signal::SIGPIPE,
        Signal::SIGIO,
        Signal::SIGPWR,
        Signal::SIGSTKFLT,
        Signal::SIGURG,
        Signal::SIGXCPU,
        Signal::SIGXFSZ,
        Signal::SIGTRAP,
        Signal::SIGSYS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGBUS,
        Signal::SIGTSTP,
        Signal::SIGCONT,
        Signal::SIGWINCH,
        Signal::SIGCHLD,
    ] {
        target.process.signal(signal)?;
    }
    // All that is handled at once, while nobody gets to handle it: SIGBUS and then others on top of it overflowed its stack.
    target.process.signal(Signal::SIGSTOP)?;
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGBUS] {
        target.process.signal(signal)?;
    }
    target.process.signal(Signal::SIGCONT)?;
    let mark = target.process.mark();
    target.process.signal(Signal::SIGUSR1)?;
    let counters = |line: &str| line.contains("eth0: served:") && line.contains("reads=1");
    target.process.wait_for_after(mark, counters, TIMEOUT)?;
    ensure!(lab.open(0)?.find(E11)?.read(5, 1)? == stamp(5));
    ensure!(target.process.stop()? == 0);
    Ok(())
}

/// Whether xblade runs in the process and blocks or catches the signal, by its `/proc/PID/status` (proc_pid_status(5)).
fn is_waiting_or_handled(status: &str, signal: Signal) -> bool {
    let bit = 1u64 << (signal as i32 - 1);
    let holds = |field: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(field));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & bit != 0)
    };
    status.starts_with("Name:\txblade\n") && (holds("SigBlk:") || holds("SigCgt:"))
}

/// `kill -HUP` right after the start, at moments that differ: what the file says by then is served.
#[test]
fn a_reload_in_the_first_moments_is_remembered() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let images = [Image::stamped(64)?, Image::stamped(64)?];
    let config = images[0].directory().join("xblade.toml");
    let newer = images[0].directory().join("xblade.toml.new");
    let export = |slot: usize| {
        let path = images[slot - 1].as_str();
        format!("[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\ninterfaces = [\"eth0\"]\n")
    };
    for round in 0..8 {
        std::fs::write(&config, export(1))?;
        let mut target = Target::start(&lab.target, &daemon(images[0].directory())?)?;
        // setpriv, which starts it, and the loader know no signals yet: wait until xblade blocks or catches them.
        let status = format!("/proc/{}/status", target.process.pid());
        let begin = Instant::now();
        while !is_waiting_or_handled(&std::fs::read_to_string(&status)?, Signal::SIGHUP) {
            ensure!(begin.elapsed() < TIMEOUT);
        }
        // Somewhere in the start, another place in each round.
        std::thread::sleep(Duration::from_millis(5 * round));
        // Replaced at once: a daemon that starts reads the one or the other.
        std::fs::write(&newer, export(1) + &export(2))?;
        std::fs::rename(&newer, &config)?;
        target.process.signal(Signal::SIGHUP)?;
        target.process.wait_for("e1.2 ready", TIMEOUT)?;
        ensure!(target.process.stop()? == 0, "round {round}");
    }
    Ok(())
}

#[test]
fn a_flood_of_mask_changes_keeps_no_signal_waiting() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let mut target = Target::ready(
        &lab.target,
        &["serve", "1", "1", "eth0", image.as_str(), "--wire-admin"],
        1,
    )?;
    let initiator = lab.open(0)?;
    let mac = lab::link::target_mac(0);
    let begin = Instant::now();
    let mut tag = 0;
    let flood = |tag: &mut u32| -> Result<()> {
        let frames: Vec<Vec<u8>> = (0..64)
            .map(|_| {
                *tag += 1;
                mask_edit(mac, initiator.mac(), *tag)
            })
            .collect();
        initiator.send_many(&frames)?;
        initiator.drain()
    };
    while begin.elapsed() < Duration::from_secs(2) {
        flood(&mut tag)?;
    }
    let mark = target.process.mark();
    target.process.signal(Signal::SIGUSR1)?;
    let asked = Instant::now();
    while !target
        .process
        .log()
        .lines()
        .skip(mark)
        .any(|line| line.contains("exports are open"))
    {
        // How soon, control_answers_at_once_with_thousands_of_exports_a_flood_and_reloads asks.
        flood(&mut tag)?;
        ensure!(asked.elapsed() < TIMEOUT, "no answer in {:?}", asked.elapsed());
    }
    target.process.signal(Signal::SIGTERM)?;
    ensure!(target.process.wait(TIMEOUT)?.code() == Some(0));
    ensure!(!target.process.log().contains("left behind"));
    Ok(())
}

/// Adds or removes the sender's own address: it stays visible whatever is done first.
fn mask_edit(to: aoe_common::Mac, from: aoe_common::Mac, tag: u32) -> Vec<u8> {
    let mut request = Request::ata(to, E11, ata::READ_EXT, 0, 1, &[]);
    (request.src, request.tag) = (from, tag);
    let mut frame = request.bytes();
    frame[19] = 2; // MAC mask list
    // A directive: add (1) or delete (2), one address.
    let mut argument = vec![0, 1, 0, 1, 0, 1 + (tag % 2) as u8];
    argument.extend(from.0);
    frame.truncate(24);
    frame.extend(argument);
    frame.resize(60, 0);
    frame
}

/// Promised for every signal.
const PROMPT: Duration = Duration::from_millis(100);

/// How long the answers to SIGUSR1 take, one after the other, as shares of what is promised; the quickest first. Where others want
/// the same CPU, control has its turn as everybody has: what it takes is compared with how slow all is then.
fn answers(target: &mut Target, count: usize) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let mut slow = slowdown()?;
    for _ in 0..count {
        let mark = target.process.mark();
        let asked = Instant::now();
        target.process.signal(Signal::SIGUSR1)?;
        let told = |line: &str| line.contains("exports are open");
        target.process.wait_for_after(mark, told, TIMEOUT)?;
        let took = asked.elapsed();
        // The rest of the report.
        let last = |line: &str| line.contains("eth0: served:");
        target.process.wait_for_after(mark, last, TIMEOUT)?;
        let before = std::mem::replace(&mut slow, slowdown()?);
        times.push(took.as_secs_f64() / (PROMPT.as_secs_f64() * before.max(slow)));
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times)
}

/// A busy machine delays some of them, and for a while perhaps most; whatever holds control up delays them all, each time.
fn are_prompt(times: &[f64]) -> bool {
    times[times.len() / 4] < 1.0
}

/// A config of so many exports in memory, which initiators may change.
fn many_exports(count: usize, image: &str) -> Result<String> {
    let mut text = String::from(
        "[defaults]\ninterfaces = [\"eth0\"]\nstore = \"ram\"\nread_only = true\nwire_admin = true\n",
    );
    for n in 0..count {
        let (shelf, slot) = (1 + n / 250, n % 250);
        writeln!(
            text,
            "[[export]]\nshelf = {shelf}\nslot = {slot}\npath = {image:?}"
        )?;
    }
    Ok(text)
}

#[test]
fn control_answers_at_once_with_thousands_of_exports_a_flood_and_reloads() -> Result<()> {
    needs!(Need::Root);
    const EXPORTS: usize = 4097;
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let config = image.directory().join("xblade.toml");
    std::fs::write(&config, many_exports(EXPORTS, image.as_str())?)?;
    let mut target = Target::ready(&lab.target, &daemon(image.directory())?, EXPORTS)?;
    let over = AtomicBool::new(false);
    let times = std::thread::scope(|scope| {
        let flood = scope.spawn(|| -> Result<()> {
            let initiator = lab.open(0)?;
            let mut tag = 0;
            while !over.load(Ordering::Relaxed) {
                let frames: Vec<Vec<u8>> = (0..64)
                    .map(|_| {
                        tag += 1;
                        mask_edit(lab::link::target_mac(0), initiator.mac(), tag)
                    })
                    .collect();
                initiator.send_many(&frames)?;
                initiator.drain()?;
            }
            Ok(())
        });
        let mut measured = || -> Result<Vec<f64>> {
            let mut times = Vec::new();
            for _ in 0..3 {
                target.process.signal(Signal::SIGHUP)?;
                times = answers(&mut target, 20)?;
                if are_prompt(&times) {
                    break;
                }
            }
            Ok(times)
        };
        let times = measured();
        over.store(true, Ordering::Relaxed);
        flood.join().expect("it does not panic")?;
        times
    })?;
    ensure!(
        are_prompt(&times),
        "answers after {times:.2?} of the promised time"
    );
    let mark = target.process.mark();
    target.process.signal(Signal::SIGTERM)?;
    let heard = |line: &str| line.contains("SIGTERM: finishing");
    target.process.wait_for_after(mark, heard, TIMEOUT)?;
    ensure!(target.process.wait(TIMEOUT)?.code() == Some(0));
    Ok(())
}

/// The threads of a process by name, and those of them that sleep for a time, as `/proc/PID/task/*/syscall` shows.
fn sleepers(pid: i32) -> Result<Vec<String>> {
    let clock_nanosleep = nix::libc::SYS_clock_nanosleep.to_string();
    let mut names = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let call = std::fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
        if call.split(' ').next() == Some(&clock_nanosleep) {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            names.push(name.trim().to_owned());
        }
    }
    Ok(names)
}

/// What starts in the target's namespace from now on has none.
fn forbid_membarrier(lab: &Lab) -> Result<()> {
    let filter = SeccompFilter::new(
        [(nix::libc::SYS_membarrier, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(nix::errno::Errno::ENOSYS as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    Ok(lab.target.run(move || seccompiler::apply_filter(&program))?)
}

/// Whether the port's thread sleeps for a time just now; control must not.
fn only_the_port_sleeps(pid: i32) -> Result<bool> {
    let names = sleepers(pid)?;
    ensure!(
        !names.iter().any(|name| name == "xblade"),
        "control sleeps: {names:?}"
    );
    Ok(names.iter().any(|name| name.starts_with("port ")))
}

/// Where membarrier(2) is missing, rules that went out of force are waited for by time: by the port's thread alone.
#[test]
fn rules_change_without_membarrier_and_control_does_not_sleep_for_it() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    forbid_membarrier(&lab)?;
    let image = Image::stamped(64)?;
    let export = |allow: &str| {
        let path = image.as_str();
        format!(
            "[[export]]\nshelf = 1\nslot = 1\npath = {path:?}\ninterfaces = [\"eth0\"]\nallow = [{allow}]\n"
        )
    };
    let initiator = lab.open(0)?;
    let (us, other) = (format!("\"{}\"", initiator.mac()), "\"02:00:00:00:00:77\"");
    let config = image.directory().join("xblade.toml");
    std::fs::write(&config, export(&us))?;
    let mut target = Target::ready(&lab.target, &daemon(image.directory())?, 1)?;
    let disk = initiator.find(E11)?;
    let control = target.process.pid();
    let (begin, mut seen) = (Instant::now(), 0);
    let mut allowed = us.clone();
    while seen < 5 {
        ensure!(
            begin.elapsed() < TIMEOUT,
            "the port's thread was never seen asleep"
        );
        allowed = if allowed == us {
            format!("{us}, {other}")
        } else {
            us.clone()
        };
        std::fs::write(&config, export(&allowed))?;
        let mark = target.process.mark();
        target.process.signal(Signal::SIGHUP)?;
        let reloaded = |line: &str| line.contains("was reloaded");
        while !target.process.log().lines().skip(mark).any(reloaded) {
            ensure!(begin.elapsed() < TIMEOUT, "no reload");
            seen += usize::from(only_the_port_sleeps(control)?);
        }
        for _ in 0..200 {
            seen += usize::from(only_the_port_sleeps(control)?);
        }
        ensure!(disk.read(5, 1)? == stamp(5), "who is allowed is served");
    }
    // The rules are in force: who is taken out hears nothing more.
    std::fs::write(&config, export(other))?;
    target.process.signal(Signal::SIGHUP)?;
    let query = || Request::query(lab::link::target_mac(0), E11, 0, b"");
    while initiator.ask(query()).is_ok() {
        ensure!(begin.elapsed() < 2 * TIMEOUT, "it is still served");
    }
    ensure!(target.process.stop()? == 0);
    Ok(())
}
