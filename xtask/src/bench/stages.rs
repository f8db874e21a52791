//! Loads on an image in RAM.

use anyhow::Result;

use super::Bench;
use super::contender::{Contender, Running, Serving};
use super::load::Load;

/// Name of a stage, as [`super::bars`] and the charts look it up.
pub(super) const RAM_1500: &str = "image in RAM, MTU 1500";
/// Name of a stage.
pub(super) const RAM_9000: &str = "image in RAM, MTU 9000";
/// Name of a stage.
pub(super) const THREADED: &str = "image in RAM, MTU 9000, threaded NAPI";
/// Name of a stage.
pub(super) const UNPINNED_1500: &str = "image in RAM, MTU 1500, unpinned";
/// Name of a stage.
pub(super) const UNPINNED_9000: &str = "image in RAM, MTU 9000, unpinned";

/// Sectors of a request in a stage: 1 KiB fit a frame at MTU 1500, and of those that fit at 9000, 8 KiB are usual.
const fn sectors(mtu: u32) -> u32 {
    if mtu < 9000 { 2 } else { 16 }
}

/// Reads and writes, random and in order.
pub(super) fn ram(bench: &mut Bench) {
    for (name, mtu) in [(RAM_1500, 1500), (RAM_9000, 9000)] {
        let n = sectors(mtu);
        let loads = [
            Load::reads(n, 1),
            Load::reads(n, 16),
            Load::reads(n, 64),
            Load::reads(n, 16).in_order(),
            Load::writes(n, 16),
            Load::writes(n, 64),
            Load::writes(n, 16).in_order(),
        ];
        let loads = loads.map(|load| if outruns(&load) { load.by_af_xdp() } else { load });
        stage(bench, name, &loads, |serving| serving.mtu = mtu);
    }
}

/// Whether targets may be faster than a generator on a packet socket. Not at 8 KiB: the packet socket leaves the data of answers in
/// the kernel, while AF_XDP has them copied, on a veth pair by the target's cpu.
const fn outruns(load: &Load) -> bool {
    load.depth > 1 && load.sectors <= 2
}

/// Threaded NAPI moves the XDP program off the sender's cpu.
pub(super) fn threaded(bench: &mut Bench) {
    let loads = [Load::writes(16, 16), Load::writes(16, 64)];
    stage(bench, THREADED, &loads, |serving| {
        (serving.mtu, serving.threaded) = (9000, true);
    });
}

/// The scheduler decides who runs where.
pub(super) fn unpinned(bench: &mut Bench) {
    for (name, mtu) in [(UNPINNED_1500, 1500), (UNPINNED_9000, 9000)] {
        stage(bench, name, &[Load::reads(sectors(mtu), 16)], |serving| {
            (serving.mtu, serving.pinned) = (mtu, false);
        });
    }
}

/// Starts every AoE target, and the echo, and runs the loads on them by turns.
fn stage(bench: &mut Bench, name: &str, loads: &[Load], adjust: impl Fn(&mut Serving)) {
    let mut contenders = bench.contenders.clone();
    contenders.push(Contender::Echo);
    stage_of(bench, name, &contenders, loads, adjust);
}

/// Starts these targets on images in RAM and runs the loads on them by turns.
pub(super) fn stage_of(
    bench: &mut Bench,
    name: &str,
    contenders: &[Contender],
    loads: &[Load],
    adjust: impl Fn(&mut Serving),
) {
    let (rounds, seconds) = (bench.rounds, bench.seconds);
    let loads: Vec<Load> = loads
        .iter()
        .map(|load| Load {
            seconds,
            ..load.clone()
        })
        .collect();
    by_turns(bench, name, contenders, &loads, rounds, |bench, contender| {
        start(bench, contender, &adjust)
    });
}

/// Has `start` start these targets and runs the loads on them by turns. A target that fails is left out from there on.
pub(super) fn by_turns(
    bench: &mut Bench,
    name: &str,
    contenders: &[Contender],
    loads: &[Load],
    rounds: usize,
    start: impl Fn(&Bench, Contender) -> Result<Running>,
) {
    let mut targets = Vec::new();
    for &contender in contenders {
        match start(bench, contender) {
            Ok(running) => targets.push(running),
            Err(error) => bench.failed(&format!("{name}, {}", contender.name()), &error),
        }
    }
    for _ in 0..rounds {
        for load in loads {
            targets.retain_mut(|running| {
                match running
                    .contender
                    .can(load)
                    .then(|| running.load(load))
                    .transpose()
                {
                    Ok(None) => true,
                    Ok(Some(run)) => {
                        bench.results.add(name, &load.name(), running.contender, run);
                        true
                    }
                    Err(error) => {
                        bench.failed(
                            &format!("{name}, {}, {}", load.name(), running.contender.name()),
                            &error,
                        );
                        false
                    }
                }
            });
        }
    }
}

fn start(bench: &Bench, contender: Contender, adjust: impl Fn(&mut Serving)) -> Result<Running> {
    let image = bench.images.in_ram(contender.name())?;
    let mut serving = Serving::plain(&image, 1500);
    adjust(&mut serving);
    Running::start(bench, contender, &serving)
}
