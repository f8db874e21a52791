//! Keeps a panic in control code from ending anything but what it happened in.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::error;

/// Does something; a panic in it is its failure, with what the panic said.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| format!("internal error, please report it: {}", text(&*panic)))
}

/// As [`caught`], for what nobody waits for: the panic is logged.
pub(super) fn guard<T>(doing: &str, work: impl FnOnce() -> T) -> Option<T> {
    caught(work)
        .inspect_err(|reason| error!("while {doing}: {reason}"))
        .ok()
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}
