//! The order of a commit against power cuts: whatever the medium kept of what was not yet synced, no bit is there without its data, and what
//! a commit covered is there with its bit.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use engine::{Extent, Fault, FaultKind, Health, Store as _};

use super::current::CurrentGolden;
use super::durable::{Durable, Files};
use super::files::{HEADER_BYTES, OverlayFiles, another_copy};
use super::golden::Golden;
use super::marks::{BitsFile, Marks, bytes_for, words_for};
use super::records::{PAGE_BYTES, decode, encode, pages_for};
use super::space::Space;
use super::{OverlayOptions, OverlayStore};
use crate::commit::machine::OnLostWrite;
use crate::commit::policy::{Losses, Policy};
use crate::commit::{Committer, Medium};
use crate::io::threads::Threads;
use crate::options::{StoreKind, StoreOptions};
use crate::registry::StoreRegistry;

/// Enough for several pages of records.
const SECTORS: u64 = 4032 * 8 * 2 + 100;

/// Two files in a host's page cache and on its medium. A sector of the delta is a number: who wrote it; 0: nobody.
#[derive(Debug, Default)]
struct Host {
    delta_cache: BTreeMap<u64, u64>,
    /// What of it the kernel would write: all that was written since, unless a write-back failed.
    delta_dirty: BTreeSet<u64>,
    delta_medium: BTreeMap<u64, u64>,
    /// Pages of records, with the sectors of theirs that may or may not be on the medium.
    pages_cache: BTreeMap<u64, Vec<u8>>,
    pages_medium: BTreeMap<u64, Vec<u8>>,
    /// What initiators write in the midst of a commit, one at each step.
    meanwhile: Vec<(u64, u64)>,
    /// Fsyncs of the delta that fail.
    failures: u32,
    /// What such ones did not write: whoever wrote it is told, or it is lost.
    failed: BTreeMap<u64, u64>,
}

impl Host {
    /// Clean pages leave the cache: what is read from here on is what the medium has, zeros for what it never got.
    fn evict(&mut self) {
        let (dirty, medium) = (&self.delta_dirty, &self.delta_medium);
        for (lba, who) in &mut self.delta_cache {
            if !dirty.contains(lba) {
                *who = medium.get(lba).copied().unwrap_or(0);
            }
        }
    }

    /// Writes what is dirty of these sectors.
    fn write_back(&mut self, which: impl Fn(u64) -> bool) {
        let (now, later) = self.delta_dirty.iter().partition(|lba| which(**lba));
        self.delta_dirty = later;
        let now: BTreeSet<u64> = now;
        let written = now.iter().map(|lba| (*lba, self.delta_cache[lba]));
        self.delta_medium.extend(written);
    }
}

#[derive(Debug)]
struct Fake {
    host: Mutex<Host>,
    marks: Arc<Marks>,
}

impl Fake {
    /// A write arrives in the cache, then its bit is set, as the store does it.
    fn write(&self, lba: u64, who: u64) {
        let extent = Extent { lba, count: 1 };
        self.marks.space().claim(extent).unwrap();
        let mut host = self.host.lock();
        host.delta_cache.insert(lba, who);
        host.delta_dirty.insert(lba);
        drop(host);
        self.marks.written(extent).unwrap();
    }

    /// Time passes.
    fn step(&self) {
        let next = self.host.lock().meanwhile.pop();
        if let Some((lba, who)) = next {
            self.write(lba, who);
        }
    }
}

