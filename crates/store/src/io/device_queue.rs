//! One worker's transfers to one device: under way, or held back until the device may be given more.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::io::continuation::PendingTransfer;
use crate::io::gate::Gate;
use crate::io::request::IoRequest;

/// Waiting requests that a newcomer is compared with.
const LOOK_BACK: usize = 64;

/// Transfers to one device.
#[derive(Debug)]
pub(crate) struct DeviceQueue {
    gate: Arc<Gate>,
    under_way: usize,
    waiting: VecDeque<IoRequest>,
}

impl DeviceQueue {
    /// An empty one; the worker counts as a user of the device from now on.
    pub(crate) fn new(gate: &Arc<Gate>) -> DeviceQueue {
        gate.enter();
        DeviceQueue {
            gate: Arc::clone(gate),
            under_way: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Whether it is that device's.
    pub(crate) fn is_of(&self, gate: &Arc<Gate>) -> bool {
        Arc::ptr_eq(&self.gate, gate)
    }

    /// Queues a transfer, in one request with its neighbour if that waits, too.
    pub(crate) fn push(&mut self, mut pending: PendingTransfer) {
        for request in self.waiting.iter_mut().rev().take(LOOK_BACK) {
            match request.join(pending) {
                Ok(()) => return,
                Err(back) => pending = back,
            }
        }
        self.waiting.push_back(IoRequest::new(pending));
    }

    /// Queues what goes again by itself.
    pub(crate) fn push_again(&mut self, request: IoRequest) {
        self.waiting.push_front(request);
    }

    /// The next that the device may be given.
    pub(crate) fn pop(&mut self) -> Option<IoRequest> {
        if self.under_way >= self.gate.share() {
            return None;
        }
        let request = self.waiting.pop_front()?;
        self.under_way += 1;
        Some(request)
    }

    /// One of those that were given has ended.
    pub(crate) fn ended(&mut self) {
        self.under_way -= 1;
    }

    /// Whether nothing is under way or waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way == 0 && self.waiting.is_empty()
    }
}

impl Drop for DeviceQueue {
    fn drop(&mut self) {
        self.gate.leave();
    }
}
