//! Carries out what `xblade state` asks for: in service, or in the state directory, and never later than somebody waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::open::Served;
use super::plan::{ExportStatus, State};
use super::state::StateKey;
use super::state::operator::Action;
use super::supervisor::{Event, Supervisor};

/// How often `xblade state` is listened to.
const OPERATOR_PACE: Duration = Duration::from_secs(2);

/// How a decision about an export is carried out.
#[derive(Debug)]
enum Way {
    /// By the export, so that no change of an initiator is in the middle of it.
    InService(Arc<Served>),
    /// In the directory: nothing uses it.
    InDirectory,
    /// It is being opened: by that, or afterwards in service.
    Later,
    /// Not here.
    Refused(String),
}

impl Supervisor {
    /// Looks for what `xblade state` asks for, from time to time.
    pub(super) fn hear_operator(&mut self, now: Instant) -> Option<Instant> {
        let state = self.state.as_ref()?;
        let next = self.heard_operator? + OPERATOR_PACE;
        if now < next {
            return Some(next);
        }
        let state = Arc::clone(state);
        self.heard_operator = None;
        self.jobs.start(
            move || Event::Orders(state.requests()),
            |_| Event::Orders(Vec::new()),
        );
        None
    }

    /// Has the operator's orders carried out.
    pub(super) fn obey(&mut self, orders: Vec<(StateKey, Action)>, now: Instant) {
        self.heard_operator = Some(now);
        let Some(state) = self.state.clone().filter(|_| !orders.is_empty()) else {
            return;
        };
        let status = self.plan.status().exports;
        let ways: Vec<(StateKey, Action, Way)> = orders
            .into_iter()
            .map(|(key, action)| {
                let way = self.way(&key, &status);
                (key, action, way)
            })
            .collect();
        let work = move || {
            let mut obeyed = Vec::new();
            for (key, action, way) in ways {
                match way {
                    Way::InService(served) => {
                        let keeper = served.kept_with_image.as_deref();
                        state.obey_in_service(&key, &action, &served.export, keeper);
                    }
                    Way::InDirectory => {
                        state.obey_request(&key);
                        obeyed.push(key);
                    }
                    Way::Later => {}
                    Way::Refused(reason) => state.refuse(&key, reason),
                }
            }
            Event::Obeyed(obeyed)
        };
        self.jobs.start(work, |_| Event::Obeyed(Vec::new()));
    }

    /// What was decided may be what an export waited for.
    pub(super) fn obeyed(&mut self, keys: &[StateKey], now: Instant) {
        self.plan
            .try_again(|config| keys.contains(&StateKey::from(config)), now);
    }

    fn way(&self, key: &StateKey, status: &[ExportStatus]) -> Way {
        let mut served = self.exports.values();
        if let Some(served) = served.find(|served| StateKey::from(&*served.config) == *key) {
            return Way::InService(Arc::clone(served));
        }
        let own = status
            .iter()
            .filter(|export| StateKey::from(&*export.config) == *key);
        let mut way = Way::InDirectory;
        for export in own {
            match &export.state {
                State::Open | State::Waiting(_) => return Way::Later,
                State::Standby(what) => {
                    way = Way::Refused(format!(
                        "{} is not served here ({what}): ask the gateway that serves it",
                        export.address
                    ));
                }
                State::Failed { .. } => {}
            }
        }
        way
    }
}