impl Files for Arc<Fake> {
    fn sync_delta(&self) -> io::Result<()> {
        self.step();
        let mut host = self.host.lock();
        if host.failures > 0 {
            host.failures -= 1;
            // As Linux does: what could not be written counts as clean, and nobody writes it again.
            for lba in std::mem::take(&mut host.delta_dirty) {
                let who = host.delta_cache[&lba];
                host.failed.insert(lba, who);
            }
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        host.write_back(|_| true);
        drop(host);
        self.step();
        Ok(())
    }

    fn make_dirty(&self, blocks: &[u64]) -> io::Result<()> {
        let mut host = self.host.lock();
        let sectors = blocks.iter().flat_map(|block| block * 8..(block + 1) * 8);
        let known: Vec<u64> = sectors.filter(|lba| host.delta_cache.contains_key(lba)).collect();
        host.delta_dirty.extend(known);
        drop(host);
        self.step();
        Ok(())
    }

    fn delta_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn read_page(&self, page: u64) -> io::Result<Vec<u8>> {
        let host = self.host.lock();
        let found = host.pages_cache.get(&page).or(host.pages_medium.get(&page));
        Ok(found.expect("made at the beginning").clone())
    }

    fn write_page(&self, page: u64, bytes: &[u8]) -> io::Result<()> {
        self.step();
        self.host.lock().pages_cache.insert(page, bytes.to_vec());
        Ok(())
    }

    fn sync_records(&self) -> io::Result<()> {
        self.step();
        let mut host = self.host.lock();
        let written = std::mem::take(&mut host.pages_cache);
        host.pages_medium.extend(written);
        drop(host);
        self.step();
        Ok(())
    }
}

fn marks() -> Marks {
    let (file, delta) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    file.set_len(HEADER_BYTES + bytes_for(SECTORS)).unwrap();
    delta.set_len(SECTORS * 512).unwrap();
    let space = Space::of(&delta, SECTORS, 0, "test".into()).unwrap();
    let bits = BitsFile {
        file,
        path: "bits".into(),
        at: HEADER_BYTES,
        data: Vec::new(),
        in_memory: false,
    };
    let mut marks = Marks::map(bits, SECTORS, space).unwrap();
    marks.persist(&vec![0; words_for(SECTORS) as usize]).unwrap();
    marks
}

#[derive(Clone, Debug)]
enum Event {
    Write(u64),
    /// The kernel writes back on its own.
    WriteBack(u64),
    /// With writes in its midst.
    Commit(Vec<u64>),
    FailedCommit,
    /// Memory is short.
    Evict,
}

fn event() -> impl Strategy<Value = Event> {
    // Few places, far from each other and close together.
    let lba = || prop_oneof![0..6u64, 4030..4036u64, (SECTORS - 90)..(SECTORS - 84)];
    prop_oneof![
        6 => lba().prop_map(Event::Write),
        2 => lba().prop_map(Event::WriteBack),
        2 => prop::collection::vec(lba(), 0..5).prop_map(Event::Commit),
        1 => Just(Event::FailedCommit),
        1 => Just(Event::Evict),
    ]
}

/// What is left on the medium by a power cut: of what was not synced each sector or not, as `luck` says.
fn cut(host: &Host, mut luck: u64) -> (BTreeMap<u64, u64>, BTreeMap<u64, Vec<u8>>) {
    let mut lucky = move || {
        luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        luck >> 63 == 1
    };
    let mut delta = host.delta_medium.clone();
    for lba in &host.delta_dirty {
        if lucky() {
            delta.insert(*lba, host.delta_cache[lba]);
        }
    }
    let mut pages = host.pages_medium.clone();
    for (page, bytes) in &host.pages_cache {
        let on_medium = pages.get_mut(page).expect("made at the beginning");
        for (old, new) in on_medium.chunks_mut(512).zip(bytes.chunks(512)) {
            if lucky() {
                old.copy_from_slice(new);
            }
        }
    }
    (delta, pages)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_power_cut_leaves_no_bit_without_its_data_and_no_committed_data_without_its_bit(
        events in prop::collection::vec(event(), 1..40),
        luck in any::<u64>(),
    ) {
        let copy = another_copy();
        let marks = Arc::new(marks());
        let empty = (0..pages_for(words_for(SECTORS))).map(|page| (page, encode(copy, page, |_| 0)));
        let host = Host { pages_medium: empty.collect(), ..Host::default() };
        let fake = Arc::new(Fake { host: Mutex::new(host), marks: Arc::clone(&marks) });
        let durable = Durable {
            files: Arc::clone(&fake),
            marks,
            failed: AtomicBool::new(false),
            copy,
            sectors: SECTORS,
            name: "test".into(),
        };
        // What a commit that succeeded covers: at least who had written by its beginning.
        let mut committed = BTreeMap::new();
        let mut who = 0;
        let mut next = move || { who += 1; who };
        for event in events {
            match event {
                Event::Write(lba) => fake.write(lba, next()),
                Event::WriteBack(lba) => fake.host.lock().write_back(|dirty| dirty == lba),
                Event::Commit(meanwhile) => {
                    let before = fake.host.lock().delta_cache.clone();
                    fake.host.lock().meanwhile = meanwhile.into_iter().map(|lba| (lba, next())).collect();
                    durable.commit().unwrap();
                    let failed = &fake.host.lock().failed;
                    committed.extend(before.into_iter().filter(|(lba, who)| failed.get(lba) != Some(who)));
                }
                Event::FailedCommit => {
                    fake.host.lock().failures = 1;
                    prop_assert!(durable.commit().is_err());
                }
                Event::Evict => fake.host.lock().evict(),
            }
            let (delta, pages) = cut(&fake.host.lock(), luck);
            for (page, bytes) in &pages {
                let words = decode(copy, *page, bytes);
                prop_assert!(words.is_some(), "page {page} does not survive");
            }
            let words: Vec<u64> = pages.iter().flat_map(|(page, bytes)| decode(copy, *page, bytes).unwrap()).collect();
            let is_set = |lba: u64| words[(lba / 64) as usize] & (1 << (lba % 64)) != 0;
            for lba in (0..SECTORS).filter(|lba| is_set(*lba)) {
                prop_assert!(delta.contains_key(&lba), "sector {lba} has its bit and no data");
            }
            for (lba, who) in &committed {
                prop_assert!(is_set(*lba), "sector {lba} was committed without its bit");
                prop_assert!(delta[lba] >= *who, "sector {lba} is older than what was committed");
            }
        }
    }
}

#[test]
fn a_commit_writes_the_pages_that_changed_and_no_others() {
    let marks = Arc::new(marks());
    let fake = Arc::new(Fake {
        host: Mutex::new(Host::default()),
        marks: Arc::clone(&marks),
    });
    let durable = Durable {
        files: Arc::clone(&fake),
        marks,
        failed: AtomicBool::new(false),
        copy: 1,
        sectors: SECTORS,
        name: "test".into(),
    };
    let pages = || -> Vec<u64> {
        std::mem::take(&mut fake.host.lock().pages_medium)
            .into_keys()
            .collect()
    };
    let second = PAGE_BYTES / 512 * 4032;
    for (lba, expected) in [
        (7, vec![0]),
        (second, vec![1]),
        (7, vec![]),
        (SECTORS - 1, vec![2]),
    ] {
        fake.write(lba, 1);
        durable.commit().unwrap();
        assert_eq!(pages(), expected, "sector {lba}");
    }
}

/// A medium that takes nothing.
#[derive(Debug)]
struct Broken;

impl Medium for Broken {
    fn commit(&self) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    fn fault(&self, lba: u64, source: io::Error) -> Fault {
        let kind = FaultKind::Write;
        Fault { kind, lba, source }
    }

    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn name(&self) -> String {
        "broken".into()
    }

