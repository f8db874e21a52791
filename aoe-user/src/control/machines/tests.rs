//! Disks of machines over a real image, without a network.

mod bound;
mod committing;
mod ended;
mod keeping;
mod listed;
mod moved;
mod pausing;
mod room;
mod stuck;
mod troubles;
mod writing;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::{Durability, Extent, Machines as _, Step};

use super::*;
use crate::config::{Machine, Overlay};
use crate::control::lists::Made;
use crate::control::open::settings;
use crate::control::state::{StateDir, StateKey};
use crate::store::{CompletionQueue, CurrentGolden, Health, StoreRegistry};
use crate::target::{Address, Change, Observer};

const SECTORS: usize = 64;
const PC: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 9]);

#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn changed(&self, _: Address, _: Change) {}
    fn fault(&self, _: Address, _: &crate::store::Fault) {}
}

struct Room {
    dir: tempfile::TempDir,
    config: ExportConfig,
    announced: Arc<AtomicUsize>,
    losses: Losses,
    overlay_exports: Arc<OverlayExports>,
    /// Where the list of persistent copies is kept.
    state: Option<Arc<StateDir>>,
}

impl Room {
    fn new() -> Room {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("golden");
        std::fs::write(&image, vec![7; SECTORS * 512]).unwrap();
        let mut config = ExportConfig::new(12, 9, image);
        config.overlay = Overlay::Volatile;
        config.overlay_dir = Some(dir.path().join("overlays"));
        let (name, macs) = ("pc17".into(), PC.to_vec());
        let overlay = None;
        config.machines = Arc::new([Machine { name, macs, overlay }]);
        Room {
            dir,
            config,
            announced: Arc::default(),
            losses: Losses::default(),
            overlay_exports: Arc::default(),
            state: None,
        }
    }

    fn settings(&self) -> MachineSettings {
        settings(
            &Arc::new(self.config.clone()),
            &Made::default().of(&self.config.allow),
        )
    }

    fn start(&self) -> Start {
        let announced = Arc::clone(&self.announced);
        let image = golden(&self.config, &StoreRegistry::default(), &self.losses).unwrap();
        Start {
            settings: self.settings(),
            golden: Arc::new(CurrentGolden::new(image)),
            losses: self.losses.clone(),
            listed: ListedCopies::read(
                self.state
                    .clone()
                    .map(|state| (state, StateKey::from(&self.config))),
            ),
            // Nothing is left behind there.
            in_memory: false,
            overlay_exports: Arc::clone(&self.overlay_exports),
            observer: Arc::new(Nobody),
            announce: Box::new(move || {
                announced.fetch_add(1, Ordering::SeqCst);
            }),
        }
    }

    fn open(&self) -> Arc<Disks> {
        Disks::open(self.start()).unwrap()
    }

    fn replace_image(&self, byte: u8) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, vec![byte; SECTORS * 512]).unwrap();
        std::fs::rename(new, &self.config.path).unwrap();
    }
}

/// Waits for what comes by itself.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn disk(disks: &Disks, mac: Mac) -> Arc<Export> {
    until("a disk", || disks.instance(mac))
}

/// Of a machine that is off, as the operator knows.
fn commit(disks: &Disks, name: &DiskName) -> Result<(), String> {
    disks.commit(name, true)
}

fn boot(disks: &Disks, mac: Mac) {
    until("a disk for a machine that boots", || {
        disks.boots(mac).then_some(())
    });
}

fn run(
    export: &Export,
    work: impl Fn(&mut CompletionQueue) -> Result<Step, crate::store::Fault>,
) -> Option<Box<[u8]>> {
    use engine::{Completions as _, Event};
    let mut queue = CompletionQueue::new().unwrap();
    loop {
        if work(&mut queue).unwrap() == Step::Done {
            return None;
        }
        let event = until("the end of an operation", || {
            queue.submit(Instant::now());
            queue.next().map(|completion| completion.event)
        });
        if let Event::Finished(result) = event {
            let _ = export;
            return result.unwrap();
        }
    }
}

fn write(export: &Export, byte: u8) {
    let extent = Extent { lba: 5, count: 1 };
    run(export, |queue| {
        let data = [byte; 512];
        export
            .store()
            .write(queue, 1, extent, &[&data], Durability::WriteBack)
    });
}

