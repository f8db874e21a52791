//! Carries out what `xblade state` asks for: in service, or in the state directory, and never later than somebody waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::open::Served;
use super::plan::{ExportStatus, Progress};
use super::state::StateKey;
use super::state::operator::OperatorAction;
use super::supervisor::{Event, Supervisor};
use crate::config::ExportConfig;

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
            move || {
                state.look_again();
                Event::Orders(state.requests())
            },
            |_| Event::Orders(Vec::new()),
        );
        None
    }

    /// Has the operator's orders carried out.
    pub(super) fn obey(&mut self, orders: Vec<(StateKey, OperatorAction)>, now: Instant) {
        self.heard_operator = Some(now);
        let Some(state) = self.state.clone().filter(|_| !orders.is_empty()) else {
            return;
        };
        let status = self.plan.status().exports;
        let ways: Vec<(StateKey, OperatorAction, Way)> = orders
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
                        let done = state.obey_request(&key);
                        obeyed.extend(done.map(|action| (key, action)));
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
    pub(super) fn obeyed(&mut self, done: &[(StateKey, OperatorAction)], now: Instant) {
        let is_meant = |config: &ExportConfig| done.iter().any(|(key, _)| *key == StateKey::from(config));
        self.plan.try_again(is_meant, now);
        for served in self.exports.values() {
            let key = StateKey::from(&*served.config);
            if done.contains(&(key, OperatorAction::AcceptLostWrites)) {
                // It was being opened meanwhile, with the loss.
                served.export.store().accept_lost_writes();
            }
        }
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
                Progress::Open | Progress::Waiting(_) => return Way::Later,
                Progress::Standby(what) => {
                    way = Way::Refused(format!(
                        "{} is not served here ({what}): ask the gateway that serves it",
                        export.address
                    ));
                }
                Progress::Failed { .. } => {}
            }
        }
        way
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::lists::Made;
    use crate::control::open::{self, StateKeys};
    use crate::control::plan::ExportId;
    use crate::control::state::operator::{Parts, ask};
    use crate::control::state::{Before, StateDir};

    const CLEAR: OperatorAction = OperatorAction::Clear(Parts::ALL);
    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn what_was_heard_twice_is_carried_out_once() {
        let temp = tempfile::tempdir().unwrap();
        let image = temp.path().join("image");
        std::fs::write(&image, [0; 4096]).unwrap();
        let config = Arc::new(ExportConfig::new(1, 1, image));
        let key = StateKey::from(&*config);
        let state = StateDir::open(&temp.path().join("state"), Before::Unknown).unwrap();
        let lists = Made::default().of(&config.allow);
        let keys = Arc::new(StateKeys::new(vec![key.clone()]));
        let kept = Some((Arc::clone(&state), keys));
        let served = open::open(
            ExportId(1),
            1,
            config,
            lists,
            kept,
            None,
            &open::Shared::default(),
        )
        .unwrap();
        let set = |text: &str| {
            let change = |kept: &mut crate::target::Persistent| kept.string = text.into();
            served.export.change_persistent(change, |_| {}).unwrap();
        };
        set("old");

        let (dir, asked) = (temp.path().join("state"), key.clone());
        let asking = std::thread::spawn(move || ask(&dir, &asked, &CLEAR));
        let deadline = Instant::now() + TIMEOUT;
        while state.requests().is_empty() {
            assert!(Instant::now() < deadline, "no request");
            std::thread::sleep(Duration::from_millis(1));
        }
        state.obey_in_service(&key, &CLEAR, &served.export, None);
        asking.join().unwrap().unwrap();
        assert!(served.export.persistent().string.is_empty());
        set("new");
        // By a job that was started before the first one came to it.
        state.obey_in_service(&key, &CLEAR, &served.export, None);
        state.obey_in_service(&key, &OperatorAction::AcceptLostWrites, &served.export, None);
        assert_eq!(&served.export.persistent().string[..], b"new");
        assert!(!temp.path().join("state/1.1.answer").exists());
    }
}
