//! The same with Linux's driver in a virtual machine: fio verifies what it writes, and beside it a writer stamps eight blocks by turns, each
//! write after the one before was acknowledged.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use lab::capture::Captured;
use lab::needs::Need;
use lab::slowdown;
use lab::vm::{Guest, Vm, guest_mac};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::site::{GROUP, own_mac};
use super::*;

/// Half of all events may keep a request waiting for so long, which is what is promised.
const USUAL_WAIT: Duration = Duration::from_secs(4);
/// For so long nobody may be served: twice what it takes on a machine that has no other work.
const LONGEST_SILENCE: Duration = Duration::from_secs(8);
/// For so long a request may wait, besides the driver's own time till it sends again: the guest is emulated, and gets its CPU late as well. Less than
/// the 16.5 s of a disk that nobody has open.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A gateway that lost Ceph answers for 1 s, which is its lease, and this is twice as much.
const LONGEST_UNPROVEN: Duration = Duration::from_secs(2);

const SCRIPT: &str = r#"
disk=/dev/etherd/e1.1
must aoe_up aoe_deadsecs=0
within 30 test -b $disk
must mount -t debugfs debug /sys/kernel/debug
echo 0 >/tmp/longest
# Somebody has it open all the time, as a file system has: with each last close the driver looks for the disk anew, and its timers begin at 16 s.
exec 9<$disk

# Stamp n goes to block n mod 8 of those behind fio's.
stamp() { printf 'stamp%011d' $1 | dd of=/tmp/block bs=4096 conv=sync 2>/dev/null; }
stamps() {
    n=1
    while [ ! -e /tmp/stop ]; do
        stamp $n
        began=$(now)
        dd if=/tmp/block of=$disk bs=4096 seek=$((8192 + n % 8)) oflag=direct conv=notrunc 2>/tmp/dd || fail stamp $n: $(cat /tmp/dd)
        took=$(($(now) - began))
        [ $took -gt $(cat /tmp/longest) ] && echo $took >/tmp/longest
        echo $n >/tmp/stamped
        n=$((n + 1))
    done
    touch /tmp/stamps-end
}
verify() {
    while [ ! -e /tmp/stop ]; do
        fio --name=v --filename=$disk --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=4k --size=2m --verify=crc32c \
            --do_verify=1 --verify_fatal=1 </dev/null >/tmp/fio 2>&1 || { cat /tmp/fio; fail fio; }
        grep -q 'err= 0' /tmp/fio || { cat /tmp/fio; fail fio; }
        echo x >>/tmp/verified
    done
    touch /tmp/verify-end
}
verified() { [ "$(wc -l </tmp/verified)" -ge $1 ]; }
stamped() { [ "$(cat /tmp/stamped)" -ge $1 ]; }
# After so many milliseconds the driver sends a request again.
again() { set -- $(grep rttavg /sys/kernel/debug/aoe/e1.1); echo $((($2 * 2 + $4 * 8) / 1000)); }
settled() { [ $(again) -lt 2000 ]; }
# Something happens to a gateway while all this goes on; some writes later it is over.
through() {
    within 60 settled
    # It is captured from here on: at least one write is answered before anything happens.
    point before_$1
    within 60 stamped $(($(cat /tmp/stamped) + 2))
    echo 0 >/tmp/longest
    again=$(again)
    point $1
    within 60 stamped $(($(cat /tmp/stamped) + 10))
    within 60 verified $(($(wc -l </tmp/verified) + 1))
    ok $1 $(cat /tmp/longest)0 $again
}

stamps &
verify &
within 60 test -e /tmp/stamped
within 60 test -e /tmp/verified
for event in killed stopped ended cut without_ceph deaf; do through $event; done
touch /tmp/stop
within 60 test -e /tmp/stamps-end
within 60 test -e /tmp/verify-end
last=$(cat /tmp/stamped)
for n in 0 1 2 3 4 5 6 7; do
    stamp $((last - n))
    dd if=$disk of=/tmp/back bs=4096 skip=$((8192 + (last - n) % 8)) count=1 iflag=direct 2>/dev/null
    cmp /tmp/block /tmp/back || fail stamp $((last - n)) is lost: $(head -c 16 /tmp/back)
