//! How workers share an export: requests a second through engine and store by one, two and four threads, without a network.
//!
//! `scale DIRECTORY MILLISECONDS ROUNDS [WORD]` measures each row for so long and so often, by turns, and prints the best of each: on a
//! machine that does other things besides, the best is what comes closest to the truth. `DIRECTORY` is on a disk's file system. Beside
//! the rows stands what bounds them: plain copies, and plain pwrite(2) to one file.

mod bound;
mod link;
mod queue;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aoe_common::{Mac, Vlan};
use arrayvec::ArrayVec;
use engine::{
    AccessList, Address, Change, Export, Exports, Fault, Identity, Observer, Options, Persistent, PortInfo,
    Session, Store, WireAdmin,
};
use link::{Ask, Memory, TARGET};
use queue::{Delayed, Later, Queue};
use store::{CompletionQueue, StoreKind, StoreOptions};

/// Frames that are given to the engine together.
pub const BATCH: usize = 32;
/// Size of the disk: 64 MiB.
pub const SECTORS: u64 = 1 << 17;
const THREADS: [usize; 3] = [1, 2, 4];

/// What the requests are like.
#[derive(Clone, Copy)]
pub struct Load {
    /// Sectors of each request.
    pub sectors: u8,
    /// Of a hundred requests.
    pub writes: u64,
    /// Requests in flight of each thread.
    depth: usize,
}

#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn changed(&self, _: Address, _: Change) {}

    fn fault(&self, _: Address, fault: &Fault) {
        eprintln!("{fault}");
    }
}

fn export<C: Queue>(store: Arc<dyn Store<C>>) -> Arc<Export<C>> {
    let options = Options {
        address: Address { shelf: 7, slot: 3 },
        vlan: Vlan::Untagged,
        read_only: false,
        sync: false,
        access: AccessList::default(),
        buffers: 1000,
        max_sectors: 255,
        firmware_version: 0,
        identity: Identity {
            serial: "scale".into(),
            model: "scale".into(),
            firmware: "1".into(),
            wwn: None,
        },
        wire_admin: WireAdmin::Nothing,
        smart: false,
        stale_after_us: 100_000,
        late_duplicates: false,
        gateway: None,
    };
    Arc::new(Export::new(options, store, None, Arc::new(Nobody), Persistent::default()).unwrap())
}

/// The sectors of the next request: anywhere, and never twice in a row.
pub fn next(random: &mut u64, load: Load) -> Ask {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let sectors = u64::from(load.sectors);
    Ask {
        writes: (*random >> 40) % 100 < load.writes,
        lba: (*random % (SECTORS / sectors)) * sectors,
        sectors: load.sectors,
    }
}

/// Requests answered by one worker until it is told to stop.
fn work<C: Queue>(export: &Arc<Export<C>>, number: u64, load: Load, stop: &AtomicBool) -> u64 {
    let mut link = Memory::default();
    let mut session = Session::new(Arc::new(Exports::new(vec![Arc::clone(export)])), C::open());
    let port = PortInfo {
        mac: TARGET,
        mtu_bytes: 9000,
    };
    let source = Mac([2, 0, 0, 0, 1, number as u8]);
    let (mut random, mut tag) = (number * 7919 + 17, 0u32);
    let started = Instant::now();
    let mut frames: ArrayVec<link::Frame, BATCH> = ArrayVec::new();
    while !stop.load(Ordering::Relaxed) {
        let now_us = started.elapsed().as_micros() as u64 + 1;
        let room = load.depth.saturating_sub(session.pending()).min(BATCH);
        for _ in 0..room {
            tag += 1;
            let ask = next(&mut random, load);
            frames.push(link.receive(source, tag, ask));
        }
        session.batch(&mut link, &port, &mut frames, now_us);
        session.completion_queue().submit();
        if !session.completions(&mut link, now_us) && session.pending() + BATCH > load.depth {
            session.completion_queue().wait();
        }
    }
    let answers = link.answers;
    while session.pending() > 0 {
        session.completion_queue().submit();
        session.completion_queue().wait();
        session.completions(&mut link, 0);
    }
    assert_eq!(link.errors, 0);
    drop(session.close(&mut link));
    answers
}

