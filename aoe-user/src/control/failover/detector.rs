//! Finds out whether a gateway answers for a group: by asking, on the network of the initiators, as they would. An answer proves
//! the whole way: the other's network card, its filter, its workers. A gateway that has the group asks each of the others at its own address whether
//! it has the group as well.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use aoe_common::Mac;
use aoe_common::wire::error;
use failover::{ASK_EVERY_US, ASK_RIVALS_EVERY_US, parse_standing};

use crate::control::guard::caught;
use crate::control::other_targets::{HeardResponse, ProbeSockets, ProbedExport, wait};
use crate::control::plan::Rival;

/// Between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_micros(ASK_EVERY_US);

/// The same where this gateway has the group.
const ASK_RIVALS_EVERY: Duration = Duration::from_micros(ASK_RIVALS_EVERY_US);

/// What a group's detector has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) enum Heard {
    /// A round of questions went out on at least one interface.
    Asked,
    /// Somebody answered from the group's address.
    Answer,
    /// Nobody did, but one of the gateways said that it has the group and does not hear its storage.
    Unavailable,
    /// A gateway has answered that it has the group, which is served here.
    Rival(Rival),
}

/// Where a group is asked for, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct Asking {
    /// The group's address.
    pub(crate) mac: Mac,
    /// The gateways' own.
    pub(crate) peers: Arc<[Mac]>,
    /// The others of these, where this gateway has the group.
    pub(crate) rivals: Option<Vec<Mac>>,
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
    match &asking.rivals {
        None => rounds_for_answers(asking, is_over, tell),
        Some(rivals) => rounds_for_rivals(asking, rivals, is_over, tell),
    }
}

/// Asks these on all interfaces; whether that was possible on any.
fn ask_all<'a>(asking: &'a Asking, stations: &[Mac], open: &mut BTreeMap<&'a String, ProbeSockets>) -> bool {
    let mut asked = false;
    for (interface, probed) in &asking.interfaces {
        match ask(interface, stations, probed, open) {
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
    asked
}

/// Where this gateway has the group: asks each of the others whether it has it, too.
fn rounds_for_rivals(asking: &Asking, rivals: &[Mac], is_over: &AtomicBool, tell: &dyn Fn(Heard)) {
    let mut open: BTreeMap<&String, ProbeSockets> = BTreeMap::new();
    while !is_over.load(Ordering::Relaxed) {
        let next = Instant::now() + ASK_RIVALS_EVERY;
        ask_all(asking, rivals, &mut open);
        // Each counts once in a round, however many of its answers come.
        let mut heard: BTreeMap<Mac, Rival> = BTreeMap::new();
        while Instant::now() < next && !is_over.load(Ordering::Relaxed) {
            // The end is looked for as often as where others have the group.
            let left = next.saturating_duration_since(Instant::now()).min(ASK_EVERY);
            wait(open.values().flat_map(ProbeSockets::fds), left);
            open.retain(|_, sockets| {
                let own = sockets.mac().unwrap_or(Mac::ZERO);
                let mut each = |response: HeardResponse| {
                    if let Some(rival) = rival(&response, rivals, own) {
                        heard.entry(rival.mac).or_insert(rival);
                    }
                };
                sockets.receive(&mut each).is_ok()
            });
            if open.is_empty() {
                std::thread::sleep(left);
            }
        }
        heard.into_values().for_each(|rival| tell(Heard::Rival(rival)));
    }
}

/// Whoever answers our question that it has the group as well. An answer comes from the address that was asked, so that it is not ours by another
/// path, and with the tag of the question, which nobody else was sent.
fn rival(response: &HeardResponse, asked: &[Mac], own: Mac) -> Option<Rival> {
    let is_asked = response.is_answer && asked.contains(&response.mac);
    let string = response.string.as_deref().filter(|_| is_asked)?;
    let (since_ms, serves) = parse_standing(string)?;
    Some(Rival {
        mac: response.mac,
        own,
        export: response.address,
        since_ms,
        serves,
    })
}

fn rounds_for_answers(asking: &Asking, is_over: &AtomicBool, tell: &dyn Fn(Heard)) {
    let mut open: BTreeMap<&String, ProbeSockets> = BTreeMap::new();
    while !is_over.load(Ordering::Relaxed) {
        let next = Instant::now() + ASK_EVERY;
        if ask_all(asking, &[asking.mac], &mut open) {
            tell(Heard::Asked);
        }
        let (mut heard, mut told) = (None, false);
        // All is read, though one answer says all: what is left would be heard later, when nobody may answer any more.
        while Instant::now() < next && !is_over.load(Ordering::Relaxed) {
            let left = next.saturating_duration_since(Instant::now());
            wait(open.values().flat_map(ProbeSockets::fds), left);
            open.retain(|_, sockets| {
                sockets
                    .receive(|response| heard = asking.better(heard.take(), &response))
                    .is_ok()
            });
            if heard == Some(Heard::Answer) && !std::mem::replace(&mut told, true) {
                tell(Heard::Answer);
            }
        }
        // What a gateway says that does not answer initiators counts only when no other one does.
        heard.filter(|_| !told).into_iter().for_each(tell);
    }
}

fn ask<'a>(
    interface: &'a String,
    stations: &[Mac],
    probed: &[ProbedExport],
    open: &mut BTreeMap<&'a String, ProbeSockets>,
) -> Result<()> {
    let sockets = match open.entry(interface) {
        std::collections::btree_map::Entry::Occupied(sockets) => sockets.into_mut(),
        std::collections::btree_map::Entry::Vacant(place) => {
            place.insert(ProbeSockets::open(interface, probed)?)
        }
    };
    stations
        .iter()
        .try_for_each(|station| sockets.ask_station(*station, probed))
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
            rivals: None,
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
    #[test]
    fn a_rival_is_one_of_those_that_were_asked_and_answers_that_it_has_the_group() {
        let [own, peer, stranger] = [1, 2, 3].map(|last| Mac([2, 0, 0, 0, 0, last]));
        let heard = |mac, is_answer, string: &str| {
            let mut response = HeardResponse::of_test(mac, is_answer, None);
            response.string = Some(string.into());
            rival(&response, &[peer], own)
        };
        let text = failover::standing_text(17, "rbd:rbd/vm");
        let rival = heard(peer, true, &text).unwrap();
        let known = (rival.mac, rival.own, rival.since_ms, rival.serves.as_str());
        assert_eq!(known, (peer, own, 17, "rbd:rbd/vm"));
        // Its own address heard on another interface, somebody else, what nobody asked, and a plain target with its config string.
        for other in [
            heard(own, true, &text),
            heard(stranger, true, &text),
            heard(peer, false, &text),
            heard(peer, true, "of an initiator"),
        ] {
            assert_eq!(other, None);
        }
    }
}
