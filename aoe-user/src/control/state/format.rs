//! The bytes of a state file: a header line with version and checksum, then one JSON object.
//!
//! ```text
//! xblade state 1 8c5b0f0a3f2d6c11
//! {"string":"766d3031","mask":["02:00:00:00:00:01"],"reserve":[]}
//! ```
//!
//! A reader takes a file only if writing its contents again would give the same bytes: there is no half-read state.

use aoe_common::Mac;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::target::Persistent;

const MAGIC: &str = "xblade state ";
const VERSION: u32 = 1;

/// More than any state takes, so that a file that became huge is not read into memory.
pub const FILE_BYTES_MAX: u64 = 64 << 10;

/// Why bytes are no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Whole, but from a later xblade.
    #[error("it has version {0}; this xblade reads up to {VERSION}")]
    Newer(u32),
    /// Anything else, with what was noticed first.
    #[error("{0}")]
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    /// Any bytes, in hexadecimal.
    string: String,
    mask: Vec<String>,
    reserve: Vec<String>,
}

/// The bytes of a state file.
pub fn encode(state: &Persistent) -> Vec<u8> {
    let macs = |list: &[Mac]| list.iter().map(Mac::to_string).collect();
    let body = Body {
        string: state.string.iter().map(|byte| format!("{byte:02x}")).collect(),
        mask: macs(&state.mask),
        reserve: macs(&state.reserve),
    };
    let body = serde_json::to_string(&body).expect("strings and lists have a JSON form");
    let sum = checksum(VERSION, &body);
    format!("{MAGIC}{VERSION} {sum:016x}\n{body}\n").into_bytes()
}