fn read(export: &Export) -> u8 {
    let extent = Extent { lba: 5, count: 1 };
    let sector = std::cell::RefCell::new([0; 512]);
    let later = run(export, |queue| {
        let mut sector = sector.borrow_mut();
        export.store().read(queue, 1, extent, &mut [&mut sector[..]])
    });
    later.map_or_else(|| sector.borrow()[0], |bytes| bytes[0])
}

/// Descriptors of this process that hold a file which was replaced at this path.
fn old_images(path: &Path) -> usize {
    let old = format!("{} (deleted)", path.display());
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let held = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
    held.filter(|target| target.to_str() == Some(&old)).count()
}

fn image(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_machine_has_one_disk_behind_all_its_addresses() {
    let room = Room::new();
    let before = image(&room.config.path);
    let disks = room.open();
    assert!(disks.instance(PC[0]).is_none(), "it is being made");
    let (one, two) = (disk(&disks, PC[0]), disk(&disks, PC[1]));
    assert!(Arc::ptr_eq(&one, &two));
    assert_eq!(one.options().identity.serial, "12.9:pc17");
    let other = disk(&disks, STRANGER);
    assert_eq!(other.options().identity.serial, "12.9:020000000009");
    write(&one, 1);
    write(&other, 2);
    assert_eq!((read(&one), read(&other)), (1, 2));
    assert_eq!(image(&room.config.path), before);
    assert!(room.announced.load(Ordering::SeqCst) >= 2);
    let states = disks.states();
    assert_eq!(states.len(), 2);
    assert_eq!(states[0].macs, PC);
    assert_eq!(states[0].usage.written_sectors, 1);
}

/// A bug costs what it happened in.
#[test]
fn a_panic_in_looking_after_one_disk_keeps_nobody_from_another() {
    let room = Room::new();
    let mut start = room.start();
    let announced = Arc::clone(&room.announced);
    start.announce = Box::new(move || {
        let first = announced.fetch_add(1, Ordering::SeqCst) == 0;
        assert!(!first, "on purpose, for a test");
    });
    let disks = Disks::open(start).unwrap();
    write(&disk(&disks, PC[0]), 1);
    write(&disk(&disks, STRANGER), 2);
    assert_eq!(read(&disk(&disks, PC[0])), 1);
}

#[test]
fn a_disk_begins_anew_when_its_machine_boots_and_by_order_and_not_else() {
    let room = Room::new();
    let disks = room.open();
    boot(&disks, PC[0]);
    write(&disk(&disks, PC[1]), 1);
    boot(&disks, PC[1]);
    assert_eq!(read(&disk(&disks, PC[0])), 7);
    let own = disk(&disks, PC[0]);
    boot(&disks, PC[0]);
    assert!(Arc::ptr_eq(&own, &disk(&disks, PC[0])), "as new: it stays");
    write(&own, 3);
    drop(own);
    disks
        .reset(DiskName::Machine("pc17".into()), false, true)
        .unwrap();
    assert_eq!(read(&disk(&disks, PC[0])), 7);
    let error = disks.reset(DiskName::Unknown(STRANGER), false, true).unwrap_err();
    assert!(error.contains("has no disk"), "{error}");
}

#[test]
fn a_disk_outlives_the_process_and_an_image_s_successor_comes_with_the_next_boot() {
    let room = Room::new();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    write(&disk(&disks, STRANGER), 2);
    disks.close();
    let disks = room.open();
    let open = |mac| disks.instance(mac).expect("opened at the start");
    assert_eq!((read(&open(PC[0])), read(&open(STRANGER))), (1, 2));
    room.replace_image(9);
    assert_eq!(read(&open(PC[0])), 1);
    assert!(disks.states().iter().all(|disk| disk.old_image));
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 9);
    assert_eq!(read(&disk(&disks, STRANGER)), 2, "it runs on the old one");
    assert!(old_images(&room.config.path) > 0, "for it");
    disks.close();

    // Its image is gone: better no answer than other sectors under its file system.
    let disks = room.open();
    assert_eq!(read(&disk(&disks, PC[0])), 9);
    let gone = disks
        .states()
        .into_iter()
        .find(|disk| disk.name == DiskName::Unknown(STRANGER));
    assert!(gone.unwrap().problem.unwrap().contains("another golden image"));
    assert!(disks.instance(STRANGER).is_none());
    until("the try to open it", || {
        disks.shared.asking.lock().get(&STRANGER)?.until
    });
    disks.shared.asking.lock().clear();
    boot(&disks, STRANGER);
    assert_eq!(read(&disk(&disks, STRANGER)), 9);
}

