//! `xblade`: parse and dispatch.

use std::process::ExitCode;

use xblade::cli;
use xblade::control::signals;

fn main() -> ExitCode {
    // Before anything else: nothing that arrives while a daemon starts may end it.
    let before = signals::block();
    let cli = match cli::parse(stdout::was_open()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if !cli.command.handles_signals() {
        before.restore();
    }
    cli::run(cli)
}

/// Whether there was a standard output before Rust's runtime put /dev/null in the place of one that was closed.
mod stdout {
    use std::sync::atomic::{AtomicBool, Ordering};

    static OPEN: AtomicBool = AtomicBool::new(true);

    /// Runs before `main` and the runtime.
    // SAFETY: the loader calls each address in this section once, on the only thread there is, by C's convention. The function needs
    // nothing that the runtime sets up: it makes one system call and stores one byte.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static LOOK: extern "C" fn() = look;

    extern "C" fn look() {
        // SAFETY: F_GETFD takes no third argument and changes nothing; a descriptor that is not open is an error.
        let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
        OPEN.store(flags >= 0, Ordering::Relaxed);
    }

    pub(super) fn was_open() -> bool {
        OPEN.load(Ordering::Relaxed)
    }
}
