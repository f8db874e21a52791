//! The exports of this process: their stores, their kept state, and who may see them on which interface.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::BinaryBytes;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, info, warn};

use super::lists::{Lists, Made};
use super::neighbours::{self, Neighbour, Sought};
use super::state::{StateDir, StateKey};
use super::tags::Tags;
use crate::config::interfaces::{Interface, chosen, is_glob};
use crate::config::{Config, ExportConfig, Mode};
use crate::filter::{ExportRule, Rules};
use crate::store::{self, Fault, SECTOR_BYTES, StoreOptions};
use crate::target::{Address, Change, Export, Exports, Identity, Observer, Options, Persistent, WireAdmin};

/// What IDENTIFY gives as the model.
const MODEL: &str = "xblade";

/// How long an export that goes may still have operations in flight.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(5);

/// Something changed of an export, as the supervisor is told.
pub(super) type Notice = (Address, Change);

/// All exports, by the order of the configuration.
#[derive(Debug)]
pub(super) struct Estate {
    held: Vec<Held>,
    state: Option<Arc<StateDir>>,
}

#[derive(Debug)]
struct Held {
    config: ExportConfig,
    lists: Lists,
    export: Arc<Export>,
}

/// What one port serves.
#[derive(Debug)]
pub(super) struct View {
    pub exports: Arc<Exports>,
    pub rules: Rules,
    pub mode: Mode,
    pub spin_us: u32,
}

impl Estate {
    /// Opens every store and takes up the kept state.
    pub fn open(config: &Config, notify: &UnboundedSender<Notice>) -> Result<Estate> {
        let state = match &config.state_dir {
            Some(path) => Some(StateDir::open(path)?),
            None => None,
        };
        let mut estate = Estate {
            held: Vec::new(),
            state,
        };
        estate.tell_state_dir(config)?;
        let mut made = Made::default();
        for export in &config.exports {
            estate.open_one(export, made.of(&export.allow), notify)?;
        }
        Ok(estate)
    }

    fn tell_state_dir(&self, config: &Config) -> Result<()> {
        if let Some(state) = &self.state {
            state.set_exports(config.exports.iter().map(StateKey::from).collect())?;
        }
        Ok(())
    }

    fn open_one(
        &mut self,
        config: &ExportConfig,
        lists: Lists,
        notify: &UnboundedSender<Notice>,
    ) -> Result<()> {
        let address = Address {
            shelf: config.shelf,
            slot: config.slot,
        };
        let store =
            store::open(&store_options(config)).with_context(|| format!("cannot export {address}"))?;
        let mut persistent = Persistent::default();
        let mut keeper = None;
        if let Some(state) = &self.state {
            let key = StateKey::from(config);
            persistent = state
                .load(&key)
                .with_context(|| format!("{address} stays shut"))?;
            keeper = Some(state.keeper(&key));
        }
        let observer = Arc::new(Reporter {
            notify: notify.clone(),
            last_fault: Mutex::new(None),
        });
        let export = Export::new(
            options(config, &lists, address),
            store,
            keeper,
            observer,
            persistent,
        )
        .with_context(|| format!("cannot export {address}"))?;
        self.held.push(Held {
            config: config.clone(),
            lists,
            export: Arc::new(export),
        });
        Ok(())
    }

    /// Number of exports.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Interfaces that are named in full, not by a glob.
    pub fn literal_interfaces(&self) -> impl Iterator<Item = &str> {
        self.held
            .iter()
            .flat_map(|held| &held.config.interfaces)
            .filter(|text| !is_glob(text))
            .map(String::as_str)
    }

    /// True when some export is to be served there.
    pub fn wants(&self, interface: &Interface) -> bool {
        self.held
            .iter()
            .any(|held| chosen(&held.config.interfaces, interface))
    }

    /// The exports of an interface.
    pub fn exports_on(&self, interface: &Interface) -> Vec<Arc<Export>> {
        self.on(interface).map(|held| Arc::clone(&held.export)).collect()
    }

    /// True when the export is served there.
    pub fn serves(&self, address: Address, interface: &Interface) -> bool {
        self.on(interface).any(|held| held.export.address() == address)
    }

    fn on<'a>(&'a self, interface: &'a Interface) -> impl Iterator<Item = &'a Held> {
        self.held
            .iter()
            .filter(move |held| chosen(&held.config.interfaces, interface))
    }

    /// What a port on this interface serves, by the state of now.
    pub fn view(&self, interface: &Interface) -> View {
        let exports = self.on(interface).map(|held| Arc::clone(&held.export)).collect();
        let rules = Rules {
            exports: self.on(interface).map(Held::rule).collect(),
        };
        View {
            exports: Arc::new(Exports::new(exports)),
            rules,
            // Validation saw to it that all exports of an interface want the same mode.
            mode: self
                .on(interface)
                .next()
                .map_or(Mode::Auto, |held| held.config.mode),
            spin_us: self
                .on(interface)
                .map(|held| held.config.spin_us)
                .max()
                .unwrap_or(0),
        }
    }

