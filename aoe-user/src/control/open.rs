//! Opens and closes exports: kept state, store, and what the engine is to know of them. All of it may block.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use indicatif::BinaryBytes;
use parking_lot::Mutex;

use super::lists::ListForms;
use super::machines::{self, Disks, OverlayExports};
use super::notices::{Notices, Reporter};
use super::other_targets::{ProbedExport, tie::MODEL};
use super::plan::ExportId;
use super::state::image::{self, ImageKeeper};
use super::state::{StateDir, StateDirError, StateKey};
use super::store_options::store_options;
use crate::config::{ExportConfig, OnLostWrite, Overlay};
use crate::filter::{AllowList, ExportRule};
use crate::host::descriptors::leave_room;
use crate::host::kernel::host_name;
use crate::store::{
    self, CompletionQueue, CurrentGolden, FileIdentity, Losses, LostWrites, Metadata, SECTOR_BYTES, Store,
    StoreOptions, StoreRegistry, Takeover,
};
use crate::target::{Address, DynStateStore, Export, Gateway, Identity, Options, Persistent, WireAdmin};

/// How often a store that goes is looked at meanwhile.
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(2);
/// How long a filter's rules wait for a mask that a stuck worker keeps.
const MASK_TIMEOUT: Duration = Duration::from_millis(2);

/// An open export, under one configuration.
#[derive(Debug)]
pub(super) struct Served {
    pub(crate) id: ExportId,
    pub(crate) revision: u64,
    pub(crate) config: Arc<ExportConfig>,
    pub(crate) lists: ListForms,
    pub(crate) export: Arc<Export>,
    /// The machines' own disks, where each has one.
    pub(crate) disks: Option<Arc<Disks>>,
    /// The file that was opened: device and inode.
    pub(crate) file: Option<FileIdentity>,
    /// What keeps the state where the sectors are, and not in the state directory.
    pub(crate) kept_with_image: Option<Arc<ImageKeeper>>,
    /// The wire's mask as it was last seen.
    mask: Arc<Mutex<Option<Vec<aoe_common::Mac>>>>,
    /// What other gateways of its group are told.
    standing: Arc<str>,
}

/// The exports of one configuration, as the state directory must know them before any of them is loaded.
#[derive(Debug, Default)]
pub(super) struct StateKeys {
    keys: Vec<StateKey>,
    told: Mutex<bool>,
}

impl StateKeys {
    pub(super) fn new(keys: Vec<StateKey>) -> StateKeys {
        StateKeys {
            keys,
            told: Mutex::new(false),
        }
    }

    /// Tells the directory, once.
    fn tell(&self, state: &StateDir) -> Result<(), StateDirError> {
        let mut told = self.told.lock();
        if !*told {
            state.set_exports(self.keys.clone())?;
            *told = true;
        }
        Ok(())
    }
}

/// What all exports of a target have in common.
#[derive(Clone, Default)]
pub(super) struct Shared {
    pub(super) registry: StoreRegistry,
    pub(super) notices: Arc<Notices>,
    pub(super) overlay_exports: Arc<OverlayExports>,
    /// What other gateways of its group are told.
    pub(super) standing: Arc<str>,
}

