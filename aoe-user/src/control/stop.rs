//! The end: everything is committed and given back, or left behind when a disk does not answer.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{error, info, warn};

use super::plan::{ExportId, PortId};
use super::port_thread::PortEvent;
use super::signals::{self, Signals};
use super::supervisor::{Event, Supervisor};
use crate::port::Drain;
use crate::store::{RemotePath, StoreKind};
use crate::target::Address;

/// How long the end may take, for all exports together.
pub(super) const TIMEOUT: Duration = Duration::from_secs(6);
/// The part of it in which workers answer what they have received; they give up a little earlier.
const DRAIN: Duration = Duration::from_millis(3500);
/// How long a port may still use an export that is being closed.
const LET_GO: Duration = Duration::from_millis(200);
/// What all that does not hang is given to end in, also when somebody waits no longer: two signals may come at the same moment.
const LEAST: Duration = Duration::from_millis(400);
/// How long freeing the queues of a hanging worker may take.
const RELEASE: Duration = Duration::from_secs(1);

/// What the end needs.
struct Stop {
    supervisor: Supervisor,
    signals: Signals,
    ends: UnboundedReceiver<Event>,
    port_events: UnboundedReceiver<(PortId, PortEvent)>,
    end: Instant,
    /// The exports that were open when the end began.
    served: Vec<WasServed>,
}

struct WasServed {
    address: Address,
    path: PathBuf,
    /// Requests that its store has not finished.
    outstanding: Box<dyn Fn() -> usize + Send + Sync>,
}

/// Ends ports and exports, at most for `timeout`; says what is left behind, and frees what the next process needs.
///
/// # Errors
/// When a last commit failed or something was left behind.
pub(super) async fn stop(
    supervisor: Supervisor,
    signals: Signals,
    ends: UnboundedReceiver<Event>,
    port_events: UnboundedReceiver<(PortId, PortEvent)>,
    timeout: Duration,
) -> Result<()> {
    let now = Instant::now();
    let mut stop = Stop {
        supervisor,
        signals,
        ends,
        port_events,
        end: now + timeout,
        served: Vec::new(),
    };
    stop.supervisor
        .ports
        .values()
        .for_each(|port| port.close(Drain::All));
    stop.wait(now + DRAIN.min(timeout), |supervisor| supervisor.ports.is_empty())
        .await;
    let exports: Vec<ExportId> = stop.supervisor.exports.keys().copied().collect();
    stop.served = stop
        .supervisor
        .exports
        .values()
        .map(|served| WasServed {
            address: served.export.address(),
            path: served.config.path.clone(),
            outstanding: served.export.outstanding(),
        })
        .collect();
    for id in exports {
        stop.supervisor.close_export(id, LET_GO);
    }
    stop.wait(now + timeout, |supervisor| supervisor.closing.is_empty())
        .await;
    stop.release_storage().await;
    let result = stop.leave().await;
    // Whatever hangs in the kernel must not be waited for.
    std::mem::forget(stop);
    result
}

