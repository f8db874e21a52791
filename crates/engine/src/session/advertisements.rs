//! Advertisements: Query Config replies that nobody asked for, at most one a second for each export, and of all exports as many frames
//! as the port may answer wildcards with.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use aoe_common::wire::aoe;
use aoe_common::wire::query::subcommand;
use aoe_common::{Mac, Vlan};

use crate::counters::Counters;
use crate::export::limiter::Limiter;
use crate::frames::link::Link;
use crate::frames::reply::{Envelope, build};
use crate::frames::request::Tags;
use crate::frames::rx_frame::RxFrame;
use crate::session::completion::Completions;
use crate::session::server::query_argument;
use crate::{Address, Export, Exports, PortInfo};

/// Least time between two advertisements of an export on a port.
const INTERVAL_US: u64 = 1_000_000;

/// Longest list or mask whose members get an advertisement each. For a longer one a broadcast costs less than it tells.
const MAX_UNICAST: usize = 64;

/// Most frames in one go; requests that have arrived come before the next.
const AT_A_TIME: u64 = 32;

/// When to go on with what was not done in one go, and when to try again without memory: frames come back within the next rounds.
const SOON_US: u64 = 1000;

/// What is due on one port. Each call costs what it sends, however many exports there are.
#[derive(Debug)]
pub(crate) struct Advertisements<C: Completions> {
    /// Advertised within the last [`INTERVAL_US`], and in that order.
    sent_us: HashMap<Key, u64>,
    sent: VecDeque<(u64, Key)>,
    /// The one that is being sent: a list may be longer than what goes out at once.
    under_way: Option<UnderWay<C>>,
    /// To be advertised as soon as the pace allows; the newest of each.
    due: VecDeque<Arc<Export<C>>>,
    is_due: HashMap<Key, Arc<Export<C>>>,
    /// When the frames that were sent are paid for, at the port's pace; less than [`AT_A_TIME`] of them may be owed.
    paid_us: u64,
}

impl<C: Completions> Default for Advertisements<C> {
    fn default() -> Advertisements<C> {
        Advertisements {
            sent_us: HashMap::new(),
            sent: VecDeque::new(),
            under_way: None,
            due: VecDeque::new(),
            is_due: HashMap::new(),
            paid_us: 0,
        }
    }
}

/// An export, whatever its options are.
type Key = (Address, u16);

fn key<C: Completions>(export: &Export<C>) -> Key {
    let vlan = match export.options.vlan {
        Vlan::Untagged => 0,
        Vlan::Id(id) => id,
        Vlan::Any => u16::MAX,
    };
    (export.address(), vlan)
}

impl<C: Completions> Advertisements<C> {
    /// Asks for an advertisement of `export` as soon as the pace allows.
    pub(crate) fn ask(&mut self, export: &Arc<Export<C>>) {
        if self.is_due.insert(key(export), export.clone()).is_none() {
            self.due.push_back(export.clone());
        }
    }

    /// Whether any has been asked for and not been sent.
    pub(crate) fn has_some(&self) -> bool {
        self.under_way.is_some() || !self.due.is_empty()
    }

    /// Forgets exports that are not served any more.
    pub(crate) fn retain(&mut self, exports: &Exports<C>) {
        if !self.has_some() {
            return;
        }
        let served: HashSet<*const Export<C>> = exports.iter().map(Arc::as_ptr).collect();
        let is_served = |export: &Arc<Export<C>>| served.contains(&Arc::as_ptr(export));
        self.under_way.take_if(|under_way| !is_served(&under_way.export));
        self.is_due.retain(|_, export| is_served(export));
        self.due.retain(|export| self.is_due.contains_key(&key(export)));
    }