/// Opens an export: what was kept of it first, so that it is never served without.
///
/// # Errors
/// Why it cannot be served.
pub(super) fn open(
    id: ExportId,
    revision: u64,
    config: Arc<ExportConfig>,
    lists: ListForms,
    state: Option<(Arc<StateDir>, Arc<StateKeys>)>,
    takeover: Option<Takeover>,
    shared: &Shared,
) -> Result<Served> {
    leave_room()?;
    let key = StateKey::from(&*config);
    let told = state.map(|(state, keys)| keys.tell(&state).map(|()| state));
    let state = told.transpose()?;
    let losses = state.as_ref().map_or_else(Losses::default, |state| {
        known_losses(&config, key.clone(), Arc::clone(state))
    });
    let golden = golden(&config, &losses, shared)?;
    // Before the store: a file that comes into its place now is seen as another one later.
    let file = identity(&config);
    let options = StoreOptions {
        takeover,
        ..store_options(&config)
    };
    let (store, metadata) = match &golden {
        Some(golden) => (Arc::clone(golden) as _, None),
        None => {
            let opened = store::open_with(&options, context(id, losses.clone(), shared))?;
            (opened.store, opened.metadata)
        }
    };
    leave_room()?;
    let of_machines = state.clone().map(|state| (state, key.clone()));
    let list = || machines::ListedCopies::read(of_machines);
    let Kept {
        persistent,
        keeper,
        with_image,
    } = kept(metadata, state, &key)?;
    let mask = (!persistent.mask.is_empty()).then(|| persistent.mask.clone());
    let observer = Arc::new(Reporter::new(id, Arc::clone(&shared.notices)));
    let mut export = Export::new(
        self::options(&config, &lists, &shared.standing),
        store,
        keeper,
        Arc::clone(&observer) as _,
        persistent,
    )
    .context("what was kept of it cannot be used")?;
    let disks = golden
        .map(|image| open_disks(image, losses, list(), settings(&config, &lists), shared, observer))
        .transpose()?;
    if let Some(disks) = &disks {
        export = export.with_machines(Arc::clone(disks) as _);
    }
    Ok(Served {
        id,
        revision,
        config,
        lists,
        export: Arc::new(export),
        disks,
        file,
        kept_with_image: with_image,
        mask: Arc::new(Mutex::new(mask)),
        standing: Arc::clone(&shared.standing),
    })
}

/// The image that machines have copies of, if they have.
fn golden(config: &ExportConfig, losses: &Losses, shared: &Shared) -> Result<Option<Arc<CurrentGolden>>> {
    let open = || machines::golden(config, &shared.registry, losses);
    let golden = (config.overlay != Overlay::None).then(open).transpose()?;
    Ok(golden.map(|golden| Arc::new(CurrentGolden::new(golden))))
}

/// The machines' own disks on a golden image.
fn open_disks(
    golden: Arc<CurrentGolden>,
    losses: Losses,
    listed: machines::ListedCopies,
    settings: machines::MachineSettings,
    shared: &Shared,
    observer: Arc<Reporter>,
) -> Result<Arc<Disks>> {
    Disks::open(machines::Start {
        settings,
        golden,
        losses,
        listed,
        announce: Box::new({
            let observer = Arc::clone(&observer);
            move || observer.announce()
        }),
        in_memory: true,
        overlay_exports: Arc::clone(&shared.overlay_exports),
        observer,
    })
}

/// What the store has to do with the others, and who hears of what happens to it.
fn context(id: ExportId, losses: Losses, shared: &Shared) -> store::Context {
    let told = Arc::clone(&shared.notices);
    store::Context {
        registry: shared.registry.clone(),
        losses,
        fenced: Some(Arc::new(move |reason: &str| told.fenced(id, reason))),
    }
}

/// What initiators changed of an export before, and what keeps what they change from now on.
struct Kept {
    persistent: Persistent,
    keeper: Option<Arc<DynStateStore>>,
    with_image: Option<Arc<ImageKeeper>>,
}

/// Finds it with the image, or else in the state directory.
fn kept(metadata: Option<Arc<dyn Metadata>>, state: Option<Arc<StateDir>>, key: &StateKey) -> Result<Kept> {
    let of_directory = || -> Result<Persistent> {
        let kept = state.as_ref().map(|state| state.load(key)).transpose();
        Ok(kept.context("it stays shut")?.unwrap_or_default())
    };
    let Some(metadata) = metadata else {
        return Ok(Kept {
            persistent: of_directory()?,
            keeper: state.map(|state| state.keeper(key)),
            with_image: None,
        });
    };
    let (persistent, keeper) = with_image(metadata, key, of_directory)?;
    Ok(Kept {
        persistent,
        keeper: Some(Arc::clone(&keeper) as _),
        with_image: Some(keeper),
    })
}