    /// Carries out what `xblade state` asks for exports that are served.
    pub fn obey_operator(&self) {
        let Some(state) = &self.state else { return };
        for (key, action) in state.requests() {
            if let Some(held) = self.held.iter().find(|held| StateKey::from(&held.config) == key) {
                state.obey_in_service(&key, &action, &held.export);
            }
        }
    }

    /// What nobody else may serve on an interface.
    pub fn sought(&self, interface: &Interface) -> Vec<Sought> {
        self.on(interface).map(Held::sought).collect()
    }

    /// Other targets on these interfaces.
    pub fn neighbours(&self, interfaces: &[Interface]) -> Result<Vec<(Interface, Neighbour)>> {
        let mut all = Vec::new();
        for interface in interfaces.iter().filter(|interface| interface.up) {
            let found = neighbours::search(&interface.name, &self.sought(interface))?;
            all.extend(found.into_iter().map(|other| (interface.clone(), other)));
        }
        Ok(all)
    }

    /// Drops exports in VLANs whose tags do not reach the filter.
    ///
    /// # Errors
    /// When none is left.
    pub fn refuse_hidden_tags(&mut self, interface: &Interface, tags: Tags) -> Result<()> {
        let mut refused = Vec::new();
        self.held.retain(|held| {
            if !chosen(&held.config.interfaces, interface) {
                return true;
            }
            if let Some(warning) = tags.warning(&interface.name, held.config.vlan) {
                warn!("{}: {warning}", held.export.address());
            }
            let refusal = tags.refusal(&interface.name, held.config.vlan);
            refused.extend(
                refusal
                    .iter()
                    .map(|why| format!("{}: {why}", held.export.address())),
            );
            refusal.is_none()
        });
        if self.held.is_empty()
            && let Some(message) = refused.first()
        {
            bail!("{message}");
        }
        for message in refused {
            error!("{message}; not serving it");
        }
        Ok(())
    }

    /// Drops exports whose address another target on the network answers for; with `force`, only warns.
    ///
    /// # Errors
    /// When none is left.
    pub fn refuse_taken(&mut self, neighbours: &[(Interface, Neighbour)], force: bool) -> Result<()> {
        let mut refused = Vec::new();
        self.held.retain(|held| {
            let Some((interface, other)) = neighbours.iter().find(|(interface, other)| {
                held.sought().is(other) && chosen(&held.config.interfaces, interface)
            }) else {
                return true;
            };
            let message = format!(
                "{} is already served by {} on {}: two targets with one address corrupt data",
                other.address, other.mac, interface.name
            );
            if force {
                warn!("{message}; serving it all the same (--force)");
                return true;
            }
            refused.push(message);
            false
        });
        if self.held.is_empty()
            && let Some(message) = refused.first()
        {
            bail!("{message}; choose another address, stop the other target, or use --force");
        }
        for message in refused {
            error!("{message}; not serving it");
        }
        Ok(())
    }

    /// Takes over what `config` changes of exports without touching their store, and lets go of those that it has not or
    /// stores otherwise; these are returned. The ports must be given new views at once.
    pub fn retain(&mut self, config: &Config) -> Vec<Arc<Export>> {
        let mut made = Made::default();
        let mut gone = Vec::new();
        for mut held in std::mem::take(&mut self.held) {
            match config.exports.iter().find(|wanted| held.is_kept_by(wanted)) {
                None => gone.push(held.export),
                Some(wanted) => {
                    if held.config != *wanted {
                        held.lists = made.of(&wanted.allow);
                        let options = options(wanted, &held.lists, held.export.address());
                        held.export = Arc::new(held.export.reconfigured(options));
                        held.config = wanted.clone();
                    }
                    self.held.push(held);
                }
            }
        }
        gone
    }

    /// Opens what `config` has and this estate has not. One that cannot be opened is reported and left out.
    pub fn add(&mut self, config: &Config, notify: &UnboundedSender<Notice>) {
        if let Err(error) = self.tell_state_dir(config) {
            error!("{error:#}");
        }
        let mut made = Made::default();
        for wanted in &config.exports {
            if self.held.iter().any(|held| held.config == *wanted) {
                continue;
            }
            if let Err(error) = self.open_one(wanted, made.of(&wanted.allow), notify) {
                error!("{error:#}");
            }
        }
    }

    /// Commits every export.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub fn close(self) -> Result<()> {
        close_all(self.held.iter().map(|held| &held.export))
    }

    /// Lines that introduce the exports of an interface.
    pub fn describe(&self, interface: &Interface) -> Vec<(Address, String)> {
        let line = |held: &Held| {
            let sectors = held.export.store().sectors();
            let size = BinaryBytes(sectors * SECTOR_BYTES);
            (
                held.export.address(),
                format!("{sectors} sectors ({size}) of {}", held.config.path.display()),
            )
        };
        self.on(interface).map(line).collect()
    }
}

