//! What a crash, a power cut and a restart must leave.

use engine::Persistent;

use super::violation::Promise;
use super::{Oracle, cluster};
use crate::stamp;

impl Oracle {
    /// The process is gone: nothing that it had taken is answered any more.
    pub fn process_gone(&mut self) {
        let ticks: Vec<_> = self.arrivals.keys().copied().collect();
        for tick in ticks {
            self.leave(tick);
        }
        for sector in self.exports.iter_mut().flat_map(|export| &mut export.sectors) {
            sector.process_gone();
        }
    }

    /// What every sector must hold now that the process is gone; `power`: and the machine was, too.
    pub fn survived(&mut self, power: bool) {
        let now_us = self.now_us;
        let mut wrong = None;
        for (number, export) in self.exports.iter().enumerate() {
            let device = export.disk.lock();
            // Write-back data may be as old as the interval and the commits under way make it.
            let limit = export.plan.flush_interval_ms * 1000 + 3 * device.longest_commit_us + 200_000;
            let calm = now_us.saturating_sub(export.faults_us) > limit
                && !device.faults.slow
                && !device.faults.any()
                && !device.faults.hung;
            let must = |cluster: &cluster::Cluster| {
                let old = calm && cluster.answered_us.saturating_add(limit) < now_us;
                cluster.answered != cluster::NEVER && (!power || cluster.durable || old)
            };
            for (lba, history) in (0..).zip(&export.sectors) {
                let value = stamp::value(lba, device.seen(export.base + lba));
                let Err(missing) = history.survives(value, must) else {
                    continue;
                };
                let what = stamp::name(value);
                let text = match missing {
                    Some(newer) => format!(
                        "sector {lba} of e7.{number} holds {what}; {} was acknowledged and is gone",
                        stamp::name(newer)
                    ),
                    None => format!("sector {lba} of e7.{number} holds {what}, which nobody wrote there"),
                };
                wrong.get_or_insert(text);
            }
        }
        if let Some(text) = wrong {
            self.broken(Promise::Durable, text);
        }
        if power {
            for export in 0..self.exports.len() {
                let (disk, base, sectors) = {
                    let export = &self.exports[export];
                    (export.disk_number, export.base, export.plan.sectors)
                };
                self.settle(disk, base, sectors);
            }
        }
    }

    /// A new process serves an export with this state; `asked` is what was being saved when the old one ended.
    pub fn booted(&mut self, number: usize, state: &Persistent, asked: &[Persistent]) {
        let now_us = self.now_us;
        let export = &mut self.exports[number];
        // While there was no process, nobody could commit.
        export.faults_us = now_us;
        if *state != export.state && !asked.contains(state) {
            let text = format!(
                "e7.{number} is back with {state:?}; acknowledged was {:?}",
                export.state
            );
            return self.broken(Promise::State, text);
        }
        export.state = state.clone();
    }

    /// The end of a run: everything that reads would show is right.
    pub fn end(&mut self) {
        self.survived(false);
    }
}
