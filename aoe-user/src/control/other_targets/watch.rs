//! Listens for other targets while exports are served. It never stops an export that is in use: who has mounted it would lose
//! it to anybody who sends a few frames. It alarms. Only what began a moment ago may yield ([`tie`]).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use aoe_common::Mac;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::other_programs::OtherPrograms;
use super::own::OwnAddresses;
use super::probe_sockets::{HeardResponse, ProbeSockets, wait};
use super::tie::{self, GRACE};
use super::{OtherTarget, ProbedExport, claimed};
use crate::config::Vlan;
use crate::control::guard::caught;
use crate::store::limits::refused;
use crate::target::Address;

/// When to ask after exports were added: another target may have started in the same second, or a switch may not have let
/// anything through yet.
const FIRST_QUESTIONS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(8),
];
/// And from then on.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// Addresses asked for one by one each time; all others are asked by the wildcard, and in their turn.
const ADDRESSES_AT_A_TIME: usize = 64;
/// One claim is looked into at most this often, however often it is heard.
const LOOK_INTO_AGAIN: Duration = Duration::from_secs(5);
/// Claims that are remembered; more are a flood of forged ones.
const CLAIMS_MAX: usize = 1024;
/// Between the first and the second alarm about one target; doubled each time.
const ALARM_AGAIN: Duration = Duration::from_secs(60);
/// The most that becomes.
const ALARM_AT_LEAST_EVERY: Duration = Duration::from_secs(3600);
/// Responses at a time that are more than a network has targets to send.
const FLOOD: usize = 64;
/// The pause after so many.
const BREATH: Duration = Duration::from_millis(20);
/// When to try again on an interface that went down.
const OPEN_AGAIN: Duration = Duration::from_secs(2);

/// The thread that listens on one interface; ends when this is dropped.
#[derive(Debug)]
pub(in crate::control) struct TargetWatch {
    shared: Arc<Shared>,
}

struct Shared {
    interface: String,
    own: OwnAddresses,
    wishes: Mutex<Wishes>,
    wake: OwnedFd,
    /// Told of exports that yield to another target.
    yielded: Box<dyn Fn(OtherTarget) + Send + Sync>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("interface", &self.interface)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Wishes {
    probed: Option<Vec<ProbedExport>>,
    is_over: bool,
}

impl TargetWatch {
    /// Starts to listen for other targets with these addresses; `own` are none. `yielded` is told of those that one of them must be left to.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        interface: &str,
        probed: Vec<ProbedExport>,
        own: OwnAddresses,
        yielded: impl Fn(OtherTarget) + Send + Sync + 'static,
    ) -> std::io::Result<TargetWatch> {
        let shared = Arc::new(Shared {
            interface: interface.to_owned(),
            own,
            wishes: Mutex::new(Wishes {
                probed: Some(probed),
                is_over: false,
            }),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            yielded: Box::new(yielded),
        });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("watch {interface}"))
            .spawn(move || theirs.listen())
            .map_err(|error| refused(&error))?;
        Ok(TargetWatch { shared })
    }

    /// Listens for these from now on.
    pub(crate) fn want(&self, probed: Vec<ProbedExport>) {
        self.tell(|wishes| wishes.probed = Some(probed));
    }

    fn tell(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.shared.wishes.lock());
        // It fails only when it is set already.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for TargetWatch {
    fn drop(&mut self) {
        self.tell(|wishes| wishes.is_over = true);
    }
}

impl Shared {
    fn listen(&self) {
        let mut probed = Vec::new();
        let mut known = Known::default();
        let mut programs = OtherPrograms::new(Instant::now());
        loop {
            if self.take_wishes(&mut probed) == Wish::End {
                return;
            }
            known.follow(&probed, Instant::now());
            let round = caught(|| self.round(&probed, &mut known, &mut programs)).map_err(|panic| {
                tracing::error!("{}: listening for other targets: {panic}", self.interface);
                anyhow!(panic)
            });
            if let Err(error) = round.flatten() {
                tracing::debug!("{}: cannot listen for other targets: {error:#}", self.interface);
                wait([self.wake.as_fd()].into_iter(), OPEN_AGAIN);
            }
        }
    }

    fn take_wishes(&self, probed: &mut Vec<ProbedExport>) -> Wish {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        let mut wishes = self.wishes.lock();
        if wishes.is_over {
            return Wish::End;
        }
        match wishes.probed.take() {
            Some(new) => {
                *probed = new;
                Wish::Changed
            }
            None => Wish::Nothing,
        }
    }

