//! A gateway loses Ceph with a write inside librbd, and has it back when that write is old: long enough for Linux's driver to turn to another
//! gateway and to write there what is newer. With a failover group the old write lands nowhere. Where both gateways may write it does, and a
//! write that was acknowledged is gone, which shows that these tests see it.

use std::collections::BTreeMap;
use std::time::Instant;

use aoe_common::Mac;
use lab::frame::ata;
use lab::gateways::GatewayNet;
use lab::needs::Need;
use lab::values::{sector, value};
use lab::{Initiator, Process, Request};

use super::*;

/// For so long a gateway has no Ceph.
const LOST: Duration = Duration::from_secs(16);
/// After so long Linux's driver turns to another address.
const TURNS: Duration = Duration::from_secs(10);
/// Blocks that are written by turns.
const BLOCKS: u64 = 8;
/// Sectors of one.
const BLOCK: u64 = 2;

/// Writes one stamp at a time, each when the one before was acknowledged: stamp n to block n mod 8.
struct Stamps {
    initiator: Initiator,
    next: u64,
    /// What was acknowledged last, by block.
    last: BTreeMap<u64, u64>,
}

impl Stamps {
    fn new(net: &GatewayNet) -> Result<Stamps> {
        Ok(Stamps {
            initiator: net.initiator()?,
            next: 1,
            last: BTreeMap::new(),
        })
    }

    fn request(&self, target: Mac) -> Request {
        let lba = self.next % BLOCKS * BLOCK;
        let data: Vec<u8> = (lba..lba + BLOCK)
            .flat_map(|lba| sector(lba, self.next))
            .collect();
        let mut request = Request::ata(target, ADDRESS, ata::WRITE_EXT, lba, BLOCK as u8, &data);
        request.src = self.initiator.mac();
        request.tag = u32::try_from(self.next).expect("few stamps");
        request
    }

