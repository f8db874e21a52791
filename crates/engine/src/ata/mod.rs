//! Issue ATA Command: registers, opcodes and what they ask for (AoEr11 §3.1, ATA8-ACS).

mod decode;
mod device;
pub(crate) mod identify;
mod opcode;
mod registers;
mod smart;
mod trim;

pub(super) use decode::decode;
pub(super) use device::{AtaDevice, bytes_of};
pub(super) use opcode::{Opcode, opcode};
pub(super) use registers::{Registers, Results};
pub(super) use smart::read_data as smart_data;
