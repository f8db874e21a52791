//! A worker that panics: its port is served again, and what it had begun keeps nobody waiting.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use aoe_common::Mac;
use lab::frame::{Reply, ata};
use lab::initiator::TIMEOUT;
use lab::namespace::{self, index_of, ip, veth};
use lab::needs::Need;
use lab::{Request, needs};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use xblade::config::{Mode, Vlan};
use xblade::filter::{ExportRule, Rules};
use xblade::port::{Alarm, Nic, Port, PortOptions, Tuning};
use xblade::store::{
    CompletionQueue, Durability, Extent, Fault, Step, Store, StoreKind, StoreOptions, Token, Traits,
};
use xblade::target::{
    AccessList, Address, Change, Export, Exports, Identity, Observer, Options, Persistent, WireAdmin,
};

const PORT: Mac = Mac([2, 0, 0, 0, 0, 0xaa]);
const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// When a request that was not answered is sent again.
const AGAIN: Duration = Duration::from_millis(500);
const ADDRESS: Address = Address { shelf: 1, slot: 1 };

/// Keeps nothing, and panics in the first write.
#[derive(Debug)]
struct Fragile {
    inner: Arc<dyn Store<CompletionQueue>>,
    panics: AtomicBool,
}

impl Store<CompletionQueue> for Fragile {
    fn sectors(&self) -> u64 {
        self.inner.sectors()
    }

    fn refresh(&self) -> std::io::Result<u64> {
        self.inner.refresh()
    }

    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn read(
        &self,
        completions: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        self.inner.read(completions, token, extent, into)
    }

    fn write(
        &self,
        completions: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
    ) -> Result<Step, Fault> {
        assert!(
            !self.panics.swap(false, Ordering::SeqCst),
            "on purpose, for a test"
        );
        self.inner.write(completions, token, extent, from, durability)
    }

    fn flush(&self, completions: &mut CompletionQueue, token: Token) -> Result<Step, Fault> {
        self.inner.flush(completions, token)
    }

    fn trim(
        &self,
        completions: &mut CompletionQueue,
        token: Token,
        extents: &[Extent],
    ) -> Result<Step, Fault> {
        self.inner.trim(completions, token, extents)
    }

    fn verify(&self, completions: &mut CompletionQueue, token: Token, extent: Extent) -> Result<Step, Fault> {
        self.inner.verify(completions, token, extent)
    }

    fn close(&self) -> std::io::Result<()> {
        self.inner.close()
    }
}

#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn changed(&self, _: Address, _: Change) {}

    fn fault(&self, _: Address, _: &Fault) {}
}

fn export() -> Export {
    let image = lab::Image::sparse(64).expect("an image");
    let inner = xblade::store::open(&StoreOptions::new(StoreKind::Null, image.path())).expect("a store");
    let panics = AtomicBool::new(true);
    let options = Options {
        address: ADDRESS,
        vlan: Vlan::Untagged,
        read_only: false,
        sync: false,
        access: AccessList::default(),
        buffers: 16,
        max_sectors: 255,
        firmware_version: 1,
        identity: Identity {
            serial: "fragile".into(),
            model: "test".into(),
            firmware: "1".into(),
            wwn: None,
        },
        wire_admin: WireAdmin::Nothing,
        smart: false,
        stale_after_us: 100_000,
        late_duplicates: false,
        gateway: None,
    };
    let store = Arc::new(Fragile { inner, panics });
    Export::new(options, store, None, Arc::new(Nobody), Persistent::default()).expect("an export")
}

