//! Planted defects: a simulator that has never found a fault has not shown that it can.

use serde::{Deserialize, Serialize};

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident $(= $engine:ident)?,)+) => {
        /// A planted defect.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Mutant { $($(#[doc = $doc])+ $name,)+ }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$name,)+];

            /// What is wrong, in words.
            pub fn text(self) -> &'static str {
                match self { $(Mutant::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The engine's switch, for those that are planted there.
            #[cfg(feature = "mutants")]
            fn engine(self) -> Option<engine::mutants::Mutant> {
                match self { $(Mutant::$name => mutants!(@ $($engine)?),)+ }
            }

            /// The seed that finds it, or where to begin.
            pub fn seed(self) -> u64 {
                SEEDS.iter().find(|(mutant, _)| *mutant == self).map_or(1, |(_, seed)| *seed)
            }

            /// Whether it is one of gateways.
            pub fn of_gateways(self) -> bool {
                (Mutant::TakesOnFrame..=Mutant::AnnouncesOnce).contains(&self)
            }

            /// Whether it is planted in the engine itself, which takes the feature `mutants`.
            pub fn in_engine(self) -> bool {
                match self { $(Mutant::$name => mutants!(? $($engine)?),)+ }
            }
        }
    };
    (@ $engine:ident) => { Some(engine::mutants::Mutant::$engine) };
    (@) => { None };
    (? $engine:ident) => { true };
    (?) => { false };
}

mutants! {
    // In the simulated stores.
    /// A durable write is acknowledged before its commit.
    AckBeforeCommit,
    /// A flush is answered without a commit.
    FlushWithoutCommit,
    /// The error of a commit is consumed by somebody who does not tell it (as the change-over to small folios did).
    ErrorSwallowed,
    /// A failed commit is told to the group that ran, not to those who came meanwhile and whose pages it took down.
    ErrorToRunningGroupOnly,
    /// A failed write-back is told to the first flush, whoever asks, and then forgotten.
    StickyErrorToldOnce,
    /// That acknowledged data was lost is forgotten with the process.
    StickyErrorDiesWithProcess,
    /// A worker that ends while it changes a block leaves the block closed for ever.
    BlockClosedForEver,
    /// Two exports of one disk with a border inside a block have each their own table of busy blocks.
    BorderInsideBlock,
    /// Nobody takes a block before changing a part of it.
    BlocksNotTaken,
    /// The disk says that it has flushed and has not.
    DiskLies,
    /// A write that comes while a commit runs counts as covered by it.
    JoinsRunningCommit,
    /// A read that fails gives what happens to be there.
    ReadErrorsIgnored,
    /// A read that must wait shows the medium and not what was written since.
    ReadsTheMedium,
    /// A trim zeroes one sector too many.
    TrimTooLong,
    /// A killed process leaves torn sectors.
    KillTearsSectors,
    /// A new process does not commit what the one before had acknowledged and not committed.
    LeftoversNotCommitted,
    // In the simulated process.
    /// A worker that ends gives its place in the order up before its transfers are over.
    OrderGivenUpEarly,
    /// A change of string, mask or reservation is answered and never saved.
    StateNotSaved,
    /// A change that comes while states are written counts as covered by that.
    StateJoinsRunningWrite,
    /// The state of an export is looked for under a name that depends on others.
    StateOfAnother,
    /// A reload gives an export a second order.
    ReloadForgetsOrder,
    /// A completion is lost now and then.
    CompletionLost,
    /// A reply is sent twice now and then.
    ReplyTwice,
    // In the simulated gateways.
    /// A gateway takes the lock because a request came.
    TakesOnFrame,
    /// A gateway goes on answering when Ceph has shut it out.
    AnswersWhileFenced,
    /// A gateway answers as soon as it has the lock.
    NoQuietTime,
    /// Breaking the lock does not wait for the map in which the owner is shut out.
    BreaksWithoutNewEpoch,
    /// Gateways serve without the lock: whoever hears nobody, begins.
    BothActive,
    /// A gateway that has lost Ceph goes on answering what it can without.
    NoLease,
    /// The lease is looked at now and then, not before each answer.
    LeaseNowAndThen,
    /// The lease begins anew with an answer of Ceph's, however long that has waited for a stopped process.
    LeaseFromAnswer,
    /// A gateway that leaves goes on answering until everything is closed.
    LeavesTalking,
    /// The protocol state is read before the lock is there.
    StateFromBefore,
    /// The gateway that answers says so only once when it begins.
    AnnouncesOnce,
    // In the engine.
    /// Overlapping requests do not wait for each other.
    ConflictsIgnored = ConflictsIgnored,
    /// Only requests that overlap from their first sector on wait for each other.
    OverlapByFirstSector = OverlapByFirstSector,
    /// A copy of a write that was answered long ago is answered again and not carried out.
    StaleDuplicateAnswered = StaleDuplicateAnswered,
    /// A write through a duplicate is acknowledged at once.
    DuplicateAnsweredAtOnce = DuplicateAnsweredAtOnce,
    /// A duplicate is told success although its original failed.
    DuplicateToldSuccess = DuplicateToldSuccess,
    /// A forced write counts as an ordinary one.
    ForcedWriteIsOrdinary = ForcedWriteIsOrdinary,
    /// A change of mask or reservation does not wait for what is in flight.
    NoFence = NoFence,
    /// A request that waited is not judged again.
    NotJudgedAgain = NotJudgedAgain,
    /// A reservation does not stop writes.
    ReservationIgnored = ReservationIgnored,
    /// A mask does not hide the export from queries.
    MaskIgnoredByQueries = MaskIgnoredByQueries,
    /// A member that may only read may write.
    ReadOnlyMemberWrites = ReadOnlyMemberWrites,
    /// A change is in force and answered before it is saved.
    AnsweredBeforeSaved = AnsweredBeforeSaved,
    /// Padding is not zeroed.
    PaddingNotZeroed = PaddingNotZeroed,
    /// Whoever waits for a request is not called when that one ends.
    WaiterNotCalled = WaiterNotCalled,
    /// Every failure of the medium is told as success.
    FaultToldAsSuccess = FaultToldAsSuccess,
    /// A write that lay in the ring of a worker that did not run is carried out when that one runs again.
    OldFramesServed = OldFramesServed,
}