#[test]
fn an_old_image_is_closed_with_the_last_machine_on_it() {
    let room = Room::new();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    room.replace_image(9);
    assert!(old_images(&room.config.path) > 0);
    boot(&disks, PC[0]);
    until("the end of the old image", || {
        (old_images(&room.config.path) == 0).then_some(())
    });
}

#[test]
fn a_directory_of_copies_has_one_user() {
    let room = Room::new();
    let disks = room.open();
    let error = Disks::open(room.start()).unwrap_err();
    assert!(
        format!("{error:#}").contains("in use by another xblade"),
        "{error:#}"
    );
    disks.close();
    room.open();
}

#[test]
fn strangers_are_bounded_and_may_be_refused() {
    let mut room = Room::new();
    room.config.unknown_max = 2;
    let disks = room.open();
    let stranger = |last| Mac([2, 0, 0, 0, 1, last]);
    let _kept = [disk(&disks, stranger(1)), disk(&disks, stranger(2))];
    assert!(disks.instance(stranger(3)).is_none());
    until("the refusal", || disks.shared.table.read().full.then_some(()));
    disk(&disks, PC[0]);
    assert!(disks.instance(stranger(3)).is_none());
    assert_eq!(disks.states().len(), 3);
    drop(_kept);
    disks.reset(DiskName::Unknown(stranger(1)), true, true).unwrap();
    disks.shared.asking.lock().clear();
    disk(&disks, stranger(3));

    // Another configuration: nobody without a name, and a name for one that had none.
    let mut machines = room.config.machines.to_vec();
    machines.push(Machine {
        name: "new".into(),
        macs: vec![stranger(2)],
        overlay: None,
    });
    room.config.machines = machines.into();
    room.config.unknown = Unknown::Refuse;
    disks.configure(room.settings());
    until("the stranger to be shut out", || {
        disks.instance(stranger(3)).is_none().then_some(())
    });
    // It may be running on the disk that it has.
    let kept = disk(&disks, stranger(2));
    assert_ne!(kept.options().identity.serial, "12.9:new");
    drop(kept);
    boot(&disks, stranger(2));
    let named = until("the new machine's disk", || {
        let export = disks.instance(stranger(2))?;
        (export.options().identity.serial == "12.9:new").then_some(export)
    });
    assert_eq!(read(&named), 7);
    assert!(!disks.boots(stranger(3)));
}

fn persistent(room: &mut Room) {
    let mut machines = room.config.machines.to_vec();
    machines[0].overlay = Some(Overlay::Persistent);
    room.config.machines = machines.into();
}

#[test]
fn a_persistent_disk_outlives_boots_and_the_host_and_strangers_have_none() {
    let mut room = Room::new();
    persistent(&mut room);
    let map = room.dir.path().join("overlays/12.9/machine-pc17.map");
    {
        let disks = room.open();
        write(&disk(&disks, PC[0]), 1);
        write(&disk(&disks, STRANGER), 2);
        boot(&disks, PC[1]);
        assert_eq!(read(&disk(&disks, PC[0])), 1);
        let states = disks.states();
        assert!(
            states[0].kind == Overlay::Persistent && states[1].kind == Overlay::Volatile,
            "{states:?}"
        );
        disks.close();
    }
    // As after a restart of the host.
    std::fs::remove_file(map).unwrap();
    // It stays what it is until it is reset.
    room.config.machines = Room::new().config.machines;
    let disks = room.open();
    assert_eq!(read(&disk(&disks, PC[0])), 1);
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 1);
    disks
        .reset(DiskName::Machine("pc17".into()), false, true)
        .unwrap();
    assert_eq!(read(&disk(&disks, PC[0])), 7);
    assert_eq!(disks.states()[0].kind, Overlay::Volatile);
}

