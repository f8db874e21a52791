//! What systemd is told: that the target is ready, how it is, and that it is alive.
//!
//! Alive means that the control thread turns and that not every worker is stuck. One disk that hangs can stop the workers that wait
//! for it, and no restart helps against that: it must not take the other exports away.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::{debug, error};

use super::plan::{Plan, Progress};

/// Least time between two looks at what to say.
const STATUS_PACE: Duration = Duration::from_secs(1);

/// What was said so far. Does nothing where nobody listens.
#[derive(Debug)]
pub(super) struct Notify {
    is_heard: bool,
    is_ready: bool,
    status: String,
    /// When the status is to be looked at again.
    status_at: Option<Instant>,
    watchdog: Option<Watchdog>,
}

/// Looks whether workers get on, a few times in the time that systemd gives.
#[derive(Debug)]
struct Watchdog {
    every: Duration,
    next: Instant,
    health: Health,
}

/// The workers at the last look, and what changes while they get on.
#[derive(Debug, Default)]
struct Health(HashMap<u64, Option<u64>>);

impl Health {
    /// Whether not every worker has been stuck since the last look. `now` has each worker, with `None` while it sleeps.
    fn look(&mut self, now: Vec<(u64, Option<u64>)>) -> bool {
        let is_stuck =
            |(id, progress): &(u64, Option<u64>)| progress.is_some() && self.0.get(id) == Some(progress);
        let all_stuck = !now.is_empty() && now.iter().all(is_stuck);
        self.0 = now.into_iter().collect();
        !all_stuck
    }
}

impl Notify {
    /// Looks in the environment for who listens.
    pub(super) fn new(now: Instant) -> Notify {
        let watchdog = sd_notify::watchdog_enabled().map(|limit| Watchdog {
            every: limit / 4,
            next: now,
            health: Health::default(),
        });
        Notify {
            is_heard: std::env::var_os("NOTIFY_SOCKET").is_some(),
            is_ready: false,
            status: String::new(),
            status_at: None,
            watchdog,
        }
    }

    /// Says what is new; returns when to call again although nothing happens.
    pub(super) fn turn(
        &mut self,
        plan: &Plan,
        is_ready: bool,
        workers: impl FnOnce() -> Vec<(u64, Option<u64>)>,
        now: Instant,
    ) -> Option<Instant> {
        if !self.is_heard {
            return None;
        }
        let status = if is_ready && !std::mem::replace(&mut self.is_ready, true) {
            // Whoever waited for this looks at the status next.
            self.status = status(plan);
            say(&[NotifyState::Status(&self.status), NotifyState::Ready]);
            None
        } else {
            self.tell_status(plan, now)
        };
        let beat = self.watchdog.as_mut().map(|watchdog| watchdog.beat(workers, now));
        [status, beat].into_iter().flatten().min()
    }

    fn tell_status(&mut self, plan: &Plan, now: Instant) -> Option<Instant> {
        if let Some(at) = self.status_at.filter(|at| now < *at) {
            return Some(at);
        }
        let status = status(plan);
        if status == self.status {
            self.status_at = None;
            return None;
        }
        say(&[NotifyState::Status(&status)]);
        self.status = status;
        self.status_at = Some(now + STATUS_PACE);
        self.status_at
    }

    /// The process ends.
    pub(super) fn stopping(&self) {
        if self.is_heard {
            say(&[NotifyState::Stopping]);
        }
    }
}

impl Watchdog {
    fn beat(&mut self, workers: impl FnOnce() -> Vec<(u64, Option<u64>)>, now: Instant) -> Instant {
        if now < self.next {
            return self.next;
        }
        self.next = now + self.every;
        if self.health.look(workers()) {
            say(&[NotifyState::Watchdog]);
        } else {
            error!("no worker gets on any more; systemd will end this process if that lasts");
        }
        self.next
    }
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!("systemd cannot be told: {error}");
    }
}

fn status(plan: &Plan) -> String {
    let status = plan.status();
    let is_open = |state: &Progress| *state == Progress::Open;
    let exports = &status.exports;
    let ready = exports.iter().filter(|export| is_open(&export.state)).count();
    let ports: Vec<&str> = status
        .ports
        .iter()
        .filter(|port| is_open(&port.state))
        .map(|port| port.name.as_str())
        .collect();
    let places = match &ports[..] {
        [] => "no interface".to_owned(),
        ports if ports.len() <= 4 => ports.join(", "),
        ports => format!("{} interfaces", ports.len()),
    };
    format!("{ready} of {} exports open, on {places}", exports.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_that_gets_on_or_sleeps_is_enough() {
        let mut health = Health::default();
        assert!(health.look(vec![]), "nothing is served yet");
        assert!(
            health.look(vec![(1, Some(5)), (2, Some(7))]),
            "seen for the first time"
        );
        assert!(health.look(vec![(1, Some(5)), (2, Some(8))]), "one is stuck");
        assert!(!health.look(vec![(1, Some(5)), (2, Some(8))]), "both are");
        assert!(health.look(vec![(1, Some(5)), (2, None)]), "one sleeps");
        assert!(health.look(vec![(3, Some(5))]), "another one");
    }
}
