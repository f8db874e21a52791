//! What an entry of the journal is about, for `journalctl XBLADE_EXPORT=e1.1`.

use nix::net::if_::if_nametoindex;

/// Journal fields of a message: the export (`e1.1`) or interface that it begins with, as all messages about one do, and the interface that an
/// export is `on`. An interface that is gone is not known as one.
pub(super) fn of(text: &str) -> Vec<(&'static str, &str)> {
    of_host(text, |name| if_nametoindex(name).is_ok())
}

fn of_host(text: &str, is_interface: impl Fn(&str) -> bool) -> Vec<(&'static str, &str)> {
    let mut words = text.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let subject = first.trim_end_matches(':');
    let mut fields = Vec::new();
    if is_export(subject) {
        fields.push(("XBLADE_EXPORT", subject));
        let place = words.skip_while(|word| *word != "on").nth(1);
        fields.extend(
            place
                .filter(|name| is_interface(name))
                .map(|name| ("XBLADE_INTERFACE", name)),
        );
    } else if first.ends_with(':') && !subject.is_empty() && is_interface(subject) {
        fields.push(("XBLADE_INTERFACE", subject));
    }
    fields
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
        for (text, wanted) in [
            (
                "e1.1 ready on eth0 (02:00:00:00:00:01): native",
                vec![export, interface],
            ),
            ("e1.1: /srv/a.raw was replaced", vec![export]),
            ("e1.1 FAILED: no room on disk", vec![export]),
            ("eth0: link down", vec![interface]),
            ("eth0 is up", vec![]),
            ("eth1: gone", vec![]),
            ("e99999.1: no shelf", vec![]),
            (
                "the configuration was reloaded: 1 exports; nothing changed",
                vec![],
            ),
            (": odd", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(fields(text), wanted, "{text}");
        }
    }
}