/// The state that a file's bytes hold.
///
/// # Errors
/// For every file but one that [`encode`] could have made.
pub fn decode(bytes: &[u8]) -> Result<Persistent, FormatError> {
    let damaged = |what: &str| FormatError::Damaged(what.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let (header, rest) = text
        .split_once('\n')
        .ok_or_else(|| damaged("it has no header line"))?;
    let (version, sum) = header
        .strip_prefix(MAGIC)
        .and_then(|header| header.split_once(' '))
        .and_then(|(version, sum)| Some((version.parse().ok()?, u64::from_str_radix(sum, 16).ok()?)))
        .ok_or_else(|| damaged("its header line is not xblade's"))?;
    let body = rest
        .strip_suffix('\n')
        .ok_or_else(|| damaged("its end is missing"))?;
    if checksum(version, body) != sum {
        return Err(damaged("its checksum is wrong"));
    }
    if version > VERSION {
        return Err(FormatError::Newer(version));
    }
    let state = understand(body).ok_or_else(|| damaged("its contents are not a state"))?;
    state.check().map_err(|e| damaged(&e.to_string()))?;
    if encode(&state) != bytes {
        return Err(damaged("it is not written as xblade writes"));
    }
    Ok(state)
}

fn understand(body: &str) -> Option<Persistent> {
    let body: Body = serde_json::from_str(body).ok()?;
    let digits = body.string.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let macs = |list: &[String]| {
        list.iter()
            .map(|mac| mac.parse().ok())
            .collect::<Option<Vec<Mac>>>()
    };
    Some(Persistent {
        string: digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?,
        mask: macs(&body.mask)?,
        reserve: macs(&body.reserve)?,
    })
}

fn checksum(version: u32, body: &str) -> u64 {
    xxh3_64(format!("{version}\n{body}").as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> impl Strategy<Value = Persistent> {
        let mac = any::<[u8; 6]>().prop_map(Mac);
        let string = prop::collection::vec(any::<u8>(), 0..=1024);
        let mask = prop::collection::btree_set(mac.clone(), 0..=64);
        let reserve = prop::collection::vec(mac, 0..=64);
        (string, mask, reserve).prop_map(|(string, mask, reserve)| Persistent {
            string,
            mask: mask.into_iter().collect(),
            reserve,
        })
    }

    /// What disks and hands do to a file.
    #[derive(Debug, Clone)]
    enum Damage {
        Flip(prop::sample::Index, u8),
        Cut(prop::sample::Index),
        Zero(prop::sample::Index, prop::sample::Index),
        Insert(prop::sample::Index, Vec<u8>),
        Remove(prop::sample::Index),
    }

    impl Damage {
        fn any() -> impl Strategy<Value = Damage> {
            use prop::sample::Index;
            prop_oneof![
                (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
                any::<Index>().prop_map(Damage::Cut),
                any::<(Index, Index)>().prop_map(|(from, to)| Damage::Zero(from, to)),
                (any::<Index>(), prop::collection::vec(any::<u8>(), 1..9))
                    .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
                any::<Index>().prop_map(Damage::Remove),
            ]
        }

        fn to(&self, bytes: &mut Vec<u8>) {
            if bytes.is_empty() {
                return;
            }
            let len = bytes.len();
            match self {
                Damage::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
                Damage::Cut(at) => bytes.truncate(at.index(len)),
                Damage::Zero(a, b) => {
                    let (a, b) = (a.index(len), b.index(len));
                    bytes[a.min(b)..=a.max(b)].fill(0);
                }
                Damage::Insert(at, more) => {
                    let at = at.index(len);
                    bytes.splice(at..at, more.iter().copied());
                }
                Damage::Remove(at) => drop(bytes.remove(at.index(len))),
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(state in state()) {
            let bytes = encode(&state);
            prop_assert!(bytes.len() as u64 <= FILE_BYTES_MAX);
            prop_assert_eq!(decode(&bytes), Ok(state));
        }

        #[test]
        fn damage_never_gives_another_state(
            state in state(),
            damages in prop::collection::vec(Damage::any(), 1..4),
        ) {
            let mut bytes = encode(&state);
            damages.iter().for_each(|damage| damage.to(&mut bytes));
            match decode(&bytes) {
                Ok(read) => prop_assert_eq!(read, state),
                Err(error) => prop_assert!(matches!(error, FormatError::Damaged(_)), "{}", error),
            }
        }

        #[test]
        fn no_bytes_end_the_process(bytes in any::<Vec<u8>>()) {
            prop_assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn every_single_bit_counts() {
        let state = Persistent {
            string: b"vm01".to_vec(),
            mask: vec![Mac([2, 0, 0, 0, 0, 1])],
            reserve: vec![],
        };
        let good = encode(&state);
        for at in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(decode(&bytes).is_err(), "bit {at}");
        }
    }

    #[test]
    fn the_form_does_not_change_unnoticed() {
        let state = Persistent {
            string: b"vm01".to_vec(),
            mask: vec![Mac([2, 0, 0, 0, 0, 1])],
            reserve: vec![],
        };
        let text = String::from_utf8(encode(&state)).unwrap();
        let (header, body) = text.split_once('\n').unwrap();
        assert!(header.starts_with("xblade state 1 "), "{header}");
        assert_eq!(
            body,
            "{\"string\":\"766d3031\",\"mask\":[\"02:00:00:00:00:01\"],\"reserve\":[]}\n"
        );
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let body = "{\"new\":true}";
        let sum = checksum(2, body);
        let newer = format!("xblade state 2 {sum:016x}\n{body}\n");
        assert_eq!(decode(newer.as_bytes()), Err(FormatError::Newer(2)));
        let damaged = newer.replace("state 2", "state 3");
        assert!(matches!(decode(damaged.as_bytes()), Err(FormatError::Damaged(_))));
    }

    #[test]
    fn limits_hold_behind_a_good_checksum_too() {
        let body = format!(
            "{{\"string\":\"{}\",\"mask\":[],\"reserve\":[]}}",
            "00".repeat(1025)
        );
        let text = format!("xblade state 1 {:016x}\n{body}\n", checksum(1, &body));
        let error = decode(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("1025"), "{error}");
    }
}
