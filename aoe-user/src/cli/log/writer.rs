//! Log entries on their way out. Whoever logs hands an entry over and goes on; a thread writes it.
//!
//! Where nobody reads (a pipe that is full, a reader that died), entries wait up to a bound and are dropped beyond it. The next
//! entry that gets through is preceded by how many are missing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::event::{PollFd, PollFlags, poll};
use tracing::Level;

/// What may wait to be written.
const WAITING_BYTES: usize = 1 << 20;
/// An entry's first bytes are shown: nobody reads more, and it may hold what somebody else wrote.
const ENTRY_BYTES: usize = 16 << 10;

/// Where entries end up.
pub(super) trait Sink: Send + 'static {
    /// Writes one entry, which ends with a newline, waiting as long as it takes.
    fn write(&mut self, level: Level, text: &[u8]) -> io::Result<()>;
}

/// Hands entries to the thread that writes them. Clones lead to the same thread.
#[derive(Clone)]
pub(super) struct Writer(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write.
    filled: Condvar,
    /// All is written.
    emptied: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Entry>,
    bytes: usize,
    /// Entries dropped since the last that was taken.
    dropped: u64,
    /// The thread is at an entry that is not in `waiting` any more.
    writing: bool,
}

enum Entry {
    Text(Level, Vec<u8>),
    /// So many entries are missing here.
    Gap(u64),
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub(super) fn start(sink: impl Sink) -> io::Result<Writer> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        });
        let writer = Writer(Arc::clone(&shared));
        // Signals are for the other threads: some commands block them and ask for them.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let started = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.write_all(sink));
        before.thread_set_mask()?;
        started.map(|_| writer)
    }

    /// Takes an entry, which ends with a newline, or drops it. Never waits for the sink.
    pub(super) fn send(&self, level: Level, mut text: Vec<u8>) {
        shorten(&mut text);
        let mut queue = self.0.queue();
        if queue.bytes + text.len() > WAITING_BYTES {
            queue.dropped += 1;
            return;
        }
        queue.mark_gap();
        queue.bytes += text.len();
        queue.waiting.push_back(Entry::Text(level, text));
        self.0.filled.notify_one();
    }

    /// Waits until everything is written, but no longer than `limit`; true if it is.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut queue = self.0.queue();
        queue.mark_gap();
        self.0.filled.notify_one();
        while queue.writing || !queue.waiting.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self
                .0
                .emptied
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