/// Millions a second of what `work` does on so many threads, each told its number.
///
/// The time that a thread was ready to run and others had its CPU does not count: a busy machine then says what an
/// idle one would. More threads than CPUs count as what the CPUs would have let them do.
pub fn rate(threads: usize, time: Duration, work: impl Fn(u64, &AtomicBool) -> u64 + Sync) -> f64 {
    let stop = AtomicBool::new(false);
    let (stop, work) = (&stop, &work);
    let run = move |number| {
        pin(number);
        let (started, delayed) = (Instant::now(), run_delay());
        let answers = work(number, stop);
        let (took, delayed) = (started.elapsed(), run_delay() - delayed);
        if delayed * 4 > took * 3 {
            // It hardly ran at all: too little to say anything.
            return 0.0;
        }
        answers as f64 / (took - delayed).as_secs_f64() / 1e6
    };
    thread::scope(|scope| {
        let numbers = 0..threads as u64;
        let workers: Vec<_> = numbers.map(|number| scope.spawn(move || run(number))).collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let together: f64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        together * (cpus() as f64 / threads as f64).min(1.0)
    })
}

/// How long this thread was ready and did not run.
fn run_delay() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let field = schedstat
        .split_whitespace()
        .nth(1)
        .and_then(|field| field.parse().ok());
    Duration::from_nanos(field.unwrap_or(0))
}

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn pin(number: u64) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(number as usize % cpus());
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// A row: its name, and its rate on so many threads.
type Row = (String, Box<dyn Fn(usize, Duration) -> f64>);

fn row<C: Queue + 'static>(name: String, store: Arc<dyn Store<C>>, load: Load) -> Row
where
    Arc<Export<C>>: Send + Sync,
{
    let export = export(store);
    let run = move |threads, time| rate(threads, time, |number, stop| work(&export, number, load, stop));
    (name, Box::new(run))
}

/// A file with data in all its sectors.
fn image(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, vec![0x11; SECTORS as usize * 512]).unwrap();
    path
}

fn rows(ram: &Path, disk: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<Row> {
    let load = |sectors, writes| Load {
        sectors,
        writes,
        depth: 64,
    };
    let mut rows = Vec::new();
    for (place, kind, directory) in [
        ("ram", StoreKind::Ram, ram),
        ("tmpfs", StoreKind::Mmap, ram),
        ("disk", StoreKind::Mmap, disk),
    ] {
        if !wanted(place) {
            continue;
        }
        let path = image(directory, place);
        let store: Arc<dyn Store<CompletionQueue>> = store::open(&StoreOptions::new(kind, &path)).unwrap();
        for (name, load) in [
            ("writes 1 KiB", load(2, 100)),
            ("writes 8 KiB", load(16, 100)),
            ("30 % writes 1 KiB", load(2, 30)),
            ("reads 1 KiB", load(2, 0)),
        ] {
            rows.push(row(format!("{place}, {name}"), Arc::clone(&store), load));
        }
    }
    let deep = Load {
        depth: 512,
        ..load(2, 100)
    };
    rows.push(row::<Delayed>(
        "put off, 512 in flight".into(),
        Arc::new(Later),
        deep,
    ));
    if wanted("bound") {
        for sectors in [2, 16] {
            let load = load(sectors, 100);
            rows.push(bound::copies(load));
            rows.push(bound::pwrite("tmpfs", ram, load));
            rows.push(bound::pwrite("disk", disk, load));
        }
    }
    rows
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, milliseconds, rounds, word @ ..] = &arguments[..] else {
        eprintln!("scale DIRECTORY MILLISECONDS ROUNDS [WORD]");
        std::process::exit(2);
    };
    let time = Duration::from_millis(milliseconds.parse().expect("milliseconds"));
    let rounds: usize = rounds.parse().expect("rounds");
    let ram = tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs");
    let disk = tempfile::tempdir_in(directory).expect("a directory on a disk");
    println!(
        "{:<28} {:>8} {:>8} {:>8}   2 to 1   4 to 2",
        "M/s, threads", 1, 2, 4
    );
    let place = |place: &str| word.first().is_none_or(|word| word.starts_with(place));
    for (name, run) in rows(ram.path(), disk.path(), &place) {
        if word.iter().any(|word| !name.contains(word.as_str())) {
            continue;
        }
        let mut best = [0f64; THREADS.len()];
        for _ in 0..rounds {
            for (best, threads) in best.iter_mut().zip(THREADS) {
                *best = best.max(run(threads, time));
            }
        }
        let [one, two, four] = best;
        println!(
            "{name:<28} {one:>8.3} {two:>8.3} {four:>8.3}   {:>6.2}   {:>6.2}",
            two / one,
            four / two
        );
    }
}
