//! What users ask an initiator for, as requests.

use aoe_common::Mac;
use aoe_common::wire::{SECTOR_BYTES, aoe, ata, mask, query, reserve};

use super::{Base, mac_of};
use crate::frame::registers;
use crate::plan::Want;
use crate::stamp;

/// A request without its addresses and tag.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// AoE command.
    pub command: u8,
    /// The command's argument and data.
    pub argument: Vec<u8>,
}

impl Ask {
    /// Whether it is an ATA command.
    pub fn is_ata(&self) -> bool {
        self.command == aoe::CMD_ATA
    }

    /// In words, read from its bytes: most runs want none.
    pub fn text(&self) -> String {
        let bytes = &self.argument;
        let macs = |at: usize, each: usize| {
            let entries = bytes[at..].chunks_exact(each);
            entries.map(move |entry| {
                (
                    entry,
                    Mac([0, 1, 2, 3, 4, 5].map(|octet| entry[each - 6 + octet])),
                )
            })
        };
        match self.command {
            aoe::CMD_ATA => self.ata_text(),
            aoe::CMD_QUERY => format!(
                "QUERY CONFIG {} {:?}",
                bytes[query::SUBCOMMAND],
                &bytes[query::HEADER_LEN..]
            ),
            aoe::CMD_MASK => {
                let directives: Vec<_> = macs(mask::HEADER_LEN, mask::DIRECTIVE_LEN)
                    .map(|(entry, mac)| (entry[1], mac))
                    .collect();
                format!("MASK {directives:?}")
            }
            _ => {
                let members: Vec<_> = macs(reserve::HEADER_LEN, 6).map(|(_, mac)| mac).collect();
                format!("RESERVE {} {members:?}", bytes[reserve::SUBCOMMAND])
            }
        }
    }

    fn ata_text(&self) -> String {
        let (registers, data) = self.argument.split_at(ata::HEADER_LEN);
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        let span = format!(
            "{}+{}",
            number(&registers[ata::LBA..][..6]),
            registers[ata::COUNT]
        );
        let value = |bytes: &[u8]| stamp::name(number(&bytes[..8]));
        match registers[ata::COMMAND] {
            opcode::READ => format!("READ {span}"),
            opcode::WRITE => format!("WRITE {span} {}", value(data)),
            opcode::WRITE_FUA => format!("WRITE FUA {span} {}", value(data)),
            opcode::FLUSH => "FLUSH".into(),
            opcode::TRIM => format!("TRIM {}+{}", number(&data[..6]), number(&data[6..8])),
            opcode::VERIFY => format!("VERIFY {span}"),
            opcode::IDENTIFY => "IDENTIFY".into(),
            other => format!("ATA {other:02x}"),
        }
    }
}

/// ATA commands that users ask for; those with an LBA have 48 bits of it.
mod opcode {
    pub(super) const TRIM: u8 = 0x06;
    pub(super) const READ: u8 = 0x24;
    pub(super) const WRITE: u8 = 0x34;
    pub(super) const WRITE_FUA: u8 = 0x3d;
    pub(super) const VERIFY: u8 = 0x42;
    pub(super) const FLUSH: u8 = 0xea;
    pub(super) const IDENTIFY: u8 = 0xec;
}

fn ata(aflags: u8, feature: u8, count: u8, opcode: u8, lba: u64, data: &[u8]) -> Ask {
    let mut argument = Vec::with_capacity(ata::HEADER_LEN + data.len());
    argument.extend(registers(aflags, feature, count, opcode, lba));
    argument.extend_from_slice(data);
    Ask {
        command: aoe::CMD_ATA,
        argument,
    }
}

/// A write of stamped sectors.
fn write(opcode: u8, lba: u64, count: u8, stamp: stamp::Value) -> Ask {
    let mut ask = ata(0x41, 0, count, opcode, lba, &[]);
    ask.argument
        .resize(ata::HEADER_LEN + usize::from(count) * SECTOR_BYTES, 0);
    stamp::fill_sectors(stamp, lba, &mut ask.argument[ata::HEADER_LEN..]);
    ask
}

/// READ EXT.
pub(super) fn read(lba: u64, count: u8, data: &[u8]) -> Ask {
    ata(0x40, 0, count, opcode::READ, lba, data)
}

/// IDENTIFY.
pub(super) fn identify() -> Ask {
    ata(0, 0, 1, opcode::IDENTIFY, 0xa0 << 24, &[])
}

/// Query Config.
pub(super) fn query(sub: u8, text: &[u8]) -> Ask {
    let mut argument = vec![0, 0, 0, 0, 0, sub];
    argument.extend((text.len() as u16).to_be_bytes());
    argument.extend(text);
    Ask {
        command: aoe::CMD_QUERY,
        argument,
    }
}

