//! Keeps ports and exports as they should be: compares what is wanted with what is there, and acts on the difference.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, info, warn};

use super::estate::{Estate, Notice, View, close_all};
use super::links::{self, LinkState};
use super::neighbours::watch::Watch;
use super::tags::Tags;
use crate::config::Config;
use crate::config::interfaces::Interface;
use crate::filter::Denied;
use crate::port::{Port, PortOptions};
use crate::target::{Address, Change};

/// Denied sources named in one report; the rest is only counted.
const DENIED_NAMED: usize = 8;

/// Everything that is served and by what.
pub(super) struct Supervisor {
    config: Config,
    estate: Estate,
    ports: BTreeMap<String, Served>,
    /// Interfaces that wait for something, with the reason that was logged.
    waiting: HashMap<String, Waiting>,
    notify: UnboundedSender<Notice>,
}

/// An open port and the state of the link that it was last adjusted to.
struct Served {
    port: Port,
    /// Listens for other targets; `None` where the system gave no thread.
    watch: Option<Watch>,
    link: LinkState,
    options: PortOptions,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Waiting {
    Absent,
    Down,
    Failed(String),
}

impl Supervisor {
    /// Opens every export; nothing is on the wire yet.
    pub fn new(config: Config, notify: UnboundedSender<Notice>) -> Result<Supervisor> {
        let estate = Estate::open(&config, &notify)?;
        Ok(Supervisor {
            config,
            estate,
            ports: BTreeMap::new(),
            waiting: HashMap::new(),
            notify,
        })
    }

    /// The first look at the interfaces. Here, and only here, trouble with one ends the process: whoever starts it is
    /// watching.
    pub fn start(&mut self, links: &HashMap<String, LinkState>) -> Result<()> {
        for name in self.estate.literal_interfaces() {
            if links::named(links, name).is_none() {
                bail!("interface {name} does not exist; `ip link` lists those that do");
            }
        }
        let wanted: Vec<Interface> = self
            .wanted(links)
            .iter()
            .map(|name| links[name].interface())
            .collect();
        if let Some(taken) = wanted.iter().find(|interface| links[&interface.name].has_xdp) {
            let name = &taken.name;
            bail!(
                "{name} already has an XDP program, and only one fits: one xblade serves all exports of an \
                 interface; `ip link set {name} xdp off` removes a program that was left behind"
            );
        }
        for interface in &wanted {
            if let Some(tags) = Tags::on(&interface.name, links[&interface.name].index) {
                self.estate.refuse_hidden_tags(interface, tags)?;
            }
        }
        self.estate
            .refuse_taken(&self.estate.neighbours(&wanted)?, self.config.force)?;
        self.reconcile(links);
        match self.waiting.iter().find_map(|(name, state)| match state {
            Waiting::Failed(reason) => Some((name, reason)),
            _ => None,
        }) {
            Some((name, reason)) => bail!("cannot serve {name}: {reason}"),
            None => Ok(()),
        }
    }

    /// Makes the ports what the interfaces and the configuration ask for.
    pub fn reconcile(&mut self, links: &HashMap<String, LinkState>) {
        let wanted = self.wanted(links);
        self.close_lost(&wanted, links);
        let absent: Vec<String> = self
            .estate
            .literal_interfaces()
            .filter(|name| links::named(links, name).is_none())
            .map(str::to_owned)
            .collect();
        for name in absent {
            self.wait(name, Waiting::Absent);
        }
        for name in wanted {
            let link = &links[&name];
            if self.ports.contains_key(&name) {
                self.adjust(&name, link);
            } else if link.up {
                self.open(link);
            } else {
                self.wait(name, Waiting::Down);
            }
        }
    }

    /// Existing interfaces that some export names.
    fn wanted(&self, links: &HashMap<String, LinkState>) -> BTreeSet<String> {
        links
            .values()
            .filter(|link| link.mac.is_some() && self.estate.wants(&link.interface()))
            .map(|link| link.name.clone())
            .collect()
    }

