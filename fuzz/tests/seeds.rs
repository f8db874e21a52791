//! The fuzz targets without a fuzzer: every seed, and thousands of inputs made from them, always the same ones.

use trials::seeds;

/// xorshift64*: the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }

    /// What a fuzzer does to an input, without its feedback.
    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len());
            match self.below(6) {
                _ if input.is_empty() => input.push(self.below(256) as u8),
                0 => input[at] ^= 1 << self.below(8),
                1 => input[at] = self.below(256) as u8,
                2 => input[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                3 => drop(input.remove(at)),
                4 => {
                    let end = (at + self.below(64)).min(input.len());
                    let part = input[at..end].to_vec();
                    let to = self.below(input.len() + 1);
                    input.splice(to..to, part);
                }
                _ => {
                    let other = &seeds[self.below(seeds.len())];
                    input.truncate(at);
                    input.extend(&other[self.below(other.len())..]);
                }
            }
        }
        input
    }
}

fn run(target: &str, trial: fn(&[u8]), mutations: usize) {
    let seeds = seeds::of(target);
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds.iter().for_each(|seed| trial(seed));
    trial(&[]);
    let mut random = Random(0xa0e0_0002);
    for number in 0..mutations {
        let input = random.mutate(&seeds);
        if let Err(panic) = std::panic::catch_unwind(|| trial(&input)) {
            eprintln!("{target}, mutation {number}: {input:02x?}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn frames() {
    run("frame", trials::frame, 5_000);
}

#[test]
fn configs() {
    run("config", trials::config, 10_000);
}

#[test]
fn states() {
    run("state", trials::state, 10_000);
}

/// Seeds that are refused at the door would test nothing.
#[test]
fn seeds_are_what_they_should_be() {
    use std::path::Path;
    for (number, seed) in seeds::of("config").into_iter().enumerate() {
        let text = String::from_utf8(seed).unwrap();
        let read = xblade::config::file::parse(Path::new("seed.toml"), text);
        assert!(read.is_ok(), "config seed {number}: {}", read.unwrap_err());
    }
    let read = seeds::of("state")
        .iter()
        .filter(|seed| xblade::control::state::format::decode(seed).is_ok())
        .count();
    assert_eq!(read, 4);
    // Alone each vector that has a request, and all of them five times.
    assert_eq!(seeds::of("frame").len(), 40 + 5);
}
