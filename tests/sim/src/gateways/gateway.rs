//! A gateway: a machine with a clock, and the lives of its process.

use std::collections::BTreeMap;
use std::sync::Arc;

use aoe_common::Mac;
use aoe_common::wire::{aoe, error, query};
use failover::{Group, GroupSettings, GroupState, Holder};

use super::answer::ClientId;
use super::client::{Client, Clock};
use crate::bus::{Bus, Event, WorkerId};
use crate::frame::{self, Reply};
use crate::process::Process;

/// The address of the group.
pub(super) const GROUP: Mac = Mac([2, 0x78, 0x62, 0, 0, 1]);

/// A gateway's own address.
pub(super) fn own_mac(gateway: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, gateway])
}

/// A gateway's number as a host of the networks.
pub(super) fn as_host(gateway: u8) -> u16 {
    0x100 + u16::from(gateway)
}

/// Whether a frame to this gateway says that another one answers for the group.
pub(super) fn is_answer(bytes: &[u8], gateway: u8) -> bool {
    frame::destination(bytes) == own_mac(gateway)
        && Reply::parse(bytes).is_some_and(|reply| reply.from == GROUP && reply.command == aoe::CMD_QUERY)
}

/// Whether a frame tells a gateway that the one which has the group does not hear Ceph.
pub(super) fn is_unavailable(bytes: &[u8], gateway: u8) -> bool {
    let says_so = |reply: &Reply<'_>| {
        reply.from != GROUP && reply.command == aoe::CMD_QUERY && reply.error == error::UNAVAILABLE
    };
    frame::destination(bytes) == own_mac(gateway) && Reply::parse(bytes).is_some_and(|reply| says_so(&reply))
}

/// Who tells this gateway that it has the group, since when, and in answer to which question.
pub(super) fn rival(bytes: &[u8], gateway: u8, others: u8) -> Option<(u8, u64, u32)> {
    let reply = Reply::parse(bytes)?;
    let other = (0..others).find(|other| *other != gateway && reply.from == own_mac(*other))?;
    let is_answer = reply.to == own_mac(gateway) && reply.command == aoe::CMD_QUERY && reply.error == 0;
    let string = reply.argument.get(query::HEADER_LEN..).filter(|_| is_answer)?;
    let length = string.iter().position(|byte| *byte == 0).unwrap_or(string.len());
    let (since_ms, _) = failover::parse_standing(&string[..length])?;
    Some((other, since_ms, reply.tag))
}

/// How far a gateway is with taking the lock: what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The map.
    Connect,
    /// Who has the lock.
    Owner,
    /// That this one is shut out.
    Break(ClientId),
    /// That nobody has the lock.
    Unlock,
    /// The lock.
    Acquire,
    /// The protocol state.
    Load,
}

/// The lock is being taken.
#[derive(Debug)]
pub(super) struct Taking {
    /// Whose lock may be broken; `None`: whoever's.
    pub from: Option<Holder>,
    /// How far it is.
    pub stage: Stage,
}

/// Where a gateway's process stands.
#[derive(Debug)]
pub(super) struct Life {
    /// What decides.
    pub group: Group,
    /// For questions about the lock.
    pub asks: Arc<Client>,
    /// The question about the lock that is under way.
    pub look: Option<u64>,
    /// For the image.
    pub client: Option<Arc<Client>>,
    /// The lock is being taken.
    pub taking: Option<Taking>,
    /// The lock is being given back.
    pub unlocking: Option<u64>,
    /// What is served.
    pub process: Option<Process>,
    /// The protocol state that it began with, until it answers.
    pub unshown: Option<engine::Persistent>,
    /// A change of the protocol state may have come into force without an answer.
    pub unsaid: bool,
    /// The protocol state when the process started (the design of a mutant).
    pub early: Option<engine::Persistent>,
    /// Looks in a row that found somebody else's lock.
    pub without_lock: u32,
    /// SIGTERM has come.
    pub ending: bool,
    /// Number of the last question for the gateway that answers.
    pub question: u32,
    /// It was told so since the last question.
    pub heard_unavailable: bool,
    /// Number of the first question that was asked while it is active.
    pub active_from: u32,
    /// When the group was taken, by the gateway's clock.
    pub taken_ms: u64,
    /// Those that said since the last round of questions that they have the group, and since when.
    pub rivals: BTreeMap<u8, u64>,
    /// What was said of its state last.
    pub said: GroupState,
}

/// A machine.
#[derive(Debug)]
pub(super) struct Gateway {
    /// Its clock.
    pub clock: Arc<Clock>,
    /// When it was stopped; 0: it runs.
    pub stopped_us: u64,
    /// What happened to it since.
    pub missed: Vec<Event>,
    /// It is stopped with its clock.
    pub paused: bool,
    /// The process, if there is one.
    pub life: Option<Life>,
    /// Processes so far.
    pub lives: u32,
    /// Workers by queue.
    pub queues: BTreeMap<u8, WorkerId>,
}

impl Gateway {
    /// A machine without a process.
    pub(super) fn new(bus: &Bus) -> Gateway {
        Gateway {
            clock: Arc::new(Clock::new(bus)),
            stopped_us: 0,
            missed: Vec::new(),
            paused: false,
            life: None,
            lives: 0,
            queues: BTreeMap::new(),
        }
    }

    /// Whether it does nothing now.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped_us > 0
    }

    /// What it does for the group.
    pub(super) fn state(&self) -> Option<&GroupState> {
        self.life.as_ref().map(|life| life.group.state())
    }

    /// Starts a process.
    pub(super) fn start(&mut self, settings: GroupSettings, asks: Arc<Client>) {
        self.life = Some(Life {
            group: Group::new(settings, self.clock.now_us()),
            asks,
            look: None,
            client: None,
            taking: None,
            unlocking: None,
            process: None,
            unshown: None,
            unsaid: false,
            early: None,
            without_lock: 0,
            ending: false,
            // No answer is taken for one to another life's question.
            question: self.lives << 20,
            heard_unavailable: false,
            active_from: 0,
            taken_ms: 0,
            rivals: BTreeMap::new(),
            said: GroupState::Standby,
        });
    }
}
