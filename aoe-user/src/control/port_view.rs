//! What a port is to serve, and what its parts get of that.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use aoe_common::Mac;

use super::open::Served;
use super::other_targets::ProbedExport;
use super::other_targets::own::OwnAddresses;
use super::plan::ExportId;
use crate::config::Mode;
use crate::dump::Hub;
use crate::filter::Rules;
use crate::port::Tuning;
use crate::target::{Export, Exports};

/// What a port is to serve.
#[derive(Debug, Clone)]
pub(super) struct PortView {
    pub(crate) exports: Vec<Arc<Served>>,
    pub(crate) mode: Mode,
    pub(crate) tuning: Tuning,
    pub(crate) version: u64,
    /// Who wants to see frames.
    pub(crate) dumps: Arc<Hub>,
    /// Where the process answers from.
    pub(crate) own: OwnAddresses,
}

impl PortView {
    /// What workers and filter get.
    pub(super) fn halves(&self) -> (Arc<Exports>, Rules) {
        let exports = self.exports.iter().map(|served| Arc::clone(&served.export));
        let rules = Rules {
            exports: self.exports.iter().map(|served| served.rule()).collect(),
            stations: self.stations(),
        };
        (Arc::new(Exports::new(exports.collect())), rules)
    }

    /// The addresses of failover groups that exports are served under.
    pub(super) fn stations(&self) -> BTreeSet<Mac> {
        let groups = self
            .exports
            .iter()
            .filter_map(|served| served.config.failover.as_ref());
        groups.map(|group| group.mac).collect()
    }

    /// What nobody else may serve there. Whose groups other gateways may serve is settled by their locks.
    pub(super) fn probed(&self) -> Vec<ProbedExport> {
        let alone = self
            .exports
            .iter()
            .filter(|served| served.config.failover.is_none());
        alone.map(|served| served.probed()).collect()
    }

    /// The exports by their openings.
    pub(super) fn by_id(&self) -> HashMap<ExportId, Arc<Export>> {
        let entry = |served: &Arc<Served>| (served.id, Arc::clone(&served.export));
        self.exports.iter().map(entry).collect()
    }
}
