//! What the target says, judged.

use aoe_common::wire::{MIN_FRAME_BYTES, SECTOR_BYTES, aoe, ata, query};

use super::arrival::{Arrival, What};
use super::cluster::Tick;
use super::violation::Promise;
use super::{At, Oracle};
use crate::bus::WorkerId;
use crate::frame::Reply;
use crate::stamp;

impl Oracle {
    /// A worker has sent a frame.
    pub fn sent(&mut self, at: At, bytes: &[u8]) {
        self.replies += 1;
        let tick = self.next_tick();
        let Some(reply) = Reply::parse(bytes).filter(|_| bytes.len() >= MIN_FRAME_BYTES) else {
            return self.broken(
                Promise::Reply,
                format!("a malformed frame was sent: {bytes:02x?}"),
            );
        };
        if reply.command == aoe::CMD_QUERY && reply.tag == 0 {
            return self.advertised(&reply);
        }
        let Some((asked, certain)) = self.asked(at.worker, &reply) else {
            let text = format!(
                "{} was told tag {:08x} on port {}, which nobody asks",
                reply.to, reply.tag, at.port
            );
            return self.broken(Promise::Reply, text);
        };
        let discovery = self.arrivals[&asked].header.is_discovery();
        // From the address that it was sent to, also when the port has another by now.
        if reply.from != self.arrivals[&asked].asked && reply.from != at.mac {
            return self.broken(
                Promise::Reply,
                format!("an answer from {}, which is not the port's address", reply.from),
            );
        }
        let number = usize::from(reply.slot);
        if !discovery && self.exports.get(number).is_none() {
            return self.broken(
                Promise::Reply,
                format!("an answer from slot {number}, which does not exist"),
            );
        }
        let arrival = if discovery {
            Some(self.arrivals[&asked].clone())
        } else if !certain && self.arrivals[&asked].is_write() {
            // It may have been another copy's answer: then this one may be carried out yet.
            self.stays(asked)
        } else {
            self.leave(asked)
        };
        let Some(arrival) = arrival.filter(|_| number < self.exports.len()) else {
            return;
        };
        // An answer just now may have changed what is right.
        let certain = certain && !self.unsure.contains(&number);
        let done = certain && reply.error == 0 && reply.status() == Some((0x40, 0));
        if !discovery && !done {
            self.ended_badly(number, &arrival);
        }
        if !certain && matches!(arrival.what, What::Admin(_)) {
            self.unsure.push(number);
        }
        if certain {
            self.judge(number, asked, tick, &arrival, &reply);
        }
    }

    /// The request that a reply answers, and whether it can be no other: copies that the network has changed carry the same tag.
    fn asked(&mut self, worker: WorkerId, reply: &Reply<'_>) -> Option<(Tick, bool)> {
        let first = (worker, reply.to, reply.tag, 0);
        let waiting = self
            .by_tag
            .range(first..=(worker, reply.to, reply.tag, Tick::MAX));
        let fits = |tick: &Tick| {
            let header = &self.arrivals[tick].header;
            let shelf = header.shelf == reply.shelf || header.shelf == aoe::SHELF_ANY;
            let slot = header.slot == reply.slot || header.slot == aoe::SLOT_ANY;
            header.command == reply.command && shelf && slot
        };
        let fitting: Vec<Tick> = waiting.map(|(.., tick)| *tick).filter(fits).collect();
        let tick = *fitting.first()?;
        let first = &self.arrivals[&tick];
        let same = |other: &Tick| {
            let other = &self.arrivals[other];
            let version = other.header.version == first.header.version;
            other.what == first.what && other.odd == first.odd && version && !other.unclear
        };
        let certain = fitting.iter().all(same);
        if !certain {
            for tick in &fitting {
                if let Some(arrival) = self.arrivals.get_mut(tick) {
                    arrival.unclear = true;
                }
            }
        }
        Some((tick, certain))
    }

    fn advertised(&mut self, reply: &Reply<'_>) {
        let export = self.exports.get(usize::from(reply.slot));
        let Some(export) = export else { return };
        let to_all = reply.to.is_group();
        let hidden = !export.plan.access.is_empty() || !export.state.mask.is_empty();
        if (to_all && hidden && export.plan.access.len() <= 64)
            || (!to_all && export.admits(reply.to).is_none())
        {
            self.broken(
                Promise::Access,
                format!("an advertisement to {} shows what is hidden from it", reply.to),
            );
        }
    }

