//! Requests of a few bytes whose answers cost much.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::link::{initiator_mac, target_mac};
use lab::needs::Need;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Reply, Request, Stopwatch, Target, eventually, needs};

use super::load::source;
use super::{NEEDS, Served, Site, TIMEOUT, bad};

/// READ VERIFY EXT.
const VERIFY: u8 = 0x42;
/// MiB that one of them is about at most.
const MOST_MIB: usize = 32;

/// As many in a quarter of a second as a member that sends 500 a second does.
fn verifies(served: &Served) -> Result<()> {
    let mut frames = Vec::new();
    for n in 0..125 {
        // A count of zero: 65 536 sectors.
        let mut verify = Request::ata(target_mac(0), bad(0), VERIFY, n, 0, &[]);
        (verify.src, verify.tag) = (source(0), 0x8400_0000 + n as u32);
        frames.push(verify.bytes());
    }
    served.lab.open(0)?.send_many(&frames)
}

/// By a member that may only read. What is verified is in memory, so that nothing is waited for: only processors are shared.
#[test]
fn verifies_of_what_is_in_memory_leave_their_part_to_others() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let image = Image::sparse(((MOST_MIB + 1) << 11) as u64)?;
    let site = Site {
        lines: "",
        ..Site::default()
    };
    let mut served = Served::over(site, 8, |_, _| {
        let (may_write, may_read) = (initiator_mac(0), source(0));
        let lines = format!("allow = [\"{may_write}\", {{ mac = \"{may_read}\", access = \"ro\" }}]\n");
        Ok(vec![(image.path().to_owned(), lines)])
    })?;
    let verified = |served: &Served| -> Result<()> {
        let initiator = served.lab.open(0)?;
        let watch = Stopwatch::start()?;
        initiator.find(bad(0))?.read(9, 1)?;
        let took = watch.idle_time()?;
        ensure!(took < TIMEOUT / 6, "the verified export itself: {took:?}");
        Ok(())
    };
    let press = |served: &Served| {
        verifies(served)?;
        verified(served)
    };
    served.keeps(25, |_| Ok(()), press, |_, _| true)?;
    served.target.process.stop()?;
    Ok(())
}

#[test]
fn verifies_of_what_is_on_a_slow_disk_cost_its_own_export_only() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for lines in [super::DIRECT, "flush_interval = \"100ms\"\n"] {
        let mut served = Served::new(Site {
            mib: MOST_MIB + 1,
            lines,
            ..Site::default()
        })?;
        // What is read has to be copied as well, which takes its part of two processors.
        let press = |served: &Served| {
            served.disk.switches().request_us.store(2000, Ordering::Relaxed);
            verifies(served)
        };
        served.keeps(
            60,
            |_| Ok(()),
            press,
            |calm, loaded| loaded <= calm * 4 + Duration::from_micros(100),
        )?;
        served.target.process.stop()?;
    }
    Ok(())
}

/// Exports that everybody may see.
const EXPORTS: u64 = 1001;
/// What a port answers in a second, where nobody is named: eight times everything, and what it advertises instead.
const A_SECOND: u64 = 8 * EXPORTS + EXPORTS / 2;

