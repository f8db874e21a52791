//! The tests of the lab, one program so that it is built and linked once. Each module is a suite of `cargo xtask test`.

mod access;
mod aoetools;
mod backing;
mod bench;
mod bench_af_xdp;
mod bonds;
mod book;
mod boot;
mod completions;
mod conformance;
mod control;
mod debian_root;
mod degraded;
mod dependencies;
mod disk_faults;
mod dissector;
mod drivers;
mod dump;
mod exports;
mod failover;
mod faults;
mod filter;
mod fuzz;
mod histories;
mod house;
mod hung_disk;
mod isolation;
mod json_output;
mod kept;
mod kill;
mod lesson;
mod life;
mod limits;
mod links;
mod linux;
mod logging;
mod lost_worker;
mod metrics;
mod nbd;
mod other_targets;
mod overlay;
mod packages;
mod panics;
mod paths;
mod pause;
mod power;
mod rbd;
mod rbd_store;
mod ready;
mod room;
mod serving;
mod signals;
mod soak;
mod stalled;
mod stuck_disk;
mod systemd;
mod top;
mod vectors;
mod xsk;
mod xsk_receive;

/// A file that is not named above would never run.
#[test]
fn every_file_is_a_suite() {
    let this = include_str!("main.rs");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in std::fs::read_dir(folder).expect("the folder of the tests") {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("a plain name");
        if let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "main") {
            assert!(
                this.contains(&format!("\nmod {module};\n")),
                "tests/main.rs has no `mod {module};`"
            );
        }
    }
}
