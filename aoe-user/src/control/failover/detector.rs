//! Finds out whether a gateway answers for a group: by asking, on the network of the initiators, as they would. An answer proves
//! the whole way: the other's network card, its filter, its workers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use aoe_common::Mac;
use aoe_common::wire::error;
use failover::ASK_EVERY_US;

use crate::control::guard::caught;
use crate::control::other_targets::{HeardResponse, ProbeSockets, ProbedExport, wait};

/// Between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_micros(ASK_EVERY_US);

/// What a group's detector has to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Heard {
    /// A round of questions went out on at least one interface.
    Asked,
    /// Somebody answered from the group's address.
    Answer,
    /// Nobody did, but one of the gateways said that it has the group and does not hear its storage.
    Unavailable,
}

/// Where a group is asked for, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct Asking {
    /// The group's address.
    pub(crate) mac: Mac,
    /// The gateways' own.
    pub(crate) peers: Arc<[Mac]>,
    /// The group's exports on each interface.
    pub(crate) interfaces: BTreeMap<String, Vec<ProbedExport>>,
}

impl Asking {
    /// The better news: what was heard before in this round, or this response. What is said unasked, as an advertisement, proves only that
    /// its sender can send.
    fn better(&self, before: Option<Heard>, response: &HeardResponse) -> Option<Heard> {
        let says_unavailable =
            response.error == Some(error::UNAVAILABLE) && self.peers.contains(&response.mac);
        match before {
            Some(Heard::Answer) => before,
            _ if !response.is_answer => before,
            _ if response.mac == self.mac => Some(Heard::Answer),
            _ if says_unavailable => Some(Heard::Unavailable),
            _ => before,
        }
    }
}

/// The detectors of all groups that others serve.
pub(in crate::control) struct Detectors {
    told: Told,
    running: BTreeMap<String, Detector>,
}

impl fmt::Debug for Detectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.running.keys()).finish()
    }
}

/// Is told what was found out, with the name of the group.
type Told = Arc<dyn Fn(&str, Heard) + Send + Sync>;

struct Detector {
    asking: Asking,
    is_over: Arc<AtomicBool>,
}

impl Drop for Detector {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Detectors {
    /// None yet; what they find out goes to `told`, by the name of the group.
    pub(crate) fn new(told: impl Fn(&str, Heard) + Send + Sync + 'static) -> Detectors {
        Detectors {
            told: Arc::new(told),
            running: BTreeMap::new(),
        }
    }

    /// Has these groups asked for and no others.
    pub(crate) fn follow(&mut self, wanted: BTreeMap<String, Asking>) {
        self.running
            .retain(|name, detector| wanted.get(name) == Some(&detector.asking));
        for (name, asking) in wanted {
            if self.running.contains_key(&name) {
                continue;
            }
            match self.start(&name, &asking) {
                Ok(detector) => drop(self.running.insert(name, detector)),
                // The next turn tries again.
                Err(error) => tracing::error!("failover group {name}: cannot start a thread: {error}"),
            }
        }
    }

    fn start(&self, name: &str, asking: &Asking) -> std::io::Result<Detector> {
        let is_over = Arc::new(AtomicBool::new(false));
        let detector = Detector {
            asking: asking.clone(),
            is_over: Arc::clone(&is_over),
        };
        let (name, asking, told) = (name.to_owned(), asking.clone(), Arc::clone(&self.told));
        std::thread::Builder::new()
            .name("failover".to_owned())
            .spawn(move || {
                let tell = |heard| told(&name, heard);
                while !is_over.load(Ordering::Relaxed) {
                    if let Err(panic) = caught(|| rounds(&asking, &is_over, &tell)) {
                        tracing::error!("failover group {name}: {panic}");
                        std::thread::sleep(ASK_EVERY);
                    }
                }
            })?;
        Ok(detector)
    }
}

/// Asks and listens until it is over.
fn rounds(asking: &Asking, is_over: &AtomicBool, tell: &dyn Fn(Heard)) {
    let mut open: BTreeMap<&String, ProbeSockets> = BTreeMap::new();
    while !is_over.load(Ordering::Relaxed) {
        let next = Instant::now() + ASK_EVERY;
        let mut asked = false;
        for (interface, probed) in &asking.interfaces {
            match ask(interface, asking.mac, probed, &mut open) {
                Ok(()) => asked = true,
                Err(error) => {
                    // Down, or gone: nothing is heard there, and silence proves nothing.
                    tracing::debug!(
                        "{interface}: cannot ask who answers for {}: {error:#}",
                        asking.mac
                    );
                    open.remove(interface);
                }
            }
        }
        if asked {
            tell(Heard::Asked);
        }
        let mut heard = None;
        while heard != Some(Heard::Answer) && Instant::now() < next && !is_over.load(Ordering::Relaxed) {
            let left = next.saturating_duration_since(Instant::now());
            wait(open.values().flat_map(ProbeSockets::fds), left);
            open.retain(|_, sockets| {
                sockets
                    .receive(|response| heard = asking.better(heard, &response))
                    .is_ok()
            });
        }
        // What a gateway says that does not answer initiators counts only when no other one does.
        heard.into_iter().for_each(tell);
        // One answer is enough for this round.
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn ask<'a>(
    interface: &'a String,
    mac: Mac,
    probed: &[ProbedExport],
    open: &mut BTreeMap<&'a String, ProbeSockets>,
) -> Result<()> {
    let sockets = match open.entry(interface) {
        std::collections::btree_map::Entry::Occupied(sockets) => sockets.into_mut(),
        std::collections::btree_map::Entry::Vacant(place) => {
            place.insert(ProbeSockets::open(interface, probed)?)
        }
    };
    sockets.ask_station(mac, probed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_more_than_a_gateway_that_does_not_hear_its_storage() {
        let [group, peer, stranger] = [1, 2, 3].map(|last| Mac([2, 0, 0, 0, 0, last]));
        let asking = Asking {
            mac: group,
            peers: Arc::new([peer]),
            interfaces: BTreeMap::new(),
        };
        let response = |mac, error| HeardResponse::of_test(mac, true, error);
        let unavailable = Some(error::UNAVAILABLE);
        let after = |responses: &[(Mac, Option<u8>)]| {
            let responses = responses.iter().map(|(mac, error)| response(*mac, *error));
            responses.fold(None, |before, response| asking.better(before, &response))
        };
        assert_eq!(after(&[(peer, unavailable)]), Some(Heard::Unavailable));
        assert_eq!(after(&[(group, None)]), Some(Heard::Answer));
        for order in [[0, 1], [1, 0]] {
            let both = order.map(|at| [(peer, unavailable), (group, None)][at]);
            assert_eq!(after(&both), Some(Heard::Answer));
        }
        for unasked in [(group, None), (peer, unavailable)] {
            let (mac, error) = unasked;
            let unasked = HeardResponse::of_test(mac, false, error);
            assert_eq!(asking.better(None, &unasked), None);
        }
        // Nobody else may say so, and nothing else means it.
        assert_eq!(
            after(&[(stranger, unavailable), (peer, None), (peer, Some(1))]),
            None
        );
    }
}
