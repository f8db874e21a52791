//! The program's log lines: there for who asks, gone for everyone else.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_appear_where_someone_listens() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        // Tracing keeps the answer that the first thread to come by a question got, and other tests listen to nothing. So
        // the question is asked here, if not before elsewhere, and then all answers are found anew, by this thread.
        KernelLog::wanted_level();
        tracing::callsite::rebuild_interest_cache();
        let rate_limit = Some(1);
        let Some(filter) = load(&rules([
            listed(1, 1, &[ALICE]),
            ExportRule {
                rate_limit,
                ..open(1, 2)
            },
        ])) else {
            return;
        };
        expect(&filter, Counter::Denied, &Frame::to(1, 1, BOB));
        run(&filter.ebpf, &Frame::to(1, 2, CAROL).bytes(), 100);
        let said = || String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let expected = [
            "xblade::kernel: XDP program: denied 02:00:00:00:00:02",
            "over its rate limit: 02:00:00:00:00:03",
        ];
        let end = Instant::now() + Duration::from_secs(60);
        while !expected.iter().all(|line| said().contains(line)) {
            assert!(Instant::now() < end, "{}", said());
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(filter);
        assert!(
            said().lines().all(|line| line.contains("XDP program: ")),
            "{}",
            said()
        );
    });
}
