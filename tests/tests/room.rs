//! A room of machines without disks: DHCP by dnsmasq, one golden image, a private copy for each machine. Each boots Debian's kernel by iPXE and GRUB
//! from the image, writes, shuts down clean and boots again; xblade is killed and started again while they boot.
//!
//! Three machines, two at a time; eight where `XBLADE_SOAK_MINUTES` (`cargo xtask test --soak N`) is half an hour or more, and as many as
//! `XBLADE_ROOM_MACHINES` says.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use aoe_common::Mac;
use lab::initiator::TIMEOUT;
use lab::needs::Need;
use lab::target::daemon;
use lab::vm::{self, boot_disk};
use lab::{Lab, Options, Process, Target, needs};

/// What the golden image's partition is called where Linux runs on it.
const ROOT: &str = "/dev/etherd/e12.9p1";
const IMAGE_MIB: u64 = 64;
/// Who has so much time for the soak test has it for eight machines.
const LONG_FORM_MINUTES: f64 = 30.0;

/// The first program on the golden image: says whether it finds what its machine wrote the last time, writes, and boots again.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox mkdir /tmp/bin
/bin/busybox --install -s /tmp/bin
export PATH=/tmp/bin
fail() { echo; echo "@@fail $*"; dmesg | tail -n 20; poweroff -f; sleep 60; }
grep -q '^/dev/etherd/e12.9p1 / ext4 rw' /proc/mounts || fail "the root is $(grep ' / ' /proc/mounts)"
dmesg | grep -q 'recovery complete' && fail "the file system was not clean"
me=$(cat /sys/class/net/eth0/address)
sum() { sha256sum </data | cut -d' ' -f1; }
if [ -e /written ]; then
    read -r who before </written
    [ "$who" = "$me" ] || fail "$me finds what $who wrote"
    [ "$(sum)" = "$before" ] || fail "the file is not what it was"
    echo; echo "@@ok found"
else
    echo; echo "@@ok new"
    dd if=/dev/urandom of=/data bs=64k count=48 2>/dev/null
    echo "$me $(sum)" >/written
fi
sync
mount -o remount,ro / || fail remount
echo; echo "@@ok clean"
reboot -f
sleep 60
"#;

/// A machine of the room.
#[derive(Debug, Clone)]
struct Machine {
    name: String,
    number: u8,
    persistent: bool,
}

impl Machine {
    fn mac(&self) -> Mac {
        Mac([2, 0, 0, 0xae, 1, self.number])
    }
}

struct Room {
    lab: Lab,
    directory: tempfile::TempDir,
    machines: Vec<Machine>,
}

impl Room {
    fn new(machines: u8) -> Result<Room> {
        let directory = tempfile::Builder::new().prefix("xblade-room-").tempdir()?;
        let room = Room {
            lab: Lab::new(Options::default())?,
            directory,
            machines: (1..=machines)
                .map(|number| Machine {
                    // The order of names is that of numbers.
                    name: format!("pc{number:02}"),
                    number,
                    persistent: number == 2,
                })
                .collect(),
        };
        boot_disk::make(&room.golden(), IMAGE_MIB, ROOT, INIT)?;
        vm::bridge(&room.lab.initiator, 0, 1500)?;
        Ok(room)
    }

    fn golden(&self) -> PathBuf {
        self.directory.path().join("golden.raw")
    }

    /// Writes a file beside the image.
    fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("odd path")?.to_owned())
    }

    fn xblade(&self) -> Result<Target> {
        let mut text = format!(
            "[[export]]\nshelf = 12\nslot = 9\npath = {:?}\ninterfaces = [\"eth0\"]\noverlay = \"volatile\"\n\
             overlay_dir = \"overlays\"\noverlay_limit = \"32MiB\"\nunknown = \"refuse\"\n",
            self.golden()
        );
        for machine in &self.machines {
            writeln!(
                text,
                "[[machine]]\nname = {:?}\nmacs = [\"{}\"]",
                machine.name,
                machine.mac()
            )?;
            if machine.persistent {
                text += "overlay = \"persistent\"\n";
            }
        }
        self.file("xblade.toml", &text)?;
        Target::ready_again(&self.lab.target, &daemon(self.directory.path())?, 1)
    }

    fn dhcp(&self) -> Result<Process> {
        self.lab.target.ip("addr add 10.9.8.2/24 dev eth0")?;
        let leases = self.file("leases", "")?;
        let text = format!(
            "port=0\ninterface=eth0\nbind-interfaces\ndhcp-range=10.9.8.10,10.9.8.99\ndhcp-option=17,aoe:e12.9\n\
             no-ping\ndhcp-leasefile={leases}\npid-file=\nuser=root\nlog-facility=-\n"
        );
        let config = self.file("dnsmasq.conf", &text)?;
        let mut server = Process::spawn(
            &self.lab.target,
            "dnsmasq",
            &["--keep-in-foreground", &format!("--conf-file={config}")],
        )?;
        server.wait_for("started", TIMEOUT)?;
        Ok(server)
    }

    /// Switches a machine on: a card that iPXE boots from, and no disk.
    fn switch_on(&self, machine: &Machine) -> Result<Running> {
        let (ns, tap) = (&self.lab.initiator, format!("pc{}", machine.number));
        ns.ip(&format!("tuntap add {tap} mode tap"))?;
        ns.ip(&format!("link set {tap} master br0 up"))?;
        let mut args = vm::machine(256);
        args.retain(|arg| arg != "-no-reboot");
        args.extend(["-boot", "n", "-netdev"].map(str::to_owned));
        args.push(format!("tap,id=net,ifname={tap},script=no,downscript=no"));
        args.push("-device".to_owned());
        args.push(format!(
            "virtio-net-pci,netdev=net,mac={},host_mtu=1500",
            machine.mac()
        ));
        Ok(Running {
            machine: machine.clone(),
            process: vm::spawn(&self.lab.initiator, &args)?,
            mark: 0,
            since: Instant::now(),
        })
    }
}

