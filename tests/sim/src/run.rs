//! What runs of one target and of gateways have in common: how they begin, go on and end, and what is written down.

use crate::bus::{Bus, Event};
use crate::host::Host;
use crate::mutants;
use crate::oracle::{Oracle, Promise, Violation};
use crate::plan::Plan;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// Requests that hosts got an answer to.
    pub done: u64,
    /// Frames that the target sent.
    pub replies: u64,
    /// Events.
    pub events: u64,
    /// A digest of everything that the target sent: equal runs have equal ones.
    pub digest: u64,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
}

/// What is written down of a run.
#[derive(Debug, Default)]
pub(crate) struct Record {
    digest: u64,
    trace: Vec<String>,
}

impl Record {
    /// A line of the trace.
    pub(crate) fn tell(&mut self, now_us: u64, line: &str) {
        let (seconds, rest) = (now_us / 1_000_000, now_us % 1_000_000);
        self.trace.push(format!("{seconds:4}.{rest:06} {line}"));
    }

    /// The target has sent a frame.
    pub(crate) fn sent(&mut self, now_us: u64, bytes: &[u8]) {
        self.digest = self.digest.rotate_left(5) ^ xxhash_rust::xxh3::xxh3_64(bytes) ^ now_us;
    }
}

/// Everything that is simulated in a run.
pub(crate) trait Run {
    /// The next event; false when the run is over.
    fn step(&mut self) -> bool;

    /// What is judged, seen by whom, and written down.
    fn parts(&mut self) -> (&mut Oracle, &[Host], &mut Record);
}

/// Runs a plan to its end, or to the first broken promise.
pub(crate) fn play<R: Run>(plan: &Plan, begin: impl FnOnce() -> R) -> Outcome {
    mutants::plant(plan.mutant);
    let mut run = begin();
    let mut events = 0;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        while run.step() {
            events += 1;
        }
    }));
    let (oracle, hosts, record) = run.parts();
    if let Err(panic) = result {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        oracle.broken(Promise::Panic, text.unwrap_or_else(|| "a panic".into()));
    }
    mutants::plant(None);
    Outcome {
        violation: oracle.violation.clone(),
        done: hosts.iter().map(Host::done).sum(),
        replies: oracle.replies,
        events,
        digest: record.digest,
        trace: std::mem::take(&mut record.trace),
    }
}

/// The hosts of a plan.
pub(crate) fn hosts(plan: &Plan, bus: &Bus) -> Vec<Host> {
    (0..)
        .zip(&plan.hosts)
        .map(|(number, host)| Host::new(number, host, plan.seed, bus))
        .collect()
}

/// What a plan has happen: hosts, faults, and the end of both.
pub(crate) fn schedule(plan: &Plan, bus: &Bus) {
    for host in 0..plan.hosts.len() as u16 {
        bus.after(1 + u64::from(host) * 7, Event::Timer(host));
        bus.after(1000, Event::Load(host));
    }
    for (number, fault) in plan.faults.iter().enumerate() {
        bus.after(fault.at_ms * 1000 + 500, Event::Fault(number, true));
    }
    bus.after(plan.busy_ms * 1000, Event::Quiet);
}

/// Everybody must have got what they wait for.
pub(crate) fn end(oracle: &mut Oracle, hosts: &[Host]) {
    for host in hosts {
        if let Some(text) = host.waits_for() {
            oracle.broken(Promise::Ends, text);
        }
    }
    oracle.end();
}
