//! What else serves an image over the same wire.

use super::Bench;
use super::contender::Contender;
use super::load::Load;
use super::stages::stage_of;
use crate::sh;

/// Name of a stage, as [`super::bars`] looks it up.
pub(super) const NBD_9000: &str = "image in RAM, MTU 9000, beside NBD over TCP";

/// xblade, and NBD servers by fio, by turns.
pub(super) fn nbd(bench: &mut Bench) {
    let servers = [Contender::Nbdkit, Contender::QemuNbd];
    let installed = servers
        .into_iter()
        .filter(|server| sh::find("fio").is_some() && sh::find(server.name()).is_some());
    let contenders: Vec<Contender> = [Contender::Xblade].into_iter().chain(installed).collect();
    if contenders.len() == 1 {
        let missing = anyhow::anyhow!("neither nbdkit nor qemu-nbd, or no fio, is on the PATH");
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