    fn judge(&mut self, number: usize, asked: Tick, tick: Tick, arrival: &Arrival, reply: &Reply<'_>) {
        let export = &self.exports[number];
        let source = arrival.header.source;
        let tail_at = match (reply.error, &arrival.what) {
            (0, What::Read { count, .. }) if reply.status() == Some((0x40, 0)) => {
                ata::HEADER_LEN + *count as usize * SECTOR_BYTES
            }
            (0, What::Ata(0xec | 0xb0)) => ata::HEADER_LEN + SECTOR_BYTES,
            (_, What::Admin(_)) => reply.argument.len(),
            _ if reply.command == aoe::CMD_ATA => ata::HEADER_LEN,
            _ => reply.argument.len(),
        };
        if reply
            .argument
            .get(tail_at..)
            .unwrap_or_default()
            .iter()
            .any(|byte| *byte != 0)
        {
            return self.broken(
                Promise::Reply,
                format!("the padding of an answer to {source} is not zero"),
            );
        }
        // The right answer is error 5; a copy that the network changed may have been answered in its place.
        if arrival.header.version != aoe::VERSION {
            return;
        }
        if let What::Admin(asked) = &arrival.what {
            let asked = asked.clone();
            return self.administered(number, &asked, arrival, reply);
        }
        if export.admits(source).is_none() {
            return self.broken(
                Promise::Access,
                format!("{source} was answered by e7.{number}, which is hidden from it"),
            );
        }
        if reply.command != aoe::CMD_ATA {
            return;
        }
        match (reply.error, reply.status()) {
            (0, Some((0x40, 0))) => self.succeeded(number, asked, tick, arrival, reply),
            (0, Some((0x40, 1))) if arrival.what == What::Ata(0x90) => {}
            (error, status) => self.failed(number, asked, arrival, error, status.unwrap_or_default()),
        }
    }

    /// An ATA command was carried out, the target says.
    fn succeeded(&mut self, number: usize, asked: Tick, tick: Tick, arrival: &Arrival, reply: &Reply<'_>) {
        let export = &self.exports[number];
        let source = arrival.header.source;
        let passes = matches!(arrival.what, What::Flush | What::Ata(0xec | 0xe5));
        if !export.holds(source) && !passes {
            return self.broken(
                Promise::Access,
                format!("{source} was served by e7.{number} while others hold its reservation"),
            );
        }
        if matches!(arrival.what, What::Write { .. } | What::Trim(..)) && !export.may_write(source) {
            return self.broken(
                Promise::Access,
                format!("{source} wrote to e7.{number}, which it may only read"),
            );
        }
        match &arrival.what {
            What::Read { lba, count } => self.read(number, asked, tick, (*lba, *count), reply),
            What::Write { lba, values, forced } => {
                let durable = *forced || export.plan.sync;
                self.wrote(number, asked, tick, *lba, values, None, durable);
            }
            What::Trim(spans, key) if self.exports[number].disk.lock().zeroes_after_trim() => {
                for &(first, count) in spans {
                    let keys = vec![*key; count as usize];
                    self.wrote(number, asked, tick, first, &keys, Some(stamp::ZEROS), true);
                }
            }
            What::Flush => self.flushed(number, asked),
            _ => {}
        }
    }

    fn read(&mut self, number: usize, asked: Tick, tick: Tick, (lba, count): (u64, u64), reply: &Reply<'_>) {
        let data = reply.data();
        if data.len() < count as usize * SECTOR_BYTES {
            return self.broken(
                Promise::Reply,
                format!("{} bytes for a read of {count} sectors", data.len()),
            );
        }
        let horizon = self.horizon();
        for (lba, bytes) in (lba..lba + count).zip(data.chunks(SECTOR_BYTES)) {
            let value = stamp::value(lba, bytes);
            let Some(sector) = self.exports[number].sectors.get_mut(lba as usize) else {
                return self.broken(
                    Promise::Reply,
                    format!("sector {lba} was read, which does not exist"),
                );
            };
            let seen = sector.read_answered(value, asked, tick);
            sector.prune(horizon);
            if let Err(instead) = seen {
                let what = stamp::name(value);
                let text = match instead {
                    None => format!(
                        "a read of sector {lba} of e7.{number} shows {what}, which is not there any more or never was"
                    ),
                    Some(newer) => format!(
                        "a read of sector {lba} of e7.{number} shows {what} where {} was there before it was asked",
                        stamp::name(newer)
                    ),
                };
                return self.broken(Promise::Order, text);
            }
        }
    }

    /// Sectors were written, the target says; `keys` are the values, or else all get `value`.
    #[expect(clippy::too_many_arguments, reason = "one write with its answer")]
    fn wrote(
        &mut self,
        number: usize,
        asked: Tick,
        tick: Tick,
        lba: u64,
        keys: &[u64],
        value: Option<u64>,
        durable: bool,
    ) {
        let (horizon, now_us) = (self.horizon(), self.now_us);
        let mut wrong = None;
        let export = &mut self.exports[number];
        let device = export.disk.lock();
        for (lba, key) in (lba..).zip(keys) {
            let Some(sector) = export.sectors.get_mut(lba as usize) else {
                continue;
            };
            let done = sector.write_answered(*key, asked, tick, now_us, export.plan.late_duplicates);
            let what = value.unwrap_or(*key);
            if let Err(newer) = done {
                let (what, newer) = (stamp::name(what), stamp::name(newer));
                let text = format!(
                    "{what} at sector {lba} of e7.{number} was answered, but others saw {newer} throughout"
                );
                wrong.get_or_insert((Promise::Order, text));
            }
            if durable && done != Ok(false) {
                let medium = stamp::value(lba, device.durable(export.base + lba));
                let missing = sector.survives(medium, |cluster| cluster.answered == tick);
                if missing.is_err() {
                    let (what, medium) = (stamp::name(what), stamp::name(medium));
                    let text = format!(
                        "{what} at sector {lba} of e7.{number} was answered as durable; the medium has {medium}"
                    );
                    wrong.get_or_insert((Promise::Durable, text));
                }
                sector.hardened(*key);
            } else {
                export.soft.insert(lba);
            }
            sector.prune(horizon);
        }
        drop(device);
        if let Some((promise, text)) = wrong {
            self.broken(promise, text);
        }
    }

