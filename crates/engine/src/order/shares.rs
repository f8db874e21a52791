//! Who has how many places of an export's order, and whose turn it is where a disk is slow.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use aoe_common::Mac;

use crate::order::entry::{Entry, Requester};
use crate::order::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::session::completion::CompletionHandle;

/// Locks that sources are spread over: those that come in on different queues seldom meet in one.
const LOCKS: usize = 8;
/// Requests of an export that its store has at a time, where several sources share it: as many as a fast disk has use for. A disk
/// takes them in the order of arrival, so that its time is shared as these are.
const AT_WORK: usize = 64;

/// Entries of one kind, by source. A source that is alone may have nearly all places; of several, each has its part, and one that has
/// more from before gets no new ones until it has less. The last eighth is for sources that have few, so that a newcomer finds room
/// however hard another presses. One that finds none, as where others have all their parts, has its part from then on all the same: they get
/// no new ones until there is room for it. Of what the store works on each of several sources has its part as well; what it has beyond that
/// waits here.
#[derive(Debug)]
pub(crate) struct Shares<H> {
    total: AtomicUsize,
    /// How many have any, or were refused lately.
    sources: AtomicUsize,
    /// When those were forgotten last that had been refused.
    forgot_us: AtomicU64,
    by_source: [Line<H>; LOCKS],
}

/// Sources of a lock that are remembered although they have no entry.
const REFUSED: usize = 64;
/// For so long: initiators that get no answer ask again within a second.
const REMEMBERED_US: u64 = 2_000_000;

/// On a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Line<H>(Mutex<HashMap<Mac, Share<H>>>);

/// What one source has.
#[derive(Debug)]
struct Share<H> {
    entries: usize,
    /// When it was refused last.
    refused_us: u64,
    /// Of these, what the store works on, or may.
    at_work: usize,
    /// What could be at work but for this source's share, the oldest first.
    waiting: VecDeque<Arc<Entry<H>>>,
}

impl<H> Default for Shares<H> {
    fn default() -> Shares<H> {
        Shares {
            total: AtomicUsize::default(),
            sources: AtomicUsize::default(),
            forgot_us: AtomicU64::default(),
            by_source: std::array::from_fn(|_| Line(Mutex::new(HashMap::new()))),
        }
    }
}

impl<H> Default for Share<H> {
    fn default() -> Share<H> {
        Share {
            entries: 0,
            refused_us: 0,
            at_work: 0,
            waiting: VecDeque::new(),
        }
    }
}

impl<H: CompletionHandle> Share<H> {
    /// Whether the next request may go to the store at once.
    fn is_open(&self, part: usize) -> bool {
        self.at_work < part && self.waiting.is_empty()
    }

    /// Gives those that wait the turns that there are; returns who is to be told.
    fn admit(&mut self, part: usize) -> Vec<Requester<H>> {
        let mut calls = Vec::new();
        while self.at_work < part
            && let Some(entry) = self.waiting.pop_front()
        {
            entry.set_at_work();
            self.at_work = self.at_work.saturating_add(1);
            calls.extend(entry.call());
        }
        calls
    }
}

