//! What no input may do to xblade. Each function here takes any bytes and panics when a rule is broken; libFuzzer
//! calls them with bytes that it invents (`fuzz_targets/`), the tests of this package with the seeds and changes of them.
//!
//! What watches the engine is not written twice: it is the code of the engine's own tests.

pub(crate) use xblade::config;

pub mod seeds;
mod sequence;

use std::path::Path;

use engine::testing::trial::Trial;
use sequence::Sequence;
use xblade::control::state::format;
use xxhash_rust::xxh3::xxh3_64;

/// A sequence of frames into the engine (see `sequence`): each gets silence or a well-formed reply, at most one from each export;
/// no frame of the link is lost, and no byte is sent that nobody wrote.
pub fn frame(data: &[u8]) {
    let sequence = Sequence::decode(data);
    let mut trial = Trial::new(sequence.mtu_bytes(), sequence.piece_bytes(), sequence.pool());
    for step in &sequence.steps {
        if let Some((n, fault)) = step.finish() {
            trial.finish(n, fault);
        }
        trial.ask(sequence.fit(&step.frame), step.mode());
    }
    trial.end();
}

/// The text of a config file: understood, or refused with a place in that text for each mistake.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match config::file::parse(Path::new("xblade.toml"), text.to_owned()) {
        Ok(file) => {
            for number in 0..file.config.exports.len() {
                for key in ["path", "shelf", "allow", "no-such-key"] {
                    assert!(
                        file.origin.place(number, key).is_some(),
                        "an export without a place"
                    );
                }
            }
        }
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused without a reason");
            let lines = text.lines().count().max(1) + 1;
            for problem in &problems.0 {
                let place = problem.place.as_ref().expect("every mistake has a place");
                assert!(
                    (1..=lines).contains(&place.line()),
                    "line {} of {lines}",
                    place.line()
                );
                assert!(place.column() >= 1);
                assert!(!problem.message.is_empty());
            }
            let shown = problems.to_string();
            assert!(
                !shown.is_empty() && shown.len() <= 1 << 17,
                "{} bytes",
                shown.len()
            );
        }
    }
}

/// The bytes of a state file, and once more with a header whose checksum is right: a state is read only from exactly
/// the bytes that xblade writes for it.
pub fn state(data: &[u8]) {
    let exact = |bytes: &[u8]| {
        if let Ok(contents) = format::decode(bytes) {
            assert_eq!(contents.state.check(), Ok(()));
            assert_eq!(format::encode(&contents), bytes);
            assert!(bytes.len() as u64 <= format::FILE_BYTES_MAX);
        }
    };
    exact(data);
    let body = data.strip_suffix(b"\n").unwrap_or(data);
    for version in [1, 2] {
        let sum = xxh3_64(&[format!("{version}\n").as_bytes(), body].concat());
        let header = format!("xblade state {version} {sum:016x}\n");
        exact(&[header.as_bytes(), body, b"\n"].concat());
    }
}
