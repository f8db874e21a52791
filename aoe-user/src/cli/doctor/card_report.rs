//! `xblade doctor --report`: everything that tells how a card and its driver behave, in one file to send in.
//!
//! JSON, because reports of many cards are compared by programs; what has no form of its own, such as the driver's private flags, is
//! in it as text, word for word. What only `ethtool` asks the driver for is asked by it, where it is installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cli::output;
use crate::host::kernel::host_name;
use crate::host::sysfs;

/// Changes when a key of the JSON object changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// What `ethtool` is asked, each before the interface: driver and firmware, queues, rings, offloads, private flags, coalescing,
/// statistics, filters.
const QUESTIONS: [&str; 8] = ["-i", "-l", "-g", "-k", "--show-priv-flags", "-c", "-S", "-n"];

/// Files below the interface's device in sysfs.
const DEVICE_FILES: [&str; 7] = [
    "vendor",
    "device",
    "subsystem_vendor",
    "subsystem_device",
    "numa_node",
    "sriov_numvfs",
    "sriov_totalvfs",
];

/// Writes the report to a file, or to standard output for `-`; `findings` is what the doctor says of the interfaces.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(file: &Path, interfaces: &[String], findings: &Value, full: bool) -> Result<()> {
    let cards: BTreeMap<&str, Value> = interfaces
        .iter()
        .map(|interface| (interface.as_str(), card(interface)))
        .collect();
    let report = json!({
        "report": SCHEMA,
        "xblade": env!("CARGO_PKG_VERSION"),
        "complete": full,
        "cards": cards,
        "doctor": findings,
    });
    let text = serde_json::to_string_pretty(&report)?;
    let text = if full {
        text
    } else {
        without_names(&text, &host_name())
    };
    if file == Path::new("-") {
        return output::line(text);
    }
    fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    output::line(format_args!(
        "{}: to be sent with what you saw; it has no host names, and of addresses the vendor's part only{}",
        file.display(),
        if full { ", unless asked for as here" } else { "" }
    ))
}

fn card(interface: &str) -> Value {
    let index = nix::net::if_::if_nametoindex(interface).ok();
    let sys = index.and_then(|index| sysfs(interface, index));
    let text = |name: &str| fs::read_to_string(sys.as_ref()?.join("device").join(name)).ok();
    let of_device = DEVICE_FILES
        .iter()
        .filter_map(|name| Some((*name, text(name)?.trim().to_owned())));
    let of_device: BTreeMap<&str, String> = of_device.collect();
    let answers: BTreeMap<String, Value> = QUESTIONS
        .iter()
        .map(|question| {
            (
                format!("ethtool {question}"),
                ask("ethtool", &[question, interface]),
            )
        })
        .collect();
    json!({
        "device": of_device,
        // With the limits of the MTU, which the kernel tells nowhere else.
        "ip -d link": ask("ip", &["-d", "link", "show", "dev", interface]),
        "ethtool": answers,
    })
}

/// What a program prints; an object with the reason where it does not.
fn ask(program: &str, arguments: &[&str]) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => Value::String(text(&output.stdout)),
        Ok(output) => json!({ "refused": text(&output.stderr) }),
        Err(error) => json!({ "not_asked": error.to_string() }),
    }
}

/// The text with the host's name taken out, and the last three bytes of every MAC.
fn without_names(text: &str, host: &str) -> String {
    // A short name, or one that is a common word, is not worth damaging the rest.
    let text = match host.len() {
        0..3 => text.to_owned(),
        _ => text.replace(host, "HOST"),
    };
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        match mac(rest) {
            Some(length) => {
                clean += rest.get(..9).unwrap_or_default();
                clean += "xx:xx:xx";
                rest = rest.get(length..).unwrap_or_default();
            }
            None => {
                clean.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
            }
        }
    }
    clean
}

/// The length of the MAC that the text begins with.
fn mac(text: &str) -> Option<usize> {
    const LENGTH: usize = 17;
    let word = text.get(..LENGTH)?;
    let is_one = word.bytes().enumerate().all(|(at, byte)| match at % 3 {
        2 => byte == b':',
        _ => byte.is_ascii_hexdigit(),
    });
    is_one.then_some(LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_no_host_and_no_card_of_it() {
        let text = "link/ether A0:36:9f:01:02:03 brd ff:ff:ff:ff:ff:ff\nof prod-7, 0000:3b:00.0, 12:34:56";
        assert_eq!(
            without_names(text, "prod-7"),
            "link/ether A0:36:9f:xx:xx:xx brd ff:ff:ff:xx:xx:xx\nof HOST, 0000:3b:00.0, 12:34:56"
        );
    }

    #[test]
    fn text_of_any_kind_is_left_whole() {
        for text in ["", "ü:é", "00:11:22:33:44:5", "ä00:11:22:33:44:zz"] {
            assert_eq!(without_names(text, ""), text);
        }
    }

    #[test]
    fn what_cannot_be_asked_is_told() {
        assert!(ask("no-such-program-of-xblade", &[])["not_asked"].is_string());
    }
}
