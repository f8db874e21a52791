//! Interfaces that are made of others: bonds, a bridge over a bond, a VLAN device, macvlan. In a guest, because a machine's own
//! kernel may have none of them; xblade serves there, on veths whose other ends are bridged to the guest's card.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::image::pattern;
use lab::needs::Need;
use lab::vm::Guest;
use lab::{Address, Initiator, Lab, Options, needs};

const E73: Address = Address::new(7, 3);
/// How long a request may be sent again and again: a bond that fails over loses some, and emulation is slow.
const PATIENCE: Duration = Duration::from_secs(120);
/// Sectors that are written and read back in a round.
const ROUND: u64 = 60;

const SCRIPT: &str = r#"
# What led to it is in xblade's log.
fail() { echo; cat /tmp/log; echo "@@fail $*"; finish; }
serve() {
    name=$1; shift
    /opt/xblade serve 7 3 "$@" /tmp/image >/tmp/log 2>&1 &
    xblade=$!
    within 100 grep -q ' ready' /tmp/log
    ok $name $(grep ' ready' /tmp/log | tail -n 1)
    # One line: why it is not native.
    echo "@@reasons $(grep -c 'carries no frames' /tmp/log) $(grep 'carries no frames' /tmp/log)"
    point $name-served
}
stop() { kill $xblade; wait $xblade; }
bond() {
    must ip link add bond0 type bond miimon 100 "$@"
    must ip link set v0 down
    must ip link set v1 down
    must ip link set v0 master bond0
    must ip link set v1 master bond0
    must ip link set bond0 up
    must ip link set v0 up
    must ip link set v1 up
    within 20 grep -q 1 /sys/class/net/bond0/carrier
}

truncate -s 1M /tmp/image
ip link del bond0 2>/dev/null
must ip link add br0 type bridge forward_delay 0 mcast_snooping 0
must ip link set eth0 master br0
must ip link set br0 up
for n in 0 1; do
    must ip link add v$n type veth peer name p$n
    must ip link set p$n up
    must ip link set p$n master br0
done

bond mode active-backup
serve active-backup --mode auto bond0
# The test writes meanwhile.
active=$(cat /sys/class/net/bond0/bonding/active_slave)
must ip link set p${active#v} down
within 20 grep -qv $active /sys/class/net/bond0/bonding/active_slave
ok failed-over
point written-over
must ip link set p${active#v} up
# A slave goes and comes back.
other=$(cat /sys/class/net/bond0/bonding/active_slave)
must ip link set $other nomaster
must ip link set $other master bond0
must ip link set $other up
ok slaves-changed
point written-again
stop
serve copy --mode copy bond0
stop

must ip link add br1 type bridge forward_delay 0 mcast_snooping 0
must ip link set bond0 master br1
must ip link set br1 up
serve bridge br1
stop
must ip link del br1
must ip link del bond0

# The other ends as a bond, too: nobody gets a broadcast twice.
bond mode 802.3ad
must ip link add bond1 type bond miimon 100 mode 802.3ad
for n in 0 1; do
    must ip link set p$n down
    must ip link set p$n nomaster
    must ip link set p$n master bond1
done
must ip link set bond1 up
must ip link set bond1 master br0
serve 802.3ad bond0
stop
must ip link del bond0
must ip link del bond1

must ip link add w0 type veth peer name w1
must ip link set w0 up
must ip link set w1 up
must ip link add link w0 name w0.5 type vlan id 5
must ip link add link w1 name w1.5 type vlan id 5
must ip link set w0.5 up
must ip link set w1.5 up
must ip link set w1.5 master br0
serve vlan w0.5
stop
must ip link set w1.5 nomaster
must ip link set w1 master br0
must ip link add link w0 name m0 type macvlan mode bridge
must ip link set m0 up
serve macvlan m0
stop
"#;

/// Asks until it is answered.
fn patiently<T>(what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= deadline => bail!("{what}: {error:#}"),
            Err(_) => {}
        }
    }
}

/// Writes a run of sectors and reads it back.
fn verify(initiator: &Initiator, first: u64, word: [u8; 8]) -> Result<()> {
    let disk = patiently("finding it", || initiator.find(E73))?;
    for lba in first..first + ROUND {
        patiently("a write", || disk.write(lba, &pattern(lba, word)))?;
    }
    for lba in first..first + ROUND {
        let read = patiently("a read", || disk.read(lba, 1))?;
        ensure!(read == pattern(lba, word), "sector {lba} has something else");
    }
    Ok(())
}

#[test]
fn interfaces_made_of_others_are_served_in_a_mode_that_works() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::File("/bin/busybox")
    );
    let lab = Lab::new(Options::default())?;
    let guest = Guest::new(SCRIPT)
        .modules(&["veth", "bridge", "bonding", "8021q", "macvlan"])
        .programs(&["ip"])
        .xblade(lab::target::binary()?);
    let mut vm = guest.boot(&lab)?;
    let initiator = Initiator::open(&lab.target, "eth0")?;
    let served = |vm: &mut lab::vm::Vm, name: &str| -> Result<()> {
        let ready = vm.expect(name)?;
        println!("{name}: {ready}");
        vm.point(&format!("{name}-served"))?;
        verify(&initiator, 0, word(name)).with_context(|| format!("on {name}: {ready}"))
    };

    served(&mut vm, "active-backup")?;
    let log = vm.log();
    let reasons = log.lines().find(|line| line.starts_with("@@reasons"));
    let reasons = reasons.context("no reasons")?;
    ensure!(
        reasons.contains("@@reasons 1") && reasons.contains("bond0"),
        "{reasons}"
    );
    vm.go()?;
    verify(&initiator, 200, *b"failover")?;
    vm.expect("failed-over")?;
    vm.point("written-over")?;
    verify(&initiator, 300, *b"overmore")?;
    vm.go()?;
    vm.expect("slaves-changed")?;
    vm.point("written-again")?;
    verify(&initiator, 400, *b"withagai")?;
    for name in ["copy", "bridge", "802.3ad", "vlan", "macvlan"] {
        vm.go()?;
        served(&mut vm, name)?;
    }
    vm.go()?;
    vm.finish()
}

fn word(name: &str) -> [u8; 8] {
    let mut word = [b'.'; 8];
    for (to, from) in word.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    word
}
