//! Carries out what `xblade export pause` and `resume` ask for, and answers when it is done.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tracing::{error, info};

use super::calls::no_such_export;
use super::pause;
use super::pausing::{PauseStep, Pausing};
use super::socket::ControlAnswer;
use super::view::Selection;
use crate::control::open::Served;
use crate::control::pauses::Key;
use crate::control::plan::ExportId;
use crate::control::supervisor::{Event, Supervisor};

impl Supervisor {
    /// Pauses exports, with a limit until that time has passed.
    pub(super) fn pause(&mut self, selection: &Selection, limit_ms: Option<u64>, answer: ControlAnswer) {
        let limit = limit_ms.map(Duration::from_millis);
        let all = self.exports.values();
        let mut chosen: Vec<_> = all
            .filter(|served| selection.has(&served.config))
            .cloned()
            .collect();
        let open = chosen.iter().map(|served| served.export.address());
        if let Some(glob) = selection.unmatched(open) {
            return answer.error(format!("{glob}: no such export is open, and nothing was paused"));
        }
        chosen.sort_by_key(|served| order(&served.key()));
        let mut keys: Vec<Key> = chosen.iter().map(|served| served.key()).collect();
        // Exports of one address on different interfaces are one to the operator.
        keys.dedup();
        if let Err(reason) = self.pauses.pause(&keys) {
            return answer.error(reason);
        }
        let ids = chosen.iter().map(|served| served.id).collect();
        let number = self.begin(keys, PauseStep::Pause(ids, limit), Some(answer));
        let exports: Vec<_> = chosen.iter().map(|served| Arc::clone(&served.export)).collect();
        let disks: Vec<_> = chosen.iter().filter_map(|served| served.disks.clone()).collect();
        // The job keeps what it needs of them, and no more: who closes a store waits until nobody uses it.
        drop(chosen);
        let work = move || {
            let done = pause::pause(&exports, &disks).map_err(|error| format!("{error:#}"));
            Event::Paused(number, done)
        };
        self.jobs
            .start(work, move |panic| Event::Paused(number, Err(panic)));
    }

    /// Serves paused exports again.
    pub(super) fn resume(&mut self, selection: &Selection, answer: ControlAnswer) {
        let status = self.plan.status();
        let configured = status.exports.iter().map(|export| export.address);
        let known = configured.chain(self.pauses.known().map(|(address, _)| address));
        if let Some(glob) = selection.unmatched(known) {
            return answer.error(no_such_export(glob));
        }
        match self.pauses.resume(|(address, _)| selection.has_address(address)) {
            Ok(keys) => {
                let number = self.begin(keys, PauseStep::Resume(HashSet::new()), Some(answer));
                self.serve_again(number);
            }
            Err(reason) => answer.error(reason),
        }
    }

    /// Serves again what was paused until now.
    pub(in crate::control) fn resume_due(&mut self, now: Instant) {
        let due = self.pauses.resume_due(now);
        if !due.is_empty() {
            info!("the time of the pause is over: {}", names(&due).join(", "));
            let number = self.begin(due, PauseStep::Resume(HashSet::new()), None);
            self.serve_again(number);
        }
    }

    fn begin(&mut self, keys: Vec<Key>, step: PauseStep, answer: Option<ControlAnswer>) -> u64 {
        self.last_pause += 1;
        let number = self.last_pause;
        self.pausing.push(Pausing {
            number,
            keys,
            step,
            answer,
        });
        number
    }

