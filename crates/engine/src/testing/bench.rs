//! A test bench: a worker with its link, witnesses, and frames.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use aoe_common::{Mac, Vlan};
use parking_lot::Mutex;

use super::completions::{MemCompletions, MemHandle};
use super::link::MemLink;
use super::store::MemStore;
use crate::{
    AccessList, Address, Change, Export, Exports, Identity, Observer, Options, Persistent, PortInfo, Session,
    StateStore, WireAdmin,
};
use crate::{Completion, CompletionHandle as _, Event, Fault, FaultKind, Token};

/// The port's address.
pub const TARGET: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// Initiators' addresses.
pub const ONE: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const OTHER: Mac = Mac([2, 0, 0, 0, 0, 0xaa]);

/// A request frame: headers and an argument, not padded.
pub fn frame_from(
    source: Mac,
    to: Mac,
    shelf: u16,
    slot: u8,
    command: u8,
    tag: u32,
    argument: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(to.0);
    bytes.extend(source.0);
    bytes.extend([0x88, 0xa2, 0x10, 0]);
    bytes.extend(shelf.to_be_bytes());
    bytes.extend([slot, command]);
    bytes.extend(tag.to_be_bytes());
    bytes.extend(argument);
    bytes
}

/// A request from [`ONE`] to e7.3.
pub fn request(command: u8, argument: &[u8]) -> Vec<u8> {
    frame_from(ONE, TARGET, 7, 3, command, 0x1122_3344, argument)
}

/// An ATA argument with data.
pub fn ata(aflags: u8, feature: u8, count: u8, command: u8, lba: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![aflags, feature, count, command];
    bytes.extend(&lba.to_le_bytes()[..6]);
    bytes.extend([0, 0]);
    bytes.extend(data);
    bytes
}

/// READ EXT.
pub fn read(lba: u64, count: u8) -> Vec<u8> {
    ata(0x40, 0, count, 0x24, lba, &[])
}

/// WRITE EXT of sectors full of one byte.
pub fn write(lba: u64, count: u8, byte: u8) -> Vec<u8> {
    ata(0x41, 0, count, 0x34, lba, &vec![byte; usize::from(count) * 512])
}

/// Error and status of an ATA reply without AoE error.
pub fn status(reply: &[u8]) -> (u8, u8) {
    assert_eq!(reply[14], 0x18, "no AoE error");
    (reply[27], reply[25])
}

/// The AoE error code of a reply; 0: none.
pub fn aoe_error(reply: &[u8]) -> u8 {
    assert_eq!(reply[14] & 0x04 != 0, reply[15] != 0);
    reply[15]
}

/// Remembers what it is told.
#[derive(Debug, Default)]
pub struct Witness {
    pub changes: Mutex<Vec<Change>>,
    pub faults: Mutex<Vec<String>>,
}

impl Observer for Witness {
    fn changed(&self, _: Address, change: Change) {
        self.changes.lock().push(change);
    }

    fn fault(&self, _: Address, fault: &Fault) {
        self.faults.lock().push(fault.to_string());
    }
}

/// A state store that ends when it is told to.
#[derive(Debug, Default)]
pub struct SlowStateStore {
    waiting: Mutex<VecDeque<(Persistent, MemHandle, Token)>>,
}

impl SlowStateStore {
    pub fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Ends the oldest save; returns what was saved.
    pub fn finish(&self, ok: bool) -> Persistent {
        let (state, handle, token) = self.waiting.lock().pop_front().unwrap();
        let fault = || Fault {
            kind: FaultKind::Write,
            lba: 0,
            source: io::Error::other("disk full"),
        };
        let event = Event::Finished(if ok { Ok(None) } else { Err(fault()) });
        handle.post(Completion { token, event });
        state
    }
}

impl StateStore<MemCompletions> for SlowStateStore {
    fn save(&self, _: Address, state: &Persistent, handle: MemHandle, token: Token) {
        self.waiting.lock().push_back((state.clone(), handle, token));
    }
}

pub fn options(shelf: u16, slot: u8) -> Options {
    Options {
        address: Address { shelf, slot },
        vlan: Vlan::Untagged,
        read_only: false,
        sync: false,
        access: AccessList::default(),
        buffers: 16,
        max_sectors: 255,
        firmware_version: 0x4019,
        identity: Identity {
            serial: format!("e{shelf}.{slot}-0001"),
            model: "AoE TARGET REFERENCE".into(),
            firmware: "0.1".into(),
            wwn: Some(0x5123_4567_89ab_cdef),
        },
        wire_admin: WireAdmin::All,
        smart: false,
        stale_after_us: 100_000,
        late_duplicates: false,
        gateway: None,
    }
}

pub fn export(options: Options, store: &Arc<MemStore>) -> Arc<Export<MemCompletions>> {
    let witness = Arc::new(Witness::default());
    Arc::new(Export::new(options, store.clone(), None, witness, Persistent::default()).unwrap())
}

/// A session with its link: one worker.
pub struct Worker {
    pub session: Session<MemLink, MemCompletions>,
    pub link: MemLink,
    pub port: PortInfo,
    pub now_us: u64,
}

impl Worker {
    pub fn new(exports: Vec<Arc<Export<MemCompletions>>>) -> Worker {
        Worker::cut(exports, 4096)
    }

    /// A worker whose frames are cut after every `piece_bytes`.
    pub fn cut(exports: Vec<Arc<Export<MemCompletions>>>, piece_bytes: usize) -> Worker {
        let session = Session::new(Arc::new(Exports::new(exports)), MemCompletions::new());
        let port = PortInfo {
            mac: TARGET,
            mtu_bytes: 1500,
        };
        Worker {
            session,
            link: MemLink::new(piece_bytes),
            port,
            now_us: 1_000_000,
        }
    }

    /// Gives a frame to the session and returns what was sent.
    pub fn ask(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let frame = self.link.receive(bytes);
        self.session.frame(&mut self.link, &self.port, frame, self.now_us);
        self.sent()
    }

    /// Lets the session handle completions and returns what was sent.
    pub fn poll(&mut self) -> Vec<Vec<u8>> {
        self.session.completions(&mut self.link, self.now_us);
        self.sent()
    }

    /// What was sent; asserts that no frame was lost.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        assert_eq!(self.link.out, 0, "what waits holds no frame, and none is lost");
        self.link.sent.drain(..).collect()
    }
}

impl Worker {
    /// Asks something that has exactly one answer.
    pub fn answer(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut replies = self.ask(bytes);
        assert_eq!(replies.len(), 1, "one reply");
        replies.remove(0)
    }

    /// An ATA command from [`ONE`] to e7.3 and its status and error.
    pub fn ata(&mut self, argument: &[u8]) -> (u8, u8) {
        status(&self.answer(&request(0, argument)))
    }
}
