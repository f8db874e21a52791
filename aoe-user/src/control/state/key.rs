//! Whose state a file holds: its name is made from the export's own settings and from nothing else.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::STATE_DIR;
use crate::config::{ExportConfig, Vlan, values};
use crate::target::Address;

/// An export as kept state knows it: address and VLAN, and the `state_name` by which exports that share both are told apart.
///
/// Its text is the name of its file: `1.1`, `1.1-vlan-5`, `1.1-vlan-any`, `1.1+san-b`. Other exports, interfaces and the order
/// of either have no part in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey {
    shelf: u16,
    slot: u8,
    /// 0: untagged; 4096: any.
    vlan: u16,
    label: Option<String>,
}

const ANY: u16 = 4096;

impl StateKey {
    /// The key of an export of this address and VLAN.
    pub(crate) fn new(address: Address, vlan: Vlan) -> StateKey {
        StateKey {
            shelf: address.shelf,
            slot: address.slot,
            vlan: match vlan {
                Vlan::Untagged => 0,
                Vlan::Id(vid) => vid,
                Vlan::Any => ANY,
            },
            label: None,
        }
    }

    /// The same with a `state_name`.
    #[must_use]
    pub(crate) fn labelled(mut self, label: Option<&str>) -> StateKey {
        self.label = label.map(str::to_owned);
        self
    }

    /// Of which address.
    pub(crate) fn address(&self) -> Address {
        Address {
            shelf: self.shelf,
            slot: self.slot,
        }
    }

    /// As arguments of `xblade state`.
    pub(crate) fn arguments(&self) -> String {
        let mut text = format!("{} {}", self.shelf, self.slot);
        match self.vlan {
            0 => {}
            ANY => text += " --vlan any",
            vid => text += &format!(" --vlan {vid}"),
        }
        if let Some(label) = &self.label {
            text += &format!(" --state-name {label}");
        }
        text
    }

    /// The same for a state that is kept in `dir`: nobody finds it there by itself where that is not the usual place.
    pub(super) fn arguments_in(&self, dir: &Path) -> String {
        let mut text = self.arguments();
        if dir != Path::new(STATE_DIR) {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
            text += &format!(" --state-dir {}", dir.display());
        }
        text
    }

    /// True when earlier releases, which made names from other exports and interfaces too, may have kept this export's
    /// state in the file of this name.
    pub(super) fn may_have_been(&self, old: &OldName) -> bool {
        self.address() == old.address && old.vlans.as_ref().is_none_or(|vlans| vlans.contains(&self.vlan))
    }
}

impl From<&ExportConfig> for StateKey {
    fn from(export: &ExportConfig) -> StateKey {
        let address = Address {
            shelf: export.shelf,
            slot: export.slot,
        };
        StateKey::new(address, export.vlan).labelled(export.state_name.as_deref())
    }
}

impl fmt::Display for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.shelf, self.slot)?;
        match self.vlan {
            0 => {}
            ANY => f.write_str("-vlan-any")?,
            vid => write!(f, "-vlan-{vid}")?,
        }
        self.label.iter().try_for_each(|label| write!(f, "+{label}"))
    }
}

/// The text is no state's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an export's state; those look like 1.1, 1.1-vlan-5 or 1.1+name")]
pub struct NotAKey;

impl FromStr for StateKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<StateKey, NotAKey> {
        let (place, label) = match text.split_once('+') {
            Some((place, label)) if values::state_name(label).is_ok() => (place, Some(label)),
            Some(_) => return Err(NotAKey),
            None => (text, None),
        };
        let (address, vlan) = match place.split_once("-vlan-") {
            Some((address, vlan)) => (address, Some(vlan)),
            None => (place, None),
        };
        let key = StateKey {
            vlan: vlan.map_or(Ok(0), |vlan| vlan_number(vlan).ok_or(NotAKey))?,
            label: label.map(str::to_owned),
            ..StateKey::new(parse_address(address).ok_or(NotAKey)?, Vlan::Untagged)
        };
        // One name for one export: `1.01` is none.
        if key.to_string() == text {
            Ok(key)
        } else {
            Err(NotAKey)
        }
    }
}

fn parse_address(text: &str) -> Option<Address> {
    let (shelf, slot) = text.split_once('.')?;
    Some(Address {
        shelf: shelf.parse().ok()?,
        slot: slot.parse().ok()?,
    })
}

fn vlan_number(text: &str) -> Option<u16> {
    match text {
        "any" => Some(ANY),
        _ => text.parse().ok().filter(|vid| (1..4095).contains(vid)),
    }
}

/// A file name of an earlier release: `1.1` where only one export had the address, whatever its VLAN, else `1.1@eth0` or
/// `1.1@eth0-vlan-5`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OldName {
    address: Address,
    /// VLANs that it may stand for; `None`: every one.
    vlans: Option<Vec<u16>>,
}

impl OldName {
    /// Reads a file's name without its extension.
    pub(super) fn parse(name: &str) -> Option<OldName> {
        let Some((address, interface)) = name.split_once('@') else {
            let address = parse_address(name)?;
            return Some(OldName { address, vlans: None });
        };
        if interface.is_empty() {
            // What `xblade state clear` left of one that had the address alone.
            let address = parse_address(address)?;
            return Some(OldName { address, vlans: None });
        }
        // An interface may itself be called `x-vlan-5`.
        let tagged = interface
            .rsplit_once("-vlan-")
            .and_then(|(_, vlan)| vlan_number(vlan));
        Some(OldName {
            address: parse_address(address)?,
            vlans: Some([0].into_iter().chain(tagged).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_is_read_as_the_key_it_was_made_from(
            shelf: u16, slot: u8, vlan in 0u16..4095, any: bool, label in prop::option::of("[A-Za-z0-9_-]{1,32}")
        ) {
            let vlan = match (any, vlan) {
                (true, _) => Vlan::Any,
                (false, 0) => Vlan::Untagged,
                (false, vid) => Vlan::Id(vid),
            };
            let key = StateKey::new(Address { shelf, slot }, vlan).labelled(label.as_deref());
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }
    }

    #[test]
    fn other_names_are_none() {
        for name in [
            "",
            "1",
            "1.1.1",
            "01.1",
            "1.256",
            "1.1@eth0",
            "1.1-vlan-0",
            "1.1-vlan-4095",
            "1.1-vlan-05",
            "1.1+",
            "1.1+a/b",
            "1.1+a+b",
            "lock",
            "1.1-vlan-5-vlan-6",
        ] {
            assert_eq!(name.parse::<StateKey>(), Err(NotAKey), "{name}");
        }
    }

    #[test]
    fn old_names_stand_for_whatever_may_have_had_them() {
        let key = |name: &str| name.parse::<StateKey>().unwrap();
        let old = |name: &str| OldName::parse(name).unwrap();
        assert!(key("1.1").may_have_been(&old("1.1")));
        assert!(key("1.1-vlan-5+b").may_have_been(&old("1.1")));
        assert!(!key("1.2").may_have_been(&old("1.1")));
        assert!(key("1.1").may_have_been(&old("1.1@eth0")));
        assert!(!key("1.1-vlan-5").may_have_been(&old("1.1@eth0")));
        assert!(key("1.1-vlan-5").may_have_been(&old("1.1@eth*-vlan-5")));
        assert!(key("1.1-vlan-any").may_have_been(&old("1.1@eth0-vlan-any")));
        assert!(
            key("1.1").may_have_been(&old("1.1@eth0-vlan-5")),
            "an interface may be called so"
        );
        assert_eq!(OldName::parse("lock"), None);
    }
}
