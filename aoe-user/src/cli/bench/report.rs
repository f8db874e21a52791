//! What `bench` prints.

use aoe_common::wire::SECTOR_BYTES;
use serde_json::{Value, json};

use super::super::args::BenchArgs;
use crate::initiator::load::{LoadOrder, LoadOutcome, LoadPlan};
use crate::initiator::{DiskIdentity, Found};

/// Changes when a key of the JSON object changes its meaning or goes away.
pub(super) const SCHEMA: u32 = 1;

/// A load that ran, against what, and what came of it.
pub(super) struct Run {
    pub(crate) target: Found,
    pub(crate) identity: DiskIdentity,
    pub(crate) plan: LoadPlan,
    pub(crate) mtu_bytes: u32,
    pub(crate) transport: String,
    pub(crate) outcome: LoadOutcome,
}

pub(super) fn headline(args: &BenchArgs, target: &Found, identity: &DiskIdentity, mtu_bytes: u32) -> String {
    let size_mib = identity.sectors as f64 * SECTOR_BYTES as f64 / f64::from(1 << 20);
    format!(
        "{}.{} at {} through {} (MTU {mtu_bytes}): {} {}, {size_mib:.1} MiB, {} buffers, up to {} sectors a request",
        target.shelf,
        target.slot,
        target.mac,
        args.interface,
        identity.model,
        identity.firmware,
        target.buffers,
        target.sectors,
    )
}

pub(super) fn describe(plan: &LoadPlan) -> String {
    let order = match plan.order {
        LoadOrder::Random => "random",
        LoadOrder::Sequential => "sequential",
    };
    let what = match plan.read_percent {
        100 => "reads".into(),
        0 => "writes".into(),
        percent => format!("reads ({percent} %) and writes"),
    };
    let verified = if plan.verify {
        format!(", verified (seed {})", plan.seed)
    } else {
        String::new()
    };
    let kib = plan.sectors as usize as f64 * SECTOR_BYTES as f64 / 1024.0;
    format!("{order} {what} of {kib} KiB, depth {}{verified}", plan.depth)
}

pub(super) fn table(plan: &LoadPlan, outcome: &LoadOutcome) -> String {
    let mut text = format!(
        "\nrequests   {:>12}  {:>10.0}/s  {:>9.1} MiB/s  in {:.2} s\n",
        outcome.requests,
        outcome.rps(),
        outcome.mibs(),
        outcome.elapsed.as_secs_f64()
    );
    text += "latency         p50       p90       p99     p99.9       max      mean\n     µs  ";
    for us in [0.5, 0.9, 0.99, 0.999]
        .map(|q| outcome.latency_us(q))
        .into_iter()
        .chain([outcome.max_us(), outcome.mean_us()])
    {
        text += &format!("{us:>10.1}");
    }
    text += &format!(
        "\nretransmits {}, errors {}, unanswered {}\n",
        outcome.retransmits, outcome.errors, outcome.timeouts
    );
    if plan.verify {
        text += &format!(
            "verified {}, mismatches {}, without a stamp {}, read back {}\n",
            outcome.verified, outcome.mismatches, outcome.unstamped, outcome.read_back
        );
    }
    if outcome.interrupted {
        text += "interrupted: this is what was measured until then\n";
    }
    if !outcome.elapsed.is_zero() && outcome.percent(outcome.idle) < 5.0 {
        text += "the generator was busy all the time: the target may be faster than this\n";
    }
    if outcome.percent(outcome.starved) > 5.0 {
        text += &format!(
            "the generator waited for a cpu {:.0} % of the time: others disturbed the run\n",
            outcome.percent(outcome.starved)
        );
    }
    for note in &outcome.notes {
        text += &format!("! {note}\n");
    }
    text
}

pub(super) fn to_json(args: &BenchArgs, run: &Run) -> Value {
    let Run {
        target,
        identity,
        plan,
        mtu_bytes,
        transport,
        outcome,
    } = run;
    let mut json = outcome.to_json();
    let about = json!({
        "schema": SCHEMA,
        "interface": args.interface,
        "transport": transport,
        "mtu_bytes": mtu_bytes,
        "address": format!("{}.{}", target.shelf, target.slot),
        "mac": target.mac.to_string(),
        "model": identity.model,
        "serial": identity.serial,
        "size_bytes": identity.sectors.saturating_mul(SECTOR_BYTES as u64),
        "buffers": target.buffers,
        "sectors": plan.sectors,
        "depth": plan.depth,
        "read_percent": plan.read_percent,
        "sequential": plan.order == LoadOrder::Sequential,
        "verify": plan.verify,
        "seed": plan.seed,
        "holds": outcome.holds(),
    });
    if let (Value::Object(figures), Value::Object(about)) = (&mut json, about) {
        figures.extend(about);
    }
    json
}