    /// Sends what is due on a port that has so many exports; returns when the next one is.
    pub(crate) fn tick<L: Link>(
        &mut self,
        link: &mut L,
        port: &PortInfo,
        exports: usize,
        counters: &Counters,
        now_us: u64,
    ) -> Option<u64> {
        self.forget(now_us);
        let frame_us = INTERVAL_US.div_euclid(Limiter::a_second(exports)).max(1);
        let owed = self.paid_us.saturating_sub(now_us).div_ceil(frame_us);
        let before = AT_A_TIME.saturating_sub(owed);
        let mut room = before;
        let mut paced = Vec::new();
        let mut next = None;
        loop {
            if let Some(under_way) = &mut self.under_way
                && !under_way.send(link, port, counters, &mut room)
            {
                break;
            }
            self.under_way = None;
            let Some(due) = self.due.pop_front() else {
                break;
            };
            let key = key(&due);
            if let Some(last) = self.sent_us.get(&key) {
                let at = last.saturating_add(INTERVAL_US);
                next = Some(next.map_or(at, |next: u64| next.min(at)));
                paced.push(due);
                continue;
            }
            self.under_way = Some(UnderWay::new(self.is_due.remove(&key).unwrap_or(due)));
            self.sent_us.insert(key, now_us);
            self.sent.push_back((now_us, key));
        }
        // Behind the rest: their time comes later.
        self.due.extend(paced);
        let spent_us = before.saturating_sub(room).saturating_mul(frame_us);
        self.paid_us = self.paid_us.max(now_us).saturating_add(spent_us);
        match self.under_way {
            Some(_) => Some(self.paid_us.max(now_us.saturating_add(SOON_US))),
            None => next,
        }
    }

    /// Forgets what was sent long enough ago.
    fn forget(&mut self, now_us: u64) {
        while let Some((sent_us, key)) = self.sent.front().copied()
            && now_us.saturating_sub(sent_us) >= INTERVAL_US
        {
            self.sent.pop_front();
            self.sent_us.remove(&key);
        }
    }
}

/// An advertisement of which some may still be left to do.
#[derive(Debug)]
struct UnderWay<C: Completions> {
    export: Arc<Export<C>>,
    /// Those that have not got theirs.
    receivers: std::vec::IntoIter<Mac>,
}

impl<C: Completions> UnderWay<C> {
    /// As a broadcast or, where a list or mask is short enough, to each source on it.
    fn new(export: Arc<Export<C>>) -> UnderWay<C> {
        let listed = if export.options.access.len() > MAX_UNICAST {
            None
        } else {
            export.visible_to()
        };
        let listed = listed.filter(|sources| sources.len() <= MAX_UNICAST);
        let receivers = listed.unwrap_or_else(|| vec![Mac::BROADCAST]).into_iter();
        UnderWay { export, receivers }
    }

    /// Goes on with it; false when there was no room for all of it, or memory is short.
    fn send<L: Link>(&mut self, link: &mut L, port: &PortInfo, counters: &Counters, room: &mut u64) -> bool {
        let export = &*self.export;
        // A paused one is advertised when it is resumed.
        if export.state.read().paused || export.is_silenced() {
            return true;
        }
        let tags = Tags::of(export.options.vlan);
        let string = export.persistent().string;
        let argument = query_argument(port, export, subcommand::READ, &string);
        while let Some(&to) = self.receivers.as_slice().first() {
            if *room == 0 {
                return false;
            }
            // Tag 0: 9front takes any other for a reply to a question of its own.
            let envelope = Envelope {
                from: export.mac(port),
                to,
                tags: &tags,
                address: export.address(),
                command: aoe::CMD_QUERY,
                tag: [0; 4],
            };
            let Some(frame) = link.allocate(aoe_common::wire::MIN_FRAME_BYTES) else {
                return false;
            };
            let mut frame = RxFrame::Frame(frame);
            if !build(link, &mut frame, &tags, &[&envelope.head(0, &argument), &string]) {
                frame.free(link);
                return false;
            }
            counters.advertisements.bump();
            frame.send(link);
            *room = room.saturating_sub(1);
            self.receivers.next();
        }
        true
    }
}
