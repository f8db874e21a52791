//! Where fuzzing starts: inputs that are right, or were once wrong in a way worth remembering (`fuzz/seeds/`).

use std::path::Path;

use aoe_common::Mac;
use xblade::control::state::format;

use crate::sequence::{Sequence, Step};
use engine::Persistent;
use engine::testing::vector_file::{Line, expand, vectors};

/// The fuzz targets.
pub const TARGETS: [&str; 3] = ["frame", "config", "state"];

/// All seeds of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let mut seeds = kept(target);
    match target {
        "frame" => seeds.extend(frames()),
        "state" => seeds.extend(states()),
        _ => {}
    }
    seeds
}

/// The files of `fuzz/seeds/` for a target, in the order of their names.
fn kept(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let Ok(entries) = std::fs::read_dir(&dir) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    files.sort();
    let read = |path| std::fs::read(path).expect("a readable seed");
    files.iter().map(read).collect()
}

/// Each test vector alone, and all of them in order: at once, put off, on a jumbo link, in small pieces with few to spare.
fn frames() -> Vec<Vec<u8>> {
    let requests: Vec<Vec<u8>> = vectors()
        .into_iter()
        .filter_map(|line| match line {
            Line::Vector { request, .. } if request != "advertise" => Some(expand(&request, &[])),
            _ => None,
        })
        .collect();
    let sequence = |settings, control, requests: &[Vec<u8>]| {
        let steps = requests.iter().map(|frame| Step {
            control,
            frame: frame.clone(),
        });
        Sequence {
            settings,
            steps: steps.collect(),
        }
        .encode()
    };
    let alone = requests
        .iter()
        .map(|request| sequence([0; 3], 0, std::slice::from_ref(request)));
    let mut seeds: Vec<_> = alone.collect();
    seeds.push(sequence([0; 3], 0, &requests));
    // Put off, and the oldest ends before each next frame.
    seeds.push(sequence([0; 3], 0b0010_0010, &requests));
    seeds.push(sequence([1, 0, 0], 0b0011_0010, &requests));
    seeds.push(sequence([0, 0, 8], 0, &requests));
    seeds.push(sequence([0; 3], 0b0000_0111, &requests));
    seeds
}

/// An empty state, an ordinary one and the largest.
fn states() -> Vec<Vec<u8>> {
    let macs = |count: u8| (0..count).map(|last| Mac([2, 0, 0, 0, 0, last])).collect();
    let state = |export: Option<&str>, string: &[u8], mask, reserve| format::Contents {
        export: export.map(|name| name.parse().expect("a name of a state")),
        state: Persistent {
            string: string.to_vec(),
            mask: macs(mask),
            reserve: macs(reserve),
        },
    };
    [
        state(None, b"", 0, 0),
        state(Some("1.1"), b"", 0, 0),
        state(Some("7.3-vlan-5"), b"vm01", 2, 1),
        state(Some("65534.254-vlan-any+san-b"), &[0xff; 1024], 64, 64),
    ]
    .iter()
    .map(format::encode)
    // Also without the header, for the way that brings its own.
    .flat_map(|bytes| {
        let at = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .expect("a header line");
        let body = bytes[at + 1..].to_vec();
        [bytes, body]
    })
    .collect()
}