    fn describe(&self) -> String {
        self.name()
    }
}

#[test]
fn what_a_copy_loses_is_told_of_the_export_and_accepted_there() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("golden");
    std::fs::write(&image, [7; 64 * 512]).unwrap();
    let golden = Golden::open(
        &StoreOptions::new(StoreKind::Mmap, image),
        &StoreRegistry::default(),
        &Losses::default(),
    )
    .unwrap();
    let open = |name: &str| {
        let options = OverlayOptions {
            files: OverlayFiles::new(dir.path().join(name)),
            persistent: true,
            limit_bytes: 0,
            flush_interval: Duration::from_secs(3600),
        };
        OverlayStore::open(&golden, &options).unwrap()
    };
    let (well, mut broken) = (Arc::new(open("well")), open("broken"));
    let merge = |overlay: &OverlayStore, name: &str| {
        overlay.merge(&OverlayFiles::new(dir.path().join(name))).map(drop)
    };
    let policy = Policy {
        flush_interval: Duration::from_secs(3600),
        on_lost_write: OnLostWrite::Stop,
        losses: Losses::default(),
        leftovers: false,
    };
    let committer = Committer::new(Arc::new(Broken), policy, &Threads::new().unwrap());
    broken.committer = Some(Arc::clone(&committer));
    let broken = Arc::new(broken);
    let current = CurrentGolden::new(golden.clone());
    current.watch("pc17".into(), &well);
    current.watch("pc18".into(), &broken);
    assert!(matches!(current.health(), Health::Healthy));
    let entered = committer.enter(5).unwrap();
    committer
        .acknowledge(Extent { lba: 5, count: 1 }, entered)
        .unwrap();
    assert!(broken.close().is_err());
    let Health::LostWrites(lost) = current.health() else {
        panic!("{:?}", current.health())
    };
    assert!(lost.to_string().contains("copy of pc18"), "{lost}");
    assert!(committer.enter(5).is_err(), "no writes are taken");
    let refused = merge(&broken, "broken").expect_err("a merge of what is lost");
    assert!(
        refused.to_string().contains("acknowledged writes are lost"),
        "{refused}"
    );
    current.accept_lost_writes();
    assert!(matches!(current.health(), Health::Healthy));
    committer.enter(5).unwrap();
}