#[test]
fn a_volatile_disk_becomes_persistent_when_it_begins_anew() {
    let mut room = Room::new();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    persistent(&mut room);
    disks.configure(room.settings());
    assert_eq!(read(&disk(&disks, PC[0])), 1, "it runs on");
    boot(&disks, PC[0]);
    assert_eq!(read(&disk(&disks, PC[0])), 7);
    assert_eq!(disks.states()[0].kind, Overlay::Persistent);
}

#[test]
fn only_a_persistent_disk_waits_for_its_medium() {
    let mut room = Room::new();
    persistent(&mut room);
    room.config.sync = true;
    let disks = room.open();
    assert!(disk(&disks, PC[0]).options().sync);
    assert!(!disk(&disks, STRANGER).options().sync);
}

#[test]
fn a_persistent_disk_on_another_image_is_not_served_until_it_is_reset() {
    let mut room = Room::new();
    persistent(&mut room);
    {
        let disks = room.open();
        write(&disk(&disks, PC[0]), 1);
        disks.close();
    }
    room.replace_image(9);
    let disks = room.open();
    assert!(disks.instance(PC[0]).is_none() && !disks.boots(PC[0]));
    let problem = disks.states()[0].problem.clone().unwrap();
    assert!(problem.contains("another golden image"), "{problem}");
    disks
        .reset(DiskName::Machine("pc17".into()), false, true)
        .unwrap();
    assert_eq!(read(&disk(&disks, PC[0])), 9);
}

#[test]
fn a_commit_makes_a_new_image_that_others_get_when_they_boot() {
    let room = Room::new();
    let disks = room.open();
    let pc = DiskName::Machine("pc17".into());
    write(&disk(&disks, PC[0]), 1);
    write(&disk(&disks, STRANGER), 2);
    commit(&disks, &pc).unwrap();
    let image = std::fs::read(&room.config.path).unwrap();
    let written = image.iter().filter(|byte| **byte == 1).count();
    assert_eq!((written, image.len()), (512, SECTORS * 512), "one sector of it");
    assert_eq!(read(&disk(&disks, STRANGER)), 2, "it runs on");
    assert!(
        disks.states().iter().all(|state| state.name != pc),
        "its copy is gone"
    );
    assert_eq!(read(&disk(&disks, PC[0])), 1);
    boot(&disks, STRANGER);
    assert_eq!(read(&disk(&disks, STRANGER)), 1);
}

#[test]
fn a_commit_that_cannot_be_leaves_the_disk_in_service_and_others_their_image() {
    let mut room = Room::new();
    persistent(&mut room);
    let disks = room.open();
    write(&disk(&disks, STRANGER), 2);
    let nobody = commit(&disks, &DiskName::Machine("nobody".into())).unwrap_err();
    assert!(nobody.contains("no copy"), "{nobody}");
    write(&disk(&disks, PC[0]), 1);
    // A persistent copy of another machine would be without its image.
    let refused = commit(&disks, &DiskName::Unknown(STRANGER)).unwrap_err();
    assert!(refused.contains("pc17"), "{refused}");
    room.replace_image(9);
    let refused = commit(&disks, &DiskName::Machine("pc17".into())).unwrap_err();
    assert!(refused.contains("replaced"), "{refused}");
    assert_eq!(read(&disk(&disks, STRANGER)), 2);
    assert_eq!(std::fs::read(&room.config.path).unwrap()[0], 9);
}

#[test]
fn names_of_files_and_of_people_lead_back_to_the_disk() {
    for name in [DiskName::Machine("pc-1_a".into()), DiskName::Unknown(STRANGER)] {
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        let map = Path::new("/d").join(format!("{}.map", name.file_stem()));
        assert_eq!(DiskName::of_file(&map), Some(name));
    }
    let address = Address {
        shelf: 65534,
        slot: 254,
    };
    let (one, two) = (DiskName::Unknown(STRANGER), DiskName::Unknown(PC[0]));
    let (one, two) = (one.serial(address), two.serial(address));
    assert!(one.len() == 20 && two.len() == 20 && one != two, "{one} {two}");
}
