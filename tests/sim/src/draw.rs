//! Draws a plan from a seed.
//!
//! Each seed switches most kinds of faults off and the others on (swarm testing): a run with everything at once finds less,
//! because one fault hides the other.

use crate::plan::{
    ExportPlan, Fault, FaultKind, HostKind, HostPlan, NetworkPlan, Plan, PortPlan, StoreKind, Want,
};
use crate::random::Random;

/// Part number of the stream that plans are drawn from.
const PART: u64 = 0x706c_616e;

/// The plan of a seed. `wide`: larger ones, for long searches.
pub fn plan(seed: u64, wide: bool) -> Plan {
    let mut random = Random::stream(seed, PART);
    let r = &mut random;
    let busy_ms = r.between(500, if wide { 120_000 } else { 12_000 });
    let ports = ports(r);
    let mut exports = exports(r);
    let mut hosts = hosts(r, &ports, &mut exports, busy_ms, wide);
    let network = network(r);
    let faults = faults(r, &ports, &exports, &hosts, busy_ms);
    // Trims look alike: which one a stalled ring had held back, nobody could say.
    let stalls = |fault: &Fault| matches!(fault.what, FaultKind::Stall { .. });
    if faults.iter().any(stalls) {
        hosts
            .iter_mut()
            .for_each(|host| host.mix[Want::Trim as usize] = 0);
    }
    Plan {
        seed,
        busy_ms,
        ports,
        exports,
        hosts,
        network,
        faults,
        gateways: None,
        mutant: None,
    }
}

fn ports(r: &mut Random) -> Vec<PortPlan> {
    let jumbo = r.one_in(4);
    (0..r.between(1, 2))
        .map(|_| PortPlan {
            queues: r.between(1, 2) as u8,
            mtu: if jumbo { 9000 } else { 1500 },
            pool: r.between(64, 1024) as u32,
            piece: *r.pick(&[600, 2048, 2048, 4096]),
            by_source: r.one_in(2),
        })
        .collect()
}

fn exports(r: &mut Random) -> Vec<ExportPlan> {
    let count = r.between(1, 3) as usize;
    let mut exports = Vec::new();
    for number in 0..count {
        let store = match r.below(4) {
            0 | 1 => StoreKind::Mapped,
            2 => StoreKind::Direct { block: 1 },
            _ => StoreKind::Direct { block: 8 },
        };
        exports.push(ExportPlan {
            store,
            sectors: 64 * r.between(1, 4),
            sync: r.one_in(2),
            late_duplicates: r.one_in(6),
            buffers: r.between(2, 64) as u16,
            flush_interval_ms: *r.pick(&[20, 200, 1000]),
            beside: None,
            access: Vec::new(),
            io_us: r.between(20, 2000),
            commit_us: r.between(100, 20_000),
            cold: *r.pick(&[0, 0, 10_000, 200_000]),
        });
        // Two exports on one disk, the second behind the first, with a border inside a block.
        if number > 0 && r.one_in(5) && exports[number - 1].beside.is_none() {
            let before = &mut exports[number - 1];
            before.store = StoreKind::Direct { block: 8 };
            before.sectors += 4;
            let before = before.clone();
            let beside = &mut exports[number];
            beside.store = before.store;
            beside.beside = Some(number - 1);
        }
    }
    exports
}

fn hosts(
    r: &mut Random,
    ports: &[PortPlan],
    exports: &mut [ExportPlan],
    busy_ms: u64,
    wide: bool,
) -> Vec<HostPlan> {
    let mut hosts = Vec::new();
    let adversaries = *r.pick(&[0, 0, 0, 1, 2]);
    let users = r.between(2, 6);
    let admin = r.one_in(3);
    let all: Vec<u8> = (0..ports.len() as u8).collect();
    let area = *r.pick(&[4, 4, 16, 64]);
    for number in 0..users + adversaries {
        let kind = match number {
            _ if number >= users => HostKind::Adversary,
            _ if number > 0 && r.one_in(8) => HostKind::Ipxe,
            _ => HostKind::Linux,
        };
        let pause_us = r.between(1_000, 60_000);
        let burst = r.between(1, 24) as u32;
        let rounds = busy_ms * 1000 / pause_us;
        let export = r.below(exports.len() as u64) as usize;
        // At a border with another export, where there is one.
        let first = match exports.iter().any(|other| other.beside == Some(export)) {
            true => exports[export].sectors.saturating_sub(area),
            false => 0,
        };
        hosts.push(HostPlan {
            kind,
            export,
            first,
            ports: if r.one_in(6) {
                vec![*r.pick(&all)]
            } else {
                all.clone()
            },
            burst,
            pause_us,
            requests: (rounds * u64::from(burst)).min(r.between(50, if wide { 8000 } else { 1500 })) as u32,
            area,
            mix: mix(r, admin && number < 2),
        });
    }
    // An access list keeps some of them out.
    for export in exports {
        if adversaries == 0 && !r.one_in(6) {
            continue;
        }
        export.access = (0..users as u16).map(|host| (host, !r.one_in(8))).collect();
    }
    hosts
}

