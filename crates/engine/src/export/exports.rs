//! The exports visible on one port.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;

use aoe_common::wire::aoe;
use parking_lot::Mutex;

use crate::export::limiter::{Introduction, Limiter};
use crate::frames::request::Request;
use crate::session::completion::Completions;
use crate::{Address, Export};

/// The exports of one port, found by address at the same cost however many there are.
#[derive(Debug)]
pub struct Exports<C: Completions> {
    /// By address.
    list: Vec<Arc<Export<C>>>,
    /// Where in `list` an address is; exports with the same address differ in their VLAN.
    index: HashMap<u32, Range<usize>, BuildHasherDefault<AddressHasher>>,
    limiter: Mutex<Limiter>,
}

impl<C: Completions> Exports<C> {
    /// Lists exports. The first of two with the same address and VLAN wins; configuration refuses such a pair.
    pub fn new(mut list: Vec<Arc<Export<C>>>) -> Exports<C> {
        list.sort_by_key(|export| export.address());
        let mut index = HashMap::<u32, Range<usize>, _>::default();
        for (at, export) in list.iter().enumerate() {
            let range = index.entry(key(export.address())).or_insert(at..at);
            range.end = at.saturating_add(1);
        }
        let limiter = Mutex::new(Limiter::new(list.len()));
        Exports { list, index, limiter }
    }

    /// All of them, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Export<C>>> {
        self.list.iter()
    }

    /// The export that a request with an exact address is for, and its place in the list.
    pub(crate) fn find(&self, request: &Request) -> Option<(usize, &Arc<Export<C>>)> {
        let range = self.index.get(&key(request.address))?;
        let places = range.clone().zip(self.list.get(range.clone())?);
        places
            .into_iter()
            .find(|(_, export)| request.tags.served_by(export.options.vlan))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The exports that a request with a wildcard is for.
    pub(crate) fn matching<'a>(&'a self, request: &'a Request) -> impl Iterator<Item = &'a Arc<Export<C>>> {
        self.list.iter().filter(|export| {
            let address = export.address();
            (request.address.shelf == aoe::SHELF_ANY || request.address.shelf == address.shelf)
                && (request.address.slot == aoe::SLOT_ANY || request.address.slot == address.slot)
                && request.tags.served_by(export.options.vlan)
        })
    }

    /// Whether one more answer to this wildcard goes to its source, which an access list or mask names or not.
    pub(crate) fn turn_of(&self, request: &Request, is_named: bool, now_us: u64) -> Introduction {
        let question = (request.address, request.tags.vid());
        self.limiter
            .lock()
            .take(request.source, is_named, question, now_us)
    }
}

fn key(address: Address) -> u32 {
    u32::from(address.shelf) << 8 | u32::from(address.slot)
}

/// Fibonacci hashing: initiators choose what is looked up, never what is stored, so no attack makes chains long.
#[derive(Debug, Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(byte.into());
        }
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0 ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The map takes the lowest bits for the place and the highest for the tag.
        self.0 ^= self.0 >> 32;
    }
}
