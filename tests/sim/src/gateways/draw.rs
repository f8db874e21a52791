//! Draws a plan with gateways from a seed. As for the others, each seed switches most kinds of faults off.

use crate::plan::{
    ExportPlan, Fault, FaultKind, GatewaysPlan, HostKind, HostPlan, NetworkPlan, Plan, PortPlan, StoreKind,
};
use crate::random::Random;

/// Part number of the stream that plans are drawn from.
const PART: u64 = 0x6761_7465;

impl GatewaysPlan {
    /// Two gateways to a cluster that is well.
    pub fn pair() -> GatewaysPlan {
        GatewaysPlan {
            count: 2,
            detect_ms: 1500,
            osds: 3,
            osd_us: 300,
            late: 0,
            late_ms: 0,
            map_ms: 1000,
        }
    }
}

/// The plan of a seed. `wide`: longer ones.
pub fn plan(seed: u64, wide: bool) -> Plan {
    let mut random = Random::stream(seed, PART);
    let r = &mut random;
    let busy_ms = r.between(10_000, if wide { 600_000 } else { 150_000 });
    let gateways = GatewaysPlan {
        count: if r.one_in(4) { 3 } else { 2 },
        detect_ms: *r.pick(&[1000, 1500, 1500, 3000]),
        osds: r.between(1, 4) as u8,
        osd_us: r.between(50, 3000),
        late: *r.pick(&[0, 0, 2000, 30_000]),
        late_ms: *r.pick(&[500, 5000, 20_000]),
        map_ms: *r.pick(&[1, 1000, 30_000]),
    };
    let hosts = hosts(r, busy_ms);
    let faults = faults(r, &gateways, hosts.len() as u16, busy_ms);
    // A machine whose clock has stood still answers what it knows without Ceph until it hears of it.
    let mut plan = Plan {
        seed,
        busy_ms,
        ports: vec![PortPlan {
            queues: r.between(1, 2) as u8,
            mtu: if r.one_in(4) { 9000 } else { 1500 },
            pool: r.between(64, 512) as u32,
            piece: 2048,
            by_source: r.one_in(2),
        }],
        exports: vec![export(r)],
        hosts,
        network: network(r),
        faults,
        gateways: Some(gateways),
        mutant: None,
    };
    let pauses = |fault: &Fault| matches!(fault.what, FaultKind::GatewayPauses { .. });
    if plan.faults.iter().any(pauses) {
        plan.hosts.iter_mut().for_each(|host| host.mix[7] = 0);
    }
    plan
}

fn export(r: &mut Random) -> ExportPlan {
    ExportPlan {
        store: StoreKind::Direct { block: 1 },
        sectors: 64 * r.between(1, 2),
        sync: true,
        late_duplicates: false,
        buffers: r.between(2, 32) as u16,
        flush_interval_ms: 200,
        beside: None,
        access: Vec::new(),
        io_us: 100,
        commit_us: 100,
        cold: 0,
    }
}

fn hosts(r: &mut Random, busy_ms: u64) -> Vec<HostPlan> {
    let (users, area) = (r.between(1, 4), *r.pick(&[2, 4, 16, 64]));
    let strings = *r.pick(&[0, 0, 2, 40]);
    (0..users)
        .map(|number| {
            let pause_us = r.between(10_000, 400_000);
            let burst = r.between(1, 8) as u32;
            let rounds = busy_ms * 1000 / pause_us;
            HostPlan {
                kind: match number > 0 && r.one_in(8) {
                    true => HostKind::Ipxe,
                    false => HostKind::Linux,
                },
                export: 0,
                ports: vec![0],
                burst,
                pause_us,
                requests: (rounds * u64::from(burst)).min(r.between(100, 3000)) as u32,
                first: 0,
                area,
                mix: [
                    40,
                    40,
                    r.below(8) as u32,
                    r.below(3) as u32,
                    0,
                    r.below(3) as u32,
                    1,
                    strings,
                    0,
                    0,
                ],
            }
        })
        .collect()
}

fn network(r: &mut Random) -> NetworkPlan {
    NetworkPlan {
        latency_us: r.between(5, 500),
        lost: if r.one_in(2) {
            r.between(100, 30_000) as u32
        } else {
            0
        },
        doubled: if r.one_in(3) {
            r.between(100, 30_000) as u32
        } else {
            0
        },
        held: if r.one_in(3) {
            r.between(100, 50_000) as u32
        } else {
            0
        },
        // Less than the quiet time.
        held_ms: *r.pick(&[1, 50, 900]),
        corrupted: 0,
        cut: 0,
    }
}

fn faults(r: &mut Random, gateways: &GatewaysPlan, hosts: u16, busy_ms: u64) -> Vec<Fault> {
    let kinds: Vec<u64> = (0..r.between(1, 4)).map(|_| r.below(13)).collect();
    let count = u64::from(gateways.count);
    let mut faults: Vec<Fault> = (0..r.between(1, 8))
        .map(|_| {
            let gateway = r.below(count) as u8;
            let other = (gateway + 1 + r.below(count - 1) as u8) % gateways.count;
            let what = match *r.pick(&kinds) {
                0 => FaultKind::GatewayStops { gateway },
                1 => FaultKind::GatewayPauses { gateway },
                2 | 3 => FaultKind::GatewayDies { gateway },
                4 => FaultKind::GatewayEnds { gateway },
                5 | 6 => FaultKind::CephCut { gateway },
                7 => FaultKind::Deaf { gateway, other },
                8 => FaultKind::CephSlow,
                9 => FaultKind::OsdStalls {
                    osd: r.below(gateways.osds.into()) as u8,
                },
                10 => FaultKind::LinkDown { port: gateway },
                11 => FaultKind::Partition {
                    host: r.below(hosts.into()) as u16,
                    port: gateway,
                },
                _ if r.one_in(2) => FaultKind::Take { gateway },
                _ => FaultKind::Release { gateway },
            };
            let for_ms = match r.below(4) {
                0 => r.between(1, 1000),
                1 => r.between(1000, 5000),
                2 => r.between(5000, 30_000),
                _ => r.between(30_000, 120_000),
            };
            Fault {
                at_ms: r.below(busy_ms),
                for_ms,
                what,
            }
        })
        .collect();
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}
