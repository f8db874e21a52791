//! QEMU: the machine's own where it is new enough, otherwise one unpacked beside it.

use std::path::Path;

use anyhow::{Context, Result};

use crate::packages::{self, Apt, codename};

/// The emulator's program.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// The oldest version that has all the tests use: igb came with 8.0, and cards that restart single queues with 7.2.
const OLDEST: u32 = 8;

/// What is unpacked.
const PACKAGES: [&str; 3] = ["qemu-system-x86", "qemu-utils", "ipxe-qemu"];

/// Makes sure that there is a QEMU that is new enough, and changes nothing on the machine.
///
/// Debian 12's own is too old, so that of its backports is unpacked; where there are none (yet), the release has a newer one.
///
/// # Errors
/// Without network, or where apt is not Debian's.
pub fn ensure() -> Result<()> {
    if version().is_some_and(|version| version >= OLDEST) {
        return Ok(());
    }
    eprintln!("downloading QEMU (60 MB) into {}", packages::cache().display());
    let backports = format!("{}-backports", codename()?);
    let apt = |lists: &Path| {
        Apt::of_suites(lists, std::slice::from_ref(&backports))
            .map(|apt| apt.preferring(&backports))
            .or_else(|_| Apt::of_suites(lists, &[]))
    };
    packages::unpack("qemu", &PACKAGES, apt).context("getting QEMU")?;
    let version = version().context("the QEMU that was downloaded does not start")?;
    anyhow::ensure!(
        version >= OLDEST,
        "Debian's archive has QEMU {version} here; the tests need {OLDEST}"
    );
    Ok(())
}

/// The major version of the QEMU that tests would use.
fn version() -> Option<u32> {
    let output = packages::command(PROGRAM).arg("--version").output().ok()?;
    // "QEMU emulator version 10.0.2 (Debian …)"
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = text.split_once("version ")?;
    rest.split('.').next()?.parse().ok()
}

/// The arguments that tell QEMU where its firmware is; empty for the machine's own.
pub fn firmware() -> Vec<String> {
    let set = packages::find_program(PROGRAM).and_then(|path| packages::set_of(&path));
    let Some(set) = set else {
        return Vec::new();
    };
    ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"]
        .into_iter()
        .filter_map(|place| packages::find_file(&format!("/{place}")).or_else(|| Some(set.join(place))))
        .filter(|place| place.is_dir())
        .flat_map(|place| ["-L".to_owned(), place.display().to_string()])
        .collect()
}
