//! Any bytes in: silence or a well-formed reply, no panic, no frame lost, nothing leaked.

use aoe_common::Mac;
use proptest::prelude::*;

use crate::store::FaultKind;
use crate::testing::bench::{ONE, OTHER, TARGET, frame_from};
use crate::testing::store::StoreMode;
use crate::testing::trial::Trial;

fn mac() -> impl Strategy<Value = Mac> {
    prop_oneof![
        6 => Just(ONE),
        2 => Just(OTHER),
        2 => Just(TARGET),
        2 => Just(Mac::BROADCAST),
        1 => any::<[u8; 6]>().prop_map(Mac),
    ]
}

fn tags() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop_oneof![Just([0x81, 0]), Just([0x88, 0xa8])];
    let tci = prop_oneof![Just([0, 5]), Just([0x70, 5]), Just([0xe0, 0]), any::<[u8; 2]>()];
    let count = prop_oneof![8 => Just(0usize), 3 => Just(1), 1 => 2..4usize];
    count.prop_flat_map(move |count| {
        proptest::collection::vec((tag.clone(), tci.clone()), count)
            .prop_map(|tags| tags.iter().flat_map(|(tag, tci)| [*tag, *tci].concat()).collect())
    })
}

/// Registers with a mind to be valid.
fn ata_argument() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![
        8 => proptest::sample::select(vec![
            0x20, 0x24, 0x30, 0x34, 0xec, 0xe7, 0xea, 0x06, 0x42, 0x40, 0xe5, 0x3d, 0xce, 0xc4, 0x39, 0xc6, 0xef,
            0xb0, 0x90,
        ]),
        1 => any::<u8>(),
    ];
    let lba = prop_oneof![4 => 0..130u64, 1 => any::<u64>()];
    let aflags = prop_oneof![proptest::sample::select(vec![0, 1, 0x40, 0x41]), any::<u8>()];
    let feature = prop_oneof![proptest::sample::select(vec![0, 1, 0xd0, 0xda]), any::<u8>()];
    (
        aflags,
        feature,
        prop_oneof![9 => 0..4u8, 1 => 0..20u8],
        opcode,
        lba,
    )
        .prop_map(|(aflags, feature, count, opcode, lba)| {
            [&[aflags, feature, count, opcode], &lba.to_le_bytes()[..]].concat()
        })
}

fn argument(command: u8) -> BoxedStrategy<Vec<u8>> {
    let tail = proptest::collection::vec(any::<u8>(), 0..1100);
    let small = 0..6u8;
    match command {
        0 => (ata_argument(), tail).prop_map(|(a, b)| [a, b].concat()).boxed(),
        1 => (small, 0..40u16, tail)
            .prop_map(|(ccmd, len, string)| {
                [&[0, 0, 0, 0, 0, ccmd], &len.to_be_bytes()[..], &string].concat()
            })
            .boxed(),
        2 => (0..3u8, small, proptest::collection::vec((0..4u8, mac()), 0..8))
            .prop_map(|(mcmd, count, list)| {
                let entry = |(command, mac): &(u8, Mac)| [&[0, *command], &mac.0[..]].concat();
                [vec![0, mcmd, 0, count], list.iter().flat_map(entry).collect()].concat()
            })
            .boxed(),
        3 => (0..4u8, small, proptest::collection::vec(mac(), 0..8))
            .prop_map(|(rcmd, count, list)| {
                [vec![rcmd, count], list.iter().flat_map(|mac| mac.0).collect()].concat()
            })
            .boxed(),
        _ => tail.boxed(),
    }
}

/// A frame that is nearly right.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let command = prop_oneof![6 => Just(0u8), 2 => 1..4u8, 1 => any::<u8>()];
    let shelf = prop_oneof![4 => 7..10u16, 1 => Just(0xffff), 1 => any::<u16>()];
    let slot = prop_oneof![4 => 3..5u8, 1 => Just(9), 1 => Just(0xff), 1 => any::<u8>()];
    let spoil = proptest::option::weighted(0.2, (14..44usize, any::<u8>()));
    let cut = prop_oneof![8 => Just(usize::MAX), 1 => 0..64usize, 1 => 0..1200usize];
    command.prop_flat_map(move |command| {
        let to = prop_oneof![5 => Just(TARGET), 2 => Just(Mac::BROADCAST), 1 => mac()];
        let header = (mac(), to, shelf.clone(), slot.clone(), any::<u32>(), tags());
        (header, argument(command), spoil.clone(), cut.clone()).prop_map(
            move |((source, to, shelf, slot, tag, tags), argument, spoil, cut)| {
                let mut frame = frame_from(source, to, shelf, slot, command, tag, &argument);
                frame.splice(12..12, tags);
                if let Some((at, byte)) = spoil
                    && let Some(spoilt) = frame.get_mut(at)
                {
                    *spoilt = byte;
                }
                frame.truncate(cut);
                frame
            },
        )
    })
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![9 => likely(), 1 => any_bytes]
}

fn mode() -> impl Strategy<Value = StoreMode> {
    let kind = prop_oneof![
        Just(FaultKind::Read),
        Just(FaultKind::Write),
        Just(FaultKind::Gone)
    ];
    prop_oneof![
        6 => Just(StoreMode::Prompt),
        3 => Just(StoreMode::Defer),
        1 => (kind, 0..128u64).prop_map(|(kind, lba)| StoreMode::Fail(kind, lba)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn silence_or_a_well_formed_reply(
        frames in proptest::collection::vec((frame(), mode()), 1..20),
        (mtu_bytes, piece_bytes) in prop_oneof![
            (Just(9000u32), 2048..=4096usize),
            (Just(1500u32), 140..600usize),
        ],
        pool in prop_oneof![9 => Just(usize::MAX), 1 => 0..20usize],
    ) {
        let mut trial = Trial::new(mtu_bytes, piece_bytes, pool);
        for (frame, mode) in frames {
            trial.ask(frame, mode);
        }
        trial.end();
    }
}
