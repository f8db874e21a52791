//! Which export answers, where each machine has one of its own behind one address.
//!
//! What is the address's (config string, mask, whether it is paused) stays with the export that everybody sees; ATA commands go
//! to the machine's own export, which has its own order and its own name in IDENTIFY.

use std::sync::Arc;

use aoe_common::wire::query::subcommand;

use crate::ata::opcode;
use crate::commands::action::Refusal;
use crate::counters::Silence;
use crate::export::Export;
use crate::export::machines::SeenDisk;
use crate::frames::link::Link;
use crate::frames::request::{Command, Request};
use crate::session::completion::Completions;
use crate::session::server::{Call, Server};

/// What iPXE's requests carry in the upper half of their tags (`AOE_TAG_MAGIC` of its `aoe.h`).
const IPXE_TAG: [u8; 2] = [0x18, 0xae];

/// Who answers a request.
pub(crate) enum Chosen<C: Completions> {
    /// The export that everybody sees.
    Shared,
    /// The machine's own.
    Own(Arc<Export<C>>),
    /// Nobody.
    Nobody,
}

impl<L: Link, C: Completions> Server<L, C> {
    /// Finds who answers a request to an export. Who may not see the export gets no disk of its own.
    pub(crate) fn choose(call: Call<'_, C>) -> Chosen<C> {
        let Some(machines) = &call.export.machines else {
            return Chosen::Shared;
        };
        let request = call.request;
        {
            let state = call.export.state.read();
            let holders = &state.persistent.reserve;
            let reserved = match &request.command {
                Command::Ata(registers) => {
                    !holders.is_empty()
                        && !holders.contains(&request.source)
                        && !opcode(registers.command).passes_reservation()
                }
                _ => false,
            };
            if reserved || Self::admit(call, &state).is_err() {
                return Chosen::Shared;
            }
        }
        match &request.command {
            // Who asks everybody uses nothing yet.
            Command::Ata(_) if request.is_wildcard() => match machines.look(request.source) {
                SeenDisk::Ready(own) => Chosen::Own(own),
                SeenDisk::Unmade | SeenDisk::Nothing => Chosen::Nobody,
            },
            Command::Ata(_) => machines
                .instance(request.source)
                .map_or(Chosen::Nobody, Chosen::Own),
            Command::Query { .. } if is_boot(request) && !machines.boots(request.source) => Chosen::Nobody,
            Command::Query { .. } => match machines.look(request.source) {
                SeenDisk::Ready(_) | SeenDisk::Unmade => Chosen::Shared,
                SeenDisk::Nothing => Chosen::Nobody,
            },
            _ => Chosen::Shared,
        }
    }

    /// Why nobody answers.
    pub(crate) fn nobody() -> Refusal {
        Refusal::Silent(Silence::NoExport)
    }
}

/// iPXE's way to look for the disk it boots from. Linux's driver asks with tag 0, and firmware has tags of its own.
fn is_boot(request: &Request) -> bool {
    let reads = matches!(
        request.command,
        Command::Query {
            subcommand: subcommand::READ,
            ..
        }
    );
    reads && request.broadcast && !request.is_wildcard() && request.tag.starts_with(&IPXE_TAG)
}
