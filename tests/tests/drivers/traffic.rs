//! Verified reads and writes that go on in the background whatever happens to the target.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aoe_common::Mac;
use lab::vm::STEP;
use lab::{Address, Namespace};
use xblade::initiator::load::{LoadOrder, LoadPlan, run};
use xblade::initiator::{Client, PacketSocket, Route};

/// Requests of a round; what it wrote is read back at its end.
const ROUND: u64 = 60;

/// A load in a thread of its own.
#[derive(Debug)]
pub(super) struct Traffic {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Nobody waits for the end any more.
    abandoned: AtomicBool,
    /// Sectors of the largest request.
    most: AtomicU64,
    /// Rounds of every size that were begun and that have held.
    begun: AtomicU64,
    held: AtomicU64,
    requests: AtomicU64,
    retransmits: AtomicU64,
}

impl Traffic {
    /// Starts to use the export by an interface of the namespace, with requests of 1 sector, 2 and so many at most.
    ///
    /// # Errors
    /// When there is no such interface.
    pub(super) fn start(
        namespace: &Namespace,
        interface: &str,
        target: Mac,
        export: Address,
        most: u8,
    ) -> Result<Traffic> {
        let shared = Arc::new(Shared::default());
        shared.most.store(u64::from(most), Ordering::Relaxed);
        let (theirs, name) = (Arc::clone(&shared), interface.to_owned());
        // The thread inherits the namespace.
        let thread = namespace.run(move || {
            std::thread::spawn(move || {
                let mut socket = Client::open(&name)?.into_socket();
                let route = Route {
                    source: socket.mac(),
                    destination: target,
                    shelf: export.shelf,
                    slot: export.slot,
                };
                let mut seed = lab::seed() as u32;
                while !theirs.stop.load(Ordering::Relaxed) {
                    theirs.begun.fetch_add(1, Ordering::SeqCst);
                    let most = theirs.most.load(Ordering::SeqCst) as u8;
                    let mut sizes = vec![1, 2, most];
                    sizes.dedup();
                    for sectors in sizes {
                        seed = seed.wrapping_add(1);
                        round(&mut socket, &route, sectors, seed, &theirs)?;
                    }
                    theirs.held.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            })
        });
        Ok(Traffic {
            shared,
            thread: Some(thread),
        })
    }

    /// Sectors of the largest request from the next round on.
    pub(super) fn set_most(&self, most: u8) {
        self.shared.most.store(u64::from(most), Ordering::SeqCst);
    }

    /// Waits till rounds that were begun after this call have held.
    ///
    /// # Errors
    /// When a request failed, or it takes too long.
    pub(super) fn goes_on(&mut self) -> Result<()> {
        // The one under way began before.
        let wanted = self.shared.begun.load(Ordering::SeqCst) + 1;
        let deadline = Instant::now() + STEP;
        while self.shared.held.load(Ordering::SeqCst) < wanted {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                self.join()?;
                bail!("the load has ended");
            }
            ensure!(
                Instant::now() < deadline,
                "the load stands still after {} requests",
                self.shared.requests.load(Ordering::Relaxed)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends it after its round; gives the number of requests and of those that were sent again.
    ///
    /// # Errors
    /// When a request failed.
    pub(super) fn stop(mut self) -> Result<(u64, u64)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join()?;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok((count(&self.shared.requests), count(&self.shared.retransmits)))
    }

    fn join(&mut self) -> Result<()> {
        let thread = self.thread.take().context("the load has ended")?;
        thread.join().map_err(|_| anyhow::anyhow!("the load panicked"))?
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.abandoned.store(true, Ordering::Relaxed);
    }
}

fn round(socket: &mut PacketSocket, route: &Route, sectors: u8, seed: u32, shared: &Shared) -> Result<()> {
    let plan = LoadPlan {
        route: *route,
        read_percent: 40,
        order: LoadOrder::Random,
        sectors,
        depth: 8,
        duration: STEP,
        count: Some(ROUND),
        warmup: Duration::ZERO,
        first: 0,
        span: 1024,
        verify: true,
        seed,
        give_up: STEP / 2,
    };
    let outcome = run(socket, &plan, |_, _| {
        match shared.abandoned.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    shared.requests.fetch_add(outcome.requests, Ordering::Relaxed);
    shared
        .retransmits
        .fetch_add(outcome.retransmits, Ordering::Relaxed);
    ensure!(
        outcome.holds() && outcome.read_back > 0 && !outcome.interrupted,
        "requests of {sectors} sectors: {}",
        outcome.to_json()
    );
    Ok(())
}
