//! One golden image behind one address, and a private copy of it for each machine.

mod attacked;
mod committing;
mod keeping;
mod lost;
mod persistent;
mod storm;
mod strangers;
mod troubles;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::frame::{Identity, ata};
use lab::image::{pattern, stamp};
use lab::initiator::TIMEOUT;
use lab::link::target_mac;
use lab::needs::Need;
use lab::{Address, Image, Initiator, Lab, Options, Reply, Request, Target, needs};

const ADDRESS: Address = Address::new(12, 9);
const SECTORS: u64 = 256;
/// The machine that the config names, with two interfaces.
pub(crate) const PC: [Mac; 2] = [Mac([2, 0, 0, 0xae, 0, 1]), Mac([2, 0, 0, 0xae, 0, 2])];
pub(crate) const STRANGER: Mac = Mac([2, 0, 0, 0xae, 0, 9]);
/// As iPXE's queries carry it.
const IPXE: u32 = 0x18ae_0001;
/// How long to wait before a request is sent again: as iPXE does at first.
const AGAIN: Duration = Duration::from_millis(250);

struct Room {
    lab: Lab,
    golden: Image,
}

/// A machine on the wire.
pub(crate) struct Machine<'a> {
    initiator: &'a Initiator,
    mac: Mac,
}

impl Room {
    fn new() -> Result<Room> {
        Ok(Room {
            lab: Lab::new(Options::default())?,
            golden: Image::stamped(SECTORS)?,
        })
    }

    fn config(&self, lines: &str, machines: &str) -> Result<String> {
        let directory = self.golden.directory();
        let text = format!(
            "[[export]]\nshelf = 12\nslot = 9\npath = {:?}\ninterfaces = [\"eth0\"]\noverlay = \"volatile\"\n\
             overlay_dir = \"overlays\"\n{lines}\n[[machine]]\nname = \"pc17\"\nmacs = [\"{}\", \"{}\"]\n{machines}",
            self.golden.as_str(),
            PC[0],
            PC[1]
        );
        let path = directory.join("xblade.toml");
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("odd path")?.to_owned())
    }

    fn start(&self, lines: &str) -> Result<Target> {
        self.start_with(lines, "")
    }

    /// The same with more about the machine that has a name.
    fn start_with(&self, lines: &str, of_pc: &str) -> Result<Target> {
        let config = self.config(lines, of_pc)?;
        self.start_config(&config)
    }

    /// With a state directory of its own: others run at the same time.
    fn start_config(&self, config: &str) -> Result<Target> {
        let state = self.golden.directory().join("state");
        let state = state.to_str().context("odd path")?;
        let args = ["daemon", "--config", config, "--state-dir", state];
        Target::ready_again(&self.lab.target, &args, 1)
    }

    /// Puts an image full of one byte in the golden one's place.
    fn replace(&self, byte: u8) -> Result<()> {
        let new = self.golden.directory().join("new.raw");
        std::fs::write(&new, vec![byte; SECTORS as usize * 512])?;
        Ok(std::fs::rename(new, self.golden.path())?)
    }
}

pub(crate) fn machine(initiator: &Initiator, mac: Mac) -> Machine<'_> {
    Machine { initiator, mac }
}

