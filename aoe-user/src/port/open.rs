//! Opening a port: the ways of its mode by turns, until one is proved to carry frames.

use std::collections::BTreeSet;
use std::sync::Arc;

use aoe_common::wire::sectors_per_frame;
use tracing::{info, warn};

use super::SocketLink;
use super::hand_back::HandBack;
use super::mend::Mend;
use super::mode::{Affected, Obtained, Way, first_that_works, left_after, ways};
use super::stations::Stations;
use super::watch::Watch;
use super::worker::{CpuUse, Drain, Worker};
use super::{Nic, Port, PortError, PortOptions, Tuning, mtu, prove};
use crate::dump::Tap;
use crate::filter::{Attach, Filter, FilterError, Rules};
use crate::host::fewer_rx_queues;
use crate::metrics::Registry;
use crate::target::Exports;
use crate::xsk::{Socket, SocketConfig};

impl Port {
    /// Attaches the filter, opens a socket on every receive queue, proves that frames get through, and starts the workers. When
    /// this returns, requests are being answered; nothing has been advertised.
    ///
    /// A mode that is not available, or that carries nothing, is logged, and the next one is tried, as far as
    /// [`PortOptions::mode`] has one.
    ///
    /// # Errors
    /// See [`PortError`]; the interface is then as it was before.
    pub fn open(
        nic: &Nic,
        options: &PortOptions,
        exports: &Arc<Exports>,
        rules: &Rules,
        metrics: &Arc<Registry>,
    ) -> Result<Port, PortError> {
        if sectors_per_frame(nic.mtu_bytes) == 0 {
            return Err(PortError::MtuTooSmall {
                nic: nic.name.clone(),
                mtu_bytes: nic.mtu_bytes,
            });
        }
        let best = ways(options.mode)[0];
        open_from(best, nic, options, exports, rules, metrics)
    }

    /// Closes the port and opens it again in its mode, with these exports and a filter that has room for these rules. Requests of the
    /// meantime are lost; initiators resend them.
    ///
    /// # Errors
    /// As [`Port::open`]: the port is closed then.
    pub(crate) fn reopen(&mut self, exports: &Arc<Exports>, rules: &Rules) -> Result<(), PortError> {
        self.open_again(self.way, exports, rules)
    }

    /// Opens the port again as it is: with the program attached anew, and new workers in the place of those that have panicked.
    ///
    /// # Errors
    /// As [`Port::open`]: the port is closed then.
    pub fn open_anew(&mut self) -> Result<(), PortError> {
        let (exports, rules) = (Arc::clone(&self.exports), self.rules.clone());
        self.open_again(self.way, &exports, &rules)
    }

    /// Whether this error leaves a mode to try.
    pub(super) fn has_mode_after(&self, error: &PortError) -> bool {
        left_after(self.options.mode, self.way, error.into())
            .next()
            .is_some()
    }

    /// Opens the port again in the next mode that this error leaves; `None`, and nothing changed, where there is none.
    ///
    /// # Errors
    /// When none of them works: the port is closed then.
    pub(super) fn fall_back(&mut self, error: &PortError) -> Result<Option<Obtained>, PortError> {
        let Some(next) = left_after(self.options.mode, self.way, error.into()).next() else {
            return Ok(None);
        };
        warn!("{error}; trying {next}");
        let (exports, rules) = (Arc::clone(&self.exports), self.rules.clone());
        self.open_again(next, &exports, &rules)?;
        Ok(Some(self.obtained))
    }

    fn open_again(&mut self, way: Way, exports: &Arc<Exports>, rules: &Rules) -> Result<(), PortError> {
        let panicked = self.workers.iter().filter(|worker| worker.has_panicked()).count();
        let lost = self.lost.saturating_add(panicked as u64);
        let (mut mend, before) = (std::mem::take(&mut self.mend), self.way);
        self.close(Drain::Healthy);
        let metrics = Arc::clone(&self.metrics);
        *self = open_from(way, &self.nic, &self.options, exports, rules, &metrics)?;
        if self.way != before {
            mend.mode_changed();
        }
        (self.lost, self.mend) = (lost, mend);
        Ok(())
    }
}

fn open_from(
    first: Way,
    nic: &Nic,
    options: &PortOptions,
    exports: &Arc<Exports>,
    rules: &Rules,
    metrics: &Arc<Registry>,
) -> Result<Port, PortError> {
    let open = |way| open_as(nic, way, options, exports, rules, metrics);
    let port = first_that_works(options.mode, first, open, |error| Affected::from(error))?;
    metrics.opened(&nic.name);
    if let Some(costs) = mtu::costs(nic, options.mode, port.obtained) {
        info!("{costs}");
    }
    Ok(port)
}

