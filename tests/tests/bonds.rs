//! Interfaces that are made of others: bonds, a bridge over a bond, a VLAN device, macvlan, VXLAN. In a guest, because a machine's own
//! kernel may have none of them; xblade serves there, on veths whose other ends are bridged to the guest's card.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::image::pattern;
use lab::needs::Need;
use lab::vm::{Guest, Vm};
use lab::{Address, Initiator, Lab, Options, needs};

const E73: Address = Address::new(7, 3);
/// How long a request may be sent again and again: a bond that fails over loses some, and emulation is slow.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Sectors that are written and read back in a round.
const ROUND: u64 = 60;

/// Begins both scripts.
const COMMON: &str = r#"
# What led to it is in xblade's log.
fail() { echo; cat /tmp/log; echo "@@fail $*"; finish; }
serve() {
    name=$1; shift
    # Not what the one before said.
    rm -f /tmp/log
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
"#;

const KINDS: &str = r#"
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
must ip link del m0
must ip link add link w0 name i0 type ipvlan mode l2
must ip link set i0 up
# By the address of w0 it would hear broadcasts, and no request.
mustnt timeout 60 /opt/xblade serve 7 3 i0 /tmp/image
grep -q 'i0 is an ipvlan' /tmp/out || { cat /tmp/out; fail ipvlan; }
"#;

/// Each mode of a bond, with one cable pulled after the other while the test writes. Modes that send on all slaves have a bond of the
/// same mode at the other end, those that receive on one have a bridge.
const MODES: &str = r#"
peer() {
    must ip link add bond1 type bond miimon 100 "$@"
    for n in 0 1; do
        must ip link set p$n down
        must ip link set p$n nomaster
        must ip link set p$n master bond1
        must ip link set p$n up
    done
    must ip link set bond1 up
    must ip link set bond1 master br0
}
no_peer() {
    must ip link del bond1
    for n in 0 1; do
        must ip link set p$n master br0
        must ip link set p$n up
    done
}
pull() {
    for n in 0 1; do
        must ip link set p$n down
        within 20 grep -q down /sys/class/net/v$n/bonding_slave/mii_status
        ok $1-without-$n
        point $1-without-$n
        must ip link set p$n up
        within 20 grep -q up /sys/class/net/v$n/bonding_slave/mii_status
    done
}
for mode in balance-tlb balance-alb; do
    bond mode $mode
    serve $mode bond0
    pull $mode
    stop
    must ip link del bond0
done
for mode in balance-rr balance-xor broadcast 802.3ad; do
    bond mode $mode
    peer mode $mode
    serve $mode bond0
    pull $mode
    stop
    must ip link del bond0
    no_peer
done

bond mode active-backup
must ip link add br1 type bridge forward_delay 0 mcast_snooping 0
must ip link set bond0 master br1
must ip link set br1 up
serve bridge br1
pull bridge
stop

must mkdir -p /run /var/run
must ip netns add far
must ip link add u0 type veth peer name u1 netns far
must ip addr add 10.99.0.1/24 dev u0
must ip link set u0 up
must ip link add x0 type vxlan id 7 dstport 4789 local 10.99.0.1 remote 10.99.0.2 dev u0
must ip link set x0 up
must ip -n far addr add 10.99.0.2/24 dev u1
must ip -n far link set u1 up
must ip -n far link add x1 type vxlan id 7 dstport 4789 local 10.99.0.2 remote 10.99.0.1 dev u1
must ip -n far link add br2 type bridge forward_delay 0 mcast_snooping 0
must ip link add y0 type veth peer name y1 netns far
must ip link set y0 master br0
must ip link set y0 up
for device in x1 y1; do
    must ip -n far link set $device master br2
    must ip -n far link set $device up
done
must ip -n far link set br2 up
serve vxlan x0
stop
finish
"#;

/// Each runner of a team, which teamd chooses, with one cable pulled after the other while the test writes.
const TEAMS: &str = r#"
must mkdir -p /var/run/teamd
# team RUNNER NAME PORT PORT
team() {
    for port in $3 $4; do
        must ip link set $port nomaster
        must ip link set $port down
    done
    config='{"device": "'$2'", "runner": {"name": "'$1'"}, "link_watch": {"name": "ethtool"}, "ports": {"'$3'": {}, "'$4'": {}}}'
    must /opt/teamd -d -p /var/run/teamd/$2.pid -c "$config"
    must ip link set $2 up
}
no_team() { must /opt/teamd -k -t $1 -p /var/run/teamd/$1.pid; within 20 test ! -e /sys/class/net/$1; }
# As teamd knows it.
port_is() { /opt/teamnl team0 ports | grep -q " $1: $2"; }
pull() {
    for n in 0 1; do
        must ip link set p$n down
        within 20 port_is v$n down
        ok $1-without-$n
        point $1-without-$n
        must ip link set p$n up
        within 20 port_is v$n up
    done
}
for runner in activebackup roundrobin random loadbalance broadcast lacp; do
    # What sends on all ports, or receives on all, has a team of the same kind at the other end.
    case $runner in activebackup) ;; *) team $runner team1 p0 p1; must ip link set team1 master br0 ;; esac
    team $runner team0 v0 v1
    within 20 grep -q 1 /sys/class/net/team0/carrier
    serve $runner --mode auto team0
    pull $runner
    stop
    no_team team0
    case $runner in activebackup) ;; *) no_team team1 ;; esac