/// Waits until what was begun for exports that no port serves any more has ended, then commits them.
///
/// # Errors
/// The first failure, after all were tried.
pub(super) fn close_all<'a>(exports: impl Iterator<Item = &'a Arc<Export>>) -> Result<()> {
    let mut outcome = Ok(());
    for export in exports {
        let patience = Instant::now() + IN_FLIGHT_LIMIT;
        while export.in_flight() > 0 && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        let closed = export.store().close();
        if let Err(error) = &closed {
            error!("{}: the last commit failed: {error}", export.address());
        }
        let address = export.address();
        outcome = outcome.and(closed.with_context(|| format!("{address}: the last commit failed")));
    }
    outcome
}

impl Held {
    fn sought(&self) -> Sought {
        Sought {
            address: self.export.address(),
            vlan: self.config.vlan,
        }
    }

    /// The same export of the same store, whatever else is different.
    fn is_kept_by(&self, wanted: &ExportConfig) -> bool {
        let identity = |config: &ExportConfig| (config.shelf, config.slot, config.vlan);
        identity(&self.config) == identity(wanted)
            && self
                .config
                .interfaces
                .iter()
                .any(|name| wanted.interfaces.contains(name))
            && store_options(&self.config) == store_options(wanted)
    }

    /// The filter's rule: the access list, or else the wire's mask.
    fn rule(&self) -> ExportRule {
        // Without a list of the operator's, the wire's mask decides.
        let mask = || {
            Some(
                self.export
                    .visible_to()?
                    .into_iter()
                    .map(|mac| (mac, None))
                    .collect(),
            )
        };
        let allow = self.lists.allow.clone().or_else(mask);
        ExportRule {
            shelf: self.config.shelf,
            slot: self.config.slot,
            vlan: self.config.vlan,
            allow,
            rate_limit: self.config.rate_limit,
        }
    }
}

fn store_options(config: &ExportConfig) -> StoreOptions {
    StoreOptions {
        kind: config.store,
        path: config.path.clone(),
        offset: config.offset,
        length: config.length,
        read_only: config.read_only,
        shared: config.shared,
        prealloc: config.prealloc,
        flush_interval: config.flush_interval,
        format: config.format,
    }
}

fn options(config: &ExportConfig, lists: &Lists, address: Address) -> Options {
    Options {
        address,
        vlan: config.vlan,
        read_only: config.read_only,
        sync: config.sync,
        access: lists.access.clone(),
        buffers: config.buffers,
        max_sectors: config.max_sectors,
        firmware_version: firmware_version(),
        identity: Identity {
            serial: config.serial.clone().unwrap_or_else(|| default_serial(address)),
            model: MODEL.to_owned(),
            firmware: env!("CARGO_PKG_VERSION").to_owned(),
            wwn: None,
        },
        wire_admin: wire_admin(config),
        smart: config.smart,
        late_duplicates: config.late_duplicates,
    }
}

/// Where everybody sees the export, nobody shuts others out unless the operator said so.
fn wire_admin(config: &ExportConfig) -> WireAdmin {
    match config.wire_admin {
        Some(true) => WireAdmin::All,
        Some(false) => WireAdmin::Nothing,
        None if config.allow.is_empty() => WireAdmin::Strings,
        None => WireAdmin::All,
    }
}

/// The release as Query Config tells it: major in the high byte, minor in the low one.
fn firmware_version() -> u16 {
    let number = |text: &str| text.parse::<u8>().unwrap_or(0);
    u16::from_be_bytes([
        number(env!("CARGO_PKG_VERSION_MAJOR")),
        number(env!("CARGO_PKG_VERSION_MINOR")),
    ])
}

/// Address and host name: the same after every restart and on every path.
fn default_serial(address: Address) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{}.{}:{host}", address.shelf, address.slot)
        .chars()
        .filter(char::is_ascii_graphic)
        .take(20)
        .collect()
}

/// Least time between two log lines about faults of one export.
const FAULT_PACE: Duration = Duration::from_secs(1);

/// Carries the engine's news to the supervisor and faults to the log.
#[derive(Debug)]
struct Reporter {
    notify: UnboundedSender<Notice>,
    last_fault: Mutex<Option<Instant>>,
}

impl Observer for Reporter {
    fn changed(&self, address: Address, change: Change) {
        match change {
            Change::Size(sectors) => info!(
                "{address}: now {sectors} sectors ({})",
                BinaryBytes(sectors * SECTOR_BYTES)
            ),
            Change::Returned => info!("{address}: its backing store serves again"),
            Change::String | Change::Mask | Change::Reserve => {}
        }
        // Fails only while the process ends.
        let _ = self.notify.send((address, change));
    }

    fn fault(&self, address: Address, fault: &Fault) {
        let mut last = self.last_fault.lock();
        if last.is_none_or(|last| last.elapsed() >= FAULT_PACE) {
            *last = Some(Instant::now());
            warn!("{address}: {fault}");
        }
    }
}
