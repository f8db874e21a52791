//! What exports tell control. However often one changes, it takes one place here until control has looked.

use std::collections::HashMap;
use std::sync::Arc;

use indicatif::BinaryBytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::plan::ExportId;
use crate::store::pace::FaultPace;
use crate::store::{Fault, SECTOR_BYTES};
use crate::target::{Address, Change, Observer};

/// Exports that changed since control last looked.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// Whether the mask changed, too.
    changed: Mutex<HashMap<ExportId, bool>>,
    /// Exports whose stores another client has taken, and why that is thought.
    fenced: Mutex<Vec<(ExportId, String)>>,
    wake: Notify,
}

impl Notices {
    fn note(&self, id: ExportId, mask: bool) {
        *self.changed.lock().entry(id).or_insert(false) |= mask;
        self.wake.notify_one();
    }

    /// An export's store has been taken by another client.
    pub(super) fn fenced(&self, id: ExportId, reason: &str) {
        self.fenced.lock().push((id, reason.to_owned()));
        self.wake.notify_one();
    }

    /// Which stores are to be opened anew.
    pub(super) fn take_fenced(&self) -> Vec<(ExportId, String)> {
        std::mem::take(&mut self.fenced.lock())
    }

    /// Returns when there is something.
    pub(super) async fn arrived(&self) {
        self.wake.notified().await;
    }

    /// What changed; whether its mask did, too.
    pub(super) fn take(&self) -> HashMap<ExportId, bool> {
        std::mem::take(&mut self.changed.lock())
    }
}

/// Carries the engine's news of one export to control, and its faults to the log.
#[derive(Debug)]
pub(super) struct Reporter {
    id: ExportId,
    notices: Arc<Notices>,
    faults: FaultPace,
}

impl Reporter {
    pub(super) fn new(id: ExportId, notices: Arc<Notices>) -> Reporter {
        Reporter {
            id,
            notices,
            faults: FaultPace::default(),
        }
    }
}

impl Reporter {
    /// Has the export advertised.
    pub(super) fn announce(&self) {
        self.notices.note(self.id, false);
    }
}

impl Observer for Reporter {
    fn changed(&self, address: Address, change: Change) {
        match change {
            Change::Size(sectors) => info!(
                "{address}: now {sectors} sectors ({})",
                BinaryBytes(sectors * SECTOR_BYTES)
            ),
            Change::Returned => info!("{address}: its backing store serves again"),
            Change::String | Change::Mask | Change::Reserve => {}
        }
        self.notices.note(self.id, matches!(change, Change::Mask));
    }

    fn fault(&self, address: Address, fault: &Fault) {
        if let Some(count) = self.faults.happened(fault.kind) {
            warn!("{address}: {fault} ({count} such faults since the last report)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_changes_is_one_notice() {
        let notices = Arc::new(Notices::default());
        let address = Address { shelf: 1, slot: 1 };
        let reporter = Reporter::new(ExportId(7), notices.clone());
        for _ in 0..10_000 {
            reporter.changed(address, Change::Reserve);
        }
        reporter.changed(address, Change::Mask);
        reporter.changed(address, Change::String);
        assert_eq!(notices.take(), HashMap::from([(ExportId(7), true)]));
        assert!(notices.take().is_empty());
    }
}