/// Frames that have come to the initiator's end.
fn received(lab: &Lab) -> Result<u64> {
    let link = lab.initiator.ip("-s -j link show eth0")?;
    let at = link.find("\"rx\":").context("no counters")?;
    let packets = link[at..].split("\"packets\":").nth(1).context("no packets")?;
    let digits: String = packets.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

/// Questions by a wildcard, each from another source, so many a second, until that is over.
fn forge(lab: &Lab, a_second: u32, is_over: impl Fn() -> bool) -> Result<()> {
    let initiator = lab.open(0)?;
    let begin = Instant::now();
    for n in 0.. {
        if is_over() {
            break;
        }
        let mut query = Request::query(Mac::BROADCAST, Address::ALL, 0, b"");
        (query.src, query.tag) = (Mac::from_u64(0x0200_0100_0000 | u64::from(n)), n);
        initiator.send(&query.bytes())?;
        let next = begin + Duration::from_secs(1) * n / a_second;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Waits until nobody is advertised to any more. Silence shows in nothing but time: an export is advertised once a second at most, so
/// that one which is to be advertised again is heard within that time.
fn is_quiet(lab: &Lab) -> Result<()> {
    const SILENCE: Duration = Duration::from_millis(1500);
    let mut last = received(lab)?;
    eventually("the target is quiet", TIMEOUT, || {
        std::thread::sleep(SILENCE);
        let now = received(lab)?;
        Ok(std::mem::replace(&mut last, now) == now)
    })
}

/// Frames that the port has taken, and such that it has sent.
fn traffic(target: &Target) -> Result<(f64, f64)> {
    let of = |name: &str| {
        target.metric(&format!(
            "xblade_queue_{name}_total{{interface=\"eth0\",queue=\"0\"}}"
        ))
    };
    Ok((of("frames")?, of("replies")?))
}

/// Waits until questions are left without an answer, with all that is asked for more than a worker takes at a time.
fn are_left_unanswered(target: &Target) -> Result<()> {
    const AT_A_TIME: f64 = 128.0;
    let before = traffic(target)?;
    eventually("what may be answered at once is used up", TIMEOUT, || {
        let now = traffic(target)?;
        let (taken, sent) = (now.0 - before.0, now.1 - before.1);
        Ok((taken - AT_A_TIME) * EXPORTS as f64 > sent)
    })
}

/// Everything that a new client learns of that asks once.
fn discovered(lab: &Lab) -> Result<HashSet<(u16, u8)>> {
    let initiator = lab.open(0)?;
    let client = Mac([2, 0, 0, 0, 0x77, 1]);
    let mut query = Request::query(Mac::BROADCAST, Address::ALL, 0, b"");
    (query.src, query.tag) = (client, 0x0700_0000);
    initiator.send(&query.bytes())?;
    let (mut seen, begin) = (HashSet::new(), Instant::now());
    while seen.len() < EXPORTS as usize && begin.elapsed() < TIMEOUT {
        if let Some(frame) = initiator.receive(Duration::from_millis(100))?
            && let Ok(reply) = Reply::parse(&frame)
            && [client, Mac::BROADCAST].contains(&reply.dst)
        {
            seen.insert((reply.address.shelf, reply.address.slot));
        }
    }
    Ok(seen)
}

#[test]
fn questions_from_forged_sources_make_no_flood_and_keep_nobody_from_discovering() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::sparse(EXPORTS * 8)?;
    let mut text = String::from("[defaults]\ninterfaces = [\"eth0\"]\n");
    for n in 0..EXPORTS {
        let (shelf, slot, offset) = (1 + n / 16, n % 16, n * 8);
        write!(
            text,
            "[[export]]\nshelf = {shelf}\nslot = {slot}\npath = {:?}\noffset = {offset}\nlength = 8\n",
            image.path()
        )?;
    }
    std::fs::write(image.directory().join("xblade.toml"), text)?;
    let mut target = Target::ready(&lab.target, &daemon(image.directory())?, EXPORTS as usize)?;
    is_quiet(&lab)?;

    let (before, begin) = (received(&lab)?, Instant::now());
    forge(&lab, 300, || begin.elapsed() > Duration::from_secs(3))?;
    let (sent, took) = (received(&lab)? - before, begin.elapsed());
    // What it may answer at once, and what comes after that.
    let most = A_SECOND + EXPORTS + (A_SECOND as f64 * took.as_secs_f64()) as u64;
    println!("{sent} frames in {took:?}, at most {most}");
    ensure!(sent > EXPORTS, "nobody is answered: {sent}");
    ensure!(sent < most, "{sent} frames in {took:?}");

    let over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let flood = scope.spawn(|| forge(&lab, 1500, || over.load(Ordering::Relaxed)));
        let seen = are_left_unanswered(&target).and_then(|()| discovered(&lab));
        over.store(true, Ordering::Relaxed);
        flood.join().expect("it does not panic")?;
        seen
    })?;
    ensure!(
        seen.len() == EXPORTS as usize,
        "{} of {EXPORTS} are discovered",
        seen.len()
    );
    ensure!(lab.open(0)?.find(Address::new(1, 1))?.read(0, 1)? == [0; 512]);
    ensure!(target.process.stop()? == 0);
    Ok(())
}
