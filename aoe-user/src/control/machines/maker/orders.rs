//! The thread's loop: one order after the other, and what is due in between.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use super::super::{Asked, Order, RETRY};
use super::Maker;
use crate::control::guard::caught;

impl Maker {
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        while let Some(order) = self.next(orders) {
            let asks = match &order {
                Some(Order::Open(mac) | Order::Boot(mac) | Order::BootElsewhere(mac)) => Some(*mac),
                _ => None,
            };
            *self.shared.moved_on.lock() = Some(Instant::now());
            match caught(|| self.carry_out(order)) {
                Ok(true) => {}
                Ok(false) => break,
                // It costs one order: the others' disks go on, and who asked may ask again.
                Err(panic) => {
                    tracing::error!("{}: looking after machines' disks: {panic}", self.address());
                    if let Some(mac) = asks {
                        self.shared.asking.lock().insert(mac, Asked::again());
                    }
                    std::thread::sleep(RETRY);
                }
            }
        }
        self.close_all();
    }

    /// False: it was the last one.
    fn carry_out(&mut self, order: Option<Order>) -> bool {
        self.discard_idle();
        self.open_again();
        match order {
            None => {}
            Some(Order::Open(mac)) => {
                let result = self.open_for(mac);
                self.answer(mac, result);
            }
            Some(Order::Boot(mac)) => {
                let result = self.boot(mac);
                self.answer(mac, result);
            }
            Some(Order::BootElsewhere(mac)) => {
                self.boot_elsewhere(mac);
                self.shared.asking.lock().remove(&mac);
            }
            Some(Order::Configure(settings)) => {
                self.start.settings = *settings;
                self.take_settings(&self.disks_in_use());
                // Once, and before anybody is served under them.
                self.note_bound();
                self.reconfigure();
            }
            Some(Order::Reset(name, how, answer)) => {
                let result = self.reset(&name, how).map_err(|error| format!("{error:#}"));
                let _ = answer.send(result);
            }
            Some(Order::Pin(name, pinned, answer)) => {
                let result = self.pin(&name, pinned).map_err(|error| format!("{error:#}"));
                let _ = answer.send(result);
            }
            Some(Order::Bound(image, but, answer)) => {
                let bound = self.bound_to(&image, but.as_ref());
                let _ = answer.send(bound.map_err(|error| format!("{error:#}")));
            }
            Some(Order::Leave(name, force, answer)) => {
                let left = self.leave(&name, force).map_err(|error| format!("{error:#}"));
                let _ = answer.send(left);
            }
            Some(Order::Return(name, store, new, answer)) => {
                let result = self.come_back(&name, store, new);
                let _ = answer.send(result.map_err(|error| format!("{error:#}")));
            }
            Some(Order::Stop) => return false,
        }
        // Who has left a disk, and which are gone.
        self.note_bound();
        true
    }

    /// What is to be done next, `Some(None)`: nothing that anybody asked for; `None`: nobody is there any more.
    fn next(&self, orders: &Receiver<Order>) -> Option<Option<Order>> {
        let waits = [self.next_look(), self.again.next_look()];
        let Some(wait) = waits.into_iter().flatten().min() else {
            return orders.recv().ok().map(Some);
        };
        match orders.recv_timeout(wait) {
            Ok(order) => Some(Some(order)),
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }
}
