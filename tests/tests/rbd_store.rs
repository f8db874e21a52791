//! The store of images in Ceph by itself: many operations at a time, and workers that end amid them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use lab::ceph::{Ceph, NEEDS};
use lab::image::SECTOR;
use lab::{Namespace, eventually, needs};
use xblade::store::{
    CephOptions, CompletionQueue, Completions as _, Context, Durability, Event, Extent, LockOf, Step, Store,
    StoreError, StoreKind, StoreOptions, Takeover, Token, open_with,
};

const TIMEOUT: Duration = Duration::from_secs(120);
/// Sectors of one operation of [`run`].
const PIECE: u64 = 16;
/// Operations that it has under way at a time.
const DEPTH: u64 = 32;

fn options(conf: &str, image: &str) -> StoreOptions {
    let ceph = CephOptions {
        conf: Some(conf.into()),
        ..CephOptions::default()
    };
    StoreOptions {
        ceph,
        ..StoreOptions::new(StoreKind::Rbd, format!("rbd:rbd/{image}"))
    }
}

fn store(conf: &str) -> Result<Arc<dyn Store<CompletionQueue>>> {
    Ok(xblade::store::open(&options(conf, "vm"))?)
}

/// Waits for so many ends; what reads brought, by token.
fn ends(queue: &mut CompletionQueue, count: u64) -> Result<BTreeMap<Token, Box<[u8]>>> {
    let (mut came, mut brought, limit) = (0, BTreeMap::new(), Instant::now() + TIMEOUT);
    while came < count {
        queue.submit(Instant::now());
        while let Some(completion) = queue.next() {
            let Event::Finished(result) = completion.event else {
                bail!("asked to come again");
            };
            brought.extend(result?.map(|bytes| (completion.token, bytes)));
            came += 1;
        }
        ensure!(Instant::now() < limit, "{came} of {count} ends");
        std::thread::yield_now();
    }
    Ok(brought)
}

/// A worker with sectors of its own. Every third queue ends with its operations under way.
fn run(store: &Arc<dyn Store<CompletionQueue>>, number: u64) -> Result<()> {
    let extent = |n: u64| Extent {
        lba: (number * DEPTH + n) * PIECE,
        count: PIECE,
    };
    let data = |round: u8, n: u64| vec![round.wrapping_mul(7) ^ n as u8; PIECE as usize * SECTOR];
    for round in 0..30u8 {
        let mut queue = CompletionQueue::new()?;
        for n in 0..DEPTH {
            let data = data(round, n);
            let (head, tail) = data.split_at(777);
            let step = store.write(&mut queue, n, extent(n), &[head, tail], Durability::Durable)?;
            ensure!(step == Step::Later);
        }
        if round % 3 == 1 {
            // Its buffers live on until librbd has called back.
            drop(queue);
            let under_way = || {
                store
                    .counters()
                    .iter()
                    .any(|(name, count)| *name == "in_flight" && *count > 0)
            };
            let limit = Instant::now() + TIMEOUT;
            while under_way() {
                ensure!(
                    Instant::now() < limit,
                    "operations that nobody waits for do not end"
                );
                std::thread::yield_now();
            }
            queue = CompletionQueue::new()?;
        } else {
            ends(&mut queue, DEPTH)?;
        }
        for n in 0..DEPTH {
            store.read(&mut queue, n, extent(n), &mut [])?;
        }
        let brought = ends(&mut queue, DEPTH)?;
        for n in 0..DEPTH {
            ensure!(
                brought.get(&n).is_some_and(|bytes| **bytes == *data(round, n)),
                "round {round}, operation {n}"
            );
        }
    }
    Ok(())
}

#[test]
fn workers_may_end_amid_their_operations() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let namespace = Namespace::new("ceph")?;
    let ceph = Ceph::start(&namespace)?;
    ceph.rbd(&namespace, "create --size 64M rbd/vm")?;
    let conf = ceph.conf();
    namespace.run(move || {
        let store = store(&conf)?;
        std::thread::scope(|scope| {
            let store = &store;
            let threads: Vec<_> = (0..3)
                .map(|number| scope.spawn(move || run(store, number)))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("a thread"))
        })?;
        // A close waits for what is under way, and nothing is served afterwards.
        let mut queue = CompletionQueue::new()?;
        let extent = Extent { lba: 0, count: 1 };
        store.write(&mut queue, 1, extent, &[&[9; SECTOR]], Durability::Durable)?;
        store.close()?;
        ends(&mut queue, 1)?;
        ensure!(store.read(&mut queue, 2, extent, &mut []).is_err());
        Ok(())
    })
}

/// The images of one process through two clients, some opened as a gateway of a group does. What an operator orders, or a reload, must not shut
/// out the process itself.
#[test]
fn a_lock_of_this_process_is_never_broken() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let namespace = Namespace::new("ceph")?;
    let ceph = Ceph::start(&namespace)?;
    for image in ["alone", "grouped"] {
        ceph.rbd(&namespace, &format!("create --size 64M rbd/{image}"))?;
    }
    let conf = ceph.conf();
    namespace.run(move || {
        let context = Context::default();
        let anybody = Some(Takeover {
            from: LockOf::Anybody,
            same_range: false,
            by: Instant::now() + TIMEOUT,
            lease: TIMEOUT,
        });
        let open = |image: &str, takeover: Option<Takeover>| {
            let mut options = options(&conf, image);
            options.ceph.clusters = 2;
            options.takeover = takeover;
            Ok::<_, StoreError>(open_with(&options, context.clone())?.store)
        };
        let mut held = vec![
            ("alone", open("alone", None)?),
            ("grouped", open("grouped", anybody.clone())?),
        ];
        for takeover in [anybody.clone(), None] {
            // Each twice: the one or the other of the two clients opens it.
            for image in ["alone", "grouped", "alone", "grouped"] {
                let refused = open(image, takeover.clone());
                ensure!(
                    matches!(&refused, Err(StoreError::RbdInUseHere { .. })),
                    "{image} as {takeover:?}: {refused:?}"
                );
            }
        }
        let mut queue = CompletionQueue::new()?;
        for (_, store) in &held {
            let extent = Extent { lba: 0, count: 1 };
            store.write(&mut queue, 1, extent, &[&[9; SECTOR]], Durability::Durable)?;
            ends(&mut queue, 1)?;
        }
        // What is closed is free.
        while let Some((image, store)) = held.pop() {
            store.close()?;
            drop(store);
            let mut opened = None;
            eventually("an image that is free", TIMEOUT, || {
                opened = open(image, anybody.clone()).ok();
                Ok(opened.is_some())
            })?;
        }
        Ok(())
    })
}