done
ok stamps $last
[ "$(dmesg | grep -c 'I/O error')" = 0 ] || fail errors
"#;

/// The guest, and the gateways.
struct Trial<'a> {
    site: &'a Site,
    vm: Vm,
    /// How long a write waited at each event, as far as that was not the machine's doing.
    waits: Vec<Duration>,
}

/// The hub's port to each gateway.
const PORTS: [&str; 2] = ["ga", "gb"];

/// When the guest was answered through the port of a gateway. The switch knows where the guest is, so that what another gateway answers
/// does not pass by there.
fn answers(captured: &Captured) -> Result<Vec<Duration>> {
    let to_guest = |frame: &[u8]| frame[..6] == guest_mac(0).0 && frame[6..12] == GROUP.0;
    let frames = captured.timed_frames()?.into_iter();
    Ok(frames
        .filter(|(_, frame)| to_guest(frame))
        .map(|(time, _)| time)
        .collect())
}

impl Trial<'_> {
    /// Something happens to a gateway, and the other is to take its place; `afterwards` the first one is as it was, as far as it can be.
    /// Says how long after the event the first one still answered.
    fn through(
        &mut self,
        event: &str,
        (standby, number): (&Target, usize),
        happens: impl FnOnce() -> Result<()>,
        afterwards: impl FnOnce() -> Result<()>,
    ) -> Result<Duration> {
        let port = PORTS[number];
        let hub = &self.site.net.hub;
        self.vm.point(&format!("before_{event}"))?;
        let first = Capture::start(hub, PORTS[1 - number])?;
        let heard = Capture::start(hub, port)?;
        self.vm.go()?;
        self.vm.point(event)?;
        says_nothing(&heard.stop()?, number).with_context(|| event.to_owned())?;

        let second = Capture::start(hub, port)?;
        let began = Instant::now();
        happens()?;
        let happened = SystemTime::now().duration_since(UNIX_EPOCH)?;
        wait_for_role(standby, "active")?;
        let silence = began.elapsed();
        self.vm.go()?;
        let told = self.vm.expect(event)?;
        let mut told = told
            .split(' ')
            .map(|word| word.parse().map(Duration::from_millis));
        let mut next = || told.next().context("two times")?.context("a time");
        let (longest, again) = (next()?, next()?);
        afterwards()?;
        let [first, second] = [first, second].map(|capture| answers(&capture.stop()?));
        let (last, next) = (first?.last().copied(), second?.first().copied());
        let last = last.with_context(|| format!("{event}: it did not answer before"))?;
        let next = next.with_context(|| format!("{event}: the other one does not answer"))?;
        let answered = last.saturating_sub(happened);
        println!(
            "{event}: served again after {silence:.1?}; a write waited {longest:?}; on its own the driver sends again after {again:?}; \
             it answered for {answered:.1?}"
        );
        let slow = slowdown()?;
        self.waits.push(longest.saturating_sub(2 * again).div_f64(slow));
        ensure!(
            silence.div_f64(slow) < LONGEST_SILENCE && longest.div_f64(slow) < LONGEST_WAIT + 2 * again,
            "{event}: {silence:?}, a write took {longest:?}:\n{}",
            standby.process.log()
        );
        ensure!(last < next, "{event}: both answer, for {:?}", last - next);
        Ok(answered)
    }
}

impl Trial<'_> {
    /// All stamps are there, and writes have not waited long.
    fn finish(mut self) -> Result<()> {
        let stamps = self.vm.expect("stamps")?;
        println!("{stamps} stamps");
        self.waits.sort_unstable();
        let usual = self.waits[self.waits.len() / 2];
        ensure!(usual < USUAL_WAIT, "writes wait too long: {:?}", self.waits);
        self.vm.finish()
    }
}

/// While a gateway stands by, all that it says is to ask for the one that serves.
fn says_nothing(heard: &Captured, number: usize) -> Result<()> {
    let frames = heard.frames()?;
    // What goes to the guest does not pass by here, but for what comes from here.
    let says = |frame: &&Vec<u8>| frame[6..12] == own_mac(number as u8).0 || frame[..6] == guest_mac(0).0;
    let asks = |frame: &&Vec<u8>| frame[..6] == GROUP.0 && frame[14] & 8 == 0 && frame[19] == 1;
    let said = frames.iter().filter(says).find(|frame| !asks(frame));
    ensure!(said.is_none(), "a standby says {said:x?}");
    ensure!(frames.iter().any(|frame| asks(&frame)), "it does not ask");
    Ok(())
}

