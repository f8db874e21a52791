//! Faults of the plan, as they begin and end.

use crate::bus::Event;
use crate::mutants::Mutant;
use crate::plan::FaultKind;
use crate::world::World;

impl World {
    /// A fault begins, or ends. What has ended may be ended again.
    pub(crate) fn fault(&mut self, number: usize, begins: bool) {
        let fault = self.plan.faults[number].clone();
        if begins && self.quiet {
            return;
        }
        let what = fault.what;
        self.bus
            .say(|| format!("{what:?} {}", if begins { "begins" } else { "is over" }));
        if begins && fault.for_ms > 0 {
            self.bus.after(fault.for_ms * 1000, Event::Fault(number, false));
        }
        match what {
            FaultKind::Stall { port, queue } => self.stall(port, queue, begins, fault.for_ms),
            FaultKind::LinkDown { port } => {
                self.network_counts(number, begins, |network, down| network.link(port, down));
                if !begins {
                    self.advertise(port);
                }
            }
            FaultKind::Partition { host, port } => {
                self.network_counts(number, begins, |network, cut| network.cut(host, port, cut));
            }
            FaultKind::NewMac { port } if begins => {
                let port_info = &mut self.ports[usize::from(port)].info;
                port_info.mac.0[4] = port_info.mac.0[4].wrapping_add(1);
                self.advertise(port);
            }
            FaultKind::SmallMtu { port } => {
                let at = &mut self.ports[usize::from(port)];
                at.info.mtu_bytes = if begins { 1100 } else { at.mtu };
                self.advertise(port);
            }
            FaultKind::Reopen { port } if begins => self.end_workers(|worker| worker.port == port, false),
            FaultKind::WorkerEnds { port, queue } if begins => {
                self.end_workers(|worker| worker.port == port && worker.queue == queue, true);
            }
            FaultKind::Kill | FaultKind::PowerCut if begins => {
                self.kill(what == FaultKind::PowerCut);
                self.bus.after(fault.for_ms.max(1) * 1000, Event::Boot);
            }
            FaultKind::Terminate if begins => {
                self.terminate();
                self.bus
                    .after(fault.for_ms.max(1) * 1000, Event::Fault(number, false));
            }
            FaultKind::Terminate | FaultKind::Kill | FaultKind::PowerCut => self.back(number),
            FaultKind::Reload if begins => self.reload(),
            FaultKind::StateFails => self.state.set_fails(begins),
            FaultKind::StateHangs => self.state.set_hangs(begins),
            _ => self.disk_fault(what, begins),
        }
    }

    /// A process that was to end is there again, or is killed for not ending.
    fn back(&mut self, number: usize) {
        let begun = self.plan.faults[number].at_ms * 1000;
        let left_behind = || self.disks.iter().any(|disk| disk.lock().has_transfers());
        match &self.process {
            // Its files are locked for as long as a disk has not answered what it left there.
            None if left_behind() => self.bus.after(1_000_000, Event::Fault(number, false)),
            None => self.bus.after(1, Event::Boot),
            Some(process) if process.terminating => {
                if self.bus.now_us() > begun + World::kill_limit_us() {
                    self.kill(false);
                }
                self.bus.after(1_000_000, Event::Fault(number, false));
            }
            Some(_) => {}
        }
    }

    fn network_counts(
        &mut self,
        number: usize,
        begins: bool,
        apply: impl Fn(&mut crate::net::Network, bool),
    ) {
        // Ends come twice: by their time and when everything ends.
        let active = self.active.contains(&number);
        if begins != active {
            apply(&mut self.network, begins);
            if begins {
                self.active.insert(number)
            } else {
                self.active.remove(&number)
            };
        }
    }

    fn stall(&mut self, port: u8, queue: u8, begins: bool, for_ms: u64) {
        let now = self.bus.now_us();
        let Some(&id) = self.by_queue.get(&(port, queue)) else {
            return;
        };
        if let Some(worker) = self
            .process
            .as_mut()
            .and_then(|process| process.workers.get_mut(&id))
        {
            worker.stalled_until = if begins { now + for_ms * 1000 } else { now };
            worker.scheduled = false;
        }
        self.wake(id);
    }

    fn reload(&mut self) {
        let (options, anew) = (self.options(), self.is(Mutant::ReloadForgetsOrder));
        if let Some(process) = &mut self.process {
            process.reconfigure(options, anew, &self.state);
        }
        for port in 0..self.ports.len() as u8 {
            self.advertise(port);
        }
    }

    fn disk_fault(&mut self, what: FaultKind, begins: bool) {
        let (FaultKind::Slow { disk }
        | FaultKind::Hang { disk }
        | FaultKind::CommitFails { disk }
        | FaultKind::ReadFails { disk }
        | FaultKind::WriteFails { disk }
        | FaultKind::Full { disk }
        | FaultKind::Gone { disk }
        | FaultKind::Shrunk { disk }
        | FaultKind::Accept { disk }) = what
        else {
            return;
        };
        // Exports that lie beside each other share a disk.
        let number = self.places[usize::from(disk)].disk;
        let sectors = self.places[usize::from(disk)].sectors;
        let device = std::sync::Arc::clone(&self.disks[number]);
        let mut device = device.lock();
        let some = (begins).then(|| {
            let first = self.random.below(sectors.min(16));
            (first, first + self.random.between(1, 8))
        });
        match what {
            FaultKind::Slow { .. } => device.faults.slow = begins,
            FaultKind::Hang { .. } => {
                device.faults.hung = begins;
                if !begins {
                    device.unstick();
                }
            }
            FaultKind::CommitFails { .. } => {
                device.faults.commit_fails = begins;
                if begins {
                    device.provoke_write_back();
                }
            }
            FaultKind::ReadFails { .. } => device.faults.bad_reads = some,
            FaultKind::WriteFails { .. } => device.faults.bad_writes = some,
            FaultKind::Full { .. } => device.faults.full = begins,
            FaultKind::Gone { .. } => device.faults.gone = begins,
            FaultKind::Shrunk { .. } => device.faults.shrunk = begins.then(|| self.random.below(sectors)),
            _ if begins => device.accept(),
            _ => {}
        }
        drop(device);
        self.oracle.faults(number as u8);
    }
}
