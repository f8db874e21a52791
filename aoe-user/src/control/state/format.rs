//! The contents of a state file, in the form of [`super::sealed`].
//!
//! A reader takes a file only if writing its contents again would give the same bytes: there is no half-read state.

use aoe_common::Mac;
use serde::{Deserialize, Serialize};

use super::key::StateKey;
use super::sealed::{seal, unseal};
use crate::target::Persistent;

pub(crate) use super::sealed::FormatError;

const KIND: &str = "state";
/// Since 2 a file says whose state it is.
const VERSION: u32 = 2;

/// More than any state takes, so that a file that became huge is not read into memory.
pub const FILE_BYTES_MAX: u64 = 64 << 10;

/// What a state file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Whose state it is; `None` in files of earlier releases, which did not say.
    pub export: Option<StateKey>,
    /// The state.
    pub state: Persistent,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    export: Option<String>,
    /// Any bytes, in hexadecimal.
    string: String,
    mask: Vec<String>,
    reserve: Vec<String>,
}

/// The bytes of a state file.
pub fn encode(contents: &Contents) -> Vec<u8> {
    let Contents { export, state } = contents;
    let macs = |list: &[Mac]| list.iter().map(Mac::to_string).collect();
    let body = Body {
        export: export.as_ref().map(StateKey::to_string),
        string: state.string.iter().map(|byte| format!("{byte:02x}")).collect(),
        mask: macs(&state.mask),
        reserve: macs(&state.reserve),
    };
    let body = serde_json::to_string(&body).expect("strings and lists have a JSON form");
    seal(KIND, if export.is_some() { VERSION } else { 1 }, &body)
}

/// What a file's bytes hold.
///
/// # Errors
/// For every file but one that [`encode`] could have made.
pub fn decode(bytes: &[u8]) -> Result<Contents, FormatError> {
    let (_, body) = unseal(KIND, VERSION, bytes)?;
    let contents = understand(body).ok_or_else(|| FormatError::damaged("its contents are not a state"))?;
    contents
        .state
        .check()
        .map_err(|error| FormatError::damaged(error.to_string()))?;
    if encode(&contents) != bytes {
        return Err(FormatError::damaged("it is not written as xblade writes"));
    }
    Ok(contents)
}

fn understand(body: &str) -> Option<Contents> {
    let body: Body = serde_json::from_str(body).ok()?;
    let digits = body.string.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let macs = |list: &[String]| {
        list.iter()
            .map(|mac| mac.parse().ok())
            .collect::<Option<Vec<Mac>>>()
    };
    let state = Persistent {
        string: digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?,
        mask: macs(&body.mask)?,
        reserve: macs(&body.reserve)?,
    };
    let export = match body.export {
        None => None,
        Some(name) => Some(name.parse().ok()?),
    };
    Some(Contents { export, state })
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

    fn contents() -> impl Strategy<Value = Contents> {
        let export =
            prop::option::of("[0-9]{1,3}[.][0-9]{1,2}(-vlan-[1-9][0-9]{0,2}|-vlan-any)?([+][a-z_-]{1,32})?");
        let export = export.prop_map(|name| name.and_then(|name| name.parse().ok()));
        (export, state()).prop_map(|(export, state)| Contents { export, state })
    }

    fn example(export: Option<&str>) -> Contents {
        let state = Persistent {
            string: b"vm01".to_vec(),
            mask: vec![Mac([2, 0, 0, 0, 0, 1])],
            reserve: vec![],
        };
        let export = export.map(|name| name.parse().unwrap());
        Contents { export, state }
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
        fn what_was_written_is_read(contents in contents()) {
            let bytes = encode(&contents);
            prop_assert!(bytes.len() as u64 <= FILE_BYTES_MAX);
            prop_assert_eq!(decode(&bytes), Ok(contents));
        }

        #[test]
        fn damage_never_gives_another_state(
            contents in contents(),
            damages in prop::collection::vec(Damage::any(), 1..4),
        ) {
            let mut bytes = encode(&contents);
            damages.iter().for_each(|damage| damage.to(&mut bytes));
            match decode(&bytes) {
                Ok(read) => prop_assert_eq!(read, contents),
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
        let good = encode(&example(Some("1.1-vlan-5")));
        for at in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(decode(&bytes).is_err(), "bit {at}");
        }
    }

    #[test]
    fn the_form_does_not_change_unnoticed() {
        let forms = [
            (None, "1", ""),
            (Some("1.1-vlan-5"), "2", "\"export\":\"1.1-vlan-5\","),
        ];
        for (export, version, owner) in forms {
            let text = String::from_utf8(encode(&example(export))).unwrap();
            let (header, body) = text.split_once('\n').unwrap();
            assert!(
                header.starts_with(&format!("xblade state {version} ")),
                "{header}"
            );
            assert_eq!(
                body,
                format!(
                    "{{{owner}\"string\":\"766d3031\",\"mask\":[\"02:00:00:00:00:01\"],\"reserve\":[]}}\n"
                )
            );
        }
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let newer = String::from_utf8(seal(KIND, 3, "{\"new\":true}")).unwrap();
        let expected = FormatError::Newer {
            version: 3,
            newest: 2,
        };
        assert_eq!(decode(newer.as_bytes()), Err(expected));
        let damaged = newer.replace("state 3", "state 4");
        assert!(matches!(decode(damaged.as_bytes()), Err(FormatError::Damaged(_))));
    }

    #[test]
    fn limits_hold_behind_a_good_checksum_too() {
        let body = format!(
            "{{\"string\":\"{}\",\"mask\":[],\"reserve\":[]}}",
            "00".repeat(1025)
        );
        let error = decode(&seal(KIND, 1, &body)).unwrap_err().to_string();
        assert!(error.contains("1025"), "{error}");
    }
}
