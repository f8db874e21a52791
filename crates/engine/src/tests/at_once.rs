//! Operations that do not conflict run at the same time, whatever workers have them: no lock that one holds is in the other's way.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::testing::bench::{ONE, OTHER, TARGET, Witness, Worker, ata, frame_from, options, status};
use crate::testing::completions::MemCompletions;
use crate::{Durability, Extent, Fault, Step, Store, Token, Traits};
use crate::{Export, Persistent};

/// When two have not met, they never will.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A store whose reads and writes return when two of them are in it.
#[derive(Debug, Default)]
struct Meeting {
    inside: Mutex<u32>,
    changed: Condvar,
}

impl Meeting {
    fn meet(&self) -> Step {
        let end = Instant::now() + TIMEOUT;
        let mut inside = self.inside.lock();
        *inside += 1;
        self.changed.notify_all();
        while *inside < 2 {
            assert!(
                !self.changed.wait_until(&mut inside, end).timed_out(),
                "the other one waits"
            );
        }
        Step::Done
    }
}

impl Store<MemCompletions> for Meeting {
    fn sectors(&self) -> u64 {
        1 << 20
    }

    fn refresh(&self) -> io::Result<u64> {
        Ok(self.sectors())
    }

    fn traits(&self) -> Traits {
        Traits {
            trim: false,
            zeroes_after_trim: false,
            physical_exponent: 0,
        }
    }

    fn read(&self, _: &mut MemCompletions, _: Token, _: Extent, _: &mut [&mut [u8]]) -> Result<Step, Fault> {
        Ok(self.meet())
    }

    fn write(
        &self,
        _: &mut MemCompletions,
        _: Token,
        _: Extent,
        _: &[&[u8]],
        _: Durability,
    ) -> Result<Step, Fault> {
        Ok(self.meet())
    }

    fn flush(&self, _: &mut MemCompletions, _: Token) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn trim(&self, _: &mut MemCompletions, _: Token, _: &[Extent]) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn verify(&self, _: &mut MemCompletions, _: Token, _: Extent) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Two workers have a request each, of the same export.
fn run_at_once(what: &str, requests: [Vec<u8>; 2]) {
    println!("{what}");
    let store = Arc::new(Meeting::default());
    let witness = Arc::new(Witness::default());
    let export = Export::new(options(7, 3), store, None, witness, Persistent::default()).unwrap();
    let export = Arc::new(export);
    std::thread::scope(|scope| {
        for (source, argument) in [ONE, OTHER].into_iter().zip(requests) {
            let export = Arc::clone(&export);
            scope.spawn(move || {
                let mut worker = Worker::new(vec![export]);
                let replies = worker.ask(&frame_from(source, TARGET, 7, 3, 0, 1, &argument));
                assert_eq!(status(&replies[0]), (0x40, 0));
            });
        }
    });
}

#[test]
fn what_does_not_conflict_runs_at_once() {
    let read = |lba| ata(0x40, 0, 1, 0x24, lba, &[]);
    let write = |lba| ata(0x41, 0, 1, 0x34, lba, &[7; 512]);
    run_at_once("writes far apart", [write(5), write(100_000)]);
    run_at_once("writes of neighbours", [write(5), write(6)]);
    // Runs of 64 sectors fall into 64 stripes, the first again from here on.
    run_at_once("writes of one stripe", [write(5), write(64 * 64 + 5)]);
    run_at_once("a read beside a write", [read(5), write(6)]);
    run_at_once("reads of one sector", [read(5), read(5)]);
}
