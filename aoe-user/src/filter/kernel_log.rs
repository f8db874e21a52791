//! The program's own log lines, for debugging; off unless someone listens when the filter is loaded.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};

/// The target that the lines appear under.
const TARGET: &str = "xblade::kernel";

/// aya-log's number for debug.
const DEBUG: u8 = Level::Debug as u8;

/// Lines on their way from the program.
pub(super) struct KernelLog(EbpfLogger<ToTracing>);

impl KernelLog {
    /// What the program should log: nothing, or what is for debugging.
    pub fn wanted_level() -> u8 {
        if tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
            DEBUG
        } else {
            0
        }
    }

    pub fn open(ebpf: &mut Ebpf) -> Option<KernelLog> {
        EbpfLogger::init_with_logger(ebpf, ToTracing)
            .inspect_err(|error| tracing::warn!(%error, "cannot read the filter's log"))
            .ok()
            .map(KernelLog)
    }

    pub fn flush(&mut self) {
        self.0.flush();
    }
}

/// aya-log speaks to the `log` crate.
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Debug
    }

    fn log(&self, record: &Record<'_>) {
        tracing::debug!(target: TARGET, "{}", record.args());
    }

    fn flush(&self) {}
}