impl Machine<'_> {
    /// Sends a request until it is answered.
    fn ask(&self, request: &Request) -> Result<Reply> {
        let (deadline, mut again) = (Instant::now() + 6 * TIMEOUT, AGAIN);
        while Instant::now() < deadline {
            if let Some(reply) = self.ask_once(request, again)? {
                return Ok(reply);
            }
            // Each copy is work for a target that is slow already.
            again = (2 * again).min(16 * AGAIN);
        }
        // A panic, not an error: so the log of the target is printed.
        panic!("{} hears nothing", self.mac)
    }

    fn ask_once(&self, request: &Request, patience: Duration) -> Result<Option<Reply>> {
        let mut request = request.clone();
        request.src = self.mac;
        self.initiator.send(&request.bytes())?;
        let deadline = Instant::now() + patience;
        while let Some(frame) = self
            .initiator
            .receive(deadline.saturating_duration_since(Instant::now()))?
        {
            let Ok(reply) = Reply::parse(&frame) else { continue };
            if reply.dst == self.mac && reply.tag == request.tag {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    /// Whether it gets no disk: the first question has one made if it may have one, the second would find it.
    fn hears_nothing(&self) -> Result<bool> {
        let ask = || self.ask_once(&Machine::query(IPXE), AGAIN);
        Ok(ask()?.is_none() && ask()?.is_none())
    }

    fn query(tag: u32) -> Request {
        Request {
            tag,
            ..Request::query(Mac::BROADCAST, ADDRESS, 0, b"")
        }
    }

    /// Looks for the disk as an initiator's driver does.
    pub(crate) fn find(&self) -> Result<()> {
        self.ask(&Machine::query(0x8000_0042)).map(drop)
    }

    /// Looks for the disk as iPXE does.
    pub(crate) fn boot(&self) -> Result<()> {
        self.ask(&Machine::query(IPXE)).map(drop)
    }

    fn ata(&self, command: u8, lba: u64, count: u8, data: &[u8]) -> Result<Reply> {
        let request = Request {
            tag: 0x8000_0043 + u32::from(command) + (lba as u32) * 256,
            ..Request::ata(target_mac(0), ADDRESS, command, lba, count, data)
        };
        self.initiator.drain()?;
        self.ask(&request)
    }

    pub(crate) fn read(&self, lba: u64) -> Result<Vec<u8>> {
        let reply = self.ata(ata::READ_EXT, lba, 1, &[])?;
        ensure!(reply.status() == 0x40, "status {:#04x}", reply.status());
        Ok(reply.data()[..512].to_vec())
    }

    pub(crate) fn write(&self, lba: u64, word: [u8; 8]) -> Result<()> {
        let reply = self.ata(ata::WRITE_EXT, lba, 1, &pattern(lba, word))?;
        ensure!(reply.status() == 0x40, "status {:#04x}", reply.status());
        Ok(())
    }

    pub(crate) fn serial(&self) -> Result<String> {
        Ok(Identity::new(self.ata(ata::IDENTIFY, 0, 1, &[])?.data()).text(10..20))
    }
}

/// What `xblade overlay list --json` tells of a machine.
pub(crate) fn told(target: &Target, machine: &str) -> Result<Option<serde_json::Value>> {
    let output = target.ask(&["overlay", "list", "--json"])?;
    ensure!(output.status.success(), "{output:?}");
    let all: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let rows = all["overlays"].as_array().context("a list")?;
    Ok(rows.iter().find(|row| row["machine"] == machine).cloned())
}

pub(crate) fn done(target: &Target, args: &[&str]) -> Result<()> {
    let output = target.ask(args)?;
    ensure!(output.status.success(), "{args:?}: {output:?}");
    Ok(())
}

#[test]
fn each_machine_writes_to_its_own_copy_and_the_image_stays() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let before = room.golden.read(0, SECTORS as usize)?;
    let mut target = room.start("")?;
    let initiator = room.lab.open(0)?;
    let [one, other, stranger] = [PC[0], PC[1], STRANGER].map(|mac| machine(&initiator, mac));
    for machine in [&one, &other, &stranger] {
        machine.find()?;
    }
    one.write(5, *b"machine1")?;
    stranger.write(5, *b"stranger")?;
    ensure!(one.read(5)? == pattern(5, *b"machine1"));
    ensure!(
        other.read(5)? == pattern(5, *b"machine1"),
        "two interfaces of one machine"
    );
    ensure!(stranger.read(5)? == pattern(5, *b"stranger"));
    for machine in [&one, &stranger] {
        ensure!(machine.read(6)? == stamp(6), "what nobody wrote is the image's");
    }
    ensure!(one.serial()? == "12.9:pc17" && stranger.serial()? == "12.9:020000ae0009");

    // Whoever asks everybody hears of one disk.
    let everybody = Request {
        tag: 0x8000_0077,
        ..Request::query(Mac::BROADCAST, Address::ALL, 0, b"")
    };
    one.ask(&everybody)?;
    one.ask(&Machine::query(0x8000_0078))?;
    let list = target.ask(&["ls", "--json"])?;
    let list: serde_json::Value = serde_json::from_slice(&list.stdout)?;
    ensure!(list["exports"].as_array().context("a list")?.len() == 1, "{list}");
    let row = told(&target, "pc17")?.context("pc17")?;
    ensure!(row["written_bytes"] == 512 && row["export"] == "e12.9", "{row}");
    ensure!(row["macs"].as_array().context("a list")?.len() == 2, "{row}");
    ensure!(told(&target, &STRANGER.to_string())?.is_some());

    ensure!(target.process.stop()? == 0);
    ensure!(
        room.golden.read(0, SECTORS as usize)? == before,
        "the golden image was written"
    );
    Ok(())
}

#[test]
fn a_boot_begins_anew_and_a_driver_s_discovery_does_not() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let target = room.start("")?;
    let initiator = room.lab.open(0)?;
    let (pc, stranger) = (machine(&initiator, PC[0]), machine(&initiator, STRANGER));
    pc.boot()?;
    stranger.boot()?;
    pc.write(5, *b"machine1")?;
    stranger.write(5, *b"stranger")?;
    // Linux's driver asks everybody and its own disk with tag 0.
    for tag in [0, 0x8000_0001] {
        pc.ask(&Machine::query(tag))?;
        ensure!(pc.read(5)? == pattern(5, *b"machine1"));
    }
    // Another image comes in between: who runs keeps what it has.
    room.replace(7)?;
    ensure!(pc.read(6)? == stamp(6));
    ensure!(told(&target, "pc17")?.context("pc17")?["old_image"] == true);
    pc.boot()?;
    ensure!(
        pc.read(5)? == [7; 512] && pc.read(6)? == [7; 512],
        "anew, on the new image"
    );
    ensure!(
        stranger.read(5)? == pattern(5, *b"stranger"),
        "the other has not booted"
    );
    ensure!(stranger.read(6)? == stamp(6));
    ensure!(told(&target, "pc17")?.context("pc17")?["old_image"] == false);
    Ok(())
}

