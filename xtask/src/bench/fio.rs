//! fio: the generator where `xblade bench` cannot be, and the bound of loads on a disk.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::load::{Latency, Load, LoadResult};

/// fio with this load on what `engine` says (`--ioengine=…` and what belongs to it), pinned to a cpu.
pub(super) fn command(cpu: &str, engine: &[&str], load: &Load) -> Command {
    let order = if load.sequential { "" } else { "rand" };
    let mut fio = Command::new("taskset");
    fio.args(["-c", cpu, "fio", "--name=load"])
        .args(engine)
        .arg(format!("--rw={order}{}", kind(load)))
        .arg(format!("--bs={}", load.sectors * 512))
        .arg(format!("--iodepth={}", load.depth))
        .args(["--thread", "--output-format=json"]);
    match load.count {
        Some(count) => fio.arg(format!("--number_ios={count}")),
        None => fio
            .arg("--time_based")
            .arg(format!("--runtime={}ms", (load.seconds * 1e3) as u64))
            .arg(format!("--ramp_time={}ms", (load.warm_up * 1e3) as u64)),
    };
    fio
}

const fn kind(load: &Load) -> &'static str {
    if load.write { "write" } else { "read" }
}

/// What fio's output tells of this load; `transport` is how it reached the storage.
pub(super) fn result(said: &str, load: &Load, transport: &str) -> Result<LoadResult> {
    // It may warn before.
    let json = said.find('{').and_then(|at| said.get(at..));
    let report: Value = serde_json::from_str(json.context("fio printed no JSON")?).context("fio's JSON")?;
    of_job(&report["jobs"][0], kind(load), transport)
}

/// What fio tells of its only job.
fn of_job(job: &Value, kind: &str, transport: &str) -> Result<LoadResult> {
    ensure!(job["error"] == 0, "fio: error {}", job["error"]);
    let done = &job[kind];
    let number = |value: &Value, name: &str| {
        value[name]
            .as_f64()
            .with_context(|| format!("fio tells no {name}"))
    };
    let percentile = |name: &str| number(&done["clat_ns"]["percentile"], name).map(|ns| ns / 1e3);
    Ok(LoadResult {
        requests: number(done, "total_ios")? as u64,
        rps: number(done, "iops")?,
        mibs: number(done, "bw_bytes")? / f64::from(1 << 20),
        seconds: number(done, "runtime")? / 1e3,
        errors: number(job, "total_err").unwrap_or(0.0) as u64,
        timeouts: 0,
        retransmits: 0,
        lat_us: Latency {
            p50: percentile("50.000000")?,
            p99: percentile("99.000000")?,
        },
        generator_idle_pct: (100.0 - number(job, "usr_cpu")? - number(job, "sys_cpu")?).max(0.0),
        generator_starved_pct: 0.0,
        transport: format!("{transport}, fio"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_fio_prints_is_read() {
        let percentile = json!({ "50.000000": 40_000, "99.000000": 90_500 });
        let job = json!({
            "error": 0, "total_err": 0, "usr_cpu": 30.0, "sys_cpu": 45.5,
            "read": { "total_ios": 0, "iops": 0.0, "bw_bytes": 0, "runtime": 0 },
            "write": {
                "total_ios": 5000, "iops": 10_000.0, "bw_bytes": 1 << 20, "runtime": 500,
                "clat_ns": { "percentile": percentile },
            },
        });
        let result = of_job(&job, "write", "TCP").unwrap();
        assert_eq!(
            (result.requests, result.rps, result.seconds),
            (5000, 10_000.0, 0.5)
        );
        assert_eq!((result.lat_us.p50, result.lat_us.p99), (40.0, 90.5));
        assert_eq!((result.mibs, result.generator_idle_pct), (1.0, 24.5));
        assert_eq!(result.transport, "TCP, fio");
        assert!(of_job(&job, "read", "TCP").is_err(), "nothing was read");
    }
}