fn mix(r: &mut Random, admin: bool) -> [u32; Want::KINDS] {
    let extended = r.one_in(2);
    let mut maybe = |on: bool, weight: u32| if on && r.one_in(2) { weight } else { 0 };
    [
        40,
        40,
        maybe(extended, 8),
        maybe(extended, 4),
        maybe(extended, 3),
        maybe(extended, 2),
        1,
        maybe(admin, 2),
        maybe(admin, 1),
        maybe(admin, 1),
    ]
}

fn network(r: &mut Random) -> NetworkPlan {
    let mut maybe = |odds: u64, most: u64| match r.one_in(odds) {
        true => r.between(most / 100, most) as u32,
        false => 0,
    };
    NetworkPlan {
        lost: maybe(2, 50_000),
        doubled: maybe(2, 50_000),
        held: maybe(2, 100_000),
        corrupted: maybe(6, 10_000),
        cut: maybe(6, 10_000),
        latency_us: r.between(5, 500),
        held_ms: *r.pick(&[1, 20, 1000, 60_000]),
    }
}

fn faults(
    r: &mut Random,
    ports: &[PortPlan],
    exports: &[ExportPlan],
    hosts: &[HostPlan],
    busy_ms: u64,
) -> Vec<Fault> {
    let kinds: Vec<u64> = (0..r.between(0, 4)).map(|_| r.below(20)).collect();
    let mut faults: Vec<Fault> = Vec::new();
    if kinds.is_empty() {
        return faults;
    }
    for _ in 0..r.between(1, 10) {
        let port = r.below(ports.len() as u64) as u8;
        let queue = r.below(ports[usize::from(port)].queues.into()) as u8;
        let disk = r.below(exports.len() as u64) as u8;
        let host = r.below(hosts.len() as u64) as u16;
        let what = match *r.pick(&kinds) {
            0 => FaultKind::Stall { port, queue },
            1 => FaultKind::LinkDown { port },
            2 => FaultKind::Partition { host, port },
            3 => FaultKind::NewMac { port },
            4 => FaultKind::SmallMtu { port },
            5 => FaultKind::Reopen { port },
            6 => FaultKind::WorkerEnds { port, queue },
            7 => FaultKind::Kill,
            8 | 9 => FaultKind::PowerCut,
            10 => FaultKind::Terminate,
            11 => FaultKind::Reload,
            12 => FaultKind::Slow { disk },
            13 => FaultKind::Hang { disk },
            14 | 15 => FaultKind::CommitFails { disk },
            16 => FaultKind::ReadFails { disk },
            17 => FaultKind::WriteFails { disk },
            18 => *r.pick(&[
                FaultKind::Full { disk },
                FaultKind::Gone { disk },
                FaultKind::Shrunk { disk },
            ]),
            _ => *r.pick(&[FaultKind::StateFails, FaultKind::StateHangs]),
        };
        let at_ms = r.below(busy_ms);
        let for_ms = match r.below(4) {
            0 => r.between(1, 50),
            1 | 2 => r.between(50, 3_000),
            _ => r.between(3_000, 40_000),
        };
        faults.push(Fault { at_ms, for_ms, what });
        if let FaultKind::CommitFails { disk } = what {
            let at_ms = (at_ms + for_ms + r.between(1, 2000)).min(busy_ms);
            faults.push(Fault {
                at_ms,
                for_ms: 0,
                what: FaultKind::Accept { disk },
            });
        }
    }
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}
