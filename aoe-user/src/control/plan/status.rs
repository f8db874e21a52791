//! What is served and what is not, and why: for whoever asks.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::super::backoff::Backoff;
use super::exports::ExportLife;
use super::ports::PortLife;
use super::{ExportId, Plan, PortId, StateLife, address_of};
use crate::config::ExportConfig;
use crate::target::Address;

/// Everything that is wanted, at one moment.
#[derive(Debug, Clone, Default)]
pub(in crate::control) struct Status {
    /// By the order of the configuration.
    pub(crate) exports: Vec<ExportStatus>,
    /// By name.
    pub(crate) ports: Vec<PortStatus>,
    /// Exports that are not wanted any more and whose last commit is not over.
    pub(crate) closing: Vec<Address>,
}

/// One export.
#[derive(Debug, Clone)]
pub(in crate::control) struct ExportStatus {
    pub(crate) id: ExportId,
    pub(crate) address: Address,
    pub(crate) config: Arc<ExportConfig>,
    pub(crate) path: PathBuf,
    pub(crate) state: Progress,
    /// Interfaces that serve it now.
    pub(crate) served_on: Vec<String>,
    /// Interfaces where another target has its address, or another export.
    pub(crate) kept_off: Vec<(String, String)>,
}

/// One interface.
#[derive(Debug, Clone)]
pub(in crate::control) struct PortStatus {
    pub(crate) name: String,
    /// Its opening, where it is open.
    pub(crate) id: Option<PortId>,
    pub(crate) state: Progress,
    /// Exports served there.
    pub(crate) exports: usize,
}

/// How far something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) enum Progress {
    /// It works.
    Open,
    /// Another gateway serves it, or will in a moment.
    Standby(String),
    /// It is on its way, or waits for something that is no failure.
    Waiting(String),
    /// It does not work and is tried again.
    Failed {
        reason: String,
        tries: u32,
        since: Instant,
        next_try: Instant,
    },
}

impl Progress {
    fn failed(backoff: &Backoff) -> Progress {
        Progress::Failed {
            reason: backoff.reason.clone(),
            tries: backoff.tries,
            since: backoff.since,
            next_try: backoff.next_try,
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Progress::Open => f.write_str("serving"),
            Progress::Standby(what) => write!(f, "standby: {what}"),
            Progress::Waiting(what) => write!(f, "waiting: {what}"),
            Progress::Failed { reason, tries, .. } => write!(f, "FAILED ({tries} tries): {reason}"),
        }
    }
}

impl Plan {
    /// The state of everything.
    pub(crate) fn status(&self) -> Status {
        let mut serving = self.serving();
        Status {
            exports: self
                .order
                .iter()
                .filter_map(|id| self.export_status(*id, serving.remove(id).unwrap_or_default()))
                .collect(),
            ports: self
                .ports
                .keys()
                .filter_map(|name| self.port_status(name))
                .collect(),
            closing: self.leaving.values().map(|leaving| leaving.address).collect(),
        }
    }

    /// The interfaces that serve each export. Each view is gone through once, however many exports there are.
    fn serving(&self) -> HashMap<ExportId, Vec<String>> {
        let mut serving: HashMap<ExportId, Vec<String>> = HashMap::new();
        for (name, port) in &self.ports {
            if !matches!(port.life, PortLife::Open(..)) || port.applied == 0 {
                continue;
            }
            for (id, _) in &port.view.exports {
                serving.entry(*id).or_default().push(name.clone());
            }
        }
        serving
    }

    fn export_status(&self, id: ExportId, served_on: Vec<String>) -> Option<ExportStatus> {
        let entry = self.exports.get(&id)?;
        let state = match (&entry.life, &self.state) {
            _ if self.standby_text(entry).is_some() => {
                Progress::Standby(self.standby_text(entry).unwrap_or_default())
            }
            (ExportLife::Open, _) => Progress::Open,
            (ExportLife::Failed(backoff), _) | (ExportLife::Waiting(_), StateLife::Failed(backoff)) => {
                Progress::failed(backoff)
            }
            (ExportLife::Waiting(_), StateLife::Opening(_)) => {
                Progress::Waiting("the state directory is being opened".into())
            }
            (ExportLife::Waiting(_), _) => Progress::Waiting("the export before it is being closed".into()),
            (ExportLife::Opening(..), _) => Progress::Waiting("being opened".into()),
        };
        let taken = self.ports.iter().flat_map(|(name, port)| {
            let by_others = port
                .taken_from(id)
                .map(|backoff| (name.clone(), backoff.reason.clone()));
            let by_own = port
                .hidden
                .contains(&id)
                .then(|| (name.clone(), "the address is exported there already".into()));
            by_others.into_iter().chain(by_own)
        });
        Some(ExportStatus {
            id,
            config: Arc::clone(&entry.config),
            served_on,
            address: address_of(&entry.config),
            path: entry.config.path.clone(),
            state,
            kept_off: taken.collect(),
        })
    }

    fn port_status(&self, name: &str) -> Option<PortStatus> {
        let port = self.ports.get(name)?;
        let waiting = |what: &str| Progress::Waiting(what.to_owned());
        let state = match &port.life {
            PortLife::Open(..) => Progress::Open,
            PortLife::Failed(backoff) => Progress::failed(backoff),
            PortLife::Absent(what) => Progress::Waiting(format!("it {what}")),
            PortLife::Down => waiting("it is down"),
            PortLife::Empty => waiting("no export can be served there yet"),
            PortLife::After(..) => waiting("its workers are ending"),
            PortLife::Opening(..) => waiting("being opened"),
        };
        Some(PortStatus {
            name: name.to_owned(),
            id: port.open_id(),
            state,
            exports: port.view.exports.len(),
        })
    }
}
