//! What bounds the rows: copies and system calls alone, by the same threads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{BATCH, Load, Row, SECTORS, THREADS, next, rate};

/// Payloads that writes take in turn, as many as a batch has.
struct Payloads {
    bytes: Vec<u8>,
    random: u64,
}

impl Payloads {
    fn new(number: u64, load: Load) -> Payloads {
        Payloads {
            bytes: vec![0x5a; usize::from(load.sectors) * 512 * BATCH],
            random: number * 7919 + 17,
        }
    }

    /// Writes until it is told to stop; says how often it did.
    fn write(&mut self, load: Load, stop: &AtomicBool, mut to: impl FnMut(usize, &[u8])) -> u64 {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            for payload in self.bytes.chunks(usize::from(load.sectors) * 512) {
                to(next(&mut self.random, load).lba as usize * 512, payload);
                count += 1;
            }
        }
        count
    }
}

/// Copies into memory, each thread into its own.
pub(crate) fn copies(load: Load) -> Row {
    let most = THREADS.iter().copied().max().unwrap_or(1);
    let memory: Vec<Mutex<Vec<u8>>> = (0..most)
        .map(|_| Mutex::new(vec![0x11; SECTORS as usize * 512]))
        .collect();
    let run = move |threads, time| {
        rate(threads, time, |number, stop| {
            let mut memory = memory[number as usize].lock().unwrap();
            let memory = std::hint::black_box(&mut memory[..]);
            Payloads::new(number, load).write(load, stop, |at, payload| {
                memory[at..at + payload.len()].copy_from_slice(payload);
            })
        })
    };
    (
        format!("bound: copies, {} B", u64::from(load.sectors) * 512),
        Box::new(run),
    )
}

/// System calls that write one file.
pub(crate) fn pwrite(place: &str, directory: &Path, load: Load) -> Row {
    let path = &directory.join(format!("plain-{}", load.sectors));
    std::fs::write(path, vec![0x11; SECTORS as usize * 512]).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    let run = move |threads, time| {
        rate(threads, time, |number, stop| {
            Payloads::new(number, load).write(load, stop, |at, payload| {
                file.write_all_at(payload, at as u64).unwrap();
            })
        })
    };
    (
        format!("bound: pwrite, {place}, {} B", u64::from(load.sectors) * 512),
        Box::new(run),
    )
}
