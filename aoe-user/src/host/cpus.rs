//! The CPUs of this machine, and lists of CPUs for people.

use std::collections::BTreeSet;

/// What the kernel can run threads on, as in `0-3,5`.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Those of a list that are online; all of it where the system does not tell.
pub(crate) fn online(list: &[usize]) -> Vec<usize> {
    let online = match std::fs::read_to_string(ONLINE) {
        Ok(online) if !list.is_empty() => online,
        _ => return list.to_vec(),
    };
    list.iter()
        .copied()
        .filter(|cpu| is_in(online.trim(), *cpu))
        .collect()
}

fn is_in(ranges: &str, cpu: usize) -> bool {
    ranges.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if (first..=last).contains(&cpu))
    })
}

/// CPUs as the kernel lists them, in order and each once: `0-3,5`.
pub(crate) fn ranges(list: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for cpu in list.iter().copied().collect::<BTreeSet<_>>() {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let text = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_as_ranges() {
        for (list, text) in [
            (vec![], ""),
            (vec![7], "7"),
            (vec![5, 1, 0, 3, 2, 3], "0-3,5"),
            ((2..1024).collect(), "2-1023"),
        ] {
            assert_eq!(ranges(&list), text);
            let found: Vec<usize> = (0..1024).filter(|cpu| is_in(text, *cpu)).collect();
            assert_eq!(
                found,
                list.into_iter()
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn cpus_that_are_not_there_are_left_out_and_the_others_keep_their_turn() {
        let there = online(&(0..1024).collect::<Vec<_>>());
        let least = std::thread::available_parallelism().unwrap().get();
        assert!((least..1024).contains(&there.len()), "{there:?}");
        let twice = [&there[..], &[1023], &there].concat();
        assert_eq!(online(&twice), [&there[..], &there].concat());
    }
}
