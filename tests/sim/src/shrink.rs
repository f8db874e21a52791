//! Makes a failing plan smaller as long as it breaks the same promise, so that its trace can be read.

use std::time::{Duration, Instant};

use crate::oracle::{Promise, Violation};
use crate::plan::{HostKind, NetworkPlan, Plan};
use crate::world;

/// A plan that was made smaller, and what it breaks.
#[derive(Debug)]
pub struct Shrunk {
    /// The smaller plan.
    pub plan: Plan,
    /// What it breaks.
    pub violation: Violation,
    /// Plans that were tried.
    pub tried: u32,
}

/// Shrinks for at most `limit`.
pub fn shrink(plan: &Plan, violation: &Violation, limit: Duration) -> Shrunk {
    let start = Instant::now();
    let mut best = Shrunk {
        plan: plan.clone(),
        violation: violation.clone(),
        tried: 0,
    };
    // Nothing after the violation matters.
    let mut short = best.plan.clone();
    short.busy_ms = short.busy_ms.min(violation.at_us / 1000 + 1);
    best.accept(short);
    loop {
        let mut smaller = false;
        for candidate in candidates(&best.plan) {
            if start.elapsed() > limit {
                return best;
            }
            smaller |= best.accept(candidate);
        }
        if !smaller {
            return best;
        }
    }
}

impl Shrunk {
    /// Takes a candidate that breaks the same promise.
    fn accept(&mut self, candidate: Plan) -> bool {
        if candidate == self.plan {
            return false;
        }
        self.tried += 1;
        let outcome = world::run(&candidate, false);
        let same = |promise: Promise| promise == self.violation.promise;
        match outcome.violation {
            Some(violation) if same(violation.promise) && size(&candidate) < size(&self.plan) => {
                (self.plan, self.violation) = (candidate, violation);
                true
            }
            _ => false,
        }
    }
}

/// What a reader of its trace has to read.
fn size(plan: &Plan) -> u64 {
    let requests: u64 = plan.hosts.iter().map(|host| u64::from(host.requests) + 50).sum();
    let bursts: u64 = plan.hosts.iter().map(|host| u64::from(host.burst)).sum();
    let kinds: u64 = plan
        .hosts
        .iter()
        .flat_map(|host| host.mix)
        .filter(|weight| *weight > 0)
        .count() as u64;
    let n = &plan.network;
    let network = [n.lost, n.doubled, n.held, n.corrupted, n.cut]
        .into_iter()
        .filter(|rate| *rate > 0)
        .count() as u64;
    let faults: u64 = plan.faults.iter().map(|fault| 200 + fault.for_ms / 100).sum();
    let queues: u64 = plan
        .ports
        .iter()
        .map(|port| 100 + u64::from(port.queues) * 20)
        .sum();
    requests
        + bursts
        + 10 * kinds
        + 100 * network
        + faults
        + queues
        + 100 * plan.exports.len() as u64
        + plan.busy_ms / 100
}

/// Plans that are a little smaller, the boldest first.
fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut candidates = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        candidates.push(smaller);
    };
    for host in 0..plan.hosts.len() {
        // Hosts keep their numbers: one that asks for nothing is as good as gone.
        with(&|plan| silence(plan, host));
        with(&|plan| plan.hosts[host].requests /= 2);
        with(&|plan| plan.hosts[host].requests -= plan.hosts[host].requests.min(1));
        with(&|plan| plan.hosts[host].burst = (plan.hosts[host].burst / 2).max(1));
        for kind in 0..plan.hosts[host].mix.len() {
            with(&|plan| plan.hosts[host].mix[kind] = 0);
        }
    }
    for fault in 0..plan.faults.len() {
        with(&|plan| {
            plan.faults.remove(fault);
        });
        with(&|plan| plan.faults[fault].for_ms /= 2);
    }
    with(&|plan| {
        plan.network = NetworkPlan {
            latency_us: plan.network.latency_us,
            ..NetworkPlan::default()
        }
    });
    with(&|plan| plan.network.lost = 0);
    with(&|plan| plan.network.doubled = 0);
    with(&|plan| plan.network.held = 0);
    with(&|plan| plan.network.corrupted = 0);
    with(&|plan| plan.network.cut = 0);
    for port in 0..plan.ports.len() {
        with(&|plan| plan.ports[port].queues = 1);
    }
    with(&|plan| plan.busy_ms = plan.busy_ms / 2 + 1);
    if plan.exports.len() > 1
        && !plan
            .hosts
            .iter()
            .any(|host| host.export + 1 == plan.exports.len())
    {
        with(&|plan| {
            plan.exports.pop();
        });
    }
    with(&|plan| {
        while plan.hosts.last().is_some_and(|host| host.requests == 0) {
            plan.hosts.pop();
        }
    });
    candidates
}

fn silence(plan: &mut Plan, host: usize) {
    let host = &mut plan.hosts[host];
    host.requests = 0;
    if host.kind == HostKind::Ipxe {
        host.kind = HostKind::Linux;
    }
    // It still looks for its device, by one port.
    host.ports.truncate(1);
    host.mix = [0; crate::plan::Want::KINDS];
    host.burst = 1;
}