    /// A flush was answered: what was answered before it arrived is on the medium.
    fn flushed(&mut self, number: usize, asked: Tick) {
        let mut wrong = None;
        let export = &mut self.exports[number];
        let device = export.disk.lock();
        let lost = device
            .lost()
            .iter()
            .find(|sector| (export.base..export.base + export.plan.sectors).contains(*sector));
        if let Some(sector) = lost {
            let text = format!(
                "a flush of e7.{number} was answered well while sector {} is lost",
                sector - export.base
            );
            wrong = Some(text);
        }
        let soft = std::mem::take(&mut export.soft);
        for lba in soft {
            let sector = &mut export.sectors[lba as usize];
            let medium = stamp::value(lba, device.durable(export.base + lba));
            let missing = sector.survives(medium, |cluster| cluster.answered < asked);
            if let Err(Some(newer)) = missing {
                let (medium, newer) = (stamp::name(medium), stamp::name(newer));
                let text = format!(
                    "a flush of e7.{number} was answered; sector {lba} is {medium} on the medium, not {newer}"
                );
                wrong.get_or_insert(text);
            }
            sector.harden(asked);
            if sector.clusters.iter().any(|cluster| !cluster.durable) {
                export.soft.insert(lba);
            }
        }
        drop(device);
        if let Some(text) = wrong {
            self.broken(Promise::Flush, text);
        }
    }

    /// A request for string, mask or reservation was answered.
    fn administered(&mut self, number: usize, asked: &super::Asked, arrival: &Arrival, reply: &Reply<'_>) {
        let export = &self.exports[number];
        let source = arrival.header.source;
        let Some(may_write) = export.admits(source) else {
            return self.broken(
                Promise::Access,
                format!("{source} was answered by e7.{number}, which is hidden from it"),
            );
        };
        let Some((next, answer)) = asked.judge(source, may_write, &export.state) else {
            return self.broken(
                Promise::State,
                format!("an answer to {asked:?} of {source}, where silence is right"),
            );
        };
        let argument = match reply.command {
            aoe::CMD_QUERY => reply.argument.get(query::STRING_LEN..).unwrap_or_default(),
            _ => reply.argument,
        };
        let shown = argument.get(..answer.argument.len()).unwrap_or_default();
        if answer.error != reply.error || shown != answer.argument {
            let text = format!(
                "{asked:?} of {source} to e7.{number} was answered {} {argument:02x?}, right is {} {:02x?}",
                reply.error, answer.error, answer.argument
            );
            return self.broken(Promise::State, text);
        }
        if answer.error == 0 {
            if self.exports[number].state.reserve != next.reserve {
                self.exports[number].reserved = self.tick;
            }
            if self.exports[number].state != next {
                // Changes run one at a time: one that was not answered is over. What changes nothing waits for none.
                self.unanswered.remove(&number);
            }
            self.exports[number].state = next;
        }
    }

    /// A request was answered with an error. A well-behaved initiator gets one only where there is a reason.
    fn failed(
        &mut self,
        number: usize,
        asked: Tick,
        arrival: &Arrival,
        error: u8,
        (status, register): (u8, u8),
    ) {
        let export = &self.exports[number];
        let (plan, source) = (&export.plan, arrival.header.source);
        if arrival.odd {
            return;
        }
        let device = export.disk.lock();
        let faults = device.faults.any() || device.owes_errors() || export.faults > asked;
        drop(device);
        let (first, count) = match &arrival.what {
            What::Read { lba, count } => (*lba, *count),
            What::Write { lba, values, .. } => (*lba, values.len() as u64),
            _ => (0, 0),
        };
        let writes = matches!(arrival.what, What::Write { .. } | What::Trim(..));
        let reads = matches!(arrival.what, What::Read { .. } | What::Ata(0x40 | 0x42));
        let right = match (error, status, register) {
            (0, 0x41, 0x40) => reads && faults,
            (0, 0x61, 0x04) => (writes || arrival.what == What::Flush) && faults,
            (0, 0x41, 0x10) => first + count > plan.sectors || faults,
            (0, 0x41, 0x04) => {
                // A link whose MTU changes judges by the one it has when it comes to the request.
                count > u64::from(arrival.per_frame.min(2)) || (writes && export.admits(source) != Some(true))
            }
            (3, ..) => faults,
            (6, ..) => !export.holds(source) || export.reserved > asked,
            _ => false,
        };
        if !right {
            let text = format!(
                "{:?} of {source} to e7.{number} was answered with AoE error {error}, status {status:02x}/{register:02x} without a reason",
                arrival.what
            );
            self.broken(Promise::Error, text);
        }
    }
}
