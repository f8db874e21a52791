//! Other gateways that say that they have the group, too.
//!
//! Where the gateways' locks are of the same storage, nobody can be heard for long who has lost them. Whoever is heard again and again has locks of
//! its own: of another image, or in another cluster.

use std::collections::BTreeMap;

/// How often a gateway that answers for the group asks the others whether they do, too, in microseconds.
pub const ASK_RIVALS_EVERY_US: u64 = 1_000_000;

/// So often must it be heard. All that a process which stood still finds in its queues counts once: it is heard in one round.
const ROUNDS: u32 = 3;
/// Who was not heard for so long begins anew.
const GAP_US: u64 = 5 * ASK_RIVALS_EVERY_US;
/// How the text of an answer begins.
const BEGINS: &str = "xblade-gateway since=";
/// Most of what is taken over of the name of an image.
const MAX_NAME: usize = 200;

/// Why a gateway that has its locks does not begin.
pub(crate) const STILL_ANSWERED: &str = "another gateway goes on answering for it although this one has its locks: the two serve different images, or images of \
                      different clusters, under one address; compare `path` and `ceph.conf`, and whether an image was renamed. To serve what this \
                      one has, release the group on the other gateway first. This one stays out of it until `xblade failover take`, a reload or a \
                      restart";

/// One of two gateways that have a group. Whoever has taken it first comes first: it has served for longer, and it is where initiators have their
/// data. Both gateways compare the same numbers, so that exactly one of them leaves, however wrong a clock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// When it took the group, by its own clock, in milliseconds since 1970.
    pub since_ms: u64,
    /// Its address; for two of the same millisecond.
    pub mac: [u8; 6],
}

/// What a gateway answers to others that ask whether it has the group: since when, and what it serves.
pub fn standing_text(since_ms: u64, serves: &str) -> String {
    format!("{BEGINS}{since_ms} serves={}", printable(serves))
}

/// What another gateway has answered; `None`: that is no such answer.
pub fn parse_standing(text: &[u8]) -> Option<(u64, String)> {
    let text = std::str::from_utf8(text).ok()?;
    let (since, serves) = text.strip_prefix(BEGINS)?.split_once(" serves=")?;
    Some((since.parse().ok()?, printable(serves)))
}

/// What comes from the network goes to a log and a terminal.
fn printable(text: &str) -> String {
    let shown = |character: char| match character.is_ascii_graphic() || character == ' ' {
        true => character,
        false => '?',
    };
    text.chars().take(MAX_NAME).map(shown).collect()
}

/// Those that were heard lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rivals {
    heard: BTreeMap<Standing, Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    first_us: u64,
    last_us: u64,
    rounds: u32,
}

impl Rivals {
    /// One was heard in this round of questions. True where it was heard so often, and for so long, that it is no gateway which has not noticed yet
    /// that its locks are gone.
    pub(crate) fn heard(&mut self, other: Standing, late_us: u64, now_us: u64) -> bool {
        self.forget(now_us);
        let heard = self.heard.entry(other).or_insert(Heard {
            first_us: now_us,
            last_us: now_us,
            rounds: 0,
        });
        heard.last_us = now_us;
        heard.rounds = heard.rounds.saturating_add(1);
        heard.rounds >= ROUNDS && now_us >= heard.first_us.saturating_add(late_us)
    }

    /// Whether any was heard lately.
    pub(crate) fn is_empty(&mut self, now_us: u64) -> bool {
        self.forget(now_us);
        self.heard.is_empty()
    }

    fn forget(&mut self, now_us: u64) {
        self.heard
            .retain(|_, heard| now_us <= heard.last_us.saturating_add(GAP_US));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        for serves in ["rbd:rbd/vm", "/dev/drbd0", "rbd:rbd/a b serves=c", ""] {
            let text = standing_text(1_764_272_100_123, serves);
            let read = parse_standing(text.as_bytes());
            assert_eq!(read, Some((1_764_272_100_123, serves.to_owned())));
        }
        // Config strings of initiators, and what somebody has made up.
        for other in [
            &b""[..],
            b"xblade-gateway",
            b"xblade-gateway since=x serves=y",
            b"\xff\xfe",
        ] {
            assert_eq!(parse_standing(other), None);
        }
        let long = standing_text(1, &format!("a\x1b[2J\n{}", "b".repeat(2000)));
        assert!(long.len() < 300 && long.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
        let (_, serves) = parse_standing(b"xblade-gateway since=1 serves=a\x1b[2Jb").unwrap();
        assert_eq!(serves, "a?[2Jb");
    }
}