/// What is kept with an image; what the directory kept of it before moves there.
fn with_image(
    metadata: Arc<dyn Metadata>,
    key: &StateKey,
    of_directory: impl FnOnce() -> Result<Persistent>,
) -> Result<(Persistent, Arc<ImageKeeper>)> {
    let persistent = match image::load(&*metadata).map_err(|reason| anyhow!("it stays shut: {reason}"))? {
        Some(persistent) => persistent,
        None => {
            let persistent = of_directory()?;
            if persistent != Persistent::default() {
                image::store(&*metadata, &persistent).context("cannot keep its state with the image")?;
            }
            persistent
        }
    };
    let keeper = ImageKeeper::start(key.clone(), metadata).context("cannot start a thread for its state")?;
    Ok((persistent, Arc::new(keeper)))
}

/// What an earlier process lost of it, and where a new loss is marked.
fn known_losses(config: &ExportConfig, key: StateKey, state: Arc<StateDir>) -> Losses {
    let known = state.lost_writes(&key, config.on_lost_write == OnLostWrite::Stop);
    if let Some(lost) = &known {
        tracing::error!(
            "{}: {lost}; until `xblade state clear {} --lost-writes` {}",
            config.address(),
            state.arguments(&key),
            match lost.stopped {
                true => "no writes are taken",
                false => "flushes fail",
            }
        );
    }
    // Before anybody is answered.
    let told = move |lost: &LostWrites| state.keep_loss(&key, lost);
    Losses {
        known,
        told: Some(Arc::new(told)),
    }
}

impl Served {
    /// The same export under another configuration that has the same store.
    pub(super) fn reconfigured(&self, revision: u64, config: Arc<ExportConfig>, lists: ListForms) -> Served {
        let export = self.export.reconfigured(options(&config, &lists, &self.standing));
        if let Some(disks) = &self.disks {
            disks.configure(settings(&config, &lists));
        }
        Served {
            id: self.id,
            revision,
            config,
            lists,
            export: Arc::new(export),
            disks: self.disks.clone(),
            file: self.file,
            kept_with_image: self.kept_with_image.clone(),
            mask: Arc::clone(&self.mask),
            standing: Arc::clone(&self.standing),
        }
    }

    /// What it is to the operator, whatever store it has.
    pub(super) fn key(&self) -> (Address, crate::config::Vlan) {
        (self.export.address(), self.config.vlan)
    }

    /// What nobody else may serve where this is served.
    pub(super) fn probed(&self) -> ProbedExport {
        probed(&self.config)
    }

    /// Its size and file, for the log.
    pub(super) fn describe(&self) -> String {
        let sectors = self.export.store().sectors();
        let size = BinaryBytes(sectors * SECTOR_BYTES);
        format!("{sectors} sectors ({size}) of {}", self.config.path.display())
    }

    /// The filter's rule: the access list, or else the wire's mask.
    pub(super) fn rule(&self) -> ExportRule {
        // Without a list of the operator's, the wire's mask decides.
        let allow = self.allowed();
        let peers = self.config.failover.as_ref().map(|group| &group.peers);
        let allow = match (allow, peers) {
            // They ask whether this gateway answers.
            (Some(list), Some(peers)) => {
                let peers = peers.iter().map(|mac| (*mac, None));
                Some(list.iter().copied().chain(peers).collect())
            }
            (allow, _) => allow,
        };
        ExportRule {
            shelf: self.config.shelf,
            slot: self.config.slot,
            vlan: self.config.vlan,
            allow,
            rate_limit: self.config.rate_limit,
        }
    }

    /// Sources that see it; `None`: everyone.
    fn allowed(&self) -> Option<AllowList> {
        self.lists.allow.clone().or_else(|| {
            let mut mask = self.mask.lock();
            let end = Instant::now() + MASK_TIMEOUT;
            loop {
                if let Some(now) = self.export.try_visible_to() {
                    *mask = now;
                } else if Instant::now() < end {
                    std::thread::yield_now();
                    continue;
                }
                break;
            }
            Some(mask.as_ref()?.iter().map(|mac| (*mac, None)).collect())
        })
    }
}

