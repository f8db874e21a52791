//! Advertisements: Query Config replies that nobody asked for, at most one a second for each export.

use std::collections::HashMap;
use std::sync::Arc;

use aoe_common::wire::aoe;
use aoe_common::{Mac, Vlan};

use super::counters::Counters;
use super::link::Link;
use super::reply::{Envelope, build};
use super::request::Tags;
use super::server::query_argument;
use super::{Address, Export, Exports, PortInfo, query};
use crate::completion::Completions;

/// Least time between two advertisements of an export on a port.
const INTERVAL_US: u64 = 1_000_000;

/// Longest list whose members get an advertisement each. For a longer one a broadcast costs less than it tells.
const MAX_UNICAST: usize = 64;

/// What is due on one port.
#[derive(Debug)]
pub(super) struct Adverts<C: Completions> {
    sent_us: HashMap<(Address, u16), u64>,
    due: Vec<Arc<Export<C>>>,
}

impl<C: Completions> Default for Adverts<C> {
    fn default() -> Adverts<C> {
        Adverts {
            sent_us: HashMap::new(),
            due: Vec::new(),
        }
    }
}

fn key<C: Completions>(export: &Export<C>) -> (Address, u16) {
    let vlan = match export.options.vlan {
        Vlan::Untagged => 0,
        Vlan::Id(id) => id,
        Vlan::Any => u16::MAX,
    };
    (export.address(), vlan)
}

impl<C: Completions> Adverts<C> {
    /// Asks for an advertisement of `export` as soon as the pace allows.
    pub fn ask(&mut self, export: &Arc<Export<C>>) {
        if !self.due.iter().any(|due| Arc::ptr_eq(due, export)) {
            self.due.push(export.clone());
        }
    }

    /// Forgets exports that are not served any more.
    pub fn retain(&mut self, exports: &Exports<C>) {
        self.due
            .retain(|due| exports.iter().any(|export| Arc::ptr_eq(export, due)));
    }

    /// Sends what is due; returns when the next one is.
    pub fn tick<L: Link>(
        &mut self,
        link: &mut L,
        port: &PortInfo,
        counters: &Counters,
        now_us: u64,
    ) -> Option<u64> {
        let mut next = None;
        self.sent_us
            .retain(|_, sent| now_us.saturating_sub(*sent) < INTERVAL_US);
        let sent_us = &mut self.sent_us;
        self.due.retain(|export| {
            let at = match sent_us.get(&key(export)) {
                Some(sent) => sent.saturating_add(INTERVAL_US),
                None if advertise(link, port, export, counters) => {
                    sent_us.insert(key(export), now_us);
                    return false;
                }
                // No memory for it: frames come back within the next rounds.
                None => now_us.saturating_add(1000),
            };
            next = Some(next.map_or(at, |next: u64| next.min(at)));
            true
        });
        next
    }
}

/// Sends one, as a broadcast or to each listed source; false when memory is short.
fn advertise<L: Link, C: Completions>(
    link: &mut L,
    port: &PortInfo,
    export: &Export<C>,
    counters: &Counters,
) -> bool {
    let tags = Tags::of(export.options.vlan);
    let listed = if export.options.access.len() > MAX_UNICAST {
        None
    } else {
        export.visible_to()
    };
    let receivers = listed.unwrap_or_else(|| vec![Mac::BROADCAST]);
    let string = export.persistent().string;
    let argument = query_argument(port, export, query::subcommand::READ, &string);
    for to in receivers {
        // Tag 0: 9front takes any other for a reply to a question of its own.
        let envelope = Envelope {
            from: port.mac,
            to,
            tags: &tags,
            address: export.address(),
            command: aoe::CMD_QUERY,
            tag: [0; 4],
        };
        let Some(mut frame) = link.allocate(aoe_common::wire::MIN_FRAME_BYTES) else {
            return false;
        };
        if !build(link, &mut frame, &tags, &[&envelope.head(0, &argument), &string]) {
            link.free(frame);
            return false;
        }
        counters.adverts.bump();
        link.send(frame);
    }
    true
}
