//! Reads give zeros, writes vanish: the data path without a medium, for measuring.

use std::io;

use engine::{Completions, Durability, Extent, Fault, FaultKind, Step, Store, Token, Traits};

/// Of any size, holding nothing.
#[derive(Debug)]
pub(crate) struct NullStore {
    sectors: u64,
}

impl NullStore {
    pub(crate) fn new(sectors: u64) -> NullStore {
        NullStore { sectors }
    }

    fn check(&self, extent: Extent, kind: FaultKind) -> Result<(), Fault> {
        if extent.end() <= self.sectors {
            return Ok(());
        }
        Err(Fault::outside(kind, extent))
    }
}

impl<C: Completions> Store<C> for NullStore {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn refresh(&self) -> io::Result<u64> {
        Ok(self.sectors)
    }

    fn traits(&self) -> Traits {
        Traits {
            trim: true,
            zeroes_after_trim: true,
            physical_exponent: 3,
        }
    }

    fn read(&self, _: &mut C, _: Token, extent: Extent, into: &mut [&mut [u8]]) -> Result<Step, Fault> {
        self.check(extent, FaultKind::Read)?;
        into.iter_mut().for_each(|piece| piece.fill(0));
        Ok(Step::Done)
    }

    fn write(&self, _: &mut C, _: Token, extent: Extent, _: &[&[u8]], _: Durability) -> Result<Step, Fault> {
        self.check(extent, FaultKind::Write).map(|()| Step::Done)
    }

    fn flush(&self, _: &mut C, _: Token) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn trim(&self, _: &mut C, _: Token, _: &[Extent]) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn verify(&self, _: &mut C, _: Token, extent: Extent) -> Result<Step, Fault> {
        self.check(extent, FaultKind::Read).map(|()| Step::Done)
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}
