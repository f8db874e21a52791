//! Images that are served without the page cache, against what other targets have for that.

use anyhow::Result;

use super::Bench;
use super::contender::{Contender, Running, Serving};
use super::disk::by_fio;
use super::images::drop_caches;
use super::load::Load;
use super::stages::by_turns;

/// Name of a stage, as [`super::bars`] looks it up.
const DIRECT_1500: &str = "image on disk, O_DIRECT, MTU 1500";
/// Name of a stage.
const DIRECT_9000: &str = "image on disk, O_DIRECT, MTU 9000";
/// Name of a stage.
const DURABLE_1500: &str = "image on disk, O_DIRECT, MTU 1500, synchronous";
/// Name of a stage.
const DURABLE_9000: &str = "image on disk, O_DIRECT, MTU 9000, synchronous";

/// One stage of this part.
struct Stage {
    name: &'static str,
    mtu: u32,
    sync: bool,
    loads: Vec<Load>,
}

/// Every stage and load of this part.
fn all() -> [Stage; 4] {
    let stage = |name, mtu, sync: bool| {
        let sectors = if mtu < 9000 { 2 } else { 16 };
        let of_depth = |depth| {
            let (reads, writes) = (Load::reads(sectors, depth), Load::writes(sectors, depth));
            let all = [reads.clone(), reads.in_order(), writes.clone(), writes.in_order()];
            all.into_iter().filter(move |load| load.write || !sync)
        };
        Stage {
            name,
            mtu,
            sync,
            loads: [1, 16, 64].into_iter().flat_map(of_depth).collect(),
        }
    };
    [
        stage(DIRECT_1500, 1500, false),
        stage(DIRECT_9000, 9000, false),
        stage(DURABLE_1500, 1500, true),
        stage(DURABLE_9000, 9000, true),
    ]
}

/// Stage and load of every cell of the table.
pub(super) fn cells() -> impl Iterator<Item = (&'static str, Load)> {
    let of_stage = |stage: Stage| stage.loads.into_iter().map(move |load| (stage.name, load));
    all().into_iter().flat_map(of_stage)
}

/// xblade's direct store, `vblade -d` and ggaoed's `direct-io`, by turns, and `fio` on a file of the same kind.
pub(super) fn direct(bench: &mut Bench) {
    let (rounds, seconds) = if bench.quick {
        (1, 1.0)
    } else {
        (bench.rounds, bench.seconds)
    };
    for stage in all() {
        // ggaoed cannot be told to acknowledge only what is on the medium.
        let can = |contender: &Contender| !stage.sync || *contender != Contender::Ggaoed;
        let contenders: Vec<Contender> = bench.contenders.iter().copied().filter(can).collect();
        let loads: Vec<Load> = stage
            .loads
            .iter()
            .map(|load| Load {
                seconds,
                ..load.clone()
            })
            .collect();
        by_turns(
            bench,
            stage.name,
            &contenders,
            &loads,
            rounds,
            |bench, contender| start(bench, contender, &stage),
        );
        for load in &loads {
            let flush = format!("--fdatasync={}", load.depth);
            let more: &[&str] = if stage.sync {
                &["--direct=1", &flush]
            } else {
                &["--direct=1"]
            };
            by_fio(bench, stage.name, load, more);
        }
    }
}

fn start(bench: &Bench, contender: Contender, stage: &Stage) -> Result<Running> {
    let image = bench.images.on_disk(contender.name())?;
    drop_caches()?;
    let serving = Serving {
        direct: true,
        sync: stage.sync,
        ..Serving::plain(&image, stage.mtu)
    };
    Running::start(bench, contender, &serving)
}
