//! Every vector of `tests/data/vectors.txt`, byte for byte, and the same with frames cut into small pieces.

use aoe_common::Vlan;
use std::sync::Arc;

use crate::ata::identify::{Facts, block};
use crate::store::Traits;
use crate::testing::bench::{Witness, Worker, options};
use crate::testing::store::MemStore;
use crate::testing::vector_file::{Line, expand, vectors};
use crate::{Export, Exports, Options, Persistent};

fn run(piece_bytes: usize) -> usize {
    let store = MemStore::new(2048);
    let make = |options: Options, state: Persistent| {
        Arc::new(Export::new(options, store.clone(), None, Arc::new(Witness::default()), state).unwrap())
    };
    let mut export = make(options(7, 3), Persistent::default());
    let mut worker = Worker::cut(vec![export.clone()], piece_bytes);
    let mut count = 0;
    for line in vectors() {
        let (name, request, reply) = match line {
            Line::Export(rule) => {
                let mut changed = options(7, 3);
                match rule.as_str() {
                    "read-only" => changed.read_only = true,
                    "vlan any" => changed.vlan = Vlan::Any,
                    "plain" => {}
                    other => panic!("unknown rule {other}"),
                }
                export = make(changed, export.persistent());
                worker
                    .session
                    .set_exports(Arc::new(Exports::new(vec![export.clone()])));
                continue;
            }
            Line::Vector { name, request, reply } => (name, request, reply),
        };
        let identify = block(&Facts {
            identity: &export.options().identity,
            sectors: 2048,
            per_frame: 2,
            sync: false,
            traits: store.traits,
            multiple: 16,
            smart: None,
        });
        let sent = if request == "advertise" {
            worker.session.advertise(
                &mut worker.link,
                &worker.port,
                std::slice::from_ref(&export),
                worker.now_us,
            );
            worker.sent()
        } else {
            worker.ask(&expand(&request, &identify))
        };
        let wanted: Vec<Vec<u8>> = match reply.as_str() {
            "silence" => Vec::new(),
            _ => vec![expand(&reply, &identify)],
        };
        assert_eq!(sent, wanted, "{name}");
        count += 1;
    }
    let image = &store.inner.lock().image;
    assert_eq!(image[9 * 512..10 * 512], [0x57; 512], "written by T19");
    assert_eq!(image[16 * 512..24 * 512], [0; 8 * 512], "trimmed by T36");
    count
}

#[test]
fn every_vector_byte_for_byte() {
    assert_eq!(run(4096), 41);
}

#[test]
fn every_vector_in_pieces_of_any_size() {
    for piece_bytes in [68, 100, 512, 513] {
        run(piece_bytes);
    }
}

/// The reference block: 2048 sectors, a port with room for eight TRIM blocks, write-back, TRIM with zeros, 4 KiB.
#[test]
fn the_reference_identify_block() {
    let block = block(&Facts {
        identity: &options(7, 3).identity,
        sectors: 2048,
        per_frame: 17,
        sync: false,
        traits: Traits {
            trim: true,
            zeroes_after_trim: true,
            physical_exponent: 3,
        },
        multiple: 16,
        smart: None,
    });
    let rows = [
        (
            0,
            "4000ff3f37c81000000000003f000000000000003765332e302d303020312020",
        ),
        (
            16,
            "20202020202020200000000000002e302031202020206f412045415447525445",
        ),
        (
            32,
            "5220464552454e45454320202020202020202020202020202020202020201080",
        ),
        (
            48,
            "0040002f00400000000006000000000000000000000010010008000000000700",
        ),
        (
            64,
            "0300780078007800780020400000000000000000000000000000000000000000",
        ),
        (
            80,
            "f00300006800007440416800003440417f400000000000000000000000000000",
        ),
        (
            96,
            "00000000000000000008000000000000000008000360000023516745ab89efcd",
        ),
        (
            160,
            "0000000000000000000000000000000000000100000000000000000000000000",
        ),
        (
            208,
            "0000004000000000000000000000000000000100000000000000000000000000",
        ),
        (
            240,
            "000000000000000000000000000000000000000000000000000000000000a571",
        ),
    ];
    let mut wanted = [0u8; 512];
    for (word, hex) in rows {
        let bytes = expand(hex, &[]);
        wanted[word * 2..][..bytes.len()].copy_from_slice(&bytes);
    }
    for word in 0..256 {
        assert_eq!(block[word * 2..][..2], wanted[word * 2..][..2], "word {word}");
    }
}
