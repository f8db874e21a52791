//! tgt's iSCSI target over TCP on a lab's wire, with `iscsi-perf` as its initiator, which reads at random and tells no latencies.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::Lab;

use super::GENERATOR_CPU;
use super::load::{Latency, Load, LoadResult};
use super::tcp::TARGET;

const NAME: &str = "iqn.2026-01.xblade:bench";
/// Number of tgtd's own socket, so that another one on the machine is left alone.
const SOCKET: &str = "47";

/// The command of `tgtd`, with its socket below `directory`.
pub(super) fn tgtd(directory: &str) -> Vec<String> {
    let socket = format!("TGT_IPC_SOCKET={directory}/tgtd");
    let words = ["env", &socket, "tgtd", "-f", "-C", SOCKET];
    words.map(String::from).to_vec()
}

/// Exports the image from a running `tgtd`.
pub(super) fn export(lab: &Lab, directory: &str, image: &str) -> Result<()> {
    let steps: [&[&str]; 3] = [
        &["new", "--mode", "target", "--tid", "1", "-T", NAME],
        &[
            "new",
            "--mode",
            "logicalunit",
            "--tid",
            "1",
            "--lun",
            "1",
            "-b",
            image,
        ],
        &["bind", "--mode", "target", "--tid", "1", "-I", "ALL"],
    ];
    for step in steps {
        let mut tgtadm = Command::new("tgtadm");
        tgtadm.env("TGT_IPC_SOCKET", format!("{directory}/tgtd"));
        tgtadm.args(["-C", SOCKET, "--lld", "iscsi", "--op"]).args(step);
        lab.target.output(tgtadm)?;
    }
    Ok(())
}

/// Whether `iscsi-perf` can make this load.
pub(super) const fn can(load: &Load) -> bool {
    load.is_random_read()
}

/// Runs `iscsi-perf` in the place of `xblade bench`.
pub(super) fn generate(lab: &Lab, load: &Load) -> Result<LoadResult> {
    ensure!(can(load), "iscsi-perf only reads at random");
    // It counts in whole seconds.
    let seconds = load.seconds.max(1.0).ceil();
    let mut perf = Command::new("taskset");
    perf.args(["-c", GENERATOR_CPU, "iscsi-perf", "-r"])
        .args(["-m", &load.depth.to_string(), "-b", &load.sectors.to_string()])
        .args(["-t", &format!("{seconds}")])
        .arg(format!("iscsi://{TARGET}/{NAME}/1"));
    result(&lab.initiator.output(perf)?, load, seconds)
}

/// What its last line tells.
fn result(said: &str, load: &Load, seconds: f64) -> Result<LoadResult> {
    let average = said.rsplit("iops average").next().unwrap_or_default();
    let rps = average.split_whitespace().next();
    let rps: f64 = rps
        .and_then(|n| n.parse().ok())
        .with_context(|| format!("iscsi-perf: {said}"))?;
    Ok(LoadResult {
        requests: (rps * seconds) as u64,
        rps,
        mibs: rps * f64::from(load.sectors) * 512.0 / f64::from(1 << 20),
        seconds,
        errors: 0,
        timeouts: 0,
        retransmits: 0,
        lat_us: Latency {
            p50: f64::NAN,
            p99: f64::NAN,
        },
        generator_idle_pct: f64::NAN,
        generator_starved_pct: 0.0,
        transport: "TCP, iscsi-perf".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iscsi_perf_prints_is_read() {
        let said = "will run for 2 seconds.\n\n\
                    iops current 9 (1 MB/s), iops average 7 (0 MB/s)\riops average 2048 (16 MB/s)   \n\nfinished.\n";
        let result = result(said, &Load::reads(16, 16), 2.0).unwrap();
        assert_eq!((result.rps, result.requests, result.mibs), (2048.0, 4096, 16.0));
        assert!(super::result("refused", &Load::reads(16, 16), 2.0).is_err());
    }
}
