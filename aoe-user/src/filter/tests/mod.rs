//! The program in the kernel, asked frame by frame with BPF_PROG_TEST_RUN. Needs root; says so where it is not.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use aoe_common::Mac;
use aoe_common::rules::{Counter, STAMP_BYTES, Verdict, stamp_ns};
use aya::programs::{Program, TestRun as _, TestRunOptions};
use rustix::net::{AddressFamily, SocketType, socket};

use super::*;

mod frames;
mod kernel_log;
mod limits;
mod model;
mod replace;
mod responses;
mod verdicts;
mod wildcards;

use frames::Frame;

const PORT: Mac = Mac([2, 0, 0, 0, 0, 0xaa]);
const ALICE: Mac = Mac([2, 0, 0, 0, 0, 1]);
const BOB: Mac = Mac([2, 0, 0, 0, 0, 2]);
const CAROL: Mac = Mac([2, 0, 0, 0, 0, 3]);

/// A filter whose queue 0 has a socket, so that REDIRECT is the verdict for what is ours.
struct Loaded {
    filter: Filter,
    /// The map lets go of a socket that is closed.
    socket: OwnedFd,
}

impl Deref for Loaded {
    type Target = Filter;

    fn deref(&self) -> &Filter {
        &self.filter
    }
}

impl DerefMut for Loaded {
    fn deref_mut(&mut self) -> &mut Filter {
        &mut self.filter
    }
}

/// Loads a filter with these rules; `None`, with a printed reason, where that is not allowed.
fn load(rules: &Rules) -> Option<Loaded> {
    if !rustix::process::geteuid().is_root() {
        crate::skip("needs root");
        return None;
    }
    let mut filter = Filter::load(PORT, rules).expect("the filter loads");
    let socket = socket(AddressFamily::XDP, SocketType::RAW, None).expect("an AF_XDP socket");
    filter
        .set_socket(0, socket.as_fd())
        .expect("the map takes the socket");
    Some(Loaded { filter, socket })
}

/// An export that everyone may see.
fn open(shelf: u16, slot: u8) -> ExportRule {
    ExportRule {
        shelf,
        slot,
        vlan: Vlan::Untagged,
        allow: None,
        rate_limit: None,
    }
}

/// An export for these sources.
fn listed(shelf: u16, slot: u8, sources: &[Mac]) -> ExportRule {
    let allow = sources.iter().map(|mac| (*mac, None)).collect();
    ExportRule {
        allow: Some(allow),
        ..open(shelf, slot)
    }
}

fn rules(exports: impl Into<Vec<ExportRule>>) -> Rules {
    Rules::of(exports.into())
}

/// The filter's verdict on a frame that comes in by queue 0, and the time it takes.
fn run(ebpf: &Ebpf, bytes: &[u8], repeat: u32) -> (Verdict, Duration) {
    run_program(ebpf, PROGRAM, bytes, repeat)
}

fn run_program(ebpf: &Ebpf, name: &str, bytes: &[u8], repeat: u32) -> (Verdict, Duration) {
    let Some(Program::Xdp(program)) = ebpf.program(name) else {
        panic!("no program")
    };
    let mut data_out = vec![0; bytes.len() + 512];
    let options = TestRunOptions {
        data_in: Some(bytes),
        data_out: Some(&mut data_out),
        repeat,
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).expect("the program runs");
    let out = &data_out[..result.data_size_out as usize];
    let (stamps, frame) = out.split_at(out.len() - bytes.len());
    assert_eq!(frame, bytes, "the program must not change frames");
    // One for each time that the frame was redirected: a repeated run gets its own metadata back.
    let (stamps, rest) = stamps.as_chunks::<STAMP_BYTES>();
    assert!(rest.is_empty() && stamps.iter().all(|stamp| stamp_ns(stamp).is_some()));
    let verdict = match result.return_value {
        1 => Verdict::Drop,
        2 => Verdict::Pass,
        4 => Verdict::Redirect,
        other => panic!("verdict {other}"),
    };
    (verdict, result.duration)
}

/// Asserts that the frame lands in this row of the verdict table: its verdict, and its counter alone.
#[track_caller]
fn expect(filter: &Filter, row: Counter, frame: &Frame) {
    let before = filter.counters().unwrap();
    let (verdict, _) = run(&filter.ebpf, &frame.bytes(), 1);
    let after = filter.counters().unwrap();
    let counted: Vec<Counter> = after
        .iter()
        .filter(|(counter, count)| *count != before[*counter])
        .map(|(c, _)| c)
        .collect();
    assert_eq!(counted, [row], "{frame:?}");
    assert_eq!(after[row], before[row] + 1);
    assert_eq!(verdict, row.verdict(), "{frame:?}");
}
