//! How many connections there may be at a time, and who gives way when there are no more: whoever only watches never keeps out who
//! has to change something, be it another user's program or one of root's own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Connections at a time of those who may only read or who watch, and of those who may change.
pub(super) const CONNECTIONS_MAX: [usize; 2] = [32, 16];
/// Connections that wait for a place, of each kind; who comes on top of these is turned away.
const WAITING_MAX: usize = 32;
/// How long a connection waits for a place.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Whoever has asked for nothing for so long gives its place to another.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// How often whoever waits looks for one that gives way.
const LOOK: Duration = Duration::from_millis(100);

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    kind: Kind,
    _permit: OwnedSemaphorePermit,
}

/// The places of both kinds.
#[derive(Debug, Clone)]
pub(super) struct Places([Kind; 2]);

/// Those of one kind.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    free: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    idle: Arc<Mutex<Idle>>,
}

/// Connections that ask for nothing, the one first that has done so for longest.
#[derive(Debug, Default)]
struct Idle {
    next: u64,
    connections: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
}

/// A connection is idle while this lives.
#[derive(Debug)]
pub(super) struct IdleGuard {
    idle: Arc<Mutex<Idle>>,
    number: u64,
    /// Ends when another needs the place.
    pub(super) leave: oneshot::Receiver<()>,
}

impl Places {
    pub(super) fn new() -> Places {
        Places(CONNECTIONS_MAX.map(|max| Kind {
            free: Arc::new(Semaphore::new(max)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            idle: Arc::default(),
        }))
    }

    /// A place, or the right to [wait](Waiting::place) for one; `None` where too many wait already.
    pub(super) fn ask(&self, may_change: bool) -> Option<Waiting> {
        let kind = self.0[usize::from(may_change)].clone();
        match Arc::clone(&kind.free).try_acquire_owned() {
            Ok(permit) => Some(Waiting::Over(Place {
                kind,
                _permit: permit,
            })),
            Err(_) => {
                let waits = Arc::clone(&kind.waiting).try_acquire_owned().ok()?;
                Some(Waiting::Goes { kind, _waits: waits })
            }
        }
    }

    /// A place among those who watch, if there is one.
    pub(super) fn watcher(&self) -> Option<Place> {
        let kind = self.0[0].clone();
        let permit = Arc::clone(&kind.free).try_acquire_owned().ok()?;
        Some(Place {
            kind,
            _permit: permit,
        })
    }
}

/// What [`Places::ask`] came to.
#[derive(Debug)]
pub(super) enum Waiting {
    Over(Place),
    Goes {
        kind: Kind,
        _waits: OwnedSemaphorePermit,
    },
}

impl Waiting {
    /// The place; `None` when all are taken by connections that do something.
    pub(super) async fn place(self) -> Option<Place> {
        let kind = match self {
            Waiting::Over(place) => return Some(place),
            Waiting::Goes { ref kind, .. } => kind.clone(),
        };
        let end = Instant::now() + TIMEOUT;
        while Instant::now() < end {
            let free = Arc::clone(&kind.free).acquire_owned();
            match tokio::time::timeout(LOOK, free).await {
                Ok(permit) => {
                    let permit = permit.ok()?;
                    return Some(Place {
                        kind,
                        _permit: permit,
                    });
                }
                Err(_) => kind.send_one_away(),
            }
        }
        None
    }
}

impl Kind {
    /// Asks the connection that has been idle for longest to go, if that is long enough.
    fn send_one_away(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let is_long = |since: Instant| since.elapsed() >= IDLE_MIN;
        let first = idle.connections.first_entry();
        if let Some(first) = first.filter(|first| is_long(first.get().0)) {
            let (_, leave) = first.remove();
            // It may have ended just now.
            let _ = leave.send(());
        }
    }
}

impl Place {
    /// Whether this is among those who may only read, or who watch.
    pub(super) fn is_watcher(&self, places: &Places) -> bool {
        Arc::ptr_eq(&self.kind.free, &places.0[0].free)
    }

    /// The connection asks for nothing from now on.
    pub(super) fn idle(&self) -> IdleGuard {
        let (sender, leave) = oneshot::channel();
        let mut idle = self.kind.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let number = idle.next;
        idle.next += 1;
        idle.connections.insert(number, (Instant::now(), sender));
        IdleGuard {
            idle: Arc::clone(&self.kind.idle),
            number,
            leave,
        }
    }
}

impl Drop for IdleGuard {
    fn drop(&mut self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.connections.remove(&self.number);
    }
}
