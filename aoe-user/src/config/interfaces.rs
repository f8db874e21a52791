//! The names and globs that choose among the machine's network interfaces.

use globset::GlobBuilder;

use crate::host::Interface;

/// Longest name of an interface: that of an alternative name (ALTIFNAMSIZ without its end).
const NAME_MAX: usize = 127;

/// The interfaces of one word: `eth0,eth1`.
///
/// # Errors
/// As [`pattern`].
pub(crate) fn patterns(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(pattern).collect()
}

/// Checks a name or glob as written in a config.
///
/// # Errors
/// What a name or glob looks like.
pub(crate) fn pattern(text: &str) -> Result<String, String> {
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
pub(crate) fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// True when one of the names and globs chooses `interface`. Globs leave out what cannot carry AoE.
pub(crate) fn chosen(patterns: &[String], interface: &Interface) -> bool {
    Patterns::new(patterns).choose(interface)
}

/// True when both choose some interface, as far as the words tell: two globs that differ are taken for others.
pub(crate) fn meet(one: &[String], other: &[String]) -> bool {
    let covers = |one: &[String], other: &[String]| {
        let patterns = Patterns::new(one);
        let is_match = |text: &String| patterns.globs.iter().any(|glob| glob.is_match(text));
        let mut words = other.iter();
        words.any(|text| one.contains(text) || !is_glob(text) && is_match(text) || text == "*")
    };
    one == other || covers(one, other) || covers(other, one)
}

/// Names and globs, made ready to be asked often.
#[derive(Debug)]
pub(crate) struct Patterns {
    names: Vec<String>,
    globs: Vec<globset::GlobMatcher>,
}

impl Patterns {
    /// A text that is no glob after all, which [`pattern`] refuses, chooses nothing.
    pub(crate) fn new(patterns: &[String]) -> Patterns {
        let (globs, names): (Vec<_>, Vec<_>) = patterns.iter().partition(|text| is_glob(text));
        Patterns {
            names: names.into_iter().cloned().collect(),
            globs: globs.into_iter().filter_map(|text| glob(text).ok()).collect(),
        }
    }

    /// As [`chosen`].
    pub(crate) fn choose(&self, interface: &Interface) -> bool {
        let matches = |glob: &globset::GlobMatcher| interface.names().any(|name| glob.is_match(name));
        self.names.iter().any(|name| interface.is_called(name))
            || interface.is_fit() && self.globs.iter().any(matches)
    }

    /// The interfaces that are named in full.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }
}

fn glob(text: &str) -> Result<globset::GlobMatcher, String> {
    let glob = GlobBuilder::new(text)
        .build()
        .map_err(|e| format!("not a glob: {}", e.kind()))?;
    Ok(glob.compile_matcher())
}

#[cfg(test)]
mod tests {
    use aoe_common::Mac;

    use super::*;

    fn interface(name: &str) -> Interface {
        Interface {
            name: name.into(),
            altnames: vec![format!("{name}-of-the-rack")],
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            ..Interface::default()
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
    fn lists_that_name_or_match_the_same_interface_meet() {
        let list = |text: &str| patterns(text).unwrap();
        for (one, other, expected) in [
            ("eth0,eth1", "eth1", true),
            ("eth0", "eth1", false),
            ("e*", "eth1", true),
            ("eth?", "em*", false),
            ("*", "em*", true),
        ] {
            let (one, other) = (list(one), list(other));
            assert_eq!(meet(&one, &other), expected, "{one:?} {other:?}");
            assert_eq!(meet(&other, &one), expected, "{other:?} {one:?}");
        }
    }

    #[test]
    fn alternative_names_choose_as_the_name_does() {
        let lan = interface("eth0");
        for (pattern, expected) in [
            ("eth0-of-the-rack", true),
            ("*-of-the-rack", true),
            ("eth1-of-the-rack", false),
        ] {
            assert_eq!(chosen(&[pattern.to_owned()], &lan), expected, "{pattern}");
        }
        assert!(pattern("enxwith-a-name-of-more-than-fifteen").is_ok());
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
        assert!(pattern(&"a".repeat(128)).unwrap_err().contains("1 to 127"));
        assert!(pattern("a-very-long-pattern-but-one*").is_ok());
        assert!(pattern("eth[").unwrap_err().contains("not a glob"));
        for bad in ["", "a b", "a/b"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
