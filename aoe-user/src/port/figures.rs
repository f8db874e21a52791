//! What workers count, added up and put into words.

use std::fmt;
use std::iter::Sum;

/// Counters by name; names without a value are left out when shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures(pub Vec<(&'static str, u64)>);

impl Figures {
    /// A counter by its name; 0 where there is none.
    pub fn get(&self, name: &str) -> u64 {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, value)| *value)
    }
}

impl Sum for Figures {
    fn sum<I: Iterator<Item = Figures>>(all: I) -> Figures {
        let mut total = Figures::default();
        for (name, value) in all.flat_map(|figures| figures.0) {
            match total.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value,
                None => total.0.push((name, value)),
            }
        }
        total
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, value) in self.0.iter().filter(|(_, value)| *value > 0) {
            write!(f, "{separator}{name}={value}")?;
            separator = " ";
        }
        if separator.is_empty() {
            f.write_str("nothing")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up_by_name() {
        let total: Figures = [
            Figures(vec![("reads", 2), ("writes", 0)]),
            Figures(vec![("reads", 3), ("sleeps", 1)]),
        ]
        .into_iter()
        .sum();
        assert_eq!(total.get("reads"), 5);
        assert_eq!(total.to_string(), "reads=5 sleeps=1");
        assert_eq!(Figures::default().to_string(), "nothing");
    }
}
