//! Random operations on an image in Ceph, by the store alone, and on a vector of bytes must give the same.

use std::sync::Arc;
use std::time::Instant;

use lab::values::sector;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use xblade::store::{
    CephOptions, CompletionQueue, Completions as _, Durability, Event, Extent, Step, Store, StoreKind,
    StoreOptions,
};

use super::*;

/// Sectors that are used, around a border of two of Ceph's objects.
const USED: u64 = 1200;
/// Where they begin.
const FIRST: u64 = OBJECT - USED / 2;

#[derive(Clone, Debug)]
enum Action {
    Read(u64, u64),
    Write(u64, u64, Durability),
    Trim(u64, u64),
    Verify(u64, u64),
    Flush,
    /// The image is closed and opened again.
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    let place = || (0..USED, 1u64..40).prop_map(|(lba, count)| (lba, count.min(USED - lba)));
    prop_oneof![
        6 => place().prop_map(|(lba, count)| Action::Read(lba, count)),
        5 => place().prop_map(|(lba, count)| Action::Write(lba, count, Durability::WriteBack)),
        2 => place().prop_map(|(lba, count)| Action::Write(lba, count, Durability::Durable)),
        2 => place().prop_map(|(lba, count)| Action::Trim(lba, count)),
        1 => place().prop_map(|(lba, count)| Action::Verify(lba, count)),
        1 => Just(Action::Flush),
        1 => Just(Action::Reopen),
    ]
}

/// An open image.
struct Driver {
    options: StoreOptions,
    store: Arc<dyn Store<CompletionQueue>>,
    queue: CompletionQueue,
}

impl Driver {
    /// With the sectors from `offset` on.
    fn open(conf: &str, offset: u64) -> Result<Driver> {
        let ceph = CephOptions {
            conf: Some(conf.into()),
            ..CephOptions::default()
        };
        let options = StoreOptions {
            ceph,
            offset,
            length: USED,
            ..StoreOptions::new(StoreKind::Rbd, "rbd:rbd/vm")
        };
        Ok(Driver {
            store: xblade::store::open(&options)?,
            queue: CompletionQueue::new()?,
            options,
        })
    }

    fn reopen(&mut self) -> Result<()> {
        self.store.close()?;
        self.store = xblade::store::open(&self.options)?;
        Ok(())
    }

    /// What an operation brings that was started.
    fn end(&mut self, step: Step) -> Result<Option<Box<[u8]>>> {
        ensure!(step == Step::Later, "every operation takes its time: {step:?}");
        let limit = Instant::now() + TIMEOUT;
        loop {
            self.queue.submit(Instant::now());
            if let Some(completion) = self.queue.next() {
                let Event::Finished(result) = completion.event else {
                    anyhow::bail!("asked to come again");
                };
                return Ok(result?);
            }
            ensure!(Instant::now() < limit, "an operation does not end");
            std::thread::yield_now();
        }
    }

    fn apply(&mut self, model: &mut [u8], action: &Action, version: u64) -> Result<()> {
        let span = |lba: u64, count: u64| lba as usize * SECTOR..(lba + count) as usize * SECTOR;
        let (queue, store) = (&mut self.queue, Arc::clone(&self.store));
        match *action {
            Action::Read(lba, count) => {
                let step = store.read(queue, 1, Extent { lba, count }, &mut [])?;
                let data = self.end(step)?.context("no data")?;
                ensure!(*data == model[span(lba, count)], "read of {count} at {lba}");
            }
            Action::Write(lba, count, durability) => {
                let data: Vec<u8> = (lba..lba + count).flat_map(|lba| sector(lba, version)).collect();
                let (head, tail) = data.split_at(data.len() / 3);
                let step = store.write(queue, 1, Extent { lba, count }, &[head, tail], durability)?;
                self.end(step)?;
                model[span(lba, count)].copy_from_slice(&data);
            }
            Action::Trim(lba, count) => {
                let step = store.trim(queue, 1, &[Extent { lba, count }])?;
                self.end(step)?;
                model[span(lba, count)].fill(0);
            }
            Action::Verify(lba, count) => {
                let step = store.verify(queue, 1, Extent { lba, count })?;
                self.end(step)?;
            }
            Action::Flush => {
                let step = store.flush(queue, 1)?;
                self.end(step)?;
            }
            Action::Reopen => self.reopen()?,
        }
        Ok(())
    }
}

fn check(conf: &str, offset: u64, actions: &[Action]) -> Result<()> {
    let mut driver = Driver::open(conf, FIRST + offset)?;
    let mut model = vec![0; USED as usize * SECTOR];
    driver.apply(&mut model, &Action::Trim(0, USED), 0)?;
    for (version, action) in (1..).zip(actions) {
        driver.apply(&mut model, action, version)?;
    }
    driver.apply(&mut model, &Action::Read(0, USED), 0)?;
    driver.reopen()?;
    driver.apply(&mut model, &Action::Read(0, USED), 0)?;
    Ok(driver.store.close()?)
}

#[test]
fn the_store_is_a_disk() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let conf = site.ceph.conf();
    site.lab.target.run(move || {
        let config = Config {
            cases: 24,
            failure_persistence: None,
            ..Config::default()
        };
        let inputs = (0u64..20, prop::collection::vec(action(), 1..60));
        let mut runner = TestRunner::new(config);
        runner.run(&inputs, |(offset, actions)| {
            check(&conf, offset, &actions).map_err(|error| TestCaseError::fail(format!("{error:#}")))
        })?;
        Ok(())
    })
}
