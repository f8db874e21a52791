//! Where log lines go: to standard error, or to the journal where that is standard error.
//!
//! No thread that logs ever waits for who reads (see [`writer`]).

mod fields;
mod journal;
mod recent;
mod writer;

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer as Text;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::reload::Handle;

use journal::Journal;
use recent::Recent;
use writer::Writer;

use crate::control::{ReadLog, SetLog};

/// What is logged where nothing else is said.
const DEFAULT: &str = "info";
/// Variables that say what to log where `--log` does not, first one first.
const VARIABLES: [&str; 2] = ["XBLADE_LOG", "RUST_LOG"];
/// How long the end of the process may be held up by lines that nobody reads.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Checks what `--log` says.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(filter: &str) -> Result<String, String> {
    filter_of(filter).map(|_| filter.to_owned())
}

/// Reads a filter. A word that is no level would be a module to the parser, of which everything is logged, and nothing of all others.
fn filter_of(text: &str) -> Result<EnvFilter, String> {
    let wrong = |reason: String| format!("no log filter, such as info or info,xblade::port=debug: {reason}");
    for part in text.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(wrong(format!(
                "{part:?} names no level; there are error, warn, info, debug, trace and off"
            )));
        }
    }
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| wrong(error.to_string()))
}

/// The log of this process. Dropping it writes what is still to be written, as long as that goes on.
pub(super) struct Log {
    writer: Writer,
    recent: Recent,
    set: SetLog,
}

impl Log {
    /// Everything that is logged from now on goes out. To be called once.
    ///
    /// # Errors
    /// When no thread or descriptor is available for it.
    pub(super) fn start(filter: Option<&str>) -> io::Result<Log> {
        let (filter, ignored) = chosen(filter);
        let journal = Journal::of_standard_error();
        let in_journal = journal.is_some();
        let writer = match journal {
            Some(journal) => Writer::start(journal)?,
            None => Writer::start(writer::StandardError::open()?)?,
        };
        let recent = Recent::default();
        let entries = Entries {
            writer: writer.clone(),
            recent: recent.clone(),
            in_journal,
        };
        let lines = tracing_subscriber::fmt()
            .with_writer(entries)
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .with_level(false)
            .log_internal_errors(false)
            .with_env_filter(filter)
            .with_filter_reloading();
        let set = changer(lines.reload_handle());
        lines.init();
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("unnamed").to_owned();
            let trace = std::backtrace::Backtrace::capture();
            tracing::error!("a defect of xblade, please report it: thread {name} {panic}\n{trace}");
        }));
        tracing::debug!("xblade {}", env!("CARGO_PKG_VERSION"));
        if let Some(variable) = ignored {
            tracing::warn!(
                "{variable} is no log filter, such as info or info,xblade::port=debug: it is ignored"
            );
        }
        Ok(Log { writer, recent, set })
    }

    /// What changes the filter while the process runs.
    pub(super) fn changer(&self) -> SetLog {
        self.set.clone()
    }

    /// What reads the last lines while the process runs.
    pub(super) fn reader(&self) -> ReadLog {
        let recent = self.recent.clone();
        Arc::new(move |after| recent.after(after))
    }

    /// The last word: why the command failed.
    pub(super) fn failure(&self, message: &str) {
        self.writer
            .send(Level::ERROR, format!("xblade: {message}\n").into_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.writer.flush(LAST_WORDS);
    }
}

fn changer<S: 'static>(handle: Handle<EnvFilter, S>) -> SetLog {
    Arc::new(move |text| {
        let filter = filter_of(text)?;
        handle.reload(filter).map_err(|error| error.to_string())
    })
}

/// What to log, and the variable that says it wrongly.
fn chosen(argument: Option<&str>) -> (EnvFilter, Option<&'static str>) {
    if let Some(filter) = argument.and_then(|text| filter_of(text).ok()) {
        return (filter, None);
    }
    let set = VARIABLES
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|text| !text.is_empty())?)));
    match set.map(|(name, text)| (name, filter_of(&text))) {
        Some((_, Ok(filter))) => (filter, None),
        Some((name, Err(_))) => (EnvFilter::new(DEFAULT), Some(name)),
        None => (EnvFilter::new(DEFAULT), None),
    }
}

/// Takes whole events from the formatter.
struct Entries {
    writer: Writer,
    recent: Recent,
    /// Which notes time and level by itself.
    in_journal: bool,
}

impl<'a> MakeWriter<'a> for Entries {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry(self, Level::INFO)
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Entry<'a> {
        Entry(self, *event.level())
    }
}

/// One event.
struct Entry<'a>(&'a Entries, Level);

impl io::Write for Entry<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let Entry(entries, level) = self;
        let line = String::from_utf8_lossy(text);
        entries.recent.push(*level, &line);
        let mut whole = String::new();
        if !entries.in_journal {
            // Writing into a string does not fail.
            let _ = SystemTime.format_time(&mut Text::new(&mut whole));
            let _ = write!(whole, " {level:>5} ");
        }
        whole.push_str(&line);
        entries.writer.send(*level, whole.into_bytes());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
