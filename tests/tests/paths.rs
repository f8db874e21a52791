//! Linux's aoe driver when paths and targets come and go under I/O.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::needs::Need;
use lab::vm::Guest;
use lab::{Image, Lab, Options, Target, needs};

/// Emulated machines are slow, and slower beside others.
const TIMEOUT: Duration = Duration::from_secs(300);

const NEEDS: [Need; 3] = [
    Need::Root,
    Need::Tool("qemu-system-x86_64"),
    Need::File("/bin/busybox"),
];

/// Four workers that write what they have just made up, read it back and compare, each in a region of its own.
const WORKERS: &str = r#"
disk=/dev/etherd/e1.1
worker() {
    n=0
    until [ -e /tmp/stop ]; do
        at=$(($1 * 64 + n % 64)); n=$((n + 1))
        dd if=/dev/urandom of=/tmp/w$1 bs=64k count=1 2>/dev/null
        dd if=/tmp/w$1 of=$disk bs=64k seek=$at oflag=direct 2>/tmp/error$1 || { echo "write $n: $(cat /tmp/error$1)" >/tmp/bad; return; }
        dd if=$disk of=/tmp/r$1 bs=64k skip=$at count=1 iflag=direct 2>/tmp/error$1 || { echo "read $n: $(cat /tmp/error$1)" >/tmp/bad; return; }
        cmp -s /tmp/w$1 /tmp/r$1 || { echo "round $n of worker $1 read something else" >/tmp/bad; return; }
        echo $n >/tmp/rounds$1
    done
}
start_workers() { rm -f /tmp/stop /tmp/bad; for w in 0 1 2 3; do echo 0 >/tmp/rounds$w; worker $w & done; }
stop_workers() {
    touch /tmp/stop; wait
    [ -e /tmp/bad ] && fail "$(cat /tmp/bad)"
    ok stopped $(cat /tmp/rounds0 /tmp/rounds1 /tmp/rounds2 /tmp/rounds3)
}
"#;

/// Frames that the target has received on link `n`.
fn received(lab: &Lab, n: u32) -> Result<u64> {
    Ok(lab
        .target
        .read(&format!("/sys/class/net/eth{n}/statistics/rx_packets"))?
        .trim()
        .parse()?)
}

/// Waits till `frames` more have come in on each of these links.
fn both_used(lab: &Lab, links: &[u32], frames: u64, patience: Duration) -> Result<bool> {
    let before: Vec<u64> = links.iter().map(|n| received(lab, *n)).collect::<Result<_>>()?;
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let now: Vec<u64> = links.iter().map(|n| received(lab, *n)).collect::<Result<_>>()?;
        if now
            .iter()
            .zip(&before)
            .all(|(now, before)| now - before >= frames)
        {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(false)
}

#[test]
fn two_paths_one_of_which_is_down_for_15_seconds() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let lab = Lab::new(Options {
        links: 2,
        ..Options::default()
    })?;
    let image = Image::sparse(1 << 16)?;
    let _target = Target::ready(&lab.target, &["serve", "1", "1", "eth0,eth1", image.as_str()], 2)?;
    let script = format!(
        "{WORKERS}must aoe_up\nwithin 5 test -b $disk\nsleep 1\nstart_workers\npoint working\nstop_workers"
    );
    let mut vm = Guest::new(&script).nics(2).boot(&lab)?;
    vm.point("working")?;
    ensure!(
        both_used(&lab, &[0, 1], 200, TIMEOUT)?,
        "the driver does not use both paths"
    );

    lab.set_carrier(0, false)?;
    let down = Instant::now();
    let goes_on = both_used(&lab, &[1], 200, TIMEOUT)?;
    std::thread::sleep(Duration::from_secs(15).saturating_sub(down.elapsed()));
    lab.set_carrier(0, true)?;
    ensure!(goes_on, "I/O stopped although one path was up");
    // The driver has given the path up and probes it now and then, by reads with a payload.
    ensure!(
        both_used(&lab, &[0, 1], 200, TIMEOUT)?,
        "the path that came back is not used again"
    );
    vm.go()?;
    println!("rounds: {}", vm.expect("stopped")?);
    vm.finish()
}

const ABSENCE: &str = r#"
must aoe_up aoe_deadsecs=20
within 5 test -b $disk
start_workers
point working
stop_workers
point gone
# Longer than aoe_deadsecs: the write fails and the device goes down.
mustnt dd if=/dev/zero of=$disk bs=512 count=1 oflag=direct
grep -q 'Input/output error' /tmp/out || { cat /tmp/out; fail no EIO; }
point back
read_some() { dd if=$disk of=/tmp/some bs=64k count=1 iflag=direct; }
revived() { echo >/dev/etherd/discover; sleep 0.5; read_some; }
within 20 revived
dd if=/dev/urandom of=/tmp/new bs=64k count=1 2>/dev/null
must dd if=/tmp/new of=$disk bs=64k oflag=direct
must read_some
must cmp /tmp/new /tmp/some
ok usable
"#;

#[test]
fn a_target_that_is_gone_for_a_while() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let lab = Lab::new(Options::default())?;
    let image = Image::sparse(1 << 16)?;
    let args = ["serve", "1", "1", "eth0", image.as_str()];
    let mut target = Target::ready(&lab.target, &args, 1)?;
    let mut vm = Guest::new(&format!("{WORKERS}{ABSENCE}")).boot(&lab)?;
    vm.point("working")?;
    for round in 0..3 {
        ensure!(
            both_used(&lab, &[0], 200, TIMEOUT)?,
            "round {round}: I/O does not go on"
        );
        target.process.kill()?;
        std::thread::sleep(Duration::from_secs(2));
        target = Target::ready_again(&lab.target, &args, 1)?;
    }
    ensure!(both_used(&lab, &[0], 200, TIMEOUT)?, "I/O does not go on");
    vm.go()?;
    println!("rounds: {}", vm.expect("stopped")?);
    vm.point("gone")?;
    target.process.kill()?;
    vm.go()?;
    vm.point("back")?;
    let _target = Target::ready_again(&lab.target, &args, 1)?;
    vm.go()?;
    vm.expect("usable")?;
    vm.finish()
}