    fn close_lost(&mut self, wanted: &BTreeSet<String>, links: &HashMap<String, LinkState>) {
        let lost: Vec<String> = self
            .ports
            .iter()
            .filter(|(name, served)| !wanted.contains(*name) || links[*name].index != served.link.index)
            .map(|(name, _)| name.clone())
            .collect();
        for name in lost {
            info!("{name}: no longer served (the interface or its exports are gone)");
            self.ports.remove(&name);
        }
    }

    fn open(&mut self, link: &LinkState) {
        let Some(nic) = link.nic() else { return };
        let mac = nic.mac;
        let view = self.estate.view(&link.interface());
        let options = self.port_options(&view);
        match Port::open(&nic, &options, &view.exports, &view.rules) {
            Ok(port) => {
                self.waiting.remove(&link.name);
                let queues = if link.rx_queues == 1 { "queue" } else { "queues" };
                for (address, what) in self.estate.describe(&link.interface()) {
                    info!(
                        "{address} ready on {} ({mac}): {}, {} {queues}, MTU {}, {what}",
                        link.name,
                        port.obtained(),
                        link.rx_queues,
                        link.mtu_bytes,
                    );
                }
                let sought = self.estate.sought(&link.interface());
                let watch = Watch::start(&link.name, sought)
                    .inspect_err(|error| warn!("{}: cannot listen for other targets: {error}", link.name))
                    .ok();
                self.ports.insert(
                    link.name.clone(),
                    Served {
                        port,
                        watch,
                        link: link.clone(),
                        options,
                    },
                );
                self.announce_port(&link.name);
            }
            Err(error) => {
                let reason = format!("{:#}", anyhow::Error::new(error));
                self.wait(link.name.clone(), Waiting::Failed(reason));
            }
        }
    }

    fn port_options(&self, view: &View) -> PortOptions {
        PortOptions {
            mode: view.mode,
            spin: Duration::from_micros(u64::from(view.spin_us)),
            cpus: self.config.cpus.clone(),
        }
    }

    /// Says once why an interface is not served yet.
    fn wait(&mut self, name: String, state: Waiting) {
        if self.waiting.get(&name) == Some(&state) {
            return;
        }
        match &state {
            Waiting::Absent => warn!("{name} does not exist; its exports will be served when it does"),
            Waiting::Down => {
                warn!("{name} is down; its exports will be served when it is up (`ip link set {name} up`)");
            }
            Waiting::Failed(reason) => error!("cannot serve {name}, trying again: {reason}"),
        }
        self.waiting.insert(name, state);
    }

    /// Follows a changed MAC, MTU or carrier.
    fn adjust(&mut self, name: &str, link: &LinkState) {
        let Some(served) = self.ports.get_mut(name) else {
            return;
        };
        if served.link == *link {
            return;
        }
        let before = std::mem::replace(&mut served.link, link.clone());
        let renewed = (link.mtu_bytes, link.rx_queues) != (before.mtu_bytes, before.rx_queues);
        if renewed {
            info!(
                "{name}: now MTU {}, {} receive queues; opening it again",
                link.mtu_bytes, link.rx_queues
            );
        }
        if renewed || (link.is_usable() && !served.port.is_proved()) {
            self.ports.remove(name);
            return self.open(link);
        }
        if let Some(mac) = link.mac
            && link.mac != before.mac
        {
            info!("{name}: its address is {mac} now");
            if let Err(error) = served.port.set_mac(mac) {
                error!("{name}: the filter could not be told: {error}");
            }
        }
        match (before.is_usable(), link.is_usable()) {
            (true, false) => warn!("{name}: link down"),
            (false, true) => info!("{name}: link up"),
            _ => {}
        }
        if link.is_usable() {
            self.announce_port(name);
        }
    }

    fn announce_port(&mut self, name: &str) {
        if let Some(served) = self.ports.get(name) {
            served
                .port
                .advertise(self.estate.exports_on(&served.link.interface()));
        }
    }