    /// Listens until the wishes change.
    fn round(&self, probed: &[ProbedExport], known: &mut Known, programs: &mut OtherPrograms) -> Result<()> {
        let mut sockets = ProbeSockets::open(&self.interface, probed)?;
        let mut plan = Questions::new(Instant::now());
        let mut claims: HashMap<OtherTarget, Instant> = HashMap::new();
        while self.is_unchanged() {
            let now = Instant::now();
            if plan.is_due(now) {
                sockets.ask(plan.next_addresses(probed))?;
            }
            programs.look(&self.interface, probed, now);
            let next = plan.next.min(programs.next());
            wait(
                sockets.fds().chain([self.wake.as_fd()]),
                next.saturating_duration_since(now),
            );
            let mut heard = Vec::new();
            sockets.receive(|response| heard.push(response))?;
            if heard.len() >= FLOOD {
                // Somebody sends what looks like answers. What does not fit the socket meanwhile is lost, and asked for again.
                wait([self.wake.as_fd()].into_iter(), BREATH);
            }
            for response in heard {
                let now = Instant::now();
                for other in response.identified() {
                    if claims.contains_key(&other) {
                        self.found(other, &response, sockets.mac(), known, now);
                    }
                }
                self.look_into(&response, probed, &mut sockets, &mut claims, now)?;
            }
        }
        Ok(())
    }

    fn is_unchanged(&self) -> bool {
        let wishes = self.wishes.lock();
        wishes.probed.is_none() && !wishes.is_over
    }

    /// A claim is asked who it is.
    fn look_into(
        &self,
        heard: &HeardResponse,
        probed: &[ProbedExport],
        sockets: &mut ProbeSockets,
        claims: &mut HashMap<OtherTarget, Instant>,
        now: Instant,
    ) -> Result<()> {
        for claim in claimed(heard, probed, sockets.with_device()) {
            let known = claims.get(&claim);
            let is_new = known.is_none() && claims.len() < CLAIMS_MAX;
            let is_old = known.is_some_and(|looked_into| now >= *looked_into + LOOK_INTO_AGAIN);
            if (is_new || is_old) && !self.own.contains(claim.mac) {
                claims.insert(claim, now);
                sockets.identify(&claim)?;
            } else if claims.len() >= CLAIMS_MAX {
                claims.retain(|_, looked_into| now < *looked_into + LOOK_INTO_AGAIN);
            }
        }
        Ok(())
    }

    /// Another target has one of these addresses: one of the two yields, or it is alarmed.
    fn found(
        &self,
        other: OtherTarget,
        heard: &HeardResponse,
        mac: Option<Mac>,
        known: &mut Known,
        now: Instant,
    ) {
        let interface = &self.interface;
        let OtherTarget {
            address, mac: theirs, ..
        } = other;
        let Some((export, own)) = known.export(&other, now) else {
            return;
        };
        if let (Some(own), Some(mac), Some(identity)) = (own, mac, &heard.identity)
            && identity.model == tie::MODEL
        {
            if tie::yields((own.serial, mac), theirs, identity) {
                (self.yielded)(other);
            } else if known.ties.is_due(export, theirs, now).is_some() {
                tracing::warn!(
                    "{address} was started by {theirs} on {interface} at the same time, which yields"
                );
            }
        } else if let Some(unnamed) = known.alarms.is_due(export, theirs, now) {
            let more = match unnamed {
                0 => String::new(),
                more => format!(" (and by {more} more)"),
            };
            tracing::error!(
                "{address} is served by {theirs}{more} on {interface} as well: two targets with one address corrupt data; \
                 stop one of them or give it another address"
            );
        }
    }
}

/// What is remembered from one set of exports to the next.
#[derive(Debug, Default)]
struct Known {
    alarms: Alarms,
    /// The same for targets that yield.
    ties: Alarms,
    /// Since when each export has been served.
    since: HashMap<(Address, Vlan), (ProbedExport, Instant)>,
}

impl Known {
    fn follow(&mut self, probed: &[ProbedExport], now: Instant) {
        let mut before = std::mem::take(&mut self.since);
        let entry = |probed: &ProbedExport| {
            let key = (probed.address, probed.vlan);
            let since = before.remove(&key).map_or(now, |(_, since)| since);
            (key, (*probed, since))
        };
        self.since = probed.iter().map(entry).collect();
    }

    /// The export that this target has too, and itself where it began to be served a moment ago.
    fn export(&self, other: &OtherTarget, now: Instant) -> Option<((Address, Vlan), Option<ProbedExport>)> {
        let (key, (probed, since)) = self.since.iter().find(|(_, (probed, _))| probed.is(other))?;
        Some((*key, (now < *since + GRACE).then_some(*probed)))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Nothing,
    Changed,
    End,
}

/// When to ask, and for whom.
struct Questions {
    next: Instant,
    start: Instant,
    asked: usize,
    address: usize,
}

impl Questions {
    fn new(now: Instant) -> Questions {
        Questions {
            next: now + FIRST_QUESTIONS[0],
            start: now,
            asked: 0,
            address: 0,
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.asked += 1;
        self.next = match FIRST_QUESTIONS.get(self.asked) {
            Some(after) => self.start + *after,
            None => now + ASK_EVERY,
        };
        true
    }

    /// Some of the addresses, by turns.
    fn next_addresses<'a>(&mut self, probed: &'a [ProbedExport]) -> &'a [ProbedExport] {
        if self.address >= probed.len() {
            self.address = 0;
        }
        let end = probed.len().min(self.address + ADDRESSES_AT_A_TIME);
        let some = &probed[self.address..end];
        self.address = end;
        some
    }
}

