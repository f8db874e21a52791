//! Which block comes next, and whether it is read or written.

use super::LoadPlan;
use crate::stamp::mix;

/// In which order blocks are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadOrder {
    /// Each block as likely as every other.
    Random,
    /// One after the other, from the start again after the last.
    Sequential,
}

/// The endless sequence of requests of a plan; the same for the same seed.
#[derive(Debug)]
pub(super) struct Pattern {
    order: LoadOrder,
    blocks: u64,
    read_percent: u64,
    state: u64,
    next: u64,
}

impl Pattern {
    /// The sequence from its start.
    pub(super) fn new(plan: &LoadPlan) -> Pattern {
        Pattern {
            order: plan.order,
            blocks: plan.blocks(),
            read_percent: u64::from(plan.read_percent),
            state: mix(u64::from(plan.seed) | 1 << 40),
            next: 0,
        }
    }

    /// The next request: a block, and whether it is written.
    pub(super) fn draw(&mut self) -> (u64, bool) {
        let block = match self.order {
            LoadOrder::Random => self.below(self.blocks),
            LoadOrder::Sequential => {
                let block = self.next;
                self.next = if block + 1 < self.blocks { block + 1 } else { 0 };
                block
            }
        };
        let write = match self.read_percent {
            100 => false,
            0 => true,
            percent => self.below(100) >= percent,
        };
        (block, write)
    }

    /// A number below `limit`; the bias of the multiplication is below 2^-20 for any disk there is.
    fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((u128::from(mix(self.state)) * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tests_plan;

    #[test]
    fn sequential_visits_each_block_once_a_round() {
        let plan = LoadPlan {
            order: LoadOrder::Sequential,
            ..tests_plan()
        };
        let mut pattern = Pattern::new(&plan);
        let round: Vec<u64> = (0..plan.blocks() + 1).map(|_| pattern.draw().0).collect();
        let mut expected: Vec<u64> = (0..plan.blocks()).collect();
        expected.push(0);
        assert_eq!(round, expected);
    }

    #[test]
    fn random_covers_the_span_and_repeats_for_a_seed() {
        let plan = LoadPlan {
            read_percent: 70,
            ..tests_plan()
        };
        let draw = |plan: &LoadPlan| -> Vec<(u64, bool)> {
            let mut pattern = Pattern::new(plan);
            (0..10_000).map(|_| pattern.draw()).collect()
        };
        let drawn = draw(&plan);
        assert_eq!(drawn, draw(&plan));
        assert_ne!(
            drawn,
            draw(&LoadPlan {
                seed: plan.seed + 1,
                ..plan.clone()
            })
        );
        let mut blocks: Vec<u64> = drawn.iter().map(|&(block, _)| block).collect();
        blocks.sort_unstable();
        blocks.dedup();
        assert_eq!(blocks, (0..plan.blocks()).collect::<Vec<_>>());
        let writes = drawn.iter().filter(|&&(_, write)| write).count();
        assert!(
            (2700..3300).contains(&writes),
            "{writes} of 10000 requests at 30 % were writes"
        );
    }
}
