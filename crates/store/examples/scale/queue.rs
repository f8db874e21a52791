//! What a worker waits on: the stores' own queue, or one whose store puts off everything.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use engine::{
    Completion, CompletionHandle, Completions, Durability, Event, Extent, Fault, Step, Store, Token, Traits,
};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use store::CompletionQueue;

/// The worker's loop beyond the engine.
pub(crate) trait Queue: Completions + Sized {
    /// A new one.
    fn open() -> Self;
    /// After each round.
    fn submit(&mut self);
    /// Nothing is left to do but to wait.
    fn wait(&mut self);
}

impl Queue for CompletionQueue {
    fn open() -> CompletionQueue {
        CompletionQueue::new().unwrap()
    }

    fn submit(&mut self) {
        CompletionQueue::submit(self, Instant::now());
    }

    fn wait(&mut self) {
        if self.prepare_sleep() {
            let fd = self.fd().try_clone_to_owned().unwrap();
            let limit = Timespec {
                tv_sec: 10,
                tv_nsec: 0,
            };
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap();
            self.awake();
        }
    }
}

/// Where operations that are put off wait until the worker has nothing else to do: each worker for itself, so that only the order is shared.
#[derive(Debug, Default)]
pub(crate) struct Delayed {
    begun: VecDeque<Token>,
    ended: usize,
    posted: Arc<Mutex<VecDeque<Completion>>>,
}

/// A handle to it.
#[derive(Clone, Debug)]
pub(crate) struct DelayedHandle(Arc<Mutex<VecDeque<Completion>>>);

impl PartialEq for DelayedHandle {
    fn eq(&self, other: &DelayedHandle) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for DelayedHandle {}

impl CompletionHandle for DelayedHandle {
    fn post(&self, completion: Completion) {
        self.0.lock().push_back(completion);
    }
}

impl Completions for Delayed {
    type Handle = DelayedHandle;

    fn handle(&self) -> DelayedHandle {
        DelayedHandle(Arc::clone(&self.posted))
    }

    fn next(&mut self) -> Option<Completion> {
        if self.ended > 0 {
            self.ended -= 1;
            let token = self.begun.pop_front()?;
            let event = Event::Finished(Ok(None));
            return Some(Completion { token, event });
        }
        self.posted.lock().pop_front()
    }
}

impl Queue for Delayed {
    fn open() -> Delayed {
        Delayed::default()
    }

    fn submit(&mut self) {}

    fn wait(&mut self) {
        self.ended = self.begun.len().min(crate::BATCH);
    }
}

/// A store that puts off every write and does nothing.
#[derive(Debug)]
pub(crate) struct Later;

impl Store<Delayed> for Later {
    fn sectors(&self) -> u64 {
        crate::SECTORS
    }

    fn refresh(&self) -> io::Result<u64> {
        Ok(crate::SECTORS)
    }

    fn traits(&self) -> Traits {
        Traits {
            trim: false,
            zeroes_after_trim: false,
            physical_exponent: 0,
        }
    }

    fn read(&self, _: &mut Delayed, _: Token, _: Extent, _: &mut [&mut [u8]]) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn write(
        &self,
        completions: &mut Delayed,
        token: Token,
        _: Extent,
        _: &[&[u8]],
        _: Durability,
    ) -> Result<Step, Fault> {
        completions.begun.push_back(token);
        Ok(Step::Later)
    }

    fn flush(&self, _: &mut Delayed, _: Token) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn trim(&self, _: &mut Delayed, _: Token, _: &[Extent]) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn verify(&self, _: &mut Delayed, _: Token, _: Extent) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}
