//! Whether a machine is off, as far as its silence tells.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::super::naming::DiskName;
use super::super::{RECENT, RETRY};
use super::Maker;

impl Maker {
    /// Refuses to take sectors away from below the file system of a machine that may be running, unless the operator knows better.
    pub(super) fn check_is_off(&self, name: &DiskName, force: bool) -> Result<()> {
        if force {
            return Ok(());
        }
        let address = self.address();
        let shortly = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs()));
        let advice = "switch it off, and wait until it has been silent for two minutes; or, if you know that no system runs on its disk, \
                      say --force";
        if self.shared.table.read().paused {
            bail!(
                "{address}: nobody is heard while the export is paused, and {name} may be running; {advice}"
            );
        }
        let now = Instant::now();
        let served = now.saturating_duration_since(self.began);
        match self.heard(name, now) {
            Some(ago) if ago < RECENT => {
                bail!(
                    "{address}: {name} was heard {} ago, and may be running; {advice}",
                    shortly(ago)
                )
            }
            // Also of one whose disk is not served: who runs on it asks once a minute.
            None if served < RECENT => bail!(
                "{address}: xblade has served this export for {}, too short a time to tell whether {name} runs; {advice}",
                shortly(served)
            ),
            Some(_) | None => Ok(()),
        }
    }

    /// How long ago a machine was heard, whether its disk is served or not; `None`: not since the export was opened.
    pub(super) fn heard(&self, name: &DiskName, now: Instant) -> Option<Duration> {
        let instance = self.instance(name);
        if instance
            .as_ref()
            .is_some_and(|instance| instance.export.in_flight() > 0)
        {
            return Some(Duration::ZERO);
        }
        let served = instance.and_then(|instance| instance.heard.ago(now));
        let (macs, kept) = {
            let table = self.shared.table.read();
            let macs = table.macs_of(name);
            let kept: Vec<Duration> = macs
                .iter()
                .filter_map(|mac| table.kept.get(mac)?.heard.ago(now))
                .collect();
            (macs, kept)
        };
        let asking = self.shared.asking.lock();
        let asked = macs.iter().filter_map(|mac| match asking.get(mac)?.until {
            // It is next.
            None => Some(Duration::ZERO),
            Some(until) => Some((now + RETRY).saturating_duration_since(until)),
        });
        served.into_iter().chain(kept).chain(asked).min()
    }
}
