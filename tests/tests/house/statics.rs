//! State of the whole process: what can be passed in is passed in, so that two targets in one process (as in the simulator) know
//! nothing of each other.

use std::collections::BTreeSet;

use super::imports::without_tests;
use super::sources;

/// The statics that change, each with what it stands for of the process or its kernel, of which there is one whatever is passed in.
const KNOWN: [(&str, &str, &str); 6] = [
    (
        "crates/engine/src/mutants.rs",
        "PLANTED",
        "a defect planted for a test, in the simulator's thread; in no release",
    ),
    (
        "crates/store/src/completion_queue.rs",
        "ONCE",
        "the log has one line of io_uring, which the kernel refuses to the whole process",
    ),
    (
        "crates/store/src/mapped/sigbus.rs",
        "SLOTS",
        "what the handler of SIGBUS looks at",
    ),
    (
        "crates/store/src/mapped/sigbus.rs",
        "PREVIOUS",
        "the handler of SIGBUS that was there before",
    ),
    (
        "crates/store/src/mapped/sigbus.rs",
        "INSTALLED",
        "the process has one handler of SIGBUS",
    ),
    (
        "crates/store/src/rbd/ffi.rs",
        "FUNCTIONS",
        "librbd, loaded into the process once",
    ),
];

/// Crates of the daemon. `xsk` is not among them: it has a set of live UMEMs in debug builds, and a number for each.
const CRATES: [&str; 6] = [
    "aoe-common/src",
    "aoe-user/src",
    "crates/engine/src",
    "crates/failover/src",
    "crates/initiator/src",
    "crates/store/src",
];

/// What makes a static one that changes.
const CHANGING: [&str; 6] = ["Atomic", "Mutex", "RwLock", "Once", "Lazy", "Cell"];

/// The name of a static that changes, when the line begins one.
fn changing_static(line: &str) -> Option<&str> {
    let (_, after) = line.split_once("static ")?;
    let (name, kind) = after.split_once(':')?;
    let is_mutable = name.starts_with("mut ");
    let name = name.trim_start_matches("mut ");
    let is_name = !name.is_empty() && name.chars().all(|sign| sign.is_ascii_uppercase() || sign == '_');
    let changes = is_mutable || CHANGING.iter().any(|word| kind.contains(word));
    (is_name && changes).then_some(name)
}

#[test]
fn no_state_of_the_whole_process_but_what_is_known() {
    let mut found = BTreeSet::new();
    for (name, source) in CRATES.into_iter().flat_map(sources) {
        if name.contains("tests") || name.contains("/testing/") {
            continue;
        }
        let source = without_tests(&source);
        let statics = source.lines().filter_map(changing_static);
        found.extend(statics.map(|item| format!("{name}: {item}")));
    }
    let known: BTreeSet<String> = KNOWN
        .iter()
        .map(|(file, name, _)| format!("{file}: {name}"))
        .collect();
    assert_eq!(
        found, known,
        "pass it in, or say here what of the process it stands for"
    );
}

#[test]
fn statics_that_change_are_told_from_others() {
    assert_eq!(
        changing_static("    static RUN: AtomicU32 = AtomicU32::new(0);"),
        Some("RUN")
    );
    assert_eq!(changing_static("static mut OLD: usize = 0;"), Some("OLD"));
    assert_eq!(changing_static("static ZEROS: [u8; 4] = [0; 4];"), None);
    assert_eq!(changing_static("fn name(self) -> &'static str {"), None);
}
