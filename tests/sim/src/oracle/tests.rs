//! What is carried out, told from what the disk holds later; and trims as events of their own: zeros alone do not say which
//! trim they are of.

use aoe_common::wire::{MIN_FRAME_BYTES, SECTOR_BYTES, aoe, ata, eth};

use super::*;
use crate::bus::{Bus, Note};
use crate::frame::{self, DATA_AT, Frame};
use crate::plan::StoreKind;
use crate::stamp::Value;

const PORT: Mac = Mac([2, 0, 0, 0, 0, 1]);
const HOST: Mac = Mac([2, 0, 0, 0, 1, 0]);
const LATE_US: u64 = 10 * STALE_AFTER_US;

/// An export of one disk with two workers before it.
struct Watched {
    oracle: Oracle,
    disk: Arc<Mutex<Disk>>,
    bus: Bus,
    now_us: u64,
}

impl Watched {
    fn new() -> Watched {
        let plan = ExportPlan {
            store: StoreKind::Mapped,
            sectors: 8,
            sync: false,
            late_duplicates: false,
            buffers: 16,
            flush_interval_ms: 20,
            beside: None,
            access: Vec::new(),
            io_us: 100,
            commit_us: 500,
            cold: 0,
        };
        let bus = Bus::default();
        let mut disk = Disk::new(0, &plan, plan.sectors, 1, &bus, None);
        disk.begin_export(0, plan.sectors);
        let (disk, mut oracle) = (Arc::new(Mutex::new(disk)), Oracle::new());
        oracle.add(&plan, &disk, 0, 0, BTreeMap::new());
        Watched {
            oracle,
            disk,
            bus,
            now_us: 0,
        }
    }

    fn at(worker: WorkerId) -> At {
        At {
            worker,
            port: 0,
            mac: PORT,
            mtu: 1500,
        }
    }

    fn later(&mut self, us: u64) {
        self.now_us += us;
        self.oracle.set_now(self.now_us);
    }

    fn arrives(&mut self, worker: WorkerId, bytes: &[u8]) {
        self.arrives_as(worker, bytes, false);
    }

    fn arrives_as(&mut self, worker: WorkerId, bytes: &[u8], odd: bool) {
        self.later(10);
        let frame = Frame {
            bytes: bytes.to_vec(),
            odd,
            sent_us: self.now_us,
        };
        assert!(self.oracle.arrived(Self::at(worker), &frame).is_some());
    }

    /// Sector 0 becomes this, by what a worker has been asked.
    fn carried_out(&mut self, worker: WorkerId, value: Value) {
        self.later(10);
        self.becomes(worker, value);
        self.sees_notes();
    }

    /// The sectors of a write become what is in it.
    fn carried_out_all(&mut self, worker: WorkerId, write: &[u8]) {
        self.later(10);
        self.disk.lock().put(0, &write[DATA_AT..], worker);
        self.sees_notes();
    }

    fn becomes(&mut self, worker: WorkerId, value: Value) {
        self.disk.lock().put(0, &stamp::sectors(value, 0, 1), worker);
    }

    /// The oracle is shown what has happened since the last time.
    fn sees_notes(&mut self) {
        for note in self.bus.take_notes(Vec::new()) {
            if let Note::Applied {
                disk,
                first,
                values,
                worker,
            } = note
            {
                self.oracle.applied(disk, first, &values, worker);
            }
        }
    }

    fn answered(&mut self, worker: WorkerId, request: &[u8]) {
        self.answered_with(worker, request, &[]);
    }

    fn answered_with(&mut self, worker: WorkerId, request: &[u8], data: &[u8]) {
        self.reply(worker, request, (0, 0x40), data);
    }

    /// The reply with this AoE error, or else this status.
    fn reply(&mut self, worker: WorkerId, request: &[u8], (error, status): (u8, u8), data: &[u8]) {
        self.later(10);
        let mut bytes = request[..DATA_AT].to_vec();
        bytes[eth::DST..][..6].copy_from_slice(&HOST.0);
        bytes[eth::SRC..][..6].copy_from_slice(&PORT.0);
        bytes[eth::HEADER_LEN + aoe::VER_FLAGS] |= aoe::FLAG_RESPONSE;
        let registers = DATA_AT - ata::HEADER_LEN;
        bytes[registers + ata::FEATURE] = 0;
        bytes[registers + ata::COMMAND] = status;
        if error != 0 {
            bytes[eth::HEADER_LEN + aoe::VER_FLAGS] |= aoe::FLAG_ERROR;
            bytes[eth::HEADER_LEN + aoe::ERROR] = error;
        }
        bytes.extend(data);
        bytes.resize(bytes.len().max(MIN_FRAME_BYTES), 0);
        self.oracle.sent(Self::at(worker), &bytes);
    }

    fn promise(&self) -> Option<Promise> {
        self.oracle.violation.as_ref().map(|violation| violation.promise)
    }
}

fn request(tag: u32, registers: &[u8], data: &[u8]) -> Vec<u8> {
    frame::request(PORT, HOST, SHELF, 0, aoe::CMD_ATA, tag, &[registers, data])
}

