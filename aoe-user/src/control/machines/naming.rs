//! What machines' disks are called: by the operator, in files and in IDENTIFY.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aoe_common::{Mac, Vlan};

use crate::config::ExportConfig;
use crate::target::Address;

/// Characters of an ATA serial number.
const SERIAL_MAX: usize = 20;

/// Whose disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum DiskName {
    /// A `[[machine]]`'s.
    Machine(String),
    /// That of a machine that nobody named.
    Unknown(Mac),
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskName::Machine(name) => f.write_str(name),
            DiskName::Unknown(mac) => mac.fmt(f),
        }
    }
}

impl FromStr for DiskName {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<DiskName, Self::Err> {
        // The name of a machine has no colons.
        Ok(match text.parse() {
            Ok(mac) if text.contains(':') => DiskName::Unknown(mac),
            _ => DiskName::Machine(text.to_owned()),
        })
    }
}

impl DiskName {
    /// What its files begin with.
    pub(crate) fn file_stem(&self) -> String {
        match self {
            DiskName::Machine(name) => format!("machine-{name}"),
            DiskName::Unknown(mac) => format!("unknown-{}", mac.to_string().replace(':', "-")),
        }
    }

    /// From the name of one of its files.
    pub(crate) fn of_file(path: &Path) -> Option<DiskName> {
        let name = path.file_name()?.to_str()?;
        // Without the others a delta is nobody's, and takes space all the same.
        let mut kinds = [".map", ".marks", ".delta"].into_iter();
        DiskName::of_stem(kinds.find_map(|kind| name.strip_suffix(kind))?)
    }

    /// From what the names of its files begin with.
    pub(crate) fn of_stem(stem: &str) -> Option<DiskName> {
        match (stem.strip_prefix("machine-"), stem.strip_prefix("unknown-")) {
            (Some(name), _) => Some(DiskName::Machine(name.to_owned())),
            (_, Some(mac)) => Some(DiskName::Unknown(mac.replace('-', ":").parse().ok()?)),
            _ => None,
        }
    }

    /// Its serial number: the address and the machine; what is too long ends in a digest of it.
    pub(crate) fn serial(&self, address: Address) -> String {
        let machine = match self {
            DiskName::Machine(name) => name.clone(),
            DiskName::Unknown(mac) => mac.to_string().replace(':', ""),
        };
        let serial = format!("{}.{}:{machine}", address.shelf, address.slot);
        if serial.len() <= SERIAL_MAX {
            return serial;
        }
        let digest = xxhash_rust::xxh3::xxh3_64(serial.as_bytes()) as u16;
        let kept: String = serial.chars().take(SERIAL_MAX - 5).collect();
        format!("{kept}~{digest:04x}")
    }
}

/// The directory of an export's disks.
pub(crate) fn directory(config: &ExportConfig) -> Option<PathBuf> {
    let vlan = match config.vlan {
        Vlan::Untagged => String::new(),
        Vlan::Any => "-vlan-any".into(),
        Vlan::Id(id) => format!("-vlan-{id}"),
    };
    let name = config.state_name.as_ref().map(|name| format!("-{name}"));
    let own = format!("{}{vlan}{}", config.address(), name.unwrap_or_default());
    Some(config.overlay_dir.as_ref()?.join(own))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// The digest in a serial number is short. What a machine's files are called has the whole name.
    #[test]
    fn machines_with_one_serial_number_have_disks_of_their_own() {
        let address = Address { shelf: 12, slot: 9 };
        let mut seen = HashMap::new();
        let (one, other) = (0..)
            .find_map(|number| {
                let name = DiskName::Machine(format!("a-machine-with-a-long-name-{number}"));
                let before = seen.insert(name.serial(address), name.clone())?;
                Some((before, name))
            })
            .unwrap();
        assert!(one != other && one.file_stem() != other.file_stem());
        for name in [one, other] {
            assert_eq!(DiskName::of_stem(&name.file_stem()), Some(name));
        }
    }
}
