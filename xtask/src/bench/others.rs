//! What else serves an image over the same wire.

use super::Bench;
use super::contender::Contender;
use super::load::Load;
use super::stages::stage_of;
use crate::sh;

/// Name of a stage, as [`super::bars`] looks it up.
pub(super) const NBD_9000: &str = "image in RAM, MTU 9000, beside NBD and iSCSI over TCP";

/// xblade, NBD servers by fio, and tgt by iscsi-perf, by turns.
pub(super) fn nbd(bench: &mut Bench) {
    let servers = [
        (Contender::Nbdkit, "fio"),
        (Contender::QemuNbd, "fio"),
        (Contender::Tgt, "iscsi-perf"),
    ];
    let is_here = |program: &str| sh::find(program).is_some();
    let installed = servers
        .into_iter()
        .filter(|(server, generator)| is_here(server.name()) && is_here(generator))
        .map(|(server, _)| server);
    let contenders: Vec<Contender> = [Contender::Xblade].into_iter().chain(installed).collect();
    if contenders.len() == 1 {
        let missing =
            anyhow::anyhow!("nbdkit or qemu-nbd with fio, or tgtd with iscsi-perf, are not on the PATH");
        return bench.failed(NBD_9000, &missing);
    }
    let loads = [
        Load::reads(16, 1),
        Load::reads(16, 16),
        Load::reads(16, 64),
        Load::writes(16, 16),
        Load::writes(16, 64),
    ];
    stage_of(bench, NBD_9000, &contenders, &loads, |serving| serving.mtu = 9000);
}
