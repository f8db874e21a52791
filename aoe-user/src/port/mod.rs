//! One network interface being served: the filter on it, and a worker thread for each of its receive queues.

mod figures;
mod link;
mod others;
mod spin;
mod trace;
mod worker;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aoe_common::Mac;
use rustix::io::Errno;
use tracing::warn;

use crate::config::Mode;
use crate::filter::{Attach, Counters, Denied, Filter, FilterError, Rules};
use crate::target::{Export, Exports, PortInfo};
use crate::xsk::{Bind, Socket, SocketConfig, XskError};

pub use figures::Figures;
pub use link::SocketLink;
use others::Others;
use worker::{Command, Worker};

/// How to serve an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortOptions {
    /// Attach and bind modes to try.
    pub mode: Mode,
    /// How long an idle worker spins before it sleeps.
    pub spin: Duration,
    /// CPUs for the workers, by turns; empty: the scheduler decides.
    pub cpus: Vec<usize>,
}

/// The interface as it is when a port is opened.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
    /// Its address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu_bytes: u32,
    /// Active receive queues.
    pub rx_queues: u32,
}

/// What was obtained of [`PortOptions::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Obtained {
    /// The XDP program runs in the driver, not behind it.
    pub native: bool,
    /// Frames go between NIC and UMEM without a copy.
    pub zero_copy: bool,
}

impl fmt::Display for Obtained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attach = if self.native { "native" } else { "generic" };
        let bind = if self.zero_copy { "zero-copy" } else { "copy" };
        write!(f, "{attach} {bind}")
    }
}

/// Why an interface cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The XDP program could not be attached or configured.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// An AF_XDP socket could not be set up.
    #[error(transparent)]
    Socket(#[from] XskError),
    /// The system refused a thread or its eventfd.
    #[error("cannot start the worker of queue {queue} on {nic}")]
    Worker {
        /// Nic.
        nic: String,
        /// Receive queue.
        queue: usize,
        /// Cause.
        source: std::io::Error,
    },
}

/// A served interface. Dropping it stops the workers and detaches the program.
#[derive(Debug)]
pub struct Port {
    nic: Nic,
    obtained: Obtained,
    filter: Filter,
    workers: Vec<Worker>,
}

