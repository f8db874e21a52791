//! Advertisements: Query Config replies that nobody asked for, at most one a second for each export.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use aoe_common::wire::aoe;
use aoe_common::wire::query::subcommand;
use aoe_common::{Mac, Vlan};

use crate::counters::Counters;
use crate::frames::link::Link;
use crate::frames::reply::{Envelope, build};
use crate::frames::request::Tags;
use crate::frames::rx_frame::RxFrame;
use crate::session::completion::Completions;
use crate::session::server::query_argument;
use crate::{Address, Export, Exports, PortInfo};

/// Least time between two advertisements of an export on a port.
const INTERVAL_US: u64 = 1_000_000;

/// Longest list whose members get an advertisement each. For a longer one a broadcast costs less than it tells.
const MAX_UNICAST: usize = 64;

/// Most exports advertised in one go; requests that have arrived come before the next.
const AT_A_TIME: usize = 32;

/// When to go on with what was not done in one go, and when to try again without memory: frames come back within the next rounds.
const SOON_US: u64 = 1000;

/// What is due on one port. Each call costs what it sends, however many exports there are.
#[derive(Debug)]
pub(crate) struct Advertisements<C: Completions> {
    /// Advertised within the last [`INTERVAL_US`], and in that order.
    sent_us: HashMap<Key, u64>,
    sent: VecDeque<(u64, Key)>,
    /// To be advertised as soon as the pace allows; the newest of each.
    due: VecDeque<Arc<Export<C>>>,
    is_due: HashMap<Key, Arc<Export<C>>>,
}

impl<C: Completions> Default for Advertisements<C> {
    fn default() -> Advertisements<C> {
        Advertisements {
            sent_us: HashMap::new(),
            sent: VecDeque::new(),
            due: VecDeque::new(),
            is_due: HashMap::new(),
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
        !self.due.is_empty()
    }

    /// Forgets exports that are not served any more.
    pub(crate) fn retain(&mut self, exports: &Exports<C>) {
        if self.is_due.is_empty() {
            return;
        }
        let served: HashSet<*const Export<C>> = exports.iter().map(Arc::as_ptr).collect();
        self.is_due
            .retain(|_, export| served.contains(&Arc::as_ptr(export)));
        self.due.retain(|export| self.is_due.contains_key(&key(export)));
    }

    /// Sends what is due; returns when the next one is.
    pub(crate) fn tick<L: Link>(
        &mut self,
        link: &mut L,
        port: &PortInfo,
        counters: &Counters,
        now_us: u64,
    ) -> Option<u64> {
        self.forget(now_us);
        let mut sent: usize = 0;
        let mut paced = Vec::new();
        let mut next = None;
        while let Some(due) = self.due.pop_front() {
            let key = key(&due);
            if let Some(last) = self.sent_us.get(&key) {
                let at = last.saturating_add(INTERVAL_US);
                next = Some(next.map_or(at, |next: u64| next.min(at)));
                paced.push(due);
                continue;
            }
            let newest = self.is_due.get(&key).unwrap_or(&due).clone();
            if sent == AT_A_TIME || !advertise(link, port, &newest, counters) {
                self.due.push_front(due);
                next = Some(now_us.saturating_add(SOON_US));
                break;
            }
            sent = sent.saturating_add(1);
            self.is_due.remove(&key);
            self.sent_us.insert(key, now_us);
            self.sent.push_back((now_us, key));
        }
        // Behind the rest: their time comes later.
        self.due.extend(paced);
        next
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

/// Sends one, as a broadcast or to each listed source; false when memory is short.
fn advertise<L: Link, C: Completions>(
    link: &mut L,
    port: &PortInfo,
    export: &Export<C>,
    counters: &Counters,
) -> bool {
    if export.state.read().paused {
        // It is advertised when it is resumed.
        return true;
    }
    if export.store.is_silenced() {
        return true;
    }
    let tags = Tags::of(export.options.vlan);
    let listed = if export.options.access.len() > MAX_UNICAST {
        None
    } else {
        export.visible_to()
    };
    let receivers = listed.unwrap_or_else(|| vec![Mac::BROADCAST]);
    let string = export.persistent().string;
    let argument = query_argument(port, export, subcommand::READ, &string);
    for to in receivers {
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
    }
    true
}