#[test]
fn linux_loses_nothing_whatever_happens_to_the_active_gateway() -> Result<()> {
    needs!(
        NEEDS[0],
        NEEDS[1],
        NEEDS[2],
        NEEDS[3],
        NEEDS[4],
        Need::Tool("qemu-system-x86_64"),
        Need::File("/bin/busybox"),
        Need::Tool("fio"),
        Need::Tool("dumpcap")
    );
    let site = Site::new()?;
    let mut a = site.start(0)?;
    wait_for_role(&a, "active")?;
    let mut b = standby(&site, 1)?;
    let vm = Guest::new(SCRIPT)
        .programs(&["fio"])
        .boot_in(&site.net.initiators)?;
    let waits = Vec::new();
    let mut trial = Trial {
        site: &site,
        vm,
        waits,
    };

    trial.through("killed", (&b, 1), || a.process.kill(), || Ok(()))?;
    a = standby(&site, 0)?;

    // It wakes up when the other one has long been writing, and says no more.
    let mark = b.process.mark();
    let pid = b.process.pid();
    let signal = |signal| Ok(kill(Pid::from_raw(pid), signal)?);
    trial.through(
        "stopped",
        (&a, 0),
        || signal(Signal::SIGSTOP),
        || {
            signal(Signal::SIGCONT)?;
            let is_over = |line: &str| line.contains("standing by");
            b.process.wait_for_after(mark, is_over, TIMEOUT).map(drop)
        },
    )?;
    // A gateway that lost the group leaves it alone for a minute; a new one does not.
    b.process.kill()?;
    b = standby(&site, 1)?;

    trial.through("ended", (&b, 1), || stop(a), || Ok(()))?;
    a = standby(&site, 0)?;

    trial.through(
        "cut",
        (&a, 0),
        || site.net.connect_initiators(1, false),
        || {
            wait_for_role(&b, "standby")?;
            site.net.connect_initiators(1, true)
        },
    )?;
    b.process.kill()?;
    b = standby(&site, 1)?;
    loses_ceph(&mut trial, a, &b)?;
    a = standby(&site, 0)?;
    do_not_hear_each_other(&mut trial, &a, &b)?;
    trial.finish()
}

/// Starts a gateway, which hears the other one.
fn standby(site: &Site, number: usize) -> Result<Target> {
    let target = site.start(number)?;
    wait_for_role(&target, "standby")?;
    eventually("the other one heard", TIMEOUT, || Ok(role(&target)?.1.is_empty()))?;
    Ok(target)
}

/// The first gateway loses Ceph, and the initiators still reach it, with writes inside librbd; Ceph comes back when they are old.
fn loses_ceph(trial: &mut Trial<'_>, mut first: Target, second: &Target) -> Result<()> {
    let net = &trial.site.net;
    let mark = first.process.mark();
    let answered = trial.through(
        "without_ceph",
        (second, 1),
        || net.connect_ceph(0, false),
        || {
            net.connect_ceph(0, true)?;
            let is_over = |line: &str| line.contains("standing by");
            first.process.wait_for_after(mark, is_over, TIMEOUT).map(drop)
        },
    )?;
    ensure!(
        answered < LONGEST_UNPROVEN,
        "without Ceph it answers for {answered:?}"
    );
    first.process.kill()
}

/// Both are well. The one that stands by takes the group; the other one leaves it alone for a minute.
fn do_not_hear_each_other(trial: &mut Trial<'_>, standby: &Target, active: &Target) -> Result<()> {
    let net = &trial.site.net;
    let is_held = || -> Result<()> {
        wait_for_role(active, "standby")?;
        let held = active.ask(&["failover", "status", "--columns", "role,held"])?;
        let held = String::from_utf8_lossy(&held.stdout).into_owned();
        ensure!(held.contains("standby") && !held.contains(" -"), "{held}");
        ensure!(role(standby)?.0 == "active");
        net.connect_gateways(true)
    };
    trial.through("deaf", (standby, 0), || net.connect_gateways(false), is_held)?;
    Ok(())
}
