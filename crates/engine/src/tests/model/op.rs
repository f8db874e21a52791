//! Commands of the model test, as frames and as what their answers say.

use aoe_common::Mac;
use proptest::prelude::*;

use crate::testing::bench::{TARGET, ata, frame_from};

/// Sectors of the export.
pub(super) const SECTORS: u64 = 24;

/// The initiators.
pub(super) const HOSTS: [Mac; 3] = [
    Mac([2, 0, 0, 0, 1, 1]),
    Mac([2, 0, 0, 0, 1, 2]),
    Mac([2, 0, 0, 0, 1, 3]),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Read(u64, u8),
    Write(u64, u8, u8),
    Trim(u64, u64),
    Verify(u64, u8),
    Flush,
    Query(u8, Vec<u8>),
    Mask(u8, usize),
    Reserve(u8, Vec<usize>),
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let lba = 0..SECTORS + 1;
    let string = proptest::collection::vec(b'a'..b'c', 0..3);
    let hosts = proptest::collection::vec(0..3usize, 0..3);
    prop_oneof![
        8 => (lba.clone(), 0..4u8).prop_map(|(lba, count)| Op::Read(lba, count)),
        8 => (lba.clone(), 0..4u8, 1..=255u8).prop_map(|(lba, count, byte)| Op::Write(lba, count, byte)),
        2 => (lba.clone(), 1..5u64).prop_map(|(lba, count)| Op::Trim(lba, count)),
        1 => (lba, 1..5u8).prop_map(|(lba, count)| Op::Verify(lba, count)),
        1 => Just(Op::Flush),
        3 => (0..6u8, string).prop_map(|(ccmd, string)| Op::Query(ccmd, string)),
        1 => (0..4u8, 0..3usize).prop_map(|(command, host)| Op::Mask(command, host)),
        2 => (0..4u8, hosts).prop_map(|(rcmd, hosts)| Op::Reserve(rcmd, hosts)),
    ]
}

impl Op {
    pub(super) fn frame(&self, host: Mac, tag: u32) -> Vec<u8> {
        let (command, argument) = match self {
            Op::Read(lba, count) => (0, ata(0x40, 0, *count, 0x24, *lba, &[])),
            Op::Write(lba, count, byte) => (
                0,
                ata(
                    0x41,
                    0,
                    *count,
                    0x34,
                    *lba,
                    &vec![*byte; usize::from(*count) * 512],
                ),
            ),
            Op::Trim(lba, count) => {
                let mut block = [0; 512];
                block[..8].copy_from_slice(&(lba | count << 48).to_le_bytes());
                (0, ata(0x41, 1, 1, 0x06, 0, &block))
            }
            Op::Verify(lba, count) => (0, ata(0x40, 0, *count, 0x42, *lba, &[])),
            Op::Flush => (0, ata(0, 0, 0, 0xea, 0, &[])),
            Op::Query(ccmd, string) => (
                1,
                [
                    &[0, 0, 0, 0, 0, *ccmd, 0, u8::try_from(string.len()).unwrap()],
                    &string[..],
                ]
                .concat(),
            ),
            Op::Mask(0, _) => (2, vec![0; 4]),
            Op::Mask(command, host) => (2, [&[0, 1, 0, 1, 0, *command], &HOSTS[*host].0[..]].concat()),
            Op::Reserve(rcmd, hosts) => {
                let macs = hosts.iter().flat_map(|host| HOSTS[*host].0);
                (
                    3,
                    [*rcmd, u8::try_from(hosts.len()).unwrap()]
                        .into_iter()
                        .chain(macs)
                        .collect(),
                )
            }
        };
        frame_from(host, TARGET, 7, 3, command, tag, &argument)
    }

    /// The sectors it touches and whether it writes.
    pub(super) fn sectors(&self) -> Option<(std::ops::Range<u64>, bool)> {
        match *self {
            Op::Read(lba, count) | Op::Verify(lba, count) => Some((lba..lba + u64::from(count), false)),
            Op::Write(lba, count, _) => Some((lba..lba + u64::from(count), true)),
            Op::Trim(lba, count) => Some((lba..lba + count, true)),
            _ => None,
        }
    }

    pub(super) fn is_fence(&self) -> bool {
        matches!(self, Op::Mask(..) | Op::Reserve(..))
    }

    pub(super) fn conflicts(&self, other: &Op) -> bool {
        if self.is_fence() || other.is_fence() {
            return true;
        }
        match (self, other, self.sectors(), other.sectors()) {
            (Op::Query(..), Op::Query(..), ..) | (Op::Verify(..), Op::Verify(..), ..) => true,
            (_, _, Some((a, a_writes)), Some((b, b_writes))) => {
                (a_writes || b_writes) && a.start < b.end && b.start < a.end
            }
            _ => false,
        }
    }
}

/// What an answer must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    AoeError(u8),
    Ata(u8, u8),
    Data(Vec<u8>),
    String(u8, Vec<u8>),
    /// List error and list.
    Mask(u8, u8, Vec<Mac>),
    Reserve(u8, Vec<Mac>),
}

pub(super) fn read_answer(reply: &[u8]) -> Answer {
    let error = reply[15];
    let macs = |at: usize, count: usize, stride: usize| -> Vec<Mac> {
        (0..count)
            .map(|i| Mac(reply[at + i * stride..][..6].try_into().unwrap()))
            .collect()
    };
    match reply[19] {
        0 if error != 0 => Answer::AoeError(error),
        0 if reply.len() > 60 => Answer::Data(reply[36..].to_vec()),
        0 => Answer::Ata(reply[27], reply[25]),
        1 => Answer::String(error, reply[32..][..usize::from(reply[31])].to_vec()),
        2 => {
            let listed = if reply[26] == 0 { usize::from(reply[27]) } else { 0 };
            Answer::Mask(error, reply[26], macs(30, listed, 8))
        }
        _ => Answer::Reserve(error, macs(26, usize::from(reply[25]), 6)),
    }
}