impl Base {
    /// Draws a request; `stamp` names it if it writes. `sectors`: of the device, `most`: of a frame.
    pub fn draw(&mut self, stamp: u64, sectors: u64, most: u8) -> Ask {
        let area = self.plan.area.min(sectors.saturating_sub(self.plan.first)).max(1);
        let total = self.plan.mix.iter().sum::<u32>().max(1);
        let mut at = self.random.below(total.into()) as u32;
        let kind = self.plan.mix.iter().position(|weight| {
            let hit = at < *weight;
            at = at.saturating_sub(*weight);
            hit
        });
        let count = self.random.between(1, u64::from(most.max(1)).min(area));
        let lba = self.plan.first + self.random.below(area - count + 1);
        let short = count as u8;
        match Want::ALL[kind.unwrap_or(0)] {
            Want::Read => read(lba, short, &[]),
            Want::Write => write(opcode::WRITE, lba, short, stamp),
            Want::ForcedWrite => write(opcode::WRITE_FUA, lba, short, stamp),
            Want::Flush => ata(0x40, 0, 0, opcode::FLUSH, 0, &[]),
            Want::Trim => {
                // The second entry has no sectors, so that targets pass over it: it tells this trim from others of the same sectors.
                let mut data = [0; SECTOR_BYTES];
                data[..8].copy_from_slice(&(lba | count << 48).to_le_bytes());
                data[8..16].copy_from_slice(&(stamp & 0xffff_ffff_ffff).to_le_bytes());
                ata(0x41, 1, 1, opcode::TRIM, 0, &data)
            }
            Want::Verify => ata(0x40, 0, short, opcode::VERIFY, lba, &[]),
            Want::Identify => identify(),
            Want::Text => {
                let sub = *self.random.pick(&[0, 3, 4, 4]);
                let len = self.random.below(4);
                query(sub, &stamp.to_le_bytes()[..len as usize])
            }
            Want::Mask => self.mask(),
            Want::Reserve => self.reserve(),
        }
    }

    fn own_macs(&self) -> Vec<Mac> {
        self.plan
            .ports
            .iter()
            .map(|port| mac_of(self.number, *port))
            .collect()
    }

    fn someone(&mut self) -> Mac {
        let host = self.random.below(8) as u16;
        let port = *self.random.pick(&self.plan.ports);
        mac_of(host, port)
    }

    fn mask(&mut self) -> Ask {
        let own = self.own_macs();
        let mut directives: Vec<(u8, Mac)> = match self.random.below(3) {
            // In, or all out again.
            0 => own.into_iter().map(|mac| (1, mac)).collect(),
            1 => (0..8)
                .flat_map(|host| self.plan.ports.iter().map(move |port| (2, mac_of(host, *port))))
                .collect(),
            _ => Vec::new(),
        };
        if self.random.one_in(2) {
            let command = self.random.between(0, 3) as u8;
            let someone = self.someone();
            directives.push((command, someone));
        }
        let sub = u8::from(!directives.is_empty());
        let mut argument = vec![0, sub, 0, directives.len() as u8];
        for (command, mac) in &directives {
            argument.extend([0, *command]);
            argument.extend(mac.0);
        }
        Ask {
            command: aoe::CMD_MASK,
            argument,
        }
    }

    fn reserve(&mut self) -> Ask {
        let sub = *self.random.pick(&[0, 1, 1, 2]);
        let members = if self.random.one_in(2) {
            self.own_macs()
        } else {
            Vec::new()
        };
        let mut argument = vec![sub, members.len() as u8];
        members.iter().for_each(|mac| argument.extend(mac.0));
        Ask {
            command: aoe::CMD_RESERVE,
            argument,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::plan::{HostKind, HostPlan};
    use crate::random::Random;

    #[test]
    fn trims_of_the_same_sectors_differ() {
        let mut mix = [0; Want::KINDS];
        mix[Want::Trim as usize] = 1;
        let plan = HostPlan {
            kind: HostKind::Linux,
            export: 0,
            ports: vec![0],
            burst: 1,
            pause_us: 1,
            requests: 2,
            first: 0,
            area: 1,
            mix,
        };
        let mut base = Base {
            number: 0,
            plan,
            random: Random::stream(1, 1),
            bus: Bus::default(),
            out: Vec::new(),
            quiet: false,
        };
        let mut draw = |number: u64| base.draw(1 << 32 | number, 64, 2).argument;
        let (one, other) = (draw(1), draw(2));
        let range = ata::HEADER_LEN..ata::HEADER_LEN + 8;
        assert_eq!(one[range.clone()], other[range]);
        assert_ne!(one, other);
    }
}