impl Queue {
    /// Makes a place for the report about dropped entries, which were sent after those that wait.
    fn mark_gap(&mut self) {
        match std::mem::take(&mut self.dropped) {
            0 => {}
            count => self.waiting.push_back(Entry::Gap(count)),
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut sink: impl Sink) {
        loop {
            let entry = self.next();
            let (written, lost) = match entry {
                Entry::Text(level, text) => (sink.write(level, &text), 1),
                Entry::Gap(count) => {
                    let text = format!("{count} log entries are missing here: nobody read them in time\n");
                    (sink.write(Level::WARN, text.as_bytes()), count)
                }
            };
            let mut queue = self.queue();
            queue.writing = false;
            match written {
                Err(_) => queue.dropped += lost,
                // The reader is back, even if nobody has more to say.
                Ok(()) if queue.waiting.is_empty() => queue.mark_gap(),
                Ok(()) => {}
            }
            if queue.waiting.is_empty() {
                self.emptied.notify_all();
            }
        }
    }

    fn next(&self) -> Entry {
        let mut queue = self.queue();
        loop {
            if let Some(entry) = queue.waiting.pop_front() {
                if let Entry::Text(_, text) = &entry {
                    queue.bytes -= text.len();
                }
                queue.writing = true;
                return entry;
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Leaves out the end of a long entry and says so.
fn shorten(text: &mut Vec<u8>) {
    if text.len() <= ENTRY_BYTES {
        return;
    }
    let is_inside = |byte: &u8| byte & 0xc0 == 0x80;
    let end = (0..=ENTRY_BYTES)
        .rev()
        .find(|at| !is_inside(&text[*at]))
        .unwrap_or(0);
    let left_out = text.len() - end;
    text.truncate(end);
    text.extend(format!("… ({left_out} more bytes)\n").bytes());
}

/// Standard error, past the lock of the standard library: a thread that waits in a write would hold it.
pub(super) struct StandardError(File);

impl StandardError {
    pub(super) fn open() -> io::Result<StandardError> {
        Ok(StandardError(File::from(
            io::stderr().as_fd().try_clone_to_owned()?,
        )))
    }
}

impl Sink for StandardError {
    fn write(&mut self, _: Level, mut text: &[u8]) -> io::Result<()> {
        while !text.is_empty() {
            match self.0.write(text) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => text = &text[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody who shares it has made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Takes entries as the test does, or fails with them.
    struct Reader(SyncSender<String>);

    impl Sink for Reader {
        fn write(&mut self, _: Level, text: &[u8]) -> io::Result<()> {
            let text = String::from_utf8(text.to_vec()).unwrap();
            self.0.send(text).map_err(|_| ErrorKind::BrokenPipe.into())
        }
    }

    /// A writer whose sink stops until each entry is received.
    fn writer() -> (Writer, Receiver<String>) {
        let (sender, receiver) = sync_channel(0);
        (Writer::start(Reader(sender)).unwrap(), receiver)
    }

    fn line(number: usize) -> Vec<u8> {
        format!("{number:0100}\n").into_bytes()
    }

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn entries_arrive_in_order() {
        let (writer, reader) = writer();
        let sender = writer.clone();
        std::thread::spawn(move || (0..1000).for_each(|number| sender.send(Level::INFO, line(number))));
        for number in 0..1000 {
            assert_eq!(reader.recv_timeout(LIMIT).unwrap().as_bytes(), line(number));
        }
        assert!(writer.flush(LIMIT));
    }

    #[test]
    fn nobody_waits_for_a_reader_that_stopped_and_the_gap_is_told() {
        let (writer, reader) = writer();
        let count = 3 * WAITING_BYTES / line(0).len();
        for number in 0..count {
            writer.send(Level::INFO, line(number));
        }
        assert!(!writer.flush(Duration::from_millis(10)), "nothing was read");
        let mut read = 0;
        let gap = loop {
            let text = reader.recv_timeout(LIMIT).unwrap();
            if !text.starts_with('0') {
                break text;
            }
            assert_eq!(text.as_bytes(), line(read));
            read += 1;
        };
        assert!(
            read >= WAITING_BYTES / line(0).len() && read < count / 2,
            "{read} of {count}"
        );
        assert!(
            gap.starts_with(&format!("{} log entries are missing", count - read)),
            "{gap}"
        );
        writer.send(Level::INFO, line(count));
        assert_eq!(reader.recv_timeout(LIMIT).unwrap().as_bytes(), line(count));
    }

    #[test]
    fn a_long_entry_is_shown_in_part() {
        let (writer, reader) = writer();
        for part in ["x", "ü", "aü"] {
            let text = format!("{}\n", part.repeat(ENTRY_BYTES));
            writer.send(Level::ERROR, text.clone().into_bytes());
            let told = reader.recv_timeout(LIMIT).unwrap();
            let (begin, end) = told.split_once('…').unwrap();
            let sizes = ENTRY_BYTES - 1..=ENTRY_BYTES;
            assert!(
                text.starts_with(begin) && sizes.contains(&begin.len()),
                "{}",
                begin.len()
            );
            assert_eq!(end, format!(" ({} more bytes)\n", text.len() - begin.len()));
        }
        writer.send(Level::ERROR, vec![b'y'; ENTRY_BYTES]);
        assert_eq!(reader.recv_timeout(LIMIT).unwrap().len(), ENTRY_BYTES);
    }

    #[test]
    fn a_reader_that_went_away_ends_nothing() {
        let (writer, reader) = writer();
        drop(reader);
        for number in 0..10 {
            writer.send(Level::INFO, line(number));
        }
        assert!(writer.flush(LIMIT), "what cannot be written is not waited for");
        assert!(writer.0.queue().dropped >= 9, "but it is counted");
    }
}
