//! Config string, mask and reservation, as the answers to their changes say they must be.

use aoe_common::Mac;
use aoe_common::wire::{MAX_CONFIG_STRING_BYTES, aoe, mask, query, reserve};
use engine::{MAX_MASK, MAX_RESERVE, Persistent};

/// What a request for one of the three commands asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    command: u8,
    sub: u8,
    /// `None`: the frame has fewer bytes than it claims.
    list: Option<Vec<u8>>,
}

/// What a right answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// AoE error.
    pub error: u8,
    /// The argument after the AoE header; of Query Config only from its length on.
    pub argument: Vec<u8>,
}

impl Asked {
    /// Reads a request; `None`: too short for its command.
    pub fn parse(command: u8, argument: &[u8]) -> Option<Asked> {
        let (header, sub, len) = match command {
            aoe::CMD_QUERY => {
                let len = u16::from_be_bytes(*argument.get(query::STRING_LEN..)?.first_chunk()?);
                (
                    query::HEADER_LEN,
                    *argument.get(query::SUBCOMMAND)? & 0x0f,
                    usize::from(len),
                )
            }
            aoe::CMD_MASK => {
                let count = usize::from(*argument.get(mask::COUNT)?);
                (
                    mask::HEADER_LEN,
                    argument[mask::SUBCOMMAND],
                    count * mask::DIRECTIVE_LEN,
                )
            }
            aoe::CMD_RESERVE => {
                let count = usize::from(*argument.get(reserve::COUNT)?);
                (reserve::HEADER_LEN, argument[reserve::SUBCOMMAND], count * 6)
            }
            _ => return None,
        };
        let list = argument.get(header..)?.get(..len).map(<[u8]>::to_vec);
        let list = list.filter(|list| command != aoe::CMD_QUERY || list.len() <= MAX_CONFIG_STRING_BYTES);
        Some(Asked { command, sub, list })
    }

    /// The state that it asks for, and the answer when that is in force; `None`: silence. Who may not write shuts nobody out.
    pub fn judge(&self, source: Mac, may_write: bool, now: &Persistent) -> Option<(Persistent, Answer)> {
        let mut next = now.clone();
        let (error, list_error) = match self.command {
            aoe::CMD_QUERY => (self.string(&mut next)?, None),
            aoe::CMD_MASK | aoe::CMD_RESERVE if !may_write && self.sub != 0 => (2, None),
            aoe::CMD_MASK => self.mask(&mut next),
            _ => (self.reserve(source, &mut next), None),
        };
        let argument = match self.command {
            aoe::CMD_QUERY => {
                let mut bytes = (next.string.len() as u16).to_be_bytes().to_vec();
                bytes.extend(&next.string);
                bytes
            }
            aoe::CMD_MASK => {
                let shown: &[Mac] = if error == 0 && list_error.is_none() {
                    &next.mask
                } else {
                    &[]
                };
                let (code, count) = list_error.unwrap_or((0, shown.len() as u8));
                let mut bytes = vec![0, self.sub, code, count];
                shown.iter().for_each(|mac| {
                    bytes.extend([0, 0]);
                    bytes.extend(mac.0);
                });
                bytes
            }
            _ => {
                let mut bytes = vec![self.sub, next.reserve.len() as u8];
                next.reserve.iter().for_each(|mac| bytes.extend(mac.0));
                bytes
            }
        };
        Some((next, Answer { error, argument }))
    }

    fn string(&self, next: &mut Persistent) -> Option<u8> {
        match (self.sub, &self.list) {
            (0, _) => Some(0),
            (1, Some(text)) => (*text == next.string).then_some(0),
            (2, Some(text)) => next.string.starts_with(text).then_some(0),
            (1 | 2, None) => None,
            (3, Some(text)) if !next.string.is_empty() && *text != next.string => Some(4),
            (3 | 4, Some(text)) => {
                next.string.clone_from(text);
                Some(0)
            }
            _ => Some(2),
        }
    }

    fn mask(&self, next: &mut Persistent) -> (u8, Option<(u8, u8)>) {
        let Some(list) = self.list.as_ref().filter(|_| self.sub <= 1) else {
            return (2, None);
        };
        if self.sub == 0 {
            return (0, None);
        }
        for (number, directive) in (0..).zip(list.chunks(mask::DIRECTIVE_LEN)) {
            let mac = Mac([
                directive[2],
                directive[3],
                directive[4],
                directive[5],
                directive[6],
                directive[7],
            ]);
            let there = next.mask.contains(&mac);
            match directive[1] {
                1 if !there && next.mask.len() >= MAX_MASK => return (0, Some((3, number))),
                1 if !there => next.mask.push(mac),
                2 => next.mask.retain(|member| *member != mac),
                0 | 1 => {}
                _ => return (0, Some((2, number))),
            }
        }
        (0, None)
    }

    fn reserve(&self, source: Mac, next: &mut Persistent) -> u8 {
        let Some(list) = self.list.as_ref().filter(|_| self.sub <= 2) else {
            return 2;
        };
        if self.sub == 0 {
            return 0;
        }
        let members: Vec<Mac> = list
            .chunks(6)
            .map(|mac| Mac([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]))
            .collect();
        if members.len() > MAX_RESERVE {
            return 2;
        }
        if self.sub == 1 && !next.reserve.is_empty() && !next.reserve.contains(&source) {
            return 6;
        }
        next.reserve = members;
        0
    }
}
