//! What was said of the groups that are active here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// How often it is looked whether they answer.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Groups that are active here and answer nobody, as was logged.
#[derive(Debug, Default)]
pub(in crate::control) struct Told {
    silent: BTreeSet<String>,
    looked: Option<Instant>,
}

impl Told {
    /// Whether it is time to look.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.looked.is_none_or(|looked| now >= looked + LOOK_EVERY);
        if is_due {
            self.looked = Some(now);
        }
        is_due
    }

    /// The active groups, with the reason of each that is silent. Those that are active no more have a line of their own.
    pub(super) fn tell(&mut self, active: BTreeMap<String, Option<String>>) {
        for (name, silence) in &active {
            match (silence, self.silent.contains(name)) {
                (Some(reason), false) => warn!("failover group {name}: ACTIVE, and silent: {reason}"),
                (None, true) => info!("failover group {name}: ACTIVE, and answering again"),
                _ => {}
            }
        }
        let silent = active.into_iter().filter(|(_, silence)| silence.is_some());
        self.silent = silent.map(|(name, _)| name).collect();
    }
}
