//! The program's own log lines, for debugging; off unless someone listens when the filter is loaded.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

/// The target that the lines appear under.
const TARGET: &str = "xblade::kernel";

/// aya-log's number for debug.
const DEBUG: u8 = Level::Debug as u8;

/// A thread that passes lines on as the program writes them. It ends, with the last of them, when this is dropped.
pub(super) struct KernelLog {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl KernelLog {
    /// What the program should log: nothing, or what is for debugging.
    pub(super) fn wanted_level() -> u8 {
        if tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
            DEBUG
        } else {
            0
        }
    }

    pub(super) fn open(ebpf: &mut Ebpf) -> Option<KernelLog> {
        let started = EbpfLogger::init_with_logger(ebpf, ToTracing)
            .map_err(|error| error.to_string())
            .and_then(|lines| KernelLog::start(lines).map_err(|error| error.to_string()));
        started
            .inspect_err(|error| tracing::warn!("cannot read the filter's log: {error}"))
            .ok()
    }

    fn start(lines: EbpfLogger<ToTracing>) -> std::io::Result<KernelLog> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = Arc::clone(&stop);
        // The lines go to whoever asked for them, also where that is not the whole process.
        let listener = tracing::dispatcher::get_default(Clone::clone);
        let read = move || tracing::dispatcher::with_default(&listener, || pass_on(lines, &stopped));
        let thread = std::thread::Builder::new()
            .name("kernel log".into())
            .spawn(read)?;
        Ok(KernelLog {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.stop, &1u64.to_ne_bytes()).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| told) {
            let _ = thread.join();
        }
    }
}

fn pass_on(mut lines: EbpfLogger<ToTracing>, stop: &OwnedFd) {
    loop {
        let mut wanted = [
            PollFd::from_borrowed_fd(lines.as_fd(), PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        let waited = poll(&mut wanted, None);
        let last = !wanted[1].revents().is_empty();
        lines.flush();
        if last || !matches!(waited, Ok(_) | Err(Errno::INTR)) {
            return;
        }
    }
}

/// aya-log speaks to the `log` crate.
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Debug
    }

    fn log(&self, record: &Record<'_>) {
        tracing::debug!(target: TARGET, "XDP program: {}", record.args());
    }

    fn flush(&self) {}
}
