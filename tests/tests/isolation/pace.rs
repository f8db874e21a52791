//! What users of the healthy export get, with the load and without.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{HEALTHY, Served};

/// How long is looked at a time: shorter than what a load has outstanding keeps a disk of 2 ms a request busy.
const LOOK: Duration = Duration::from_millis(250);
/// Its parts: short enough that nobody else has the machine in some of them, however busy it is.
const WINDOW: Duration = Duration::from_millis(25);
/// Looks with the load and without, by turns.
const FEWEST_TURNS: usize = 5;
const MOST_TURNS: usize = 60;

/// Windows in which the healthy export was read, one read after the other.
#[derive(Debug, Default)]
struct Paces {
    /// How many in each, the most first.
    reads: Vec<usize>,
    /// How long 99 of 100 took at most in each, the shortest first.
    p99: Vec<Duration>,
}

impl Paces {
    /// One window in ten was better.
    fn good(&self) -> (usize, Duration) {
        let at = self.reads.len() / 10;
        (self.reads[at], self.p99[at])
    }

    fn look(&mut self, served: &Served) -> Result<()> {
        let initiator = served.lab.open(0)?;
        let threads = || served.target.process.threads();
        // Answered behind the load.
        let disk = initiator.find(HEALTHY).with_context(threads)?;
        for _ in 0..LOOK.as_millis() / WINDOW.as_millis() {
            let (begin, mut times) = (Instant::now(), Vec::new());
            while begin.elapsed() < WINDOW {
                let asked = Instant::now();
                disk.read(times.len() as u64 % 64, 1).with_context(threads)?;
                times.push(asked.elapsed());
            }
            times.sort_unstable();
            self.reads.push(times.len());
            self.p99
                .push(times[(times.len() * 99 / 100).min(times.len() - 1)]);
        }
        self.reads.sort_unstable_by_key(|reads| std::cmp::Reverse(*reads));
        self.p99.sort_unstable();
        Ok(())
    }
}

impl Served {
    /// What is promised holds. `press` puts the load on.
    pub(super) fn keeps_its_pace(&self, press: impl FnMut(&Served) -> Result<()>) -> Result<()> {
        self.keeps_its_pace_against(|_| Ok(()), press)
    }

    /// What is promised holds against what the machine does while the value that `control` makes lives.
    pub(super) fn keeps_its_pace_against<T>(
        &self,
        control: impl FnMut(&Served) -> Result<T>,
        press: impl FnMut(&Served) -> Result<()>,
    ) -> Result<()> {
        self.keeps(90, control, press, |calm, loaded| {
            loaded <= calm * 2 + Duration::from_micros(100)
        })
    }

    /// So many of 100 reads are left, and the 99th percentile is as wanted, in good windows with the load against good windows without it.
    pub(super) fn keeps<T>(
        &self,
        of_100: usize,
        mut control: impl FnMut(&Served) -> Result<T>,
        mut press: impl FnMut(&Served) -> Result<()>,
        is_soon: impl Fn(Duration, Duration) -> bool,
    ) -> Result<()> {
        let (mut calm, mut loaded) = (Paces::default(), Paces::default());
        for turn in 1..=MOST_TURNS {
            self.calm()?;
            let running = control(self)?;
            calm.look(self)?;
            drop(running);
            self.calm()?;
            press(self)?;
            loaded.look(self)?;
            let ((before, p99_before), (during, p99_during)) = (calm.good(), loaded.good());
            if turn >= FEWEST_TURNS && during * 100 >= before * of_100 && is_soon(p99_before, p99_during) {
                println!(
                    "{:?}: {turn} turns, {:?}, {:?}",
                    self.site,
                    calm.good(),
                    loaded.good()
                );
                return self.calm();
            }
        }
        // All of them, on a line of their own: many.
        println!("all: {calm:?}, {loaded:?}");
        bail!(
            "reads of another export in {WINDOW:?}, and their 99th percentile, without the load and with it: {:?}, {:?}",
            calm.good(),
            loaded.good()
        );
    }
}
