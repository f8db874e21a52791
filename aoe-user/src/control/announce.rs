//! When to advertise: at once where possible, never more than once a second for an export on a port.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::target::Address;

/// Least time between two advertisements of one export on one port.
const PACE: Duration = Duration::from_secs(1);

/// Collects wishes to advertise and hands them out when they may go.
#[derive(Debug, Default)]
pub struct Announcer {
    last: HashMap<(String, Address), Instant>,
    /// Wishes and when they may be fulfilled. A second wish for the same thing adds nothing: an advertisement tells the
    /// state at the time it is sent.
    waiting: HashMap<(String, Address), Instant>,
}

impl Announcer {
    /// The export should be advertised on the port.
    pub fn want(&mut self, port: &str, address: Address, now: Instant) {
        let key = (port.to_owned(), address);
        let due = self.last.get(&key).map_or(now, |last| now.max(*last + PACE));
        self.waiting.entry(key).or_insert(due);
    }

    /// What may be sent now, by port.
    pub fn due(&mut self, now: Instant) -> BTreeMap<String, Vec<Address>> {
        let mut out: BTreeMap<String, Vec<Address>> = BTreeMap::new();
        self.waiting.retain(|(port, address), due| {
            if *due > now {
                return true;
            }
            self.last.insert((port.clone(), *address), now);
            out.entry(port.clone()).or_default().push(*address);
            false
        });
        out
    }

    /// When to ask for [`Announcer::due`] again; `None`: nothing waits.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    /// Forgets a port that is gone.
    pub fn forget(&mut self, port: &str) {
        self.last.retain(|(name, _), _| name != port);
        self.waiting.retain(|(name, _), _| name != port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORT: Address = Address { shelf: 1, slot: 1 };

    #[test]
    fn the_first_goes_at_once_and_a_burst_becomes_one_more_a_second_later() {
        let mut announcer = Announcer::default();
        let start = Instant::now();
        announcer.want("eth0", EXPORT, start);
        assert_eq!(announcer.due(start)["eth0"], [EXPORT]);
        for millis in [1, 10, 500] {
            let now = start + Duration::from_millis(millis);
            announcer.want("eth0", EXPORT, now);
            assert!(announcer.due(now).is_empty());
        }
        assert_eq!(announcer.next_due(), Some(start + PACE));
        assert_eq!(announcer.due(start + PACE)["eth0"], [EXPORT]);
        assert_eq!(announcer.next_due(), None);
    }

    #[test]
    fn ports_and_exports_do_not_wait_for_each_other() {
        let mut announcer = Announcer::default();
        let now = Instant::now();
        let other = Address { shelf: 1, slot: 2 };
        announcer.want("eth0", EXPORT, now);
        announcer.due(now);
        announcer.want("eth1", EXPORT, now);
        announcer.want("eth0", other, now);
        let due = announcer.due(now);
        assert_eq!((due["eth0"].as_slice(), due["eth1"].as_slice()), ([other].as_slice(), [EXPORT].as_slice()));
    }

    #[test]
    fn a_port_that_comes_back_is_advertised_at_once() {
        let mut announcer = Announcer::default();
        let now = Instant::now();
        announcer.want("eth0", EXPORT, now);
        announcer.due(now);
        announcer.forget("eth0");
        announcer.want("eth0", EXPORT, now);
        assert_eq!(announcer.due(now).len(), 1);
    }
}
