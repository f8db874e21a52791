//! Signals: none ends the process by surprise, from its first moment on.
//!
//! [`block`] is the first thing that the process does. What arrives from then on waits; a daemon takes it up once
//! [`Signals::new`] has its handlers in place, other commands get their habits back by [`Blocked::restore`].

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal as Name, pthread_sigmask};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a daemon acts on.
const HANDLED: [Name; 5] = [
    Name::SIGTERM,
    Name::SIGINT,
    Name::SIGQUIT,
    Name::SIGHUP,
    Name::SIGUSR1,
];
/// What is not blocked. SIGSEGV and SIGBUS have handlers, which must be called for faults of the program itself; SIGABRT is how systemd's
/// watchdog asks for a core; the rest is the terminal's job control. The faults that have no handler (SIGFPE, SIGILL, SIGTRAP, SIGSYS)
/// may be blocked: the kernel delivers a fault of the program all the same, only what kill(2) sends waits.
const LEFT: [Name; 9] = [
    Name::SIGSEGV,
    Name::SIGBUS,
    Name::SIGABRT,
    Name::SIGTSTP,
    Name::SIGTTIN,
    Name::SIGTTOU,
    Name::SIGCONT,
    Name::SIGCHLD,
    Name::SIGWINCH,
];

/// The signals that the process was started with.
#[derive(Debug, Clone, Copy)]
pub struct Blocked(SigSet);

/// Has all signals wait that a daemon handles or does not want. To be called before there is a second thread.
pub fn block() -> Blocked {
    let mut set = SigSet::all();
    for name in LEFT {
        set.remove(name);
    }
    // It cannot fail with a set that exists; an empty set changes nothing.
    Blocked(
        set.thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .unwrap_or(SigSet::empty()),
    )
}

impl Blocked {
    /// Lets signals do what they do to any program.
    pub fn restore(self) {
        // As above.
        let _ = self.0.thread_set_mask();
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignalEvent {
    /// Finish what is under way and end (SIGTERM, SIGINT).
    Stop(&'static str),
    /// End now (SIGQUIT).
    Quit,
    /// Read the configuration again (SIGHUP).
    Reload,
    /// Log the counters (SIGUSR1).
    Report,
}

/// The handlers.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    report: Signal,
}

impl Signals {
    /// Puts the handlers in place and lets in what has waited. All other signals stay blocked.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn new() -> Result<Signals> {
        let listen = |kind| signal(kind).context("cannot install a signal handler");
        let signals = Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hangup: listen(SignalKind::hangup())?,
            report: listen(SignalKind::user_defined1())?,
        };
        let handled: SigSet = HANDLED.into_iter().collect();
        pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&handled), None).context("cannot receive signals")?;
        Ok(signals)
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> SignalEvent {
        tokio::select! {
            biased;
            _ = self.quit.recv() => SignalEvent::Quit,
            _ = self.terminate.recv() => SignalEvent::Stop("SIGTERM"),
            _ = self.interrupt.recv() => SignalEvent::Stop("SIGINT"),
            _ = self.hangup.recv() => SignalEvent::Reload,
            _ = self.report.recv() => SignalEvent::Report,
        }
    }
}
