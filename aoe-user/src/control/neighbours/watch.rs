//! Listens for other targets while exports are served. It never stops an export that is in use: who has mounted it would lose
//! it to anybody who sends a few frames. It alarms.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::voice::{Heard, Voices, wait};
use super::{Neighbour, Sought, claimed, own_addresses};

/// When to ask after exports were added: another target may have started in the same second, or a switch may not have let
/// anything through yet.
const FIRST_QUESTIONS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];
/// And from then on.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// Addresses asked for one by one each time; all others are asked by the wildcard, and in their turn.
const ADDRESSES_AT_A_TIME: usize = 64;
/// One claim is looked into at most this often, however often it is heard.
const LOOK_INTO_AGAIN: Duration = Duration::from_secs(5);
/// Claims that are remembered; more are a flood of forged ones.
const CLAIMS_MAX: usize = 1024;
/// Between the first and the second alarm about one neighbour; doubled each time.
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
pub(in crate::control) struct Watch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    interface: String,
    wishes: Mutex<Wishes>,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct Wishes {
    sought: Option<Vec<Sought>>,
    is_over: bool,
}

impl Watch {
    /// Starts to listen for other targets with these addresses.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(interface: &str, sought: Vec<Sought>) -> std::io::Result<Watch> {
        let shared = Arc::new(Shared {
            interface: interface.to_owned(),
            wishes: Mutex::new(Wishes {
                sought: Some(sought),
                is_over: false,
            }),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("watch {interface}"))
            .spawn(move || theirs.listen())?;
        Ok(Watch { shared })
    }

    /// Listens for these from now on.
    pub fn want(&self, sought: Vec<Sought>) {
        self.tell(|wishes| wishes.sought = Some(sought));
    }

    fn tell(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.shared.wishes.lock());
        // It fails only when it is set already.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tell(|wishes| wishes.is_over = true);
    }
}

impl Shared {
    fn listen(&self) {
        let mut sought = Vec::new();
        let mut alarms = Alarms::default();
        loop {
            if self.take_wishes(&mut sought) == Wish::End {
                return;
            }
            if let Err(error) = self.round(&sought, &mut alarms) {
                tracing::debug!("{}: cannot listen for other targets: {error:#}", self.interface);
                wait([self.wake.as_fd()].into_iter(), OPEN_AGAIN);
            }
        }
    }

    fn take_wishes(&self, sought: &mut Vec<Sought>) -> Wish {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        let mut wishes = self.wishes.lock();
        if wishes.is_over {
            return Wish::End;
        }
        match wishes.sought.take() {
            Some(new) => {
                *sought = new;
                Wish::Changed
            }
            None => Wish::Nothing,
        }
    }

    /// Listens until the wishes change.
    fn round(&self, sought: &[Sought], alarms: &mut Alarms) -> Result<()> {
        let mut voices = Voices::open(&self.interface, sought)?;
        let mut plan = Questions::new(Instant::now());
        let mut claims: HashMap<Neighbour, Instant> = HashMap::new();
        while self.is_unchanged() {
            let now = Instant::now();
            if plan.is_due(now) {
                voices.ask(plan.next_addresses(sought))?;
            }
            wait(
                voices.fds().chain([self.wake.as_fd()]),
                plan.next.saturating_duration_since(now),
            );
            let mut heard = Vec::new();
            voices.hear(|response| heard.push(response))?;
            if heard.len() >= FLOOD {
                // Somebody sends what looks like answers. What does not fit the socket meanwhile is lost, and asked for again.
                wait([self.wake.as_fd()].into_iter(), BREATH);
            }
            for response in heard {
                self.consider(&response, sought, &mut voices, &mut claims, alarms)?;
            }
        }
        Ok(())
    }

    fn is_unchanged(&self) -> bool {
        let wishes = self.wishes.lock();
        wishes.sought.is_none() && !wishes.is_over
    }