impl Stop {
    /// Takes up what ends until `is_done`, the time is over, or somebody waits no longer.
    async fn wait(&mut self, until: Instant, is_done: impl Fn(&Supervisor) -> bool) {
        let least = Instant::now() + LEAST;
        loop {
            let now = Instant::now();
            self.supervisor.jobs.pump(now);
            let until = until.min(self.end).max(least);
            if is_done(&self.supervisor) || now >= until {
                return;
            }
            let next = self.supervisor.jobs.next_time(now);
            let next = next.map_or(until, |next| next.min(until));
            tokio::select! {
                signal = self.signals.next() => match signal {
                    signals::SignalEvent::Stop(name) => {
                        warn!("{name} again: ending at once, what hangs is left behind");
                        self.end = now;
                    }
                    signals::SignalEvent::Quit => self.end = now,
                    signals::SignalEvent::Reload | signals::SignalEvent::Report => {}
                },
                Some((id, event)) = self.port_events.recv() => {
                    if matches!(event, PortEvent::Closed | PortEvent::Failed(_)) {
                        self.supervisor.ports.remove(&id);
                    }
                }
                Some(event) = self.ends.recv() => self.take_up(event),
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    fn take_up(&mut self, event: Event) {
        match event {
            Event::Closed(..) | Event::Locked(..) => self.supervisor.handle(event, Instant::now()),
            // Nobody serves it any more: dropped, it closes by itself.
            Event::Opened(_, Ok(served)) => {
                let close = move || {
                    drop(served);
                    Event::Answered
                };
                self.supervisor.jobs.start(close, |_| Event::Answered);
            }
            _ => {}
        }
    }

    /// Gives back what the programs of failover groups took, where everything on it is closed. One that is still taking it has to end
    /// first: beside it, nobody knows which of the two comes last.
    async fn release_storage(&mut self) {
        self.wait(self.end, |supervisor| {
            supervisor.plan.locks_under_way().is_empty()
        })
        .await;
        for group in self.supervisor.plan.locks_under_way() {
            error!(
                "left behind: the program of failover group {group} has not ended yet; what it takes stays taken until it is run \
                 with `release`"
            );
        }
        let groups = self.supervisor.plan.storage_to_release();
        if groups.is_empty() || !self.supervisor.closing.is_empty() {
            return;
        }
        let left = self.end.saturating_duration_since(Instant::now()).max(RELEASE);
        let release = move || super::failover::release(&groups);
        if !self.beside(left, release).await {
            error!("left behind: the program of a failover group has not given back its storage yet");
        }
    }

    /// Has done what may block, and waits for it at most for `limit`; false: it has not ended.
    async fn beside(&mut self, limit: Duration, work: impl FnOnce() + Send + 'static) -> bool {
        let work = move || {
            work();
            Event::Answered
        };
        self.supervisor.jobs.aside(limit, work, |_| Event::Answered).await
    }

    /// Names exports that are closed although workers have left operations with their disks, and counts them.
    fn name_unanswered(&self) -> usize {
        let closing: Vec<Address> = self
            .supervisor
            .closing
            .values()
            .map(|(address, _)| *address)
            .collect();
        let mut unanswered = 0;
        for served in &self.served {
            let count = (served.outstanding)();
            if count > 0 && !closing.contains(&served.address) {
                unanswered += 1;
                error!(
                    "left behind: {}: {} has not answered {count} requests yet, none of which was acknowledged; the process \
                     stays until it does",
                    served.address,
                    served.path.display()
                );
            }
        }
        unanswered
    }

    /// Names what is left and frees what the next process needs although threads hang.
    async fn leave(&mut self) -> Result<()> {
        let unanswered = self.name_unanswered();
        let supervisor = &mut self.supervisor;
        let (ports, exports) = (supervisor.ports.len(), supervisor.closing.len() + unanswered);
        for (address, path) in supervisor.closing.values() {
            let consequence = match RemotePath::of(path) {
                Some(Ok(remote)) if remote.store == StoreKind::Rbd => {
                    "Nothing acknowledged is lost; Ceph lets go of the image's lock after half a minute"
                }
                Some(_) => "Nothing acknowledged is lost",
                None => {
                    "What was acknowledged and not committed is in the kernel's memory; the file stays locked until its disk \
                     answers"
                }
            };
            error!(
                "left behind: {address}: {} has not answered yet. {consequence}",
                path.display()
            );
        }
        let ports_left: Vec<_> = std::mem::take(&mut supervisor.ports).into_values().collect();
        for port in &ports_left {
            error!(
                "left behind: {}: a worker waits for a disk; its receive queue is freed",
                port.name
            );
        }
        if !ports_left.is_empty() {
            let release = move || {
                ports_left
                    .iter()
                    .for_each(super::port_thread::PortHandle::release_queues);
            };
            self.beside(RELEASE, release).await;
        }
        if let Some(state) = self.supervisor.state.take()
            && !self.beside(RELEASE, move || state.end()).await
        {
            error!(
                "left behind: the disk of the state directory has not answered yet; what initiators changed last is not kept, \
                 and was not acknowledged"
            );
            bail!("the state directory was left behind, because its disk has not answered yet");
        }
        if ports + exports > 0 {
            bail!(
                "{exports} exports and {ports} interfaces were left behind, because their disks have not answered yet"
            );
        }
        if let Some(reason) = self.supervisor.commit_failed.take() {
            bail!("{reason}");
        }
        info!("ended");
        Ok(())
    }
}