/// Waits until nobody uses the store any more, at most for `timeout`, then commits and closes it. The caller has seen to it that no port serves it.
///
/// # Errors
/// Of the last commit.
pub(super) fn close(store: &Arc<dyn Store<CompletionQueue>>, timeout: Duration) -> std::io::Result<()> {
    let end = Instant::now() + timeout;
    while Arc::strong_count(store) > 1 && Instant::now() < end {
        std::thread::sleep(IN_FLIGHT_PAUSE);
    }
    let result = store.close();
    // Some worker may hold it for ever. Nothing is written any more.
    store.unlock();
    result
}

/// The file that the export's path leads to.
fn identity(config: &ExportConfig) -> Option<FileIdentity> {
    let uses_file = config.store.uses_file();
    uses_file.then(|| FileIdentity::at(&config.path).ok()).flatten()
}

/// What nobody else may serve where this export is served.
pub(super) fn probed(config: &ExportConfig) -> ProbedExport {
    ProbedExport {
        address: Address {
            shelf: config.shelf,
            slot: config.slot,
        },
        vlan: config.vlan,
        serial: serial(config).as_str().into(),
    }
}

fn serial(config: &ExportConfig) -> String {
    let address = Address {
        shelf: config.shelf,
        slot: config.slot,
    };
    let own = || match &config.failover {
        // The same disk, whichever gateway serves it.
        Some(group) => default_serial(address, &group.name),
        None => default_serial(address, &host_name()),
    };
    config.serial.clone().unwrap_or_else(own)
}

/// What the machines' disks are made by.
pub(super) fn settings(config: &Arc<ExportConfig>, lists: &ListForms) -> machines::MachineSettings {
    machines::MachineSettings {
        config: Arc::clone(config),
        // What has machines is in no group.
        options: options(config, lists, &Arc::default()),
    }
}

fn options(config: &ExportConfig, lists: &ListForms, standing: &Arc<str>) -> Options {
    let address = Address {
        shelf: config.shelf,
        slot: config.slot,
    };
    Options {
        address,
        vlan: config.vlan,
        read_only: config.read_only || config.overlay != Overlay::None,
        sync: config.sync,
        access: lists.access.clone(),
        buffers: config.buffers,
        max_sectors: config.max_sectors,
        firmware_version: firmware_version(),
        identity: Identity {
            serial: serial(config),
            model: MODEL.to_owned(),
            firmware: env!("CARGO_PKG_VERSION").to_owned(),
            wwn: None,
        },
        wire_admin: wire_admin(config),
        smart: config.smart,
        stale_after_us: u64::try_from(config.stale_after.as_micros()).unwrap_or(u64::MAX),
        late_duplicates: config.late_duplicates,
        gateway: config.failover.as_ref().map(|group| Gateway {
            mac: group.mac,
            peers: Arc::clone(&group.peers),
            standing: Arc::clone(standing),
        }),
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

/// Address and name of the host or the group: the same after every restart and on every path.
fn default_serial(address: Address, name: &str) -> String {
    format!("{}.{}:{name}", address.shelf, address.slot)
        .chars()
        .filter(char::is_ascii_graphic)
        .take(20)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_without_a_serial_number_has_the_same_on_each_gateway_of_its_group() {
        let alone = ExportConfig::new(7, 3, "/disk".into());
        assert_eq!(
            serial(&alone),
            default_serial(Address { shelf: 7, slot: 3 }, &host_name())
        );
        let group = crate::config::FailoverGroup {
            name: "san1".into(),
            mac: aoe_common::Mac([2; 6]),
            peers: Arc::new([]),
            detect: std::time::Duration::from_secs(1),
            command: None,
        };
        let grouped = ExportConfig {
            failover: Some(Arc::new(group)),
            ..alone
        };
        assert_eq!(serial(&grouped), "7.3:san1");
        let named = ExportConfig {
            serial: Some("x".into()),
            ..grouped
        };
        assert_eq!(serial(&named), "x");
    }
}
