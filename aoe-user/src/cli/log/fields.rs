//! What an entry of the journal is about, for `journalctl XBLADE_EXPORT=e1.1`, and what has happened, for `journalctl MESSAGE_ID=…`.

use std::str::FromStr as _;

use aoe_common::Mac;
use nix::net::if_::if_nametoindex;

/// What is often waited for or alarmed on; docs/operations.md has them. Random, as systemd wants them, and never to be changed.
const READY: &str = "938c79a84bfd4358ad2a207a4e7b6e62";
const FAILED: &str = "e232c70be3224ca59affe251c98e2ea9";
const DENIED: &str = "2a3f3508112c444bbf1002f63231bc2a";
const RELOADED: &str = "90e47b475314496ca7b83bf8df051e9e";

type Field = (&'static str, String);

/// Journal fields of a message: the export (`e1.1`) or interface that it begins with, as all messages about one do, the interface that an
/// export is `on`, and the initiator where it is about one's frames. An interface that is gone is not known as one.
pub(super) fn of(text: &str) -> Vec<Field> {
    of_host(text, |name| if_nametoindex(name).is_ok())
}

fn of_host(text: &str, is_interface: impl Fn(&str) -> bool) -> Vec<Field> {
    let mut words = text.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let subject = first.trim_end_matches(':');
    let mut fields = Vec::new();
    if is_export(subject) {
        fields.push(("XBLADE_EXPORT", subject.to_owned()));
        let place = words.clone().skip_while(|word| *word != "on").nth(1);
        fields.extend(
            place
                .map(|name| name.trim_end_matches([',', ':']))
                .filter(|name| is_interface(name))
                .map(|name| ("XBLADE_INTERFACE", name.to_owned())),
        );
        match words.next().map(|word| word.trim_end_matches([':', ','])) {
            Some("ready") => fields.push(("MESSAGE_ID", READY.to_owned())),
            Some("FAILED") => fields.push(("MESSAGE_ID", FAILED.to_owned())),
            _ => {}
        }
    } else if first.ends_with(':') && !subject.is_empty() && is_interface(subject) {
        fields.push(("XBLADE_INTERFACE", subject.to_owned()));
        if words.next() == Some("dropped") {
            fields.extend(of_denied(text));
        }
    } else if first == "received" {
        // A line of `--log trace`, of one frame.
        fields.extend(initiator(words.nth(2)));
    } else if text.starts_with("the configuration was reloaded") {
        fields.push(("MESSAGE_ID", RELOADED.to_owned()));
    }
    fields
}

/// Of `eth1: dropped 3 frames from MAC, the last for 1.1: …`, or of many sources taken together.
fn of_denied(text: &str) -> Vec<Field> {
    let after = |what: &str| text.split_once(what).map(|(_, rest)| rest);
    let word = |rest: &str| rest.split([',', ':', ' ']).next().map(|word| format!("e{word}"));
    let mut fields = vec![("MESSAGE_ID", DENIED.to_owned())];
    fields.extend(initiator(after(" from ").and_then(|rest| rest.split(',').next())));
    let export = after(", the last for ").and_then(word);
    fields.extend(
        export
            .filter(|export| is_export(export))
            .map(|export| ("XBLADE_EXPORT", export)),
    );
    fields
}

fn initiator(word: Option<&str>) -> Option<Field> {
    let mac = Mac::from_str(word?).ok()?;
    Some(("XBLADE_INITIATOR", mac.to_string()))
}

fn is_export(word: &str) -> bool {
    let parts = word.strip_prefix('e').and_then(|address| address.split_once('.'));
    parts.is_some_and(|(shelf, slot)| shelf.parse::<u16>().is_ok() && slot.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_begin_with_what_they_are_about() {
        let fields = |text| of_host(text, |name| ["eth0", "lo"].contains(&name));
        let (export, interface) = (("XBLADE_EXPORT", "e1.1"), ("XBLADE_INTERFACE", "eth0"));
        let initiator = ("XBLADE_INITIATOR", "02:00:00:00:00:66");
        let event = |id| ("MESSAGE_ID", id);
        for (text, wanted) in [
            (
                "e1.1 ready on eth0 (02:00:00:00:00:01): native",
                vec![export, interface, event(READY)],
            ),
            ("e1.1: /srv/a.raw was replaced", vec![export]),
            ("e1.1 FAILED: no room on disk", vec![export, event(FAILED)]),
            (
                "e1.1 FAILED on eth0, trying again: no such file",
                vec![export, interface, event(FAILED)],
            ),
            (
                "e1.1 FAILED, trying again: no such file",
                vec![export, event(FAILED)],
            ),
            ("eth0: link down", vec![interface]),
            (
                "eth0: dropped 3 frames from 02:00:00:00:00:66, the last for 1.1: not on its access list",
                vec![interface, event(DENIED), initiator, export],
            ),
            (
                "eth0: dropped 9 frames from sources that are not named here, one of them 02:00:00:00:00:66: not on an access list",
                vec![interface, event(DENIED)],
            ),
            (
                "received 60 bytes: 02:00:00:00:00:66 to 1.1 tag 00000001 READ",
                vec![initiator],
            ),
            ("received nothing", vec![]),
            ("eth0 is up", vec![]),
            ("eth1: gone", vec![]),
            ("e99999.1: no shelf", vec![]),
            (
                "the configuration was reloaded: 1 exports; nothing changed",
                vec![event(RELOADED)],
            ),
            (": odd", vec![]),
            ("", vec![]),
        ] {
            let found = fields(text);
            let found: Vec<(&str, &str)> = found
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn the_book_has_every_message_id() {
        let page = include_str!("../../../../docs/operations.md");
        for id in [READY, FAILED, DENIED, RELOADED] {
            assert!(
                page.contains(&format!("`{id}`")),
                "{id} is not in docs/operations.md"
            );
        }
    }
}