impl Port {
    /// Attaches the filter, opens a socket on every receive queue and starts the workers. When this returns, requests
    /// are being answered; nothing has been advertised.
    ///
    /// # Errors
    /// See [`PortError`]; the interface is then as it was before.
    pub fn open(
        nic: &Nic,
        options: &PortOptions,
        exports: &Arc<Exports>,
        rules: &Rules,
    ) -> Result<Port, PortError> {
        let mut attempts = attempts(options.mode).iter().peekable();
        loop {
            let attempt = attempts.next().expect("every mode has an attempt");
            match Port::open_as(nic, *attempt, options, exports, rules) {
                Ok(port) => return Ok(port),
                Err(error) if attempts.peek().is_some() && error.is_about_mode() => {
                    warn!(
                        "{}: native XDP does not work ({error}); using generic XDP",
                        nic.name
                    );
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn open_as(
        nic: &Nic,
        (attach, bind): (Attach, Bind),
        options: &PortOptions,
        exports: &Arc<Exports>,
        rules: &Rules,
    ) -> Result<Port, PortError> {
        let mut filter = Filter::load(nic.mac, rules)?;
        let mut sockets = Vec::new();
        for queue in 0..nic.rx_queues {
            let config = SocketConfig {
                bind,
                ..SocketConfig::for_mtu(nic.index, queue, nic.mtu_bytes)
            };
            let socket = Socket::open(&config)?;
            filter.set_socket(queue, socket.fd())?;
            sockets.push(socket);
        }
        filter.attach(&nic.name, nic.index, attach)?;
        let zero_copy = sockets.iter().all(Socket::is_zerocopy);
        let obtained = Obtained {
            native: attach == Attach::Native,
            zero_copy,
        };
        let shared_cpus = cpus_for_workers(&options.cpus);
        let others = Others::start(nic, filter.mark())
            .inspect_err(|error| warn!("{}: no thread for other targets on this host: {error}", nic.name))
            .ok();
        let mut workers = Vec::new();
        for (queue, socket) in sockets.into_iter().enumerate() {
            let cpu = options
                .cpus
                .get(queue.checked_rem(options.cpus.len()).unwrap_or(0))
                .copied();
            let exports = Arc::clone(exports);
            let worker = Worker::start(
                nic,
                queue,
                SocketLink::shared(socket, others.clone()),
                exports,
                options.spin,
                shared_cpus,
                cpu,
            )
            .map_err(|source| PortError::Worker {
                nic: nic.name.clone(),
                queue,
                source,
            })?;
            workers.push(worker);
        }
        Ok(Port {
            nic: nic.clone(),
            obtained,
            filter,
            workers,
        })
    }

    /// The modes obtained.
    pub fn obtained(&self) -> Obtained {
        self.obtained
    }

    /// Serves another set of exports from here on; requests being worked on are finished with the old one.
    ///
    /// # Errors
    /// When the filter's rules could not be replaced; the old ones stay in force.
    pub fn set_exports(&mut self, exports: &Arc<Exports>, rules: &Rules) -> Result<(), PortError> {
        self.set_rules(rules)?;
        self.tell(|| Command::Exports(Arc::clone(exports)));
        Ok(())
    }

    /// Replaces the filter's rules.
    ///
    /// # Errors
    /// When the maps could not be written; the old rules stay in force.
    pub fn set_rules(&mut self, rules: &Rules) -> Result<(), PortError> {
        Ok(self.filter.set_rules(rules)?)
    }

    /// Takes over a changed MAC.
    ///
    /// # Errors
    /// When the filter could not be told.
    pub fn set_mac(&mut self, mac: Mac) -> Result<(), PortError> {
        self.filter.set_mac(mac)?;
        self.nic.mac = mac;
        let info = port_info(&self.nic);
        self.tell(|| Command::Port(info));
        Ok(())
    }

    /// Has the first worker advertise these exports.
    ///
    /// They go out at once, or as soon as one a second for each export allows.
    pub fn advertise(&self, exports: Vec<Arc<Export>>) {
        if let Some(worker) = self.workers.first() {
            worker.tell(Command::Advertise(exports));
        }
    }

    /// What the filter counted.
    ///
    /// # Errors
    /// When the map could not be read.
    pub fn filter_counters(&self) -> Result<Counters, PortError> {
        Ok(self.filter.counters()?)
    }

    /// Sources denied since the last call.
    ///
    /// # Errors
    /// When the map could not be read.
    pub fn denied(&mut self) -> Result<Vec<Denied>, PortError> {
        Ok(self.filter.denied()?)
    }

    /// What the workers have done, all together.
    pub fn figures(&self) -> Figures {
        self.workers.iter().map(Worker::figures).sum()
    }

    /// Ends the port: the interface becomes an ordinary one at once, then the workers answer what they have
    /// received and end.
    pub fn close(&mut self) {
        // The program goes first, so that the workers' rings run dry.
        self.filter.detach();
        for worker in &self.workers {
            worker.tell(Command::Stop);
        }
        for worker in &mut self.workers {
            worker.join();
        }
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            worker.tell(command());
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.close();
    }
}

impl PortError {
    /// The driver cannot do it that way; generic XDP may.
    fn is_about_mode(&self) -> bool {
        match self {
            PortError::Filter(error) => error.generic_may_work(),
            PortError::Socket(error) => error.errno() == Some(Errno::OPNOTSUPP),
            PortError::Worker { .. } => false,
        }
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

/// What to try for a mode, best first.
fn attempts(mode: Mode) -> &'static [(Attach, Bind)] {
    match mode {
        Mode::Auto => &[(Attach::Native, Bind::Auto), (Attach::Generic, Bind::Copy)],
        Mode::Native => &[(Attach::Native, Bind::Auto)],
        Mode::ZeroCopy => &[(Attach::Native, Bind::ZeroCopy)],
        Mode::Copy => &[(Attach::Native, Bind::Copy)],
        Mode::Skb => &[(Attach::Generic, Bind::Copy)],
    }
}

fn port_info(nic: &Nic) -> PortInfo {
    PortInfo {
        mac: nic.mac,
        mtu_bytes: nic.mtu_bytes,
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
