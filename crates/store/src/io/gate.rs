//! How much a device may be given at a time, by all exports and workers together.
//!
//! The block layer has a fixed number of requests for each device (`nr_requests`). Who submits one more waits for a
//! free one in the kernel, whatever flags it asks with, and a worker must not. So workers keep below that number and hold
//! the rest back themselves.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::io::threads::Threads;
use crate::tick::Tick;

/// What a device is taken to have if it does not say: the kernel's default.
const DEFAULT_REQUESTS: u32 = 128;
/// How long who waits for a whole file sleeps until it looks again: at first, and at most, as when a disk hangs.
const LOOK: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(50)];
/// How long after an answer a device is believed to answer still, in ticks.
const PROMPT_TICKS: u32 = 2;

/// One device.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Requests that all workers together may have under way: half of the device's, since the kernel's own write-back takes from
    /// the same, and a worker that has just come takes its share before the others have given it up.
    limit: u32,
    /// Workers that have requests for it.
    users: AtomicU32,
    /// When a request ended last.
    answered: AtomicU32,
    /// System calls under way that have a whole file to themselves, or wait for that.
    exclusive: AtomicU32,
    /// System calls under way that write a file's dirty pages back.
    writing_back: AtomicU32,
    /// Workers in a system call on a file of the device.
    inside: AtomicU32,
    /// Wait for it in place of workers.
    pub(crate) threads: Arc<Threads>,
}

/// As long as it lives, a system call has a whole file of the device to itself.
#[derive(Debug)]
pub(crate) struct Exclusive<'a>(&'a Gate);

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.0.exclusive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// As long as it lives, a system call writes a file's dirty pages back.
#[derive(Debug)]
pub(crate) struct WritingBack<'a>(&'a Gate);

impl Drop for WritingBack<'_> {
    fn drop(&mut self) {
        self.0.writing_back.fetch_sub(1, Ordering::SeqCst);
    }
}

/// As long as it lives, no system call begins that has a whole file of the device to itself.
#[derive(Debug)]
pub(crate) struct Inside(Arc<Gate>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    /// A gate of a device that has `requests` at a time.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn new(requests: u32) -> io::Result<Gate> {
        Ok(Gate {
            limit: (requests / 2).max(1),
            users: AtomicU32::new(0),
            // Long ago: nothing is known.
            answered: AtomicU32::new(Tick::now().0.wrapping_sub(u32::MAX / 4)),
            exclusive: AtomicU32::new(0),
            writing_back: AtomicU32::new(0),
            inside: AtomicU32::new(0),
            threads: Threads::new()?,
        })
    }

    /// What one worker may have under way now.
    pub(crate) fn share(&self) -> usize {
        (self.limit / self.users.load(Ordering::Relaxed).max(1)).max(1) as usize
    }

    /// A worker has requests for the device from now on.
    pub(crate) fn enter(&self) {
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    /// It has none any more.
    pub(crate) fn leave(&self) {
        self.users.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that the device answered.
    pub(crate) fn note_answer(&self, now: Tick) {
        if self.answered.load(Ordering::Relaxed) != now.0 {
            self.answered.store(now.0, Ordering::Relaxed);
        }
    }

    /// To be held during a hole punch or discard: whoever reads a page in meanwhile waits for it, and of a block device whoever reads
    /// at all (since Linux 6.15), also with `RWF_NOWAIT`. Waits for what workers have under way; what comes meanwhile goes by other threads.
    pub(crate) fn exclusive(&self) -> Exclusive<'_> {
        self.exclusive.fetch_add(1, Ordering::SeqCst);
        let held = Exclusive(self);
        let [mut pause, longest] = LOOK;
        while self.inside.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(pause);
            pause = (pause * 2).min(longest);
        }
        held
    }

    /// To be held during a system call of a worker that must not wait, and until io_uring has done what it leaves to the worker's thread.
    /// `None` while it might have to wait for a hole punch or discard.
    pub(crate) fn go_inside(self: &Arc<Self>) -> Option<Inside> {
        // First the own number, then a look at the other's; `exclusive` does it the other way round, so one of the two sees the other.
        self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(Arc::clone(self));
        (self.exclusive.load(Ordering::SeqCst) == 0).then_some(inside)
    }

    /// To be held while a file's dirty pages are written back: that may take all requests that the device has. What workers have begun, or hand
    /// over with their round, is not waited for.
    pub(crate) fn write_back(&self) -> WritingBack<'_> {
        self.writing_back.fetch_add(1, Ordering::SeqCst);
        WritingBack(self)
    }

    /// Whether that is under way. Who reads through the page cache waits for a free request then, also where he asks not to.
    pub(crate) fn is_writing_back(&self) -> bool {
        self.writing_back.load(Ordering::SeqCst) > 0
    }

    /// Whether it answered lately.
    pub(crate) fn is_prompt(&self, now: Tick) -> bool {
        now.since(Tick(self.answered.load(Ordering::Relaxed))) < PROMPT_TICKS
    }
}