/// Where the search for those that are not found at once begins: plans change with how they are drawn, so these may have to be
/// found anew (`--mutant NAME --seconds 600`).
const SEEDS: &[(Mutant, u64)] = &[
    (Mutant::StickyErrorToldOnce, 197),
    (Mutant::BorderInsideBlock, 13),
    (Mutant::BlockClosedForEver, 798),
    (Mutant::OrderGivenUpEarly, 87),
    (Mutant::ReloadForgetsOrder, 62),
    (Mutant::StateJoinsRunningWrite, 3806),
    (Mutant::StateOfAnother, 43),
    (Mutant::KillTearsSectors, 28),
    (Mutant::DuplicateToldSuccess, 64),
    (Mutant::NoQuietTime, 55),
    (Mutant::BreaksWithoutNewEpoch, 122),
    (Mutant::NoLease, 34),
    (Mutant::LeaseNowAndThen, 13),
    (Mutant::LeavesTalking, 33),
    (Mutant::AnnouncesOnce, 54),
];

/// Switches the engine's part of a defect on, on this thread, or all off.
///
/// # Panics
/// For a defect of the engine without the feature `mutants`.
pub fn plant(mutant: Option<Mutant>) {
    #[cfg(feature = "mutants")]
    engine::mutants::plant(mutant.and_then(Mutant::engine));
    #[cfg(not(feature = "mutants"))]
    assert!(
        !mutant.is_some_and(Mutant::in_engine),
        "planted in the engine: build with --features mutants"
    );
}
