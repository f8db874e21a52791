//! NBD servers over TCP on a lab's wire, with fio as their initiator.

use anyhow::Result;
use lab::Lab;

use super::load::{Load, LoadResult};
use super::tcp::TARGET;
use super::{GENERATOR_CPU, fio};

const PORT: &str = "10809";

/// The command of `nbdkit`.
pub(super) fn nbdkit(image: &str) -> Vec<&str> {
    vec!["nbdkit", "-f", "-i", TARGET, "-p", PORT, "file", image]
}

/// The command of `qemu-nbd`.
pub(super) fn qemu_nbd(image: &str) -> Vec<&str> {
    let options = ["qemu-nbd", "-f", "raw", "-t", "-e", "16"];
    let place = ["-b", TARGET, "-p", PORT, image];
    options.into_iter().chain(place).collect()
}

/// Runs fio in the place of `xblade bench`.
pub(super) fn generate(lab: &Lab, load: &Load) -> Result<LoadResult> {
    let uri = format!("--uri=nbd://{TARGET}:{PORT}/");
    let command = fio::command(GENERATOR_CPU, &["--ioengine=nbd", &uri], load);
    fio::result(&lab.initiator.output(command)?, load, "TCP")
}