/// The gates of the devices in use, by number.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<HashMap<u64, Weak<Gate>>>);

impl Gates {
    /// The gate of the device that `file` is or lies on.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn of(&self, file: &File) -> io::Result<Arc<Gate>> {
        let device = file
            .metadata()
            .map_or(0, |meta| match meta.file_type().is_block_device() {
                true => meta.rdev(),
                false => meta.dev(),
            });
        let device = whole_disk(device);
        let mut gates = self.0.lock();
        if let Some(gate) = gates.get(&device).and_then(Weak::upgrade) {
            return Ok(gate);
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::new(Gate::new(requests_of(device))?);
        gates.insert(device, Arc::downgrade(&gate));
        Ok(gate)
    }
}

fn sys(device: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    format!("/sys/dev/block/{major}:{minor}").into()
}

/// The disk of a partition; any other device is its own.
fn whole_disk(device: u64) -> u64 {
    let sys = sys(device);
    if !sys.join("partition").exists() {
        return device;
    }
    std::fs::read_to_string(sys.join("../dev"))
        .ok()
        .and_then(|text| {
            let (major, minor) = text.trim().split_once(':')?;
            Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
        })
        .unwrap_or(device)
}

fn requests_of(device: u64) -> u32 {
    std::fs::read_to_string(sys(device).join("queue/nr_requests"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_REQUESTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_half_of_what_the_device_has() {
        let gate = Gate::new(128).unwrap();
        for (workers, share) in [(1, 64), (2, 32), (3, 21)] {
            gate.enter();
            assert_eq!(gate.share(), share, "{workers} workers");
        }
        gate.leave();
        assert_eq!(gate.share(), 32);
        let narrow = Gate::new(1).unwrap();
        (0..4).for_each(|_| narrow.enter());
        assert_eq!(narrow.share(), 1, "never none");
    }

    #[test]
    fn a_device_is_prompt_for_a_while_after_an_answer() {
        let (gate, now) = (Gate::new(128).unwrap(), Tick::now());
        assert!(!gate.is_prompt(now), "nothing is known yet");
        gate.note_answer(now);
        assert!(gate.is_prompt(now));
        assert!(
            gate.is_prompt(Tick(now.0.wrapping_sub(1))),
            "a worker that is behind"
        );
        assert!(!gate.is_prompt(Tick(now.0.wrapping_add(PROMPT_TICKS))));
    }

    #[test]
    fn nobody_is_inside_while_a_file_is_held() {
        let gate = Arc::new(Gate::new(128).unwrap());
        let held = gate.exclusive();
        assert!(gate.go_inside().is_none(), "a discard is under way");
        drop(held);
        let inside = gate.go_inside().expect("nothing is under way");
        let (begun, begins) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let held = gate.exclusive();
                begun.send(gate.inside.load(Ordering::SeqCst)).unwrap();
                drop(held);
            });
            while gate.exclusive.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            assert!(begins.try_recv().is_err(), "a discard began beside a worker");
            drop(inside);
            assert_eq!(begins.recv().unwrap(), 0);
        });
    }

    #[test]
    fn write_back_is_known_until_the_last_has_ended() {
        let gate = Gate::new(128).unwrap();
        let (one, two) = (gate.write_back(), gate.write_back());
        drop(one);
        assert!(gate.is_writing_back());
        drop(two);
        assert!(!gate.is_writing_back());
    }

    #[test]
    fn files_on_one_device_share_its_gate() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let file = |name| File::create(dir.path().join(name)).unwrap();
        let gates = Gates::default();
        let gate = gates.of(&file("a")).unwrap();
        assert!(Arc::ptr_eq(&gate, &gates.of(&file("b")).unwrap()));
        assert!(!Arc::ptr_eq(&gate, &Gates::default().of(&file("b")).unwrap()));
    }
}
