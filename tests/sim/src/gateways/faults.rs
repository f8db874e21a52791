//! Faults of a plan with gateways, as they begin and end.

use super::gateway::as_host;
use super::world::Gateways;
use crate::bus::{Control, Event};
use crate::plan::FaultKind;

impl Gateways {
    /// A fault begins, or ends. What has ended may be ended again.
    pub(super) fn fault(&mut self, number: usize, begins: bool) {
        let fault = self.plan.faults[number].clone();
        let now = self.bus.now_us();
        if begins && self.quiet {
            return;
        }
        self.bus
            .say(|| format!("{:?} {}", fault.what, if begins { "begins" } else { "is over" }));
        if begins {
            self.bus
                .after(fault.for_ms.max(1) * 1000, Event::Fault(number, false));
        }
        for gateway in 0..self.gateways.len() as u8 {
            self.watch.disturb(gateway, now);
        }
        let count = self.gateways.len() as u8;
        match fault.what {
            FaultKind::GatewayDies { gateway } | FaultKind::GatewayEnds { gateway } if !begins => {
                self.back(number, gateway % count);
            }
            FaultKind::GatewayDies { gateway } => self.kill(gateway % count),
            FaultKind::GatewayEnds { gateway } => self.later(gateway % count, 1, Control::Terminate),
            FaultKind::GatewayStops { gateway } => self.stop(gateway % count, begins, false),
            FaultKind::GatewayPauses { gateway } => self.stop(gateway % count, begins, true),
            FaultKind::Take { gateway } | FaultKind::Release { gateway } if begins => {
                let here = matches!(fault.what, FaultKind::Take { .. });
                self.later(gateway % count, 1, Control::Operator(here));
            }
            // Ends come twice: by their time and when everything ends.
            _ if begins == self.active.contains(&number) => {}
            what => {
                if begins {
                    self.active.insert(number);
                } else {
                    self.active.remove(&number);
                }
                self.lasting(what, begins, count);
            }
        }
    }

    fn lasting(&mut self, what: FaultKind, begins: bool, count: u8) {
        match what {
            FaultKind::LinkDown { port } => self.network.link(port % count, begins),
            FaultKind::Partition { host, port } => self.network.cut(host, port % count, begins),
            FaultKind::Deaf { gateway, other } => {
                let (gateway, other) = (gateway % count, other % count);
                self.network.cut(as_host(gateway), other, begins);
                self.network.cut(as_host(other), gateway, begins);
            }
            FaultKind::CephCut { gateway } => self.ceph.lock().cut(gateway % count, begins),
            FaultKind::CephSlow => self.ceph.lock().slow(begins),
            FaultKind::OsdStalls { osd } => self.ceph.lock().stall(osd, begins),
            _ => {}
        }
    }

    /// Stops a gateway, or lets it go on.
    fn stop(&mut self, gateway: u8, stops: bool, with_clock: bool) {
        let now = self.bus.now_us();
        let at = &mut self.gateways[usize::from(gateway)];
        if stops && at.life.is_some() && !at.is_stopped() {
            (at.paused, at.stopped_us) = (with_clock, now);
            self.ceph.lock().stop(gateway, true);
        } else if !stops && at.is_stopped() {
            if at.paused {
                at.clock.stood(now - at.stopped_us);
            }
            (at.paused, at.stopped_us) = (false, 0);
            // Its threads wake in any order.
            for event in std::mem::take(&mut at.missed) {
                let delay = self.random.between(1, 5000);
                self.bus.after(delay, event);
            }
            self.ceph.lock().stop(gateway, false);
        }
    }

    /// A process that was to end is there again.
    fn back(&mut self, number: usize, gateway: u8) {
        if self.gateways[usize::from(gateway)].life.is_none() {
            self.later(gateway, 1, Control::Start);
        } else if self.gateways[usize::from(gateway)]
            .life
            .as_ref()
            .is_some_and(|life| life.ending)
        {
            // A service manager kills what does not end.
            if self.bus.now_us() > self.plan.faults[number].at_ms * 1000 + 90_000_000 {
                self.kill(gateway);
            }
            self.bus.after(1_000_000, Event::Fault(number, false));
        }
    }
}
