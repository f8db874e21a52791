//! What users ask an initiator for, as requests.

use aoe_common::Mac;
use aoe_common::wire::{SECTOR_BYTES, aoe};

use super::{Base, mac_of};
use crate::frame::registers;
use crate::plan::Want;
use crate::stamp;

/// A request without its addresses and tag.
#[derive(Debug, Clone)]
pub struct Ask {
    /// AoE command.
    pub command: u8,
    /// The command's argument and data.
    pub argument: Vec<u8>,
    /// In words.
    pub text: String,
}

impl Ask {
    /// Whether it is an ATA command.
    pub fn is_ata(&self) -> bool {
        self.command == aoe::CMD_ATA
    }
}

fn ata(text: String, aflags: u8, feature: u8, count: u8, opcode: u8, lba: u64, data: &[u8]) -> Ask {
    let mut argument = registers(aflags, feature, count, opcode, lba).to_vec();
    argument.extend(data);
    Ask {
        command: aoe::CMD_ATA,
        argument,
        text,
    }
}

/// READ EXT.
pub(super) fn read(lba: u64, count: u8, data: &[u8]) -> Ask {
    ata(format!("READ {lba}+{count}"), 0x40, 0, count, 0x24, lba, data)
}

/// IDENTIFY.
pub(super) fn identify() -> Ask {
    ata("IDENTIFY".into(), 0, 0, 1, 0xec, 0xa0 << 24, &[])
}

/// Query Config.
pub(super) fn query(sub: u8, text: &[u8]) -> Ask {
    let mut argument = vec![0, 0, 0, 0, 0, sub];
    argument.extend((text.len() as u16).to_be_bytes());
    argument.extend(text);
    Ask {
        command: aoe::CMD_QUERY,
        argument,
        text: format!("QUERY CONFIG {sub} {text:?}"),
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
        let stamped = || stamp::sectors(stamp, lba, count);
        let name = stamp::name(stamp);
        match Want::ALL[kind.unwrap_or(0)] {
            Want::Read => read(lba, short, &[]),
            Want::Write => ata(
                format!("WRITE {lba}+{count} {name}"),
                0x41,
                0,
                short,
                0x34,
                lba,
                &stamped(),
            ),
            Want::ForcedWrite => ata(
                format!("WRITE FUA {lba}+{count} {name}"),
                0x41,
                0,
                short,
                0x3d,
                lba,
                &stamped(),
            ),
            Want::Flush => ata("FLUSH".into(), 0x40, 0, 0, 0xea, 0, &[]),
            Want::Trim => {
                let mut data = [0; SECTOR_BYTES];
                data[..8].copy_from_slice(&(lba | count << 48).to_le_bytes());
                ata(format!("TRIM {lba}+{count}"), 0x41, 1, 1, 0x06, 0, &data)
            }
            Want::Verify => ata(format!("VERIFY {lba}+{count}"), 0x40, 0, short, 0x42, lba, &[]),
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
            text: format!("MASK {directives:?}"),
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
            text: format!("RESERVE {sub} {members:?}"),
        }
    }
}
