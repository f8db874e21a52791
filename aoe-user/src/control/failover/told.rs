//! What was said of the groups that are active here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// How often it is looked whether they answer.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// So long it must have answered until that is told: storage that hardly keeps up is no news each second.
const ANSWERS_FOR: Duration = Duration::from_secs(10);

/// Groups that are active here and answer nobody, as was logged.
#[derive(Debug, Default)]
pub(in crate::control) struct Told {
    /// With since when they do again.
    silent: BTreeMap<String, Option<Instant>>,
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
    pub(super) fn tell(&mut self, active: BTreeMap<String, Option<String>>, now: Instant) {
        self.silent.retain(|name, _| active.contains_key(name));
        for (name, silence) in active {
            match (silence, self.silent.get_mut(&name)) {
                (Some(_), Some(answers)) => *answers = None,
                (Some(reason), None) => {
                    warn!("failover group {name}: ACTIVE, and silent: {reason}");
                    self.silent.insert(name, None);
                }
                (None, Some(answers)) => {
                    let since = *answers.get_or_insert(now);
                    if now >= since + ANSWERS_FOR {
                        info!("failover group {name}: ACTIVE, and answering again");
                        self.silent.remove(&name);
                    }
                }
                (None, None) => {}
            }
        }
    }
}
