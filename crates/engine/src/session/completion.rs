//! Operations that do not end in the call that starts them: how their ends reach the session that waits.

use crate::store::fault::Fault;

/// Names an operation in flight on one worker; the caller chooses it.
pub type Token = u64;

/// How an operation ended. A read that ends later carries its bytes, exactly the extent's.
pub type StoreResult = Result<Option<Box<[u8]>>, Fault>;

/// How a deferred operation went on.
#[derive(Debug)]
pub enum Event {
    /// What it waited for is there: repeat the call.
    Again,
    /// It is done.
    Finished(StoreResult),
}

/// The end, or the next stage, of a deferred operation.
#[derive(Debug)]
pub struct Completion {
    /// As given when the operation was started.
    pub token: Token,
    /// What happened.
    pub event: Event,
}

/// A worker's side of deferred operations: stores get it by `&mut` in each call and start what they put off with it.
pub trait Completions: std::fmt::Debug {
    /// What others hold, to post completions here.
    type Handle: CompletionHandle;

    /// Another handle to this queue.
    fn handle(&self) -> Self::Handle;

    /// The next completion, if there is one now.
    fn next(&mut self) -> Option<Completion>;
}

/// The part of a worker's [`Completions`] that others hold: stores, the state store and other workers.
///
/// Two handles are equal when they lead to the same queue; a queue belongs to one session.
pub trait CompletionHandle: Clone + Eq + std::fmt::Debug + Send + Sync + 'static {
    /// Leaves a completion, and wakes the worker if it sleeps.
    fn post(&self, completion: Completion);
}
