//! The machine's network interfaces, and the names and globs that choose among them.

use std::io;

use aoe_common::Mac;
use globset::GlobBuilder;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

pub use initiator::mtu_bytes;

/// Longest interface name (IFNAMSIZ without its end).
const NAME_MAX: usize = 15;

/// A network interface of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its address; `None` when it has none of six bytes (tunnels and the like), so that it cannot carry AoE.
    pub mac: Option<Mac>,
    /// Administratively up.
    pub up: bool,
    /// The loopback interface, which cannot carry AoE either.
    pub loopback: bool,
}

/// The interfaces of the network namespace that the process is in, by name.
///
/// # Errors
/// When the kernel does not tell.
pub fn list() -> io::Result<Vec<Interface>> {
    let mut found = Vec::new();
    for entry in getifaddrs()? {
        // Every interface has one AF_PACKET entry, whatever other addresses it has.
        let Some(link) = entry.address.as_ref().and_then(|address| address.as_link_addr()) else {
            continue;
        };
        found.push(Interface {
            name: entry.interface_name.clone(),
            mac: link
                .addr()
                .map(Mac)
                .filter(|mac| mac.is_station() && link.halen() == 6),
            up: entry.flags.contains(InterfaceFlags::IFF_UP),
            loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Checks a name or glob as written in a config.
///
/// # Errors
/// What a name or glob looks like.
pub fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        return Err("the name of a network interface, or a glob such as \"em*\", is needed".into());
    }
    if is_glob(text) {
        glob(text)?;
    } else if text.len() > NAME_MAX {
        return Err(format!(
            "the name of a network interface has 1 to {NAME_MAX} characters"
        ));
    }
    Ok(text.to_owned())
}

/// True when the text chooses by pattern instead of naming one interface.
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// True when one of the names and globs chooses `interface`. Globs leave out what cannot carry AoE.
pub fn chosen(patterns: &[String], interface: &Interface) -> bool {
    patterns.iter().any(|pattern| {
        if !is_glob(pattern) {
            return *pattern == interface.name;
        }
        let able = interface.mac.is_some() && !interface.loopback;
        able && glob(pattern).is_ok_and(|glob| glob.is_match(&interface.name))
    })
}

fn glob(text: &str) -> Result<globset::GlobMatcher, String> {
    let glob = GlobBuilder::new(text)
        .build()
        .map_err(|e| format!("not a glob: {}", e.kind()))?;
    Ok(glob.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str) -> Interface {
        Interface {
            name: name.into(),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            up: true,
            loopback: false,
        }
    }

    #[test]
    fn names_and_globs_choose() {
        let patterns = ["eth0".to_string(), "em[12]*".into()];
        for (name, expected) in [
            ("eth0", true),
            ("eth01", false),
            ("em1", true),
            ("em2np0", true),
            ("em3", false),
        ] {
            assert_eq!(chosen(&patterns, &interface(name)), expected, "{name}");
        }
    }

    #[test]
    fn globs_leave_out_what_cannot_carry_aoe() {
        let everything = ["*".to_string()];
        let lo = Interface {
            loopback: true,
            ..interface("lo")
        };
        let tunnel = Interface {
            mac: None,
            ..interface("tun0")
        };
        assert!(!chosen(&everything, &lo));
        assert!(!chosen(&everything, &tunnel));
        assert!(
            chosen(&["lo".to_string()], &lo),
            "named: for validation to refuse with a reason"
        );
    }

    #[test]
    fn patterns_are_checked() {
        assert!(pattern("enp3s0f1np1").is_ok());
        assert!(pattern("a.very.long.interface").unwrap_err().contains("1 to 15"));
        assert!(pattern("a-very-long-pattern-but-one*").is_ok());
        assert!(pattern("eth[").unwrap_err().contains("not a glob"));
        for bad in ["", "a b", "a/b"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_loopback_interface_is_listed() {
        let lo = list()
            .unwrap()
            .into_iter()
            .find(|interface| interface.name == "lo")
            .unwrap();
        assert!(lo.loopback && lo.mac.is_none());
    }
}