done
finish
"#;

/// Asks until it is answered.
fn patiently<T>(what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + TIMEOUT;
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

/// Waits till it is served in the mode that carries frames, and uses it.
fn served(vm: &mut Vm, initiator: &Initiator, name: &str) -> Result<()> {
    let ready = vm.expect(name)?;
    println!("{name}: {ready}");
    ensure!(ready.contains(": generic copy, "), "{name}: {ready}");
    vm.point(&format!("{name}-served"))?;
    verify(initiator, 0, word(name)).with_context(|| format!("on {name}: {ready}"))
}

/// Uses each of them while one cable after the other is pulled.
fn through_failures(vm: &mut Vm, initiator: &Initiator, names: &[&str]) -> Result<()> {
    // Each round writes something else.
    let mut words = (1..).map(u64::to_be_bytes);
    let mut next = move || words.next().unwrap_or_default();
    for name in names {
        served(vm, initiator, name)?;
        for slave in 0..2 {
            let without = format!("{name}-without-{slave}");
            vm.go()?;
            // The cable is pulled meanwhile.
            verify(initiator, 200, next()).with_context(|| format!("up to {without}"))?;
            vm.expect(&without)?;
            vm.point(&without)?;
            verify(initiator, 300, next()).with_context(|| without.clone())?;
        }
        vm.go()?;
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
    let guest = Guest::new(&[COMMON, KINDS].concat())
        .modules(&["veth", "bridge", "bonding", "8021q", "macvlan", "ipvlan"])
        .programs(&["ip"])
        .xblade(lab::target::binary()?);
    let mut vm = guest.boot(&lab)?;
    let initiator = Initiator::open(&lab.target, "eth0")?;

    served(&mut vm, &initiator, "active-backup")?;
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
        served(&mut vm, &initiator, name)?;
    }
    vm.go()?;
    vm.finish()
}

#[test]
fn every_mode_of_a_bond_is_served_while_its_slaves_fail() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::File("/bin/busybox")
    );
    let lab = Lab::new(Options::default())?;
    let guest = Guest::new(&[COMMON, MODES].concat())
        .modules(&["veth", "bridge", "bonding", "vxlan"])
        .programs(&["ip"])
        .xblade(lab::target::binary()?);
    let mut vm = guest.boot(&lab)?;
    let initiator = Initiator::open(&lab.target, "eth0")?;
    let bonds = [
        "balance-tlb",
        "balance-alb",
        "balance-rr",
        "balance-xor",
        "broadcast",
        "802.3ad",
        "bridge",
    ];
    through_failures(&mut vm, &initiator, &bonds)?;
    served(&mut vm, &initiator, "vxlan")?;
    vm.go()?;
    vm.finish()
}

#[test]
fn every_runner_of_a_team_is_served_while_its_ports_fail() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::Tool("teamd"),
        Need::File("/bin/busybox")
    );
    let lab = Lab::new(Options::default())?;
    let guest = Guest::new(&[COMMON, TEAMS].concat())
        .modules(&[
            "veth",
            "bridge",
            "team",
            "team_mode_activebackup",
            "team_mode_broadcast",
            "team_mode_loadbalance",
            "team_mode_random",
            "team_mode_roundrobin",
        ])
        .programs(&["ip", "teamd", "teamnl"])
        .xblade(lab::target::binary()?);
    let mut vm = guest.boot(&lab)?;
    let initiator = Initiator::open(&lab.target, "eth0")?;
    let runners = [
        "activebackup",
        "roundrobin",
        "random",
        "loadbalance",
        "broadcast",
        "lacp",
    ];
    through_failures(&mut vm, &initiator, &runners)?;
    vm.finish()
}

fn word(name: &str) -> [u8; 8] {
    let mut word = [b'.'; 8];
    // Where names differ.
    for (to, from) in word.iter_mut().zip(name.bytes().rev()) {
        *to = from;
    }
    word
}
