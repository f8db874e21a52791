//! The most that a target on AF_XDP can reach: it answers reads with a copy from memory and writes with a copy into it, and looks at
//! nothing else. No access rights, no order, no checks, hardly ever a sleep: a bound to measure against (`cargo xtask bench`), never to
//! store data on.
//!
//! `echo NETIF FILE` serves the first sectors of FILE, read into memory at the start, as e1.2 until it is killed; what is written is
//! lost then. Everything that is not an untagged READ EXT or WRITE EXT goes to the ordinary engine over a store that keeps nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use aoe_common::wire::ata::{self, command, status};
use aoe_common::wire::{SECTOR_BYTES, aoe, eth};
use rustix::event::{PollFd, PollFlags, poll};
use xblade::config::Vlan;
use xblade::filter::{Attach, ExportRule, Filter, Rules};
use xblade::port::SocketLink;
use xblade::store::{CompletionQueue, Fault, StoreKind, StoreOptions};
use xblade::target::{
    AccessList, Address, Change, Export, Exports, Identity, Observer, Options, Persistent, PortInfo, Session,
    WireAdmin,
};
use xblade::xsk::{Frame, Socket, SocketConfig};

const ADDRESS: Address = Address { shelf: 1, slot: 2 };
/// Frames served before one kick.
const BATCH: usize = 64;
/// How long it spins before it sleeps: only between loads, when the CPU is another's.
const SPIN: Duration = Duration::from_millis(2);
/// Headers of an untagged ATA frame.
const HEAD_BYTES: usize = eth::HEADER_LEN + aoe::HEADER_LEN + ata::HEADER_LEN;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ensure!(arguments.len() == 2, "usage: echo NETIF FILE");
    let (netif, file) = (&arguments[0], &arguments[1]);
    let mut image = std::fs::read(file).with_context(|| format!("reading {file}"))?;
    let ifindex = nix::net::if_::if_nametoindex(netif.as_str()).with_context(|| netif.clone())?;
    let about = |what: &str| -> Result<String> {
        let path = format!("/sys/class/net/{netif}/{what}");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        Ok(text.trim().to_owned())
    };
    let port = PortInfo {
        mac: about("address")?.parse()?,
        mtu_bytes: about("mtu")?.parse()?,
    };

    let mut link = SocketLink::new(Socket::open(&SocketConfig::for_mtu(ifindex, 0, port.mtu_bytes))?);
    let mut filter = Filter::load(port.mac, &everyone())?;
    filter.set_socket(0, link.socket.fd())?;
    filter.attach(netif, ifindex, Attach::Native)?;
    let mut session = Session::new(
        Arc::new(Exports::new(vec![Arc::new(export(file)?)])),
        CompletionQueue::new()?,
    );
    eprintln!("ready");
    let mut last = Instant::now();
    loop {
        let mut served = 0;
        while served < BATCH
            && let Some(frame) = link.socket.receive()
        {
            served += 1;
            match Transfer::of(&link.socket, &frame) {
                Some(transfer) => transfer.answer(&mut link.socket, frame, &mut image, port.mac),
                None => session.frame(&mut link, &port, frame, 0),
            }
        }
        link.socket.kick();
        if served != 0 {
            last = Instant::now();
        } else if last.elapsed() > SPIN {
            poll(&mut [PollFd::new(&link.socket.fd(), PollFlags::IN)], None)?;
            last = Instant::now();
        }
    }
}

/// A read or a write as far as the echo looks at it.
struct Transfer {
    head: [u8; HEAD_BYTES],
    writes: bool,
    lba: u64,
    count: u8,
}

