//! The receive filters that a card has now, as `ethtool -n` tells them: the kernel has no other way to ask than an ioctl of ethtool's.

use std::process::Command;

use aoe_common::Mac;
use aoe_common::wire::eth::TYPE_AOE;
use serde::Serialize;

/// What a card answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Filters {
    /// These are set.
    Set(Vec<SteeringFilter>),
    /// The driver has none, in its words.
    Refused(String),
    /// There is no `ethtool` to ask by.
    NotAsked(String),
}

/// A filter, as far as AoE is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct SteeringFilter {
    /// The card's number of it.
    pub(crate) id: u32,
    /// The source that it takes; `None`: any, or a group of them.
    pub(crate) source: Option<String>,
    /// The EtherType that it takes.
    pub(crate) ethertype: Option<u16>,
    /// It takes only some of these frames: those of a VLAN, or to a destination.
    pub(crate) is_narrow: bool,
    /// Where it leads; `None`: it drops frames, or leads elsewhere.
    pub(crate) queue: Option<usize>,
}

impl SteeringFilter {
    /// Whether it takes all AoE frames of this source, and none of others.
    pub(super) fn steers(&self, source: Mac) -> bool {
        self.source.as_deref() == Some(source.to_string().as_str())
            && self.ethertype.is_none_or(|kind| kind == TYPE_AOE)
            && !self.is_narrow
            && self.queue.is_some()
    }

    /// Whether it moves AoE frames.
    pub(super) fn is_about_aoe(&self) -> bool {
        self.ethertype == Some(TYPE_AOE) || self.ethertype.is_none() && self.source.is_some()
    }
}

/// For a person: what is about AoE.
impl std::fmt::Display for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let filters = match self {
            Filters::Set(filters) => filters,
            Filters::Refused(said) => return write!(f, "none: {said}"),
            Filters::NotAsked(said) => return write!(f, "unknown: {said}"),
        };
        let mut separator = "";
        for filter in filters.iter().filter(|filter| filter.is_about_aoe()) {
            let source = filter.source.as_deref().unwrap_or("all AoE");
            match filter.queue {
                Some(queue) => write!(f, "{separator}{source} on queue {queue}")?,
                None => write!(f, "{separator}{source} elsewhere")?,
            }
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("none that is about AoE")?;
        }
        Ok(())
    }
}

/// Who carries out commands of `ethtool`: itself, or a fake in tests.
pub(super) trait Ethtool {
    /// Runs it with these words; what it prints.
    ///
    /// # Errors
    /// What it says instead.
    fn run(&mut self, words: &[&str]) -> Result<String, EthtoolFailure>;
}

/// Why a command of `ethtool` came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EthtoolFailure {
    /// The driver, or the kernel for it, refused.
    Refused(String),
    /// It is not installed, or may not be run.
    NotRun(String),
}

impl std::fmt::Display for EthtoolFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EthtoolFailure::Refused(said) => f.write_str(said),
            EthtoolFailure::NotRun(said) => write!(f, "{said} (is the package `ethtool` installed?)"),
        }
    }
}

/// The program.
#[derive(Debug)]
pub(super) struct Program;

impl Ethtool for Program {
    fn run(&mut self, words: &[&str]) -> Result<String, EthtoolFailure> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match Command::new("ethtool").args(words).env("LC_ALL", "C").output() {
            Ok(output) if output.status.success() => Ok(text(&output.stdout)),
            Ok(output) => Err(EthtoolFailure::Refused(text(&output.stderr).replace('\n', "; "))),
            Err(error) => Err(EthtoolFailure::NotRun(format!("ethtool: {error}"))),
        }
    }
}

/// Asks for the filters of an interface.
pub(super) fn read(ethtool: &mut dyn Ethtool, interface: &str) -> Filters {
    match ethtool.run(&["-n", interface]) {
        Ok(said) => Filters::Set(parse(&said)),
        Err(EthtoolFailure::Refused(said)) => Filters::Refused(said),
        Err(EthtoolFailure::NotRun(said)) => Filters::NotAsked(said),
    }
}

/// Reads what `ethtool -n` prints: a paragraph for each filter.
fn parse(said: &str) -> Vec<SteeringFilter> {
    said.split("Filter: ").skip(1).filter_map(filter).collect()
}