/// A machine that is on.
struct Running {
    machine: Machine,
    process: Process,
    mark: usize,
    since: Instant,
}

impl Running {
    /// Waits for a word of GRUB's or of the guest's.
    fn says(&mut self, word: &str) -> Result<()> {
        let wanted = format!("@@ok {word}");
        let name = &self.machine.name;
        let accept = |line: &str| line.contains("@@fail") || line.contains(&wanted);
        let (at, line) = self
            .process
            .wait_for_after(self.mark, accept, vm::STEP)
            .with_context(|| format!("{name} did not say {word:?}"))?;
        if line.contains("@@fail") {
            bail!("{name} says {line:?}, not {word:?}:\n{}", self.process.log());
        }
        println!("{name}: {word} after {:.1} s", self.since.elapsed().as_secs_f64());
        self.mark = at + 1;
        Ok(())
    }

    fn boots_again_and_finds(&mut self, found: bool) -> Result<()> {
        self.says("grub")?;
        self.says(if found { "found" } else { "new" })?;
        self.says("clean")
    }
}

fn sha256(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(path).output()?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split(' ').next().context("no sum")?.to_owned())
}

/// How many machines there are.
fn machines() -> Result<u8> {
    if let Ok(text) = std::env::var("XBLADE_ROOM_MACHINES") {
        let machines = text.parse().ok().filter(|machines| (2..=80).contains(machines));
        return machines.with_context(|| format!("XBLADE_ROOM_MACHINES={text}: not from 2 to 80"));
    }
    let minutes = std::env::var("XBLADE_SOAK_MINUTES").ok();
    let minutes: f64 = minutes.map_or(Ok(0.0), |text| text.parse())?;
    Ok(if minutes >= LONG_FORM_MINUTES { 8 } else { 3 })
}

#[test]
fn a_room_of_machines_boots_writes_and_boots_again_from_one_golden_image() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::Tool("dnsmasq"),
        Need::File("/usr/lib/ipxe/qemu/pxe-virtio.rom"),
        boot_disk::NEEDS[0],
        boot_disk::NEEDS[1],
        boot_disk::NEEDS[2],
        boot_disk::NEEDS[3]
    );
    let begun = Instant::now();
    let room = Room::new(machines()?)?;
    let before = sha256(&room.golden())?;
    let mut target = room.xblade()?;
    let _dhcp = room.dhcp()?;
    for (turn, pair) in room.machines.chunks(2).enumerate() {
        let mut running = pair
            .iter()
            .map(|machine| room.switch_on(machine))
            .collect::<Result<Vec<Running>>>()?;
        if turn == 0 {
            // GRUB has begun to load the kernel: iPXE waits for its sectors.
            running[0].says("grub")?;
            target.process.kill()?;
            target = room.xblade()?;
            running[0].says("new")?;
            // Linux writes.
            target.process.kill()?;
            target = room.xblade()?;
        }
        for machine in &mut running {
            if machine.mark == 0 {
                machine.says("grub")?;
                machine.says("new")?;
            }
            machine.says("clean")?;
        }
        for machine in &mut running {
            machine.boots_again_and_finds(machine.machine.persistent)?;
        }
        for machine in &mut running {
            machine.process.kill()?;
        }
    }
    let list = target.ask(&["overlay", "list", "--json"])?;
    let list: serde_json::Value = serde_json::from_slice(&list.stdout)?;
    let rows = list["overlays"].as_array().context("a list")?;
    ensure!(rows.len() == room.machines.len(), "{list}");
    for (row, machine) in rows.iter().zip(&room.machines) {
        ensure!(row["machine"] == machine.name.as_str(), "{list}");
        ensure!(row["persistent"] == machine.persistent, "{list}");
        ensure!(row["problem"].is_null() && row["refused_writes"] == 0, "{list}");
    }
    ensure!(target.process.stop()? == 0);
    ensure!(sha256(&room.golden())? == before, "the golden image was written");
    println!(
        "{} machines in {:.0} s",
        room.machines.len(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}