    /// An initiator or the backing object changed something of an export.
    pub fn changed(&mut self, address: Address, change: Change) {
        if matches!(change, Change::Mask) {
            self.renew_rules(address);
        }
        for served in self.ports.values() {
            let mut exports = self.estate.exports_on(&served.link.interface());
            exports.retain(|export| export.address() == address);
            served.port.advertise(exports);
        }
    }

    fn renew_rules(&mut self, address: Address) {
        for (name, served) in &mut self.ports {
            let interface = served.link.interface();
            if self.estate.serves(address, &interface)
                && let Err(error) = served.port.set_rules(&self.estate.view(&interface).rules)
            {
                error!("{name}: the filter keeps its old rules, the process enforces the new ones: {error}");
            }
        }
    }

    /// True when an interface should be served and is not for a reason that may pass by itself.
    pub fn has_failed_ports(&self) -> bool {
        self.waiting
            .values()
            .any(|state| matches!(state, Waiting::Failed(_)))
    }

    /// Takes over another configuration: unchanged exports go on undisturbed.
    pub fn reload(&mut self, config: Config, links: &HashMap<String, LinkState>) {
        let gone = self.estate.retain(&config);
        self.renew_ports();
        // A failure is logged; the file may be served again under its new settings all the same.
        let _ = close_all(gone.iter());
        drop(gone);
        self.config = config;
        self.estate.add(&self.config, &self.notify);
        self.renew_ports();
        self.waiting.clear();
        self.reconcile(links);
        let names: Vec<String> = self.ports.keys().cloned().collect();
        for name in names {
            self.announce_port(&name);
        }
        info!("the configuration was reloaded: {} exports", self.estate.len());
    }

    /// Gives every port its view of the exports of now; one that wants other options is closed, to be opened again.
    fn renew_ports(&mut self) {
        let options: HashMap<String, PortOptions> = self
            .ports
            .iter()
            .map(|(name, served)| {
                (
                    name.clone(),
                    self.port_options(&self.estate.view(&served.link.interface())),
                )
            })
            .collect();
        self.ports.retain(|name, served| served.options == options[name]);
        for (name, served) in &mut self.ports {
            let interface = served.link.interface();
            if let Some(watch) = &served.watch {
                watch.want(self.estate.sought(&interface));
            }
            let view = self.estate.view(&interface);
            if let Err(error) = served.port.set_exports(&view.exports, &view.rules) {
                error!("{name}: the filter keeps its old rules: {error}");
            }
        }
    }

    /// Has every port look whether requests arrive; one that had to take another mode is announced again.
    pub fn watch(&mut self) {
        let mut changed = Vec::new();
        for (name, served) in &mut self.ports {
            match served.port.watch() {
                Ok(None) => {}
                Ok(Some(obtained)) => {
                    info!("{name}: served in {obtained} now");
                    changed.push(name.clone());
                }
                Err(error) => error!("{name}: {error}"),
            }
        }
        for name in changed {
            self.announce_port(&name);
        }
    }

    /// Names sources that were turned away since the last report, and does what `xblade state` asks for.
    pub fn report(&mut self) {
        self.estate.obey_operator();
        for (name, served) in &mut self.ports {
            match served.port.denied() {
                Ok(denied) => report_denied(name, &denied),
                Err(error) => error!("{name}: {error}"),
            }
        }
    }

    /// Ends all ports, commits all exports and says what was done.
    pub fn stop(mut self) -> Result<()> {
        self.report();
        for (name, mut served) in std::mem::take(&mut self.ports) {
            served.port.close();
            match served.port.filter_counters() {
                Ok(counters) => info!("{name}: filter: {counters}"),
                Err(error) => error!("{name}: {error}"),
            }
            info!("{name}: served: {}", served.port.figures());
        }
        self.estate.close()
    }
}

fn report_denied(name: &str, denied: &[Denied]) {
    for source in denied.iter().take(DENIED_NAMED) {
        warn!("{name}: dropped {source}");
    }
    if let Some(more) = denied.len().checked_sub(DENIED_NAMED).filter(|more| *more > 0) {
        warn!("{name}: dropped frames of {more} more sources");
    }
}
