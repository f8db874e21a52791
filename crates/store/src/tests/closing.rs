//! The end of a store whose commits were made by the thread that its device keeps.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, thread};

use super::commit::policy;
use crate::commit::{Committer, Medium};
use crate::io::threads::Threads;
use engine::{Extent, Fault, FaultKind};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Commits wait to be let go on; the first may panic instead.
#[derive(Debug)]
struct Gated {
    begun: Mutex<Sender<()>>,
    gate: Mutex<Receiver<()>>,
    panics: bool,
}

impl Medium for Gated {
    fn commit(&self) -> io::Result<()> {
        let _ = self.begun.lock().unwrap().send(());
        let _ = self.gate.lock().unwrap().recv();
        assert!(!self.panics, "on purpose, for a test");
        Ok(())
    }

    fn fault(&self, lba: u64, source: io::Error) -> Fault {
        Fault {
            kind: FaultKind::Write,
            lba,
            source,
        }
    }

    fn sectors(&self) -> u64 {
        1024
    }

    fn name(&self) -> String {
        "gated".to_owned()
    }
}

#[test]
fn whoever_closes_while_another_thread_takes_over_is_told_of_its_end() {
    let threads = Threads::refused();
    let ((begun, begins), (open, gate)) = (channel(), channel());
    let medium = Arc::new(Gated {
        begun: Mutex::new(begun),
        gate: Mutex::new(gate),
        panics: false,
    });
    let committer = Committer::new(medium, policy(Duration::ZERO), &threads);
    let entered = committer.enter(0).unwrap();
    committer
        .acknowledge(Extent { lba: 0, count: 1 }, entered)
        .unwrap();
    // By the kept thread, which is in the middle of it when the store is closed.
    begins.recv_timeout(TIMEOUT).unwrap();
    let (closed, is_closed) = channel();
    let closing = Arc::clone(&committer);
    let closes = thread::spawn(move || closed.send(closing.close().is_ok()).unwrap());
    // It waits for the kept thread, and for nobody else.
    super::faults::patiently("the close waits", || {
        committer.has_thread_and_end() == (false, true)
    });
    threads.give_again();
    drop(open);
    assert_eq!(is_closed.recv_timeout(TIMEOUT), Ok(true));
    closes.join().unwrap();
}

#[test]
fn a_commit_that_panics_has_failed_and_the_next_is_made() {
    for threads in [Threads::new().unwrap(), Threads::refused()] {
        let ((begun, begins), (open, gate)) = (channel(), channel());
        drop(open);
        let medium = Arc::new(Gated {
            begun: Mutex::new(begun),
            gate: Mutex::new(gate),
            panics: true,
        });
        let committer = Committer::new(medium, policy(Duration::ZERO), &threads);
        let entered = committer.enter(0).unwrap();
        let _ = committer.acknowledge(Extent { lba: 0, count: 1 }, entered);
        begins.recv_timeout(TIMEOUT).unwrap();
        assert!(committer.close().is_err(), "what it was to commit is lost");
    }
}
