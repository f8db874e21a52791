//! Whatever is configured, damaged and restarted in whatever order: an export whose mask or reservation was acknowledged
//! opens with just that state, or not at all.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index as Pick;

use super::*;

const KEYS: [&str; 6] = ["1.1", "1.1-vlan-5", "1.1-vlan-any", "1.1+b", "1.2", "1.2-vlan-5"];

#[derive(Debug, Clone)]
enum Step {
    /// The process ends, however, and starts with these exports.
    Restart(Vec<usize>),
    /// These exports are configured now.
    Reload(Vec<usize>),
    /// An initiator's change is acknowledged.
    Change(usize, u8),
    /// The process ends between the file and the index.
    Crash(usize, u8),
    /// Files that somebody deletes, damages or puts in the place of another.
    Delete(usize),
    Damage(usize, Pick),
    Swap(usize, usize),
    DeleteIndex,
    DamageIndex(Pick),
    /// The operator's word.
    Clear(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    let keys =
        || prop::sample::subsequence((0..KEYS.len()).collect::<Vec<_>>(), 0..=KEYS.len()).prop_shuffle();
    prop_oneof![
        3 => keys().prop_map(Step::Restart),
        2 => keys().prop_map(Step::Reload),
        4 => (key(), any::<u8>()).prop_map(|(key, text)| Step::Change(key, text)),
        1 => (key(), any::<u8>()).prop_map(|(key, text)| Step::Crash(key, text)),
        1 => key().prop_map(Step::Delete),
        1 => (key(), any::<Pick>()).prop_map(|(key, at)| Step::Damage(key, at)),
        1 => (key(), key()).prop_map(|(a, b)| Step::Swap(a, b)),
        1 => Just(Step::DeleteIndex),
        1 => any::<Pick>().prop_map(Step::DamageIndex),
        1 => key().prop_map(Step::Clear),
    ]
}

struct World {
    temp: tempfile::TempDir,
    dir: Option<Arc<StateDir>>,
    configured: Vec<usize>,
    /// What may be in force: the acknowledged state, or one that a crash left unacknowledged.
    known: BTreeMap<usize, BTreeSet<Vec<u8>>>,
    served: BTreeSet<usize>,
}

impl World {
    fn file(&self, key: usize) -> PathBuf {
        file_path(self.temp.path(), KEYS[key])
    }

    /// Damage as large as the whole directory cannot be told from a new one.
    fn is_recognisable(&self) -> bool {
        let is_whole = |name: &str| read(&file_path(self.temp.path(), name)).is_ok();
        KEYS.iter().filter(|name| is_whole(name)).count() > 1
    }

    fn serve(&mut self) {
        let keys = self.configured.iter().map(|at| key(KEYS[*at])).collect();
        let dir = self.dir.as_ref().unwrap();
        dir.set_exports(keys).unwrap();
        self.served.retain(|key| self.configured.contains(key));
        for at in self.configured.clone() {
            if self.served.contains(&at) {
                continue;
            }
            let Ok(state) = dir.load(&key(KEYS[at])) else {
                continue;
            };
            self.served.insert(at);
            match self.known.get(&at) {
                Some(known) => assert!(
                    known.contains(&state.string),
                    "{} opened with {:?}, not {known:?}",
                    KEYS[at],
                    state.string
                ),
                None => assert_eq!(state, Persistent::default(), "{}", KEYS[at]),
            }
            self.known.insert(at, [state.string].into());
        }
    }

    fn restart(&mut self) {
        self.dir = None;
        self.served.clear();
        self.dir = Some(StateDir::open(self.temp.path(), Before::Unknown).unwrap());
        self.serve();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Restart(keys) => {
                self.configured = keys;
                self.restart();
            }
            Step::Reload(keys) => {
                self.configured = keys;
                self.serve();
            }
            Step::Change(at, text) if self.served.contains(&at) => {
                let changed = state(&text.to_string());
                self.dir
                    .as_ref()
                    .unwrap()
                    .store(&key(KEYS[at]), &changed)
                    .unwrap();
                self.known.insert(at, [changed.string].into());
            }
            Step::Crash(at, text) if self.served.contains(&at) => {
                let changed = state(&text.to_string());
                let contents = Contents {
                    export: Some(key(KEYS[at])),
                    state: changed.clone(),
                };
                fs::write(self.file(at), format::encode(&contents)).unwrap();
                self.known.entry(at).or_default().insert(changed.string);
                self.restart();
            }
            Step::Delete(at) if self.is_recognisable() => {
                let _ = fs::remove_file(self.file(at));
            }
            Step::Damage(at, pick) if self.is_recognisable() => damage(&self.file(at), pick),
            Step::Swap(a, b) if self.is_recognisable() => {
                let _ = fs::copy(self.file(a), self.file(b));
                // An older state of its own that comes back is a restored backup: in force again.
                if let Ok(contents) = read(&self.file(b))
                    && contents.export == Some(key(KEYS[b]))
                {
                    self.known.entry(b).or_default().insert(contents.state.string);
                }
            }
            Step::DeleteIndex if self.is_recognisable() => {
                let _ = fs::remove_file(self.temp.path().join(index::FILE));
            }
            Step::DamageIndex(pick) => damage(&self.temp.path().join(index::FILE), pick),
            Step::Clear(at) if !self.served.contains(&at) => {
                let dir = self.dir.as_ref().unwrap();
                if dir
                    .perform(&key(KEYS[at]), &OperatorAction::Clear(Parts::ALL))
                    .is_ok()
                {
                    self.known.insert(at, [vec![]].into());
                }
            }
            _ => {}
        }
    }
}

fn damage(file: &Path, pick: Pick) {
    if let Ok(mut bytes) = fs::read(file)
        && !bytes.is_empty()
    {
        let at = pick.index(bytes.len());
        bytes[at] ^= 0x10;
        fs::write(file, bytes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_was_acknowledged_holds_or_the_export_is_shut(steps in prop::collection::vec(step(), 1..40)) {
        let temp = tempfile::tempdir().unwrap();
        let mut world = World {
            dir: Some(StateDir::open(temp.path(), Before::Unknown).unwrap()),
            temp,
            configured: vec![],
            known: BTreeMap::new(),
            served: BTreeSet::new(),
        };
        world.configured = vec![0, 1, 4];
        world.serve();
        for step in steps {
            world.step(step);
        }
        world.restart();
    }
}