fn filter(text: &str) -> Option<SteeringFilter> {
    let mut lines = text.lines();
    let mut filter = SteeringFilter {
        id: lines.next()?.trim().parse().ok()?,
        source: None,
        ethertype: None,
        is_narrow: false,
        queue: None,
    };
    for line in lines {
        let Some((key, value)) = line.trim().split_once(": ") else {
            continue;
        };
        // A bit of the mask that is set is one that is not looked at.
        let whole = |mask: &str| mask.chars().all(|digit| matches!(digit, '0' | ':' | 'x'));
        let has_mask = |mask: &str| {
            let said = value.split_once("mask: ").map(|(_, said)| said);
            said.is_some_and(|said| said.eq_ignore_ascii_case(mask))
        };
        let matched = || {
            let (value, mask) = value.split_once(" mask: ")?;
            whole(mask).then_some(value)
        };
        match key {
            "Src MAC addr" => filter.source = matched().map(str::to_lowercase),
            "Ethertype" => {
                let digits = matched().and_then(|value| value.strip_prefix("0x"));
                filter.ethertype = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
                filter.is_narrow |= filter.ethertype.is_none() && !has_mask("0xffff");
            }
            "Dest MAC addr" => filter.is_narrow |= !has_mask("ff:ff:ff:ff:ff:ff"),
            "VLAN" | "VLAN EtherType" => filter.is_narrow |= !has_mask("0xffff"),
            "User-defined" => filter.is_narrow |= !has_mask("0xffffffffffffffff"),
            "Action" => {
                filter.queue = value
                    .strip_prefix("Direct to queue ")
                    .and_then(|n| n.parse().ok());
            }
            _ => {}
        }
    }
    Some(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ethtool 6 prints it (`rxclass.c`, `rxclass_print_nfc_rule`).
    const SAID: &str = "4 RX rings available
Total 3 rules

Filter: 7
\tFlow Type: Raw Ethernet
\tSrc MAC addr: 02:00:00:00:00:0A mask: 00:00:00:00:00:00
\tDest MAC addr: 00:00:00:00:00:00 mask: FF:FF:FF:FF:FF:FF
\tEthertype: 0x88A2 mask: 0x0
\tAction: Direct to queue 2

Filter: 8
\tFlow Type: Raw Ethernet
\tSrc MAC addr: 02:00:00:00:00:0B mask: 00:00:00:00:00:00
\tDest MAC addr: 00:00:00:00:00:00 mask: FF:FF:FF:FF:FF:FF
\tEthertype: 0x0 mask: 0xFFFF
\tAction: Direct to queue 1

Filter: 9
\tRule Type: TCP over IPv4
\tSrc IP addr: 10.0.0.1 mask: 0.0.0.0
\tAction: Drop
";

    #[test]
    fn filters_are_read_as_ethtool_prints_them() {
        let filter = |id, source: Option<&str>, ethertype, queue| SteeringFilter {
            id,
            source: source.map(str::to_owned),
            ethertype,
            is_narrow: false,
            queue,
        };
        let expected = [
            filter(7, Some("02:00:00:00:00:0a"), Some(0x88a2), Some(2)),
            filter(8, Some("02:00:00:00:00:0b"), None, Some(1)),
            filter(9, None, None, None),
        ];
        let found = parse(SAID);
        assert_eq!(found, expected);
        assert_eq!(
            found.iter().map(SteeringFilter::is_about_aoe).collect::<Vec<_>>(),
            [true, true, false]
        );
        assert!(found[0].steers(Mac([2, 0, 0, 0, 0, 10])) && !found[0].steers(Mac([2, 0, 0, 0, 0, 11])));
        for line in [
            "VLAN: 0x5 mask: 0xf000",
            "Dest MAC addr: 02:00:00:00:00:0B mask: 00:00:00:00:00:00",
            "Ethertype: 0x8800 mask: 0xFF",
            "User-defined: 0x1 mask: 0x0",
        ] {
            let narrow = format!("{}\t{line}\n", &SAID[..SAID.find("Filter: 8").unwrap()]);
            assert!(!parse(&narrow)[0].steers(Mac([2, 0, 0, 0, 0, 10])), "{line}");
        }
        let any_vlan = SAID.replace(
            "\tAction: Direct to queue 2",
            "\tVLAN: 0x0 mask: 0xFFFF\n\tAction: Direct to queue 2",
        );
        assert!(parse(&any_vlan)[0].steers(Mac([2, 0, 0, 0, 0, 10])));
        assert!(parse("2 RX rings available\nTotal 0 rules\n").is_empty());
    }
}