    /// What came of pausing.
    pub(in crate::control) fn pause_ended(&mut self, number: u64, done: Result<(), String>, now: Instant) {
        let Some(at) = self.pausing.iter().position(|asked| asked.number == number) else {
            return;
        };
        let Pausing {
            keys, step, answer, ..
        } = self.pausing.swap_remove(at);
        let PauseStep::Pause(ids, limit) = step else {
            return;
        };
        // What was put on the medium is not what is served under that name now.
        let is_same = ids.iter().all(|id| self.exports.contains_key(id));
        let done = done.and_then(|()| match is_same {
            true => Ok(()),
            false => Err(
                "not all of them are what they were: an export was opened anew or closed meanwhile".into(),
            ),
        });
        match done {
            Ok(()) => {
                // What is longer than any clock goes is no limit.
                let until = limit.and_then(|limit| now.checked_add(limit));
                self.pauses.are_paused(&keys, until);
                info!("paused {}", names(&keys).join(", "));
                if let Some(answer) = answer {
                    answer.result(json!({ "paused": names(&keys) }));
                }
            }
            Err(reason) => {
                let back = self.pauses.pause_failed(&keys);
                let stay: Vec<Key> = keys.into_iter().filter(|key| !back.contains(key)).collect();
                let reason = failure(&reason, &back, &stay);
                let number = self.begin(back, PauseStep::Undo(HashSet::new(), reason), answer);
                self.serve_again(number);
            }
        }
    }

    /// Has the exports of a request served again.
    fn serve_again(&mut self, number: u64) {
        let Some(asked) = self.pausing.iter_mut().find(|asked| asked.number == number) else {
            return;
        };
        let silent: Vec<Arc<Served>> = self
            .exports
            .values()
            .filter(|served| asked.keys.contains(&served.key()))
            .cloned()
            .collect();
        if let PauseStep::Resume(left) | PauseStep::Undo(left, _) = &mut asked.step {
            left.extend(silent.iter().map(|served| served.id));
        }
        for served in silent {
            let (export, id) = (Arc::clone(&served.export), served.id);
            drop(served);
            // A worker may be holding its lock while it waits for a disk.
            let work = move || {
                export.resume();
                Event::Resumed(number, id)
            };
            self.jobs.start(work, move |_| Event::Resumed(number, id));
        }
        self.answer_resumed(number);
    }

    /// An export is served again.
    pub(in crate::control) fn is_resumed(&mut self, number: u64, id: ExportId) {
        self.ports.values().for_each(|port| port.changed(id, false));
        let asked = self.pausing.iter_mut().find(|asked| asked.number == number);
        if let Some(PauseStep::Resume(left) | PauseStep::Undo(left, _)) = asked.map(|asked| &mut asked.step) {
            left.remove(&id);
        }
        self.answer_resumed(number);
    }

    /// Answers a request whose exports are all served again.
    fn answer_resumed(&mut self, number: u64) {
        let is_over = |asked: &Pausing| match &asked.step {
            PauseStep::Resume(left) | PauseStep::Undo(left, _) => asked.number == number && left.is_empty(),
            PauseStep::Pause(..) => false,
        };
        let Some(at) = self.pausing.iter().position(is_over) else {
            return;
        };
        let Pausing {
            keys, step, answer, ..
        } = self.pausing.swap_remove(at);
        self.pauses.are_resumed(&keys);
        if let PauseStep::Undo(_, reason) = step {
            error!("pausing failed: {reason}");
            return answer.into_iter().for_each(|answer| answer.error(&reason));
        }
        info!("resumed {}", names(&keys).join(", "));
        if let Some(answer) = answer {
            answer.result(json!({ "resumed": names(&keys) }));
        }
    }
}

fn order((address, vlan): &Key) -> (u16, u8, String) {
    (address.shelf, address.slot, vlan.to_string())
}

fn names(keys: &[Key]) -> Vec<String> {
    keys.iter().map(|(address, _)| address.to_string()).collect()
}

/// Why exports could not be paused, and what has become of each.
fn failure(reason: &str, back: &[Key], stay: &[Key]) -> String {
    let mut text = reason.to_owned();
    for (what, keys) in [("not paused", back), ("paused as before", stay)] {
        if !keys.is_empty() {
            text = format!("{text}; {what}: {}", names(keys).join(", "));
        }
    }
    text
}