impl Transfer {
    fn of(socket: &Socket, frame: &Frame) -> Option<Transfer> {
        const AT: usize = eth::HEADER_LEN + aoe::HEADER_LEN;
        let pieces = socket.pieces(frame);
        let head: [u8; HEAD_BYTES] = *pieces.first()?.first_chunk()?;
        let is_ata = head[eth::HEADER_LEN + aoe::COMMAND] == aoe::CMD_ATA;
        let writes = match head[AT + ata::COMMAND] {
            command::READ_EXT if is_ata => false,
            command::WRITE_EXT if is_ata => true,
            _ => return None,
        };
        let mut lba = [0; 8];
        lba[..6].copy_from_slice(&head[AT + ata::LBA..][..6]);
        Some(Transfer {
            head,
            writes,
            lba: u64::from_le_bytes(lba),
            count: head[AT + ata::COUNT],
        })
    }

    fn answer(mut self, socket: &mut Socket, mut frame: Frame, image: &mut [u8], own: Mac) {
        const AT: usize = eth::HEADER_LEN + aoe::HEADER_LEN;
        let bytes = usize::from(self.count) * SECTOR_BYTES;
        let start = self.lba as usize * SECTOR_BYTES;
        let Some(sectors) = image.get_mut(start..start + bytes) else {
            return socket.free(frame);
        };
        self.head.copy_within(eth::SRC..eth::SRC + 6, eth::DST);
        self.head[eth::SRC..eth::SRC + 6].copy_from_slice(&own.0);
        self.head[eth::HEADER_LEN + aoe::VER_FLAGS] |= aoe::FLAG_RESPONSE;
        self.head[AT + ata::FEATURE] = 0;
        self.head[AT + ata::COMMAND] = status::DRDY;
        let mut data: &[u8] = &[];
        if self.writes {
            take(socket, &frame, sectors);
        } else {
            data = sectors;
        }
        if !socket.renew(&mut frame, HEAD_BYTES + data.len()) {
            return socket.free(frame);
        }
        let mut skip = HEAD_BYTES;
        for piece in socket.pieces_mut(&mut frame) {
            piece[..skip].copy_from_slice(&self.head[HEAD_BYTES - skip..]);
            let (now, later) = data.split_at(piece.len() - skip);
            piece[skip..].copy_from_slice(now);
            (skip, data) = (0, later);
        }
        socket.transmit(frame);
    }
}

/// Copies a write's payload into memory; a frame that is too short writes as much as it has.
fn take(socket: &Socket, frame: &Frame, mut sectors: &mut [u8]) {
    let mut skip = HEAD_BYTES;
    for piece in socket.pieces(frame).iter() {
        let data = piece.get(skip..).unwrap_or_default();
        let bytes = data.len().min(sectors.len());
        let (now, later) = sectors.split_at_mut(bytes);
        now.copy_from_slice(&data[..bytes]);
        (skip, sectors) = (skip.saturating_sub(piece.len()), later);
    }
}

/// The export that discovery and IDENTIFY see.
fn export(file: &str) -> Result<Export> {
    let store = xblade::store::open(&StoreOptions::new(StoreKind::Null, file))?;
    let options = Options {
        address: ADDRESS,
        vlan: Vlan::Untagged,
        read_only: false,
        sync: false,
        access: AccessList::default(),
        buffers: 64,
        max_sectors: 255,
        firmware_version: 1,
        identity: Identity {
            serial: String::new(),
            model: "AF_XDP echo".into(),
            firmware: "1".into(),
            wwn: None,
        },
        wire_admin: WireAdmin::Nothing,
        smart: false,
        stale_after_us: 100_000,
        late_duplicates: false,
        gateway: None,
    };
    Ok(Export::new(
        options,
        store,
        None,
        Arc::new(Nobody),
        Persistent::default(),
    )?)
}

fn everyone() -> Rules {
    let rule = ExportRule {
        shelf: ADDRESS.shelf,
        slot: ADDRESS.slot,
        vlan: Vlan::Untagged,
        allow: None,
        rate_limit: None,
    };
    Rules::of(vec![rule])
}

/// Nothing changes here, and nothing can fail.
#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn changed(&self, _: Address, _: Change) {}

    fn fault(&self, _: Address, _: &Fault) {}
}
