//! What initiators left behind, for `xblade state`: told and cleared by the running target, which holds the directory.

use std::io::ErrorKind;
use std::path::Path;

use aoe_common::Mac;
use serde_json::json;

use super::socket::ControlAnswer;
use super::types::{KeptState, KeptStates};
use crate::control::Control;
use crate::control::state::operator::{self, OperatorAction};
use crate::control::state::{self, StateDirError, StateEntry, StateKey};
use crate::control::supervisor::Event;
use crate::store::limits::no_thread;

/// What is kept in a directory; nothing in one that no daemon has made yet.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn kept(dir: &Path) -> Result<KeptStates, StateDirError> {
    let (entries, losses) = match state::list(dir) {
        Err(StateDirError::Io { cause, .. }) if cause.kind() == ErrorKind::NotFound => {
            (Vec::new(), Vec::new())
        }
        entries => (entries?, state::lost::list(dir)?),
    };
    let list = |macs: &[Mac]| macs.iter().map(Mac::to_string).collect();
    let states = entries.into_iter().map(|StateEntry { name, state }| match state {
        Ok(state) => KeptState {
            state: name,
            string: state.string.escape_ascii().to_string(),
            string_bytes: state.string.len(),
            mask: list(&state.mask),
            reserve: list(&state.reserve),
            ..KeptState::default()
        },
        Err(reason) => KeptState {
            state: name,
            problem: Some(reason),
            ..KeptState::default()
        },
    });
    let mut states: Vec<KeptState> = states.collect();
    for (name, lost) in losses {
        match states.iter_mut().find(|kept| kept.state == name) {
            Some(kept) => kept.lost_writes = Some(lost),
            None => states.push(KeptState {
                state: name,
                lost_writes: Some(lost),
                ..KeptState::default()
            }),
        }
    }
    Ok(KeptStates { states })
}

impl Control {
    /// Tells what is kept. The directory is read beside the control thread: its disk may hang.
    pub(super) fn tell_kept(&mut self, answer: ControlAnswer) {
        let Some(dir) = self.state_dir() else {
            return answer.error(NOTHING_KEPT);
        };
        let tell = move || {
            match kept(&dir) {
                Ok(states) => answer.result(states),
                Err(error) => answer.error(error.to_string()),
            }
            Event::Answered
        };
        self.supervisor.jobs.start(tell, |_| Event::Answered);
    }

    /// Carries out what the operator decided: for an export of the configuration by the way that `xblade state` goes without a
    /// socket, on which the control thread decides how, when it knows how far the export is; for any other here.
    pub(super) fn decide_kept(&mut self, name: &str, action: OperatorAction, answer: ControlAnswer) {
        let Ok(key) = name.parse::<StateKey>() else {
            return answer.error(format!("{name} is no name of a state, as in 1.1 or 1.1-vlan-5"));
        };
        let (Some(dir), Some(state)) = (self.state_dir(), self.supervisor.state.clone()) else {
            return answer.error(NOTHING_KEPT);
        };
        let exports = self.current.iter().flat_map(|config| &config.exports);
        let is_configured = exports.map(StateKey::from).any(|known| known == key);
        let tell = |answer: ControlAnswer, key: &StateKey, done: Result<(), String>| match done {
            Ok(()) => answer.result(json!({ "state": key.to_string() })),
            Err(error) => answer.error(error),
        };
        if !is_configured {
            let decide = move || {
                let done = state.perform(&key, &action);
                tell(answer, &key, done.map(drop).map_err(|error| error.to_string()));
                Event::Answered
            };
            return self.supervisor.jobs.start(decide, |_| Event::Answered);
        }
        // No job: it waits for one, and there may be one thread for all.
        let (give, take) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("xblade-order".to_owned());
        let ask = move || {
            if let Ok(answer) = take.recv() {
                let done = operator::ask(&dir, &key, &action);
                tell(answer, &key, done.map_err(|error| error.to_string()));
            }
        };
        match thread.spawn(ask) {
            // It is there as long as the thread is.
            Ok(_) => drop(give.send(answer)),
            Err(error) => answer.error(format!("nothing was done: {}", no_thread(&error))),
        }
    }

    fn state_dir(&self) -> Option<std::path::PathBuf> {
        self.current.as_ref()?.state_dir.clone()
    }
}

const NOTHING_KEPT: &str = "nothing is kept: the target has no state directory";