impl<H: CompletionHandle> Shares<H> {
    /// Places taken.
    #[inline]
    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::Acquire)
    }

    /// Whether `source` may have another of `max` places at `now_us`. If not, it is remembered.
    pub(crate) fn has_room(&self, source: Mac, max: usize, now_us: u64) -> bool {
        let total = self.total();
        if Shares::<H>::has_plenty(total, max) {
            return true;
        }
        self.forget(now_us);
        let mut line = self.line(source).lock();
        let has_room = self.has_share(line.get(&source), total, max);
        if !has_room {
            let is_full = line.len() >= REFUSED;
            match line.get_mut(&source) {
                Some(share) => share.refused_us = now_us,
                None if !is_full => {
                    self.sources.fetch_add(1, Ordering::Relaxed);
                    let share = Share {
                        refused_us: now_us,
                        ..Share::default()
                    };
                    line.insert(source, share);
                }
                None => {}
            }
        }
        has_room
    }

    /// Now and then: forgets who was refused and has not asked again since.
    fn forget(&self, now_us: u64) {
        let last = self.forgot_us.load(Ordering::Relaxed);
        let is_time = now_us.saturating_sub(last) >= REMEMBERED_US.div_euclid(2);
        let is_mine = is_time
            && self
                .forgot_us
                .compare_exchange(last, now_us, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        for line in self.by_source.iter().filter(|_| is_mine) {
            let mut line = line.0.lock();
            let before = line.len();
            line.retain(|_, share| {
                share.entries > 0 || now_us.saturating_sub(share.refused_us) < REMEMBERED_US
            });
            let gone = before.saturating_sub(line.len());
            self.sources.fetch_sub(gone, Ordering::Relaxed);
        }
    }

    /// Whether a request of `source` may have another of `max` places, and go to the store at once.
    #[inline]
    pub(crate) fn is_open(&self, source: Mac, max: usize) -> bool {
        let total = self.total();
        if Shares::<H>::has_plenty(total, max) {
            return true;
        }
        let line = self.line(source).lock();
        let share = line.get(&source);
        self.has_share(share, total, max) && share.is_none_or(|share| share.is_open(self.part()))
    }

    /// With so few places taken not even a source that has all of them has its share: n of n + 1, and one other.
    #[inline]
    fn has_plenty(total: usize, max: usize) -> bool {
        total.saturating_mul(total) < max
    }

    fn has_share(&self, share: Option<&Share<H>>, total: usize, max: usize) -> bool {
        let own = share.map_or(0, |share| share.entries);
        let others = self.sources.load(Ordering::Relaxed);
        let sources = others.saturating_add(usize::from(share.is_none()));
        let has_few = own < max.div_ceil(16);
        let open = if has_few {
            max
        } else {
            max.saturating_sub(max.div_euclid(8))
        };
        total < open && own < max.div_euclid(sources.max(1)).max(1)
    }

    /// How many requests of a source the store may have.
    fn part(&self) -> usize {
        match self.sources.load(Ordering::Relaxed) {
            0 | 1 => usize::MAX,
            sources => AT_WORK.div_ceil(sources),
        }
    }

    fn line(&self, source: Mac) -> &Mutex<HashMap<Mac, Share<H>>> {
        let sum = source.0.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        &self.by_source[usize::from(sum) % LOCKS].0
    }

    /// Its source has one more entry.
    pub(crate) fn add(&self, entry: &Entry<H>) {
        self.with(entry, |share| {
            if entry.is_at_work() {
                share.at_work = share.at_work.saturating_add(1);
            }
        });
    }

    /// Its source has one more entry if the store has enough of that source: it waits.
    pub(crate) fn add_if_it_waits(&self, entry: &Arc<Entry<H>>) -> bool {
        let mut line = self.line(entry.source).lock();
        let part = self.part();
        match line.get_mut(&entry.source) {
            Some(share) if !share.is_open(part) => {
                share.entries = share.entries.saturating_add(1);
                share.waiting.push_back(Arc::clone(entry));
                self.total.fetch_add(1, Ordering::AcqRel);
                true
            }
            _ => false,
        }
    }

    fn with(&self, entry: &Entry<H>, work: impl FnOnce(&mut Share<H>)) {
        self.total.fetch_add(1, Ordering::AcqRel);
        let mut line = self.line(entry.source).lock();
        let share = line.entry(entry.source).or_insert_with(|| {
            self.sources.fetch_add(1, Ordering::Relaxed);
            Share::default()
        });
        share.entries = share.entries.saturating_add(1);
        work(share);
    }

    /// Asks for an entry, against which nothing else stands, whether the store may have it. If not, its owner is called later.
    pub(crate) fn turn(&self, entry: &Arc<Entry<H>>) -> bool {
        let mut line = self.line(entry.source).lock();
        let part = self.part();
        let Some(share) = line.get_mut(&entry.source) else {
            return true;
        };
        // One that has just ended on another worker is no longer counted: starting it comes to nothing.
        if entry.is_at_work() || entry.has_ended() {
            return true;
        }
        let waits = share.waiting.iter().any(|other| Arc::ptr_eq(other, entry));
        if !waits && share.is_open(part) {
            share.at_work = share.at_work.saturating_add(1);
            entry.set_at_work();
            return true;
        }
        // With the lock held, so that who gives it its turn finds it waiting.
        entry.wait_on();
        if !waits {
            share.waiting.push_back(Arc::clone(entry));
        }
        false
    }

    /// Its source has one less of those that it had; returns who is to be called in its place.
    pub(crate) fn remove(&self, entry: &Arc<Entry<H>>) -> Vec<Requester<H>> {
        let mut line = self.line(entry.source).lock();
        let Some(share) = line.get_mut(&entry.source) else {
            return Vec::new();
        };
        if entry.is_at_work() {
            share.at_work = share.at_work.saturating_sub(1);
        } else {
            share.waiting.retain(|other| !Arc::ptr_eq(other, entry));
        }
        share.entries = share.entries.saturating_sub(1);
        let calls = share.admit(self.part());
        if share.entries == 0 {
            line.remove(&entry.source);
            self.sources.fetch_sub(1, Ordering::Relaxed);
        }
        self.total.fetch_sub(1, Ordering::AcqRel);
        calls
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::order::entry::Phase;
    use crate::order::scope::{Class, Scope, Span};
    use crate::session::completion::Completions as _;
    use crate::testing::completions::{MemCompletions, MemHandle};

    fn mac(n: u64) -> Mac {
        Mac::from_u64(0x0200_0000_0000 | n)
    }

    fn entry(queue: &MemCompletions, source: u64, token: u64, phase: Phase) -> Arc<Entry<MemHandle>> {
        let scope = Scope {
            class: Class::Read,
            span: Span { first: 0, end: 1 },
        };
        let owner = Requester {
            session: queue.handle(),
            token,
        };
        Arc::new(Entry::new(scope, None, mac(source), (owner, phase)))
    }

    #[test]
    fn a_newcomer_finds_room_beside_one_that_has_all_it_can_get() {
        let (shares, queue) = (Shares::default(), MemCompletions::new());
        let fill = |source| {
            let mut got = 0;
            while shares.has_room(mac(source), 64, 0) {
                shares.add(&entry(&queue, source, 0, Phase::Waiting));
                got += 1;
            }
            got
        };
        assert_eq!(fill(1), 56, "alone");
        assert_eq!(fill(2), 4);
        assert_eq!(fill(1), 0, "it has more than its part");
        assert_eq!(fill(3), 4, "while there is an eighth");
        assert_eq!(fill(4), 0, "nobody has room where all places are taken");
    }

    /// A store that does one request after the other, in the order in which it gets them.
    struct SlowStore {
        shares: Shares<MemHandle>,
        queue: MemCompletions,
        waiting: HashMap<u64, Arc<Entry<MemHandle>>>,
        at_work: VecDeque<(u64, Arc<Entry<MemHandle>>)>,
        tokens: u64,
    }

    impl SlowStore {
        fn new() -> SlowStore {
            SlowStore {
                shares: Shares::default(),
                queue: MemCompletions::new(),
                waiting: HashMap::new(),
                at_work: VecDeque::new(),
                tokens: 0,
            }
        }

        fn ask(&mut self, source: u64, max: usize, now_us: u64) {
            if !self.shares.has_room(mac(source), max, now_us) {
                return;
            }
            self.tokens = self.tokens.wrapping_add(1);
            let waits = entry(&self.queue, source, self.tokens, Phase::Waiting);
            if self.shares.add_if_it_waits(&waits) {
                self.waiting.insert(self.tokens, waits);
            } else {
                let runs = entry(&self.queue, source, self.tokens, Phase::Running);
                self.shares.add(&runs);
                self.at_work.push_back((source, runs));
            }
        }

        fn serve(&mut self) -> Option<u64> {
            let (source, entry) = self.at_work.pop_front()?;
            let calls = self.shares.remove(&entry);
            calls.iter().for_each(Requester::call);
            while let Some(completion) = self.queue.next() {
                let entry = self.waiting.remove(&completion.token).expect("it waits");
                assert!(self.shares.turn(&entry));
                let source = entry.source.to_u64() & 0xff;
                self.at_work.push_back((source, entry));
            }
            Some(source)
        }
    }

    /// How many of 4000 requests each of four sources gets: all but the first ask for `window` at a time, that one all the time.
    fn served(max: usize, window: usize) -> HashMap<u64, u64> {
        let mut store = SlowStore::new();
        let mut served = HashMap::from([(1, 0u64), (2, 0), (3, 0), (4, 0)]);
        for round in 0..6000 {
            for _ in 0..100 {
                store.ask(1, max, 0);
            }
            // The first one is there before the others.
            for source in (2..=4).filter(|_| round > 200) {
                let own = |n: &u64| *n == source;
                let waiting = store.waiting.values().map(|entry| entry.source.to_u64() & 0xff);
                let has = store
                    .at_work
                    .iter()
                    .map(|(n, _)| *n)
                    .chain(waiting)
                    .filter(own)
                    .count();
                (has..window).for_each(|_| store.ask(source, max, 0));
            }
            let source = store.serve().expect("there is always work");
            if round >= 2000 {
                served
                    .entry(source)
                    .and_modify(|count| *count = count.wrapping_add(1));
            }
        }
        served
    }

    #[test]
    fn a_slow_export_is_shared_evenly_however_hard_one_source_presses() {
        for (max, window) in [(64, 64), (512, 512), (512, 16), (512, 8)] {
            let served = served(max, window);
            let all_have_their_part = served.values().all(|part| (500..=2000).contains(part));
            assert!(
                all_have_their_part,
                "{max} places, windows of {window}: {served:?}"
            );
        }
    }

    /// They ask in the same order again and again: the first of them are always there when a place becomes free.
    #[test]
    fn more_sources_than_have_room_share_a_slow_export_evenly_all_the_same() {
        for count in [20u64, 24, 50] {
            let mut store = SlowStore::new();
            let mut served = vec![0; count as usize];
            for round in 0..12_000 {
                (0..count).for_each(|source| store.ask(source, 128, round * 100));
                let source = store.serve().expect("there is always work");
                if round >= 2000 {
                    served[source as usize] += 1;
                }
            }
            let fair = 10_000 / count;
            let is_even = |part: &u64| (fair / 2..=fair * 2).contains(part);
            assert!(served.iter().all(is_even), "{count} sources: {served:?}");
        }
    }

    /// As Linux's driver does after 100 ms and more, however much of others ends meanwhile.
    #[test]
    fn who_asks_again_later_has_its_part_all_the_same() {
        let (shares, queue) = (Shares::default(), MemCompletions::new());
        let of = |source| -> Vec<_> {
            let all = (0..16).map(|n| entry(&queue, source, n, Phase::Running));
            all.inspect(|entry| shares.add(entry)).collect()
        };
        let mut all = [of(1), of(2), of(3), of(4)];
        assert!(!shares.has_room(mac(9), 64, 0), "all places are taken");
        let mut now_us = 0;
        for token in 0..10_000u64 {
            now_us += 50;
            let source = 1 + token % 4;
            let entries = &mut all[token as usize % 4];
            shares.remove(&entries.remove(0));
            if shares.has_room(mac(source), 64, now_us) {
                let next = entry(&queue, source, 100 + token, Phase::Running);
                shares.add(&next);
                entries.push(next);
            }
        }
        assert!(shares.has_room(mac(9), 64, now_us), "half a second later");
    }

    #[test]
    fn who_was_refused_and_does_not_ask_again_is_forgotten() {
        let (shares, queue) = (Shares::default(), MemCompletions::new());
        let all: Vec<_> = (0..64).map(|n| entry(&queue, 1, n, Phase::Running)).collect();
        all.iter().for_each(|entry| shares.add(entry));
        (2..2000).for_each(|source| assert!(!shares.has_room(mac(source), 64, 5)));
        assert!(shares.sources.load(Ordering::Relaxed) > 100);
        assert!(!shares.has_room(mac(1), 64, 5 + REMEMBERED_US));
        assert_eq!(shares.sources.load(Ordering::Relaxed), 1);
        assert!(shares.by_source.iter().all(|line| line.0.lock().len() <= 1));
    }

    #[test]
    fn who_is_alone_has_all_of_the_store() {
        let (shares, queue) = (Shares::default(), MemCompletions::new());
        for token in 0..400 {
            assert!(shares.is_open(mac(1), 512), "{token}");
            shares.add(&entry(&queue, 1, token, Phase::Running));
        }
    }

    #[test]
    fn what_ends_while_it_waits_takes_no_turn() {
        let (shares, mut queue) = (Shares::default(), MemCompletions::new());
        shares.add(&entry(&queue, 2, 0, Phase::Running));
        let running: Vec<_> = (0..32).map(|n| entry(&queue, 1, n, Phase::Running)).collect();
        running.iter().for_each(|entry| shares.add(entry));
        let waiting: Vec<_> = (100..103).map(|n| entry(&queue, 1, n, Phase::Waiting)).collect();
        assert!(waiting.iter().all(|entry| shares.add_if_it_waits(entry)));
        assert!(shares.remove(&waiting[0]).is_empty());
        shares.remove(&running[0]).iter().for_each(Requester::call);
        assert_eq!(queue.next().map(|completion| completion.token), Some(101));
        // It goes without having been at work: the next one gets its turn.
        shares.remove(&waiting[1]).iter().for_each(Requester::call);
        assert_eq!(queue.next().map(|completion| completion.token), Some(102));
        assert!(shares.turn(&waiting[2]));
    }
}
