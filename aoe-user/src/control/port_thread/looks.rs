//! What a port looks at every second, because nobody tells of it.

use super::{PortEvent, Running, reason_of};
use crate::host::rx_queues;

impl Running<'_> {
    /// Where frames come in and no worker gets any, the port is opened again, in its next mode where it has never worked, and is announced again.
    pub(super) fn look_whether_frames_arrive(&mut self) -> Result<(), String> {
        let before = self.port.fault().map(str::to_owned);
        let changed = self.port.watch().map_err(reason_of)?;
        if changed.is_some() {
            self.opened_again();
        } else if before.as_deref() != self.port.fault() {
            self.tell_about();
        }
        Ok(())
    }

    /// Some drivers change the number of queues (`ethtool -L`) without a change of the link, of which the kernel would tell; what comes to a new
    /// queue has no socket then.
    pub(super) fn look_at_queues(&self, report: &dyn Fn(PortEvent)) {
        if rx_queues(&self.nic.name).is_some_and(|now| now != self.nic.rx_queues) {
            report(PortEvent::OtherQueues);
        }
    }
}
