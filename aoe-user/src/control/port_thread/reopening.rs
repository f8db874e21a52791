//! What has a port opened again while it is served: its filter has no room for the rules, its sockets have lost their queues, a worker panicked.

use std::sync::Arc;
use std::time::Instant;

use tracing::{error, info, warn};

use super::{MASK_PACE, Running, WORKER_PACE, reason_of};
use crate::filter::Rules;
use crate::host::link_state;
use crate::port::{Drain, PortError};
use crate::target::Exports;

impl Running<'_> {
    /// Opens the port again with a filter that has room for these rules.
    pub(super) fn make_room(
        &mut self,
        error: &PortError,
        exports: &Arc<Exports>,
        rules: &Rules,
    ) -> Result<(), String> {
        let name = &self.name;
        warn!("{name}: {error}: opening it again with larger maps; initiators resend what is lost meanwhile");
        self.port.reopen(exports, rules).map_err(reason_of)?;
        self.opened_again();
        Ok(())
    }

    pub(super) fn renew_rules(&mut self) -> Result<(), String> {
        if let Some(made) = self.rules_made {
            std::thread::sleep((made + MASK_PACE).saturating_duration_since(Instant::now()));
        }
        let (exports, rules) = self.view.halves();
        match self.port.set_rules(&rules) {
            Err(error) if error.is_outgrown() => self.make_room(&error, &exports, &rules)?,
            Err(error) => {
                let name = &self.name;
                error!("{name}: the filter keeps its old rules, the process enforces the new ones: {error}");
            }
            Ok(()) => {}
        }
        self.rules_made = Some(Instant::now());
        Ok(())
    }

    /// An interface that left this network namespace for a moment looks as it did before, but its sockets have lost their queues;
    /// and an administrator can detach the program of a port. The port is opened again, as soon as there is a carrier: of an
    /// interface that is gone or down control hears from the kernel, and has this looked at again once it is back.
    pub(super) fn check_attachments(&mut self) -> Result<(), String> {
        let lost_queues = self.shared.queues.lock().iter().any(|queue| !queue.is_bound());
        let Some(link) = link_state(self.nic.index).filter(|link| link.carrier) else {
            return Ok(());
        };
        let reason = match (lost_queues, link.has_program) {
            (false, true) => return Ok(()),
            (true, _) => {
                "the kernel took its receive queues away: the interface was removed and made anew, or moved to another network \
                 namespace and back"
            }
            (false, false) => "its XDP program was detached by somebody else",
        };
        warn!("{}: {reason}. The port is opened again", self.name);
        self.port.open_anew().map_err(reason_of)?;
        self.opened_again();
        Ok(())
    }

    /// After the port was opened again: its sockets are others, its mode may be, and initiators hear that it is there.
    pub(super) fn opened_again(&self) {
        *self.shared.queues.lock() = self.port.queue_releases();
        self.tell_about();
        info!("{}: served in {} again", self.name, self.port.obtained());
        self.port.advertise(self.by_id.values().cloned().collect());
    }

    /// A worker has panicked: its queue is served again at once, unless it happens again and again.
    pub(super) fn replace_workers(&mut self) -> Result<(), String> {
        if !self.port.has_lost_worker() {
            // Of the port as it was before.
            return Ok(());
        }
        let reason = "a worker ended by a panic; please report it with the log above";
        let again = self
            .reopened
            .replace(Instant::now())
            .is_some_and(|before| before.elapsed() < WORKER_PACE);
        if again {
            self.close(Drain::Healthy);
            return Err(reason.into());
        }
        error!("{}: {reason}. The port is opened again", self.name);
        self.port.open_anew().map_err(reason_of)?;
        self.opened_again();
        Ok(())
    }
}