/// Sends a request and waits for its reply; `None` where there is none in this time.
fn ask(
    socket: &impl AsRawFd,
    command: u8,
    lba: u64,
    data: &[u8],
    tag: u32,
    patience: Duration,
) -> Option<Reply> {
    let mut request = Request::ata(PORT, lab::Address::new(1, 1), command, lba, 1, data);
    (request.src, request.tag) = (HOST, tag);
    let index = i32::try_from(index_of("peer")).expect("an index");
    let to = link_address(index);
    let begin = Instant::now();
    let mut next = begin;
    let mut buffer = vec![0; 2048];
    while begin.elapsed() < patience {
        if Instant::now() >= next {
            next += AGAIN;
            sendto(socket.as_raw_fd(), &request.bytes(), &to, MsgFlags::empty()).expect("the frame is sent");
        }
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(len) => {
                if let Ok(reply) = Reply::parse(&buffer[..len])
                    && reply.tag == tag
                    && reply.src == PORT
                {
                    return Some(reply);
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    None
}

fn link_address(index: i32) -> nix::sys::socket::LinkAddr {
    nix::ifaddrs::getifaddrs()
        .expect("interfaces")
        .filter_map(|address| address.address?.as_link_addr().copied())
        .find(|address| i32::try_from(address.ifindex()) == Ok(index))
        .expect("the interface has a link address")
}

/// Serves the export on `port`; each alarm is counted.
fn open_port(export: &Arc<Export>, alarms: &Arc<AtomicUsize>) -> Port {
    let raised = Arc::clone(alarms);
    let nic = Nic {
        name: "port".into(),
        index: index_of("port"),
        mac: PORT,
        mtu_bytes: 1500,
        rx_queues: 1,
        carrier: true,
        xdp_runs_on: vec![index_of("port")],
        lacks_redirect: false,
        tx_queues: None,
    };
    let options = PortOptions {
        mode: Mode::Auto,
        tuning: Tuning::default(),
        alarm: Alarm::new(move || {
            raised.fetch_add(1, Ordering::SeqCst);
        }),
        dumps: Arc::default(),
    };
    let rules = Rules::of(vec![ExportRule {
        shelf: 1,
        slot: 1,
        vlan: Vlan::Untagged,
        allow: None,
        rate_limit: None,
    }]);
    let exports = Arc::new(Exports::new(vec![Arc::clone(export)]));
    Port::open(&nic, &options, &exports, &rules, &Arc::default()).expect("the port opens")
}

fn body() {
    namespace::enter();
    veth(
        &format!("port address {PORT}"),
        &format!("peer address {HOST}"),
        1500,
    );
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::EthAll,
    )
    .expect("a packet socket");
    let (export, alarms) = (Arc::new(export()), Arc::new(AtomicUsize::new(0)));
    let mut port = open_port(&export, &alarms);
    let read = ask(&socket, ata::READ_EXT, 5, &[], 1, TIMEOUT).expect("it serves");
    assert_eq!(read.status(), 0x40);
    assert!(!port.has_lost_worker());

    let lost = ask(
        &socket,
        ata::WRITE_EXT,
        5,
        &[7; 512],
        2,
        Duration::from_millis(100),
    );
    assert!(lost.is_none(), "the worker panics instead");
    let begin = Instant::now();
    while !port.has_lost_worker() || alarms.load(Ordering::SeqCst) == 0 {
        assert!(begin.elapsed() < TIMEOUT, "nobody noticed");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(export.in_flight(), 0, "its range is free");
    port.open_anew().expect("the port opens again");
    assert!(!port.has_lost_worker());
    assert_eq!(port.totals().workers_lost, 1);
    let again = ask(&socket, ata::WRITE_EXT, 5, &[7; 512], 3, TIMEOUT);
    let again = again.unwrap_or_else(|| panic!("the sector can be written: {}", port.totals()));
    assert_eq!(again.status(), 0x40);
    drop(port);
    assert!(
        !ip("link show port").contains("xdp"),
        "the interface is an ordinary one"
    );
}

#[test]
fn a_worker_that_panics_is_noticed_and_replaced() -> Result<()> {
    needs!(Need::Root);
    let thread = std::thread::spawn(body);
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
    Ok(())
}
