//! Planted defects, for the simulator to find.
//!
//! They exist only where the feature `mutants` is on, which nothing but the simulator's own build turns on; without it
//! [`is`] is `false` at compile time.

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "mutants",
    expect(missing_docs, reason = "the simulator's list describes them")
)]
#[cfg_attr(
    not(feature = "mutants"),
    expect(unreachable_pub, reason = "the simulator names them")
)]
pub enum Mutant {
    ConflictsIgnored,
    OverlapByFirstSector,
    StaleDuplicateAnswered,
    DuplicateAnsweredAtOnce,
    DuplicateToldSuccess,
    ForcedWriteIsOrdinary,
    NoFence,
    NotJudgedAgain,
    ReservationIgnored,
    MaskIgnoredByQueries,
    ReadOnlyMemberWrites,
    AnsweredBeforeSaved,
    PaddingNotZeroed,
    WaiterNotCalled,
    FaultToldAsSuccess,
    OldFramesServed,
}

#[cfg(feature = "mutants")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Plants a defect on this thread, or takes it out.
#[cfg(feature = "mutants")]
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Whether this defect is planted here.
#[cfg(feature = "mutants")]
pub(crate) fn is(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}

/// Whether this defect is planted here: never.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}