    /// A claim is looked into; a neighbour that has identified itself raises the alarm.
    fn consider(
        &self,
        heard: &Heard,
        sought: &[Sought],
        voices: &mut Voices,
        claims: &mut HashMap<Neighbour, Instant>,
        alarms: &mut Alarms,
    ) -> Result<()> {
        let now = Instant::now();
        for neighbour in heard.identified() {
            if claims.contains_key(&neighbour) && alarms.is_due(neighbour, now) {
                tracing::error!(
                    "{} is served by {} on {} as well: two targets with one address corrupt data; stop one of them or give \
                     it another address",
                    neighbour.address,
                    neighbour.mac,
                    self.interface
                );
            }
        }
        for claim in claimed(heard, sought) {
            let known = claims.get(&claim);
            let is_new = known.is_none() && claims.len() < CLAIMS_MAX;
            let is_old = known.is_some_and(|looked_into| now >= *looked_into + LOOK_INTO_AGAIN);
            if (is_new || is_old) && !own_addresses().contains(&claim.mac) {
                claims.insert(claim, now);
                voices.identify(&claim)?;
            } else if claims.len() >= CLAIMS_MAX {
                claims.retain(|_, looked_into| now < *looked_into + LOOK_INTO_AGAIN);
            }
        }
        Ok(())
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
    fn next_addresses<'a>(&mut self, sought: &'a [Sought]) -> &'a [Sought] {
        if self.address >= sought.len() {
            self.address = 0;
        }
        let end = sought.len().min(self.address + ADDRESSES_AT_A_TIME);
        let some = &sought[self.address..end];
        self.address = end;
        some
    }
}

/// When each neighbour was last complained about.
#[derive(Debug, Default)]
struct Alarms {
    raised: HashMap<Neighbour, (Instant, Duration)>,
}

impl Alarms {
    fn is_due(&mut self, neighbour: Neighbour, now: Instant) -> bool {
        let is_full = self.raised.len() >= CLAIMS_MAX;
        match self.raised.get_mut(&neighbour) {
            Some((last, pause)) if now < *last + *pause => false,
            Some((last, pause)) => {
                *last = now;
                *pause = (*pause * 2).min(ALARM_AT_LEAST_EVERY);
                true
            }
            None if is_full => false,
            None => {
                self.raised.insert(neighbour, (now, ALARM_AGAIN));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aoe_common::Mac;

    use super::*;
    use crate::config::Vlan;
    use crate::target::Address;

    const NEIGHBOUR: Neighbour = Neighbour {
        address: Address { shelf: 1, slot: 1 },
        vlan: None,
        mac: Mac([2, 0, 0, 0, 0, 1]),
    };

    #[test]
    fn an_alarm_is_raised_at_once_and_then_ever_more_rarely() {
        let start = Instant::now();
        let mut alarms = Alarms::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        let raised: Vec<u64> = (0..20_000)
            .step_by(30)
            .filter(|seconds| alarms.is_due(NEIGHBOUR, at(*seconds)))
            .collect();
        assert_eq!(
            raised,
            [0, 60, 180, 420, 900, 1860, 3780, 7380, 10980, 14580, 18180]
        );
    }

    #[test]
    fn questions_are_soon_then_rare_and_reach_every_address() {
        let start = Instant::now();
        let mut questions = Questions::new(start);
        let sought: Vec<Sought> = (0..150)
            .map(|slot| Sought {
                address: Address { shelf: 1, slot },
                vlan: Vlan::Untagged,
            })
            .collect();
        let mut times = Vec::new();
        let mut asked = Vec::new();
        for second in 0..=100 {
            if questions.is_due(start + Duration::from_secs(second)) {
                times.push(second);
                asked.extend(
                    questions
                        .next_addresses(&sought)
                        .iter()
                        .map(|sought| sought.address.slot),
                );
            }
        }
        assert_eq!(times, [1, 3, 10, 40, 70, 100]);
        assert!((0..150).all(|slot| asked.contains(&slot)));
    }
}