fn open_as(
    nic: &Nic,
    way: Way,
    options: &PortOptions,
    exports: &Arc<Exports>,
    rules: &Rules,
    metrics: &Arc<Registry>,
) -> Result<Port, PortError> {
    if nic.lacks_redirect && way.attach == Attach::Native {
        let interface = nic.name.clone();
        return Err(FilterError::NoRedirect { interface }.into());
    }
    mtu::sees_whole_frames(nic, way.attach)?;
    let mut filter = Filter::load(nic.mac, rules)?;
    let mut sockets = Vec::new();
    for queue in 0..nic.rx_queues {
        let config = SocketConfig {
            bind: way.bind,
            ..SocketConfig::for_mtu(nic.index, queue, nic.mtu_bytes)
        };
        let socket = Socket::open(&config)?;
        filter.set_socket(queue, socket.fd())?;
        sockets.push(socket);
    }
    let obtained = Obtained {
        native: way.attach == Attach::Native,
        zero_copy: sockets.iter().all(Socket::is_zerocopy),
    };
    if !obtained.zero_copy {
        every_queue_sends(nic)?;
    }
    if let Some(first) = sockets.first_mut().filter(|_| !obtained.zero_copy) {
        prove::receives(nic, obtained, &mut filter, first, rules)?;
    }
    filter
        .attach(&nic.name, nic.index, way.attach)
        .map_err(|error| mtu::name_the_reason(nic, error))?;
    let proved = prove::sends(nic, obtained, &mut sockets)?;
    let mut stations = Stations::default();
    stations.follow(&rules.stations, nic);
    Ok(Port {
        stations,
        workers: start_workers(nic, sockets, &filter, options, exports, metrics)?,
        nic: nic.clone(),
        options: options.clone(),
        way,
        obtained,
        _counted: metrics.add_filter(&nic.name, filter.counter_reader()),
        filter,
        watch: Watch::default(),
        listener: None,
        progress: Vec::new(),
        mend: Mend::default(),
        proved,
        told_cut: false,
        lost: 0,
        exports: Arc::clone(exports),
        rules: rules.clone(),
        metrics: Arc::clone(metrics),
    })
}

/// In copy mode a socket sends on the transmit queue with the number of its receive queue, and the kernel leaves what is handed
/// to one beyond those where it is (`__xsk_generic_xmit`, net/xdp/xsk.c). A socket of another queue is no way out: it receives only
/// what arrives on its own, and what no socket receives is not answered.
fn every_queue_sends(nic: &Nic) -> Result<(), PortError> {
    match nic.tx_queues {
        Some(tx_queues) if tx_queues < nic.rx_queues => Err(PortError::TooFewTransmit {
            nic: nic.name.clone(),
            rx_queues: nic.rx_queues,
            tx_queues,
            remedy: fewer_rx_queues(&nic.name, nic.index, tx_queues),
        }),
        _ => Ok(()),
    }
}

fn start_workers(
    nic: &Nic,
    sockets: Vec<Socket>,
    filter: &Filter,
    options: &PortOptions,
    exports: &Arc<Exports>,
    metrics: &Arc<Registry>,
) -> Result<Vec<Worker>, PortError> {
    let hand_back = HandBack::start(nic, filter.mark()).map_err(|cause| PortError::Worker {
        nic: nic.name.clone(),
        queue: 0,
        cause,
    })?;
    let mut workers = Vec::new();
    for (queue, socket) in sockets.into_iter().enumerate() {
        let pace = pace(&options.tuning, queue);
        let tap = Tap::new(&options.dumps, &nic.name, queue);
        let link = SocketLink::shared(socket, Some(hand_back.clone()), tap);
        let worker = Worker::start(
            nic,
            queue,
            link,
            Arc::clone(exports),
            pace,
            (&options.alarm, metrics),
        )
        .map_err(|cause| PortError::Worker {
            nic: nic.name.clone(),
            queue,
            cause,
        })?;
        workers.push(worker);
    }
    Ok(workers)
}

/// How the worker of a queue uses the CPU.
pub(super) fn pace(tuning: &Tuning, queue: usize) -> CpuUse {
    let own = queue
        .checked_rem(tuning.cpus.len())
        .and_then(|at| tuning.cpus.get(at));
    CpuUse {
        spin: tuning.spin,
        cpus: cpus_for_workers(&tuning.cpus),
        cpu: own.copied(),
    }
}

/// CPUs that all workers have among them: those they are pinned to, else those the process may use.
fn cpus_for_workers(pinned_to: &[usize]) -> usize {
    if pinned_to.is_empty() {
        std::thread::available_parallelism().map_or(1, usize::from)
    } else {
        pinned_to.iter().collect::<BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_counts_once_however_many_workers_are_pinned_to_it() {
        assert_eq!(cpus_for_workers(&[3]), 1);
        assert_eq!(cpus_for_workers(&[2, 3, 2]), 2);
        assert!(cpus_for_workers(&[]) >= 1);
    }
}