/// TRIM of sector 0, with what tells it from others in an entry of no sectors.
fn trim(tag: u32, number: u32) -> Vec<u8> {
    let mut data = [0; SECTOR_BYTES];
    data[..8].copy_from_slice(&(1_u64 << 48).to_le_bytes());
    data[8..12].copy_from_slice(&number.to_le_bytes());
    request(tag, &frame::registers(0x41, 1, 1, 0x06, 0), &data)
}

fn write(tag: u32, value: Value) -> Vec<u8> {
    write_of(tag, value, 1)
}

fn write_two(tag: u32, value: Value) -> Vec<u8> {
    write_of(tag, value, 2)
}

/// WRITE of so many sectors from sector 0 on.
fn write_of(tag: u32, value: Value, sectors: u8) -> Vec<u8> {
    let registers = frame::registers(0x41, 0, sectors, 0x34, 0);
    request(tag, &registers, &stamp::sectors(value, 0, sectors.into()))
}

/// A trim is answered by one worker while `second` waits at the other one, then a write.
fn overwritten_while_it_waits(second: &[u8]) -> Watched {
    let (first, value) = (trim(1, 1), 1 << 32 | 7);
    let mut watched = Watched::new();
    watched.arrives(0, &first);
    watched.arrives(1, second);
    watched.carried_out(0, stamp::ZEROS);
    watched.answered(0, &first);
    let written = write(3, value);
    watched.arrives(0, &written);
    watched.carried_out(0, value);
    watched.answered(0, &written);
    assert_eq!(watched.promise(), None, "before the second trim");
    watched
}

/// The same, and after `waits_us` `second` is carried out.
fn behind_a_write(second: &[u8], waits_us: u64) -> Option<Promise> {
    let mut watched = overwritten_while_it_waits(second);
    watched.later(waits_us);
    watched.carried_out(1, stamp::ZEROS);
    watched.promise()
}

#[test]
fn a_young_copy_of_a_trim_is_a_trim_of_its_own() {
    assert_eq!(behind_a_write(&trim(1, 1), 0), None);
}

#[test]
fn an_old_copy_of_a_trim_is_stale() {
    assert_eq!(behind_a_write(&trim(1, 1), LATE_US), Some(Promise::StaleFromRing));
}

#[test]
fn another_trim_of_the_same_sectors_is_never_stale() {
    assert_eq!(behind_a_write(&trim(2, 2), LATE_US), None);
}

#[test]
fn a_trim_whose_tag_was_answered_to_another_frame_may_be_carried_out_yet() {
    let mut watched = overwritten_while_it_waits(&trim(1, 1));
    let (third, bad) = (
        trim(4, 2),
        request(4, &frame::registers(0x41, 1, 2, 0x06, 0), &[]),
    );
    watched.arrives(1, &third);
    // An adversary's: cut, and with the same tag.
    watched.arrives_as(1, &bad, true);
    watched.reply(1, &bad, (2, 0), &[]);
    watched.later(LATE_US);
    watched.carried_out(1, stamp::ZEROS);
    assert_eq!(watched.promise(), None);
}

#[test]
fn an_odd_frame_with_a_part_of_an_old_write_is_a_write_of_its_own() {
    let old = 1 << 32 | 7;
    let (first, mut changed) = (write_two(1, old), write_two(2, old));
    let after = changed.len() - 1;
    changed[after] ^= 1;
    let carried_out = |changed: Option<&[u8]>| {
        let mut watched = Watched::new();
        watched.arrives(0, &first);
        watched.arrives(1, &first);
        if let Some(changed) = changed {
            watched.arrives_as(1, changed, true);
        }
        watched.carried_out_all(0, &first);
        watched.answered(0, &first);
        let newer = write_two(3, old + 1);
        watched.arrives(0, &newer);
        watched.carried_out_all(0, &newer);
        watched.answered(0, &newer);
        watched.later(LATE_US);
        watched.carried_out_all(1, changed.unwrap_or(&first));
        watched.promise()
    };
    assert_eq!(carried_out(Some(&changed)), None);
    assert_eq!(carried_out(None), Some(Promise::StaleFromRing));
}

#[test]
fn zeros_that_no_trim_waits_for_are_stale() {
    let unrelated = request(2, &frame::registers(0x40, 0, 0, 0xea, 0), &[]);
    assert_eq!(behind_a_write(&unrelated, LATE_US), Some(Promise::StaleWrite));
}

#[test]
fn what_is_overwritten_in_the_same_step_was_carried_out() {
    let [older, newer] = [7, 8].map(|number| 1 << 32 | number);
    let (first, second) = (write(1, older), write(2, newer));
    let mut watched = Watched::new();
    watched.arrives(0, &first);
    watched.carried_out(0, older);
    // A young copy of it waits at the other worker.
    watched.arrives(1, &first);
    watched.answered(0, &first);
    watched.arrives(0, &second);
    watched.carried_out(0, newer);
    watched.answered(0, &second);
    // It is carried out there, and a third write behind it, before the oracle is shown anything.
    let third = write(3, 1 << 32 | 9);
    watched.arrives(1, &third);
    watched.becomes(1, older);
    watched.becomes(1, 1 << 32 | 9);
    watched.sees_notes();
    let read = request(4, &frame::registers(0x40, 0, 1, 0x24, 0), &[]);
    watched.arrives(0, &read);
    watched.answered_with(0, &read, &stamp::sectors(older, 0, 1));
    assert_eq!(watched.promise(), None, "it was there for a moment");
}
