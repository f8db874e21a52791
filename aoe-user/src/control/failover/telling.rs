//! What a gateway that has a group tells: to other gateways, that it has it; to the log, that it answers nobody for want of its storage.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use failover::{GroupState, Standing, standing_text};

use crate::config::ExportConfig;
use crate::control::plan::Rival;
use crate::control::supervisor::Supervisor;

impl Supervisor {
    /// When a group was taken, in milliseconds since 1970: always the same for one taking, whatever is done to the clock meanwhile.
    fn taken_ms(&self, group: &str) -> Option<u64> {
        let taken = self.plan.group_taken(group)?;
        let time = self.start_time + taken.saturating_duration_since(self.start);
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    /// What other gateways are told of an export that is about to be opened.
    pub(in crate::control) fn standing_text(&self, config: &ExportConfig) -> Arc<str> {
        let group = config.failover.as_ref();
        let since = group.and_then(|group| self.taken_ms(&group.name));
        since.map_or_else(Arc::default, |since| {
            standing_text(since, &config.path.display().to_string()).into()
        })
    }

    /// Another gateway has a group as well.
    pub(in crate::control) fn hear_rival(&mut self, group: &str, rival: &Rival, now: Instant) {
        let Some(since_ms) = self.taken_ms(group) else {
            return;
        };
        let own = Standing {
            since_ms,
            mac: rival.own.0,
        };
        let hears_storage = !self.misses_storage(group);
        self.plan.group_rival(group, own, rival, hears_storage, now);
    }

    /// Logs once that a group which is active here answers nobody, and once that it does again.
    pub(in crate::control) fn tell_silence(&mut self, now: Instant) {
        if !self.told.is_due(now) {
            return;
        }
        let groups = self.plan.groups().into_iter();
        let active = groups.filter(|status| status.role == GroupState::Active);
        let silent = active.map(|status| (status.config.name.clone(), self.silence_of(&status)));
        let silent = silent.collect();
        self.told.tell(silent, now);
    }
}