/// When each export was last complained about. Strangers may forge any number of targets: an export has one pace for all that
/// have its address.
#[derive(Debug, Default)]
struct Alarms {
    raised: HashMap<(Address, Vlan), Alarm>,
}

#[derive(Debug)]
struct Alarm {
    last: Instant,
    pause: Duration,
    /// Who was heard since and not named, at most [`CLAIMS_MAX`].
    unnamed: HashSet<Mac>,
}

impl Alarms {
    /// If an alarm is to be raised now: how many others have the address and were not named since the last one.
    fn is_due(&mut self, export: (Address, Vlan), theirs: Mac, now: Instant) -> Option<usize> {
        let alarm = match self.raised.entry(export) {
            Entry::Vacant(vacant) => {
                vacant.insert(Alarm {
                    last: now,
                    pause: ALARM_AGAIN,
                    unnamed: HashSet::new(),
                });
                return Some(0);
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        if now < alarm.last + alarm.pause {
            if alarm.unnamed.len() < CLAIMS_MAX {
                alarm.unnamed.insert(theirs);
            }
            return None;
        }
        alarm.last = now;
        alarm.pause = (alarm.pause * 2).min(ALARM_AT_LEAST_EVERY);
        alarm.unnamed.remove(&theirs);
        Some(std::mem::take(&mut alarm.unnamed).len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEIGHBOUR: OtherTarget = OtherTarget {
        address: Address { shelf: 1, slot: 1 },
        vlan: None,
        mac: Mac([2, 0, 0, 0, 0, 1]),
    };

    const EXPORT: (Address, Vlan) = (Address { shelf: 1, slot: 1 }, Vlan::Untagged);

    #[test]
    fn an_alarm_is_raised_at_once_and_then_ever_more_rarely() {
        let start = Instant::now();
        let mut alarms = Alarms::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        let raised: Vec<u64> = (0..20_000)
            .step_by(30)
            .filter(|seconds| alarms.is_due(EXPORT, NEIGHBOUR.mac, at(*seconds)) == Some(0))
            .collect();
        assert_eq!(
            raised,
            [0, 60, 180, 420, 900, 1860, 3780, 7380, 10980, 14580, 18180]
        );
    }

    /// Whoever answers under thousands of addresses fills no log, and hides nobody who has another export's address.
    #[test]
    fn a_flood_of_forged_targets_is_one_alarm_at_a_time() {
        let start = Instant::now();
        let mut alarms = Alarms::default();
        let mac = |n: u32| Mac::from_u64(0x0200_0000_0000 + u64::from(n));
        let raised: Vec<usize> = (0..86_400)
            .filter_map(|second| {
                alarms.is_due(EXPORT, mac(second), start + Duration::from_secs(second.into()))
            })
            .collect();
        assert!(raised.len() < 32, "{} alarms a day", raised.len());
        assert_eq!(raised[..2], [0, 59]);
        let other = (Address { shelf: 1, slot: 2 }, Vlan::Untagged);
        assert_eq!(alarms.is_due(other, mac(1), start), Some(0));
    }

    #[test]
    fn questions_are_soon_then_rare_and_reach_every_address() {
        let start = Instant::now();
        let mut questions = Questions::new(start);
        let probed: Vec<ProbedExport> = (0..150)
            .map(|slot| ProbedExport {
                address: Address { shelf: 1, slot },
                vlan: Vlan::Untagged,
                serial: "s".into(),
            })
            .collect();
        let mut times = Vec::new();
        let mut asked = Vec::new();
        for second in 0..=100 {
            if questions.is_due(start + Duration::from_secs(second)) {
                times.push(second);
                asked.extend(
                    questions
                        .next_addresses(&probed)
                        .iter()
                        .map(|probed| probed.address.slot),
                );
            }
        }
        assert_eq!(times, [1, 2, 3, 8, 38, 68, 98]);
        assert!((0..150).all(|slot| asked.contains(&slot)));
    }

    #[test]
    fn an_export_has_just_begun_once() {
        let start = Instant::now();
        let probed = |slot| ProbedExport {
            address: Address { shelf: 1, slot },
            vlan: Vlan::Untagged,
            serial: "s".into(),
        };
        let mut known = Known::default();
        known.follow(&[probed(1)], start);
        assert!(known.export(&NEIGHBOUR, start).unwrap().1.is_some());
        // Others that are added make it no younger.
        known.follow(&[probed(1), probed(2)], start + GRACE / 2);
        assert!(known.export(&NEIGHBOUR, start + GRACE).unwrap().1.is_none());
        known.follow(&[probed(2)], start + GRACE);
        known.follow(&[probed(1)], start + GRACE);
        assert!(
            known.export(&NEIGHBOUR, start + GRACE).unwrap().1.is_some(),
            "taken up again"
        );
    }
}