#[test]
fn no_boot_resets_where_the_operator_alone_does() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let target = room.start("overlay_reset = \"never\"")?;
    let initiator = room.lab.open(0)?;
    let (pc, stranger) = (machine(&initiator, PC[0]), machine(&initiator, STRANGER));
    for machine in [&pc, &stranger] {
        machine.boot()?;
        machine.write(5, *b"kept....")?;
        machine.boot()?;
        ensure!(machine.read(5)? == pattern(5, *b"kept...."));
    }
    done(&target, &["overlay", "reset", "--force", "e12.9", "pc17"])?;
    ensure!(pc.read(5)? == stamp(5));
    ensure!(stranger.read(5)? == pattern(5, *b"kept...."));
    let mac = STRANGER.to_string();
    done(&target, &["overlay", "discard", "--force", "e12.9", &mac])?;
    ensure!(told(&target, &mac)?.is_none());
    ensure!(stranger.read(5)? == stamp(5), "it asks, and gets another");
    let output = target.ask(&["overlay", "discard", "--force", "e12.9", "nobody"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && said.contains("nobody has no disk"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_machine_s_copy_becomes_the_golden_image_by_order() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let target = room.start("")?;
    let initiator = room.lab.open(0)?;
    let (pc, stranger) = (machine(&initiator, PC[0]), machine(&initiator, STRANGER));
    pc.find()?;
    stranger.find()?;
    pc.write(5, *b"the.next")?;
    stranger.write(6, *b"stranger")?;
    done(&target, &["overlay", "commit", "--force", "e12.9", "pc17"])?;
    let image = std::fs::read(room.golden.path())?;
    ensure!(image.len() == SECTORS as usize * 512 && image[5 * 512..6 * 512] == pattern(5, *b"the.next"));
    ensure!(image[6 * 512..7 * 512] == stamp(6));
    ensure!(stranger.read(5)? == stamp(5) && stranger.read(6)? == pattern(6, *b"stranger"));
    ensure!(told(&target, "pc17")?.is_none());
    ensure!(pc.read(5)? == pattern(5, *b"the.next"));
    stranger.boot()?;
    ensure!(stranger.read(5)? == pattern(5, *b"the.next") && stranger.read(6)? == stamp(6));
    Ok(())
}

#[test]
fn a_machine_changes_the_image_itself_while_nobody_else_has_a_copy() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let of_pc = "overlay = \"none\"\n";
    let mut target = room.start_with("flush_interval = \"1h\"", of_pc)?;
    let initiator = room.lab.open(0)?;
    let (pc, stranger) = (machine(&initiator, PC[0]), machine(&initiator, STRANGER));
    ensure!(stranger.read(5)? == stamp(5));
    ensure!(pc.hears_nothing()?);
    target
        .process
        .wait_for_after(0, |line| line.contains("waits until the copies of"), TIMEOUT)?;
    done(
        &target,
        &["overlay", "discard", "--force", "e12.9", &STRANGER.to_string()],
    )?;
    pc.boot()?;
    pc.write(5, *b"changed.")?;
    ensure!(stranger.hears_nothing()?);
    target.process.kill()?;

    let target = room.start_with("", of_pc)?;
    ensure!(stranger.hears_nothing()?);
    ensure!(pc.read(5)? == pattern(5, *b"changed."));
    done(&target, &["overlay", "commit", "--force", "e12.9", "pc17"])?;
    stranger.boot()?;
    ensure!(stranger.read(5)? == pattern(5, *b"changed.") && stranger.read(6)? == stamp(6));
    ensure!(pc.hears_nothing()?);
    Ok(())
}

#[test]
fn a_full_copy_is_a_full_disk() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let mut target = room.start("overlay_limit = \"8KiB\"")?;
    let initiator = room.lab.open(0)?;
    let pc = machine(&initiator, PC[0]);
    pc.find()?;
    pc.write(0, *b"machine1")?;
    pc.write(8, *b"machine1")?;
    let reply = pc.ata(ata::WRITE_EXT, 16, 1, &pattern(16, *b"machine1"))?;
    ensure!(reply.status() & 1 != 0, "status {:#04x}", reply.status());
    ensure!(pc.read(16)? == stamp(16));
    pc.write(1, *b"machine1")?;
    target
        .process
        .wait_for_after(0, |line| line.contains("overlay_limit"), TIMEOUT)?;
    ensure!(told(&target, "pc17")?.context("pc17")?["refused_writes"] == 1);
    Ok(())
}