    /// Sends the next stamp to a gateway, again and again, until it is answered or the time is over.
    fn write(&mut self, target: Mac, patience: Duration) -> Result<bool> {
        let request = self.request(target);
        let end = Instant::now() + patience;
        while Instant::now() < end {
            self.initiator.send(&request.bytes())?;
            if self.is_answered(target, request.tag, Duration::from_millis(200))? {
                self.last.insert(self.next % BLOCKS, self.next);
                self.next += 1;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a gateway says within this time that it has done the write with this tag.
    fn is_answered(&self, target: Mac, tag: u32, within: Duration) -> Result<bool> {
        let end = Instant::now() + within;
        while let Some(frame) = self
            .initiator
            .receive(end.saturating_duration_since(Instant::now()))?
        {
            let is_reply = frame.get(14).is_some_and(|flags| flags & 8 != 0);
            if !is_reply || frame[6..12] != target.0 || frame[20..24] != tag.to_be_bytes() {
                continue;
            }
            let reply = lab::Reply::parse(&frame)?;
            ensure!(
                reply.aoe_error().is_none() && reply.status() & 0xa9 == 0,
                "stamp {tag}: {reply:?}"
            );
            return Ok(true);
        }
        Ok(false)
    }

    /// Sends the next stamp until a gateway has taken it and cannot answer it.
    fn get_stuck(&self, gateway: &Target) -> Result<()> {
        let request = self.request(site::GROUP);
        eventually("a write that is stuck", TIMEOUT, || {
            self.initiator.send(&request.bytes())?;
            let listed = gateway.ask(&["ls", "--columns", "export,in-flight"])?;
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            let row = listed.lines().find(|line| line.contains("e1.1"));
            let count = row.and_then(|row| row.split_whitespace().last()?.parse::<u64>().ok());
            Ok(count.is_some_and(|count| count > 0))
        })
    }

    /// Writes so many stamps.
    fn write_many(&mut self, target: Mac, count: u64) -> Result<()> {
        for _ in 0..count {
            ensure!(
                self.write(target, TIMEOUT)?,
                "stamp {} is not answered",
                self.next
            );
        }
        Ok(())
    }

    /// The blocks that do not hold what was acknowledged last: block, stamp found, stamp acknowledged.
    fn stale(&self) -> Result<Vec<(u64, Option<u64>, u64)>> {
        let disk = self.initiator.find(ADDRESS)?;
        let mut stale = Vec::new();
        for (block, last) in &self.last {
            let lba = block * BLOCK;
            let found = value(lba, &disk.read(lba, 1)?);
            if found != Some(*last) {
                stale.push((*block, found, *last));
            }
        }
        Ok(stale)
    }
}

#[test]
fn a_write_that_was_inside_librbd_when_ceph_was_lost_lands_nowhere() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let mut first = site.start(0)?;
    wait_for_role(&first, "active")?;
    let second = site.start(1)?;
    wait_for_role(&second, "standby")?;
    let mut stamps = Stamps::new(&site.net)?;
    stamps.write_many(site::GROUP, 40)?;

    let began = Instant::now();
    site.net.connect_ceph(0, false)?;
    let stuck = stamps.next;
    // The first gateway still answers for a moment and takes it, and the second one gets it as well.
    stamps.get_stuck(&first)?;
    stamps.write_many(site::GROUP, 1)?;
    println!("stamp {stuck} waited {:.1?}", began.elapsed());
    while began.elapsed() < LOST {
        stamps.write_many(site::GROUP, 1)?;
    }
    // Its block has been written to again.
    stamps.write_many(site::GROUP, 2 * BLOCKS)?;
    ensure!(role(&second)?.0 == "active");

    let mark = first.process.mark();
    site.net.connect_ceph(0, true)?;
    let stands_by = |line: &str| line.contains("standing by");
    first.process.wait_for_after(mark, stands_by, TIMEOUT)?;
    let stale = stamps.stale()?;
    ensure!(stale.is_empty(), "(block, holds, acknowledged): {stale:?}");
    stamps.write_many(site::GROUP, 2 * BLOCKS)?;
    ensure!(role(&second)?.0 == "active");
    let stale = stamps.stale()?;
    ensure!(stale.is_empty(), "(block, holds, acknowledged): {stale:?}");
    println!("{} stamps", stamps.next - 1);
    Ok(())
}

/// A gateway that has the image as a file (`rbd-fuse`, which is librbd as well), and serves it although another one does.
struct Twin {
    // Dropped in this order.
    target: Target,
    _mounted: Process,
    _at: tempfile::TempDir,
}

impl Twin {
    fn start(site: &Site, number: usize) -> Result<Twin> {
        let namespace = &site.net.gateways[number].namespace;
        let at = tempfile::Builder::new().prefix("xblade-rbd-").tempdir()?;
        let place = at.path().to_str().context("odd path")?.to_owned();
        let words = ["-c", &site.conf(), "-p", "rbd", "-f", &place];
        let mounted = Process::spawn(namespace, "rbd-fuse", &words)?;
        let image = format!("{place}/plain");
        eventually("the image as a file", TIMEOUT, || {
            let image = image.clone();
            Ok(namespace.run(move || std::path::Path::new(&image).exists()))
        })?;
        let words = [
            "serve", "1", "1", "eth0", &image, "--direct", "--shared", "--force",
        ];
        let mut target = Target::start(namespace, &words)?;
        target.wait_ready(0, 1)?;
        Ok(Twin {
            target,
            _mounted: mounted,
            _at: at,
        })
    }
}

/// The control: without the lock, and with an address for each gateway.
#[test]
fn where_both_gateways_may_write_the_same_loses_an_acknowledged_write() -> Result<()> {
    needs!(
        NEEDS[0],
        NEEDS[1],
        NEEDS[2],
        NEEDS[3],
        NEEDS[4],
        Need::Tool("rbd-fuse"),
        Need::File("/dev/fuse")
    );
    let site = Site::new()?;
    site.make_plain_image()?;
    let first = Twin::start(&site, 0)?;
    let second = Twin::start(&site, 1)?;
    let (a, b) = (site::own_mac(0), site::own_mac(1));
    let mut stamps = Stamps::new(&site.net)?;
    stamps.write_many(a, 20)?;
    stamps.write_many(b, 20)?;

    let began = Instant::now();
    site.net.connect_ceph(0, false)?;
    let stuck = stamps.next;
    ensure!(!stamps.write(a, TURNS)?, "it is answered without Ceph");
    stamps.write_many(b, 1)?;
    while began.elapsed() < LOST {
        stamps.write_many(b, 1)?;
    }
    stamps.write_many(b, 2 * BLOCKS)?;
    site.net.connect_ceph(0, true)?;
    ensure!(
        stamps.is_answered(a, stuck as u32, TIMEOUT)?,
        "stamp {stuck} has no end:\n{}",
        first.target.process.log()
    );
    let stale = stamps.stale()?;
    println!("(block, holds, acknowledged): {stale:?}");
    let block = stuck % BLOCKS;
    ensure!(
        stale == [(block, Some(stuck), stamps.last[&block])],
        "the control shows no stale write: {stale:?}\n{}",
        second.target.process.log()
    );
    Ok(())
}
