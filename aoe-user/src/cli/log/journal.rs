//! Entries for systemd's journal, in its own protocol: a message of several lines stays one entry, and each has its priority.
//!
//! The protocol is described at <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use tracing::Level;

use super::fields;
use super::writer::Sink;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// More than any message has; far less than fits a datagram.
const MESSAGE_BYTES: usize = 48 << 10;

/// The journal of this machine.
pub(super) struct Journal {
    socket: UnixDatagram,
    /// The journal may be restarted, so it is found anew for each entry.
    address: PathBuf,
}

impl Journal {
    /// The journal, if standard error leads there.
    pub(super) fn of_standard_error() -> Option<Journal> {
        let named = std::env::var("JOURNAL_STREAM").ok()?;
        let standard_error = fstat(io::stderr()).ok()?;
        let is_journal = named == format!("{}:{}", standard_error.st_dev, standard_error.st_ino);
        (is_journal && Path::new(SOCKET).exists())
            .then(|| Journal::at(Path::new(SOCKET)).ok())
            .flatten()
    }

    fn at(address: &Path) -> io::Result<Journal> {
        Ok(Journal {
            socket: UnixDatagram::unbound()?,
            address: address.to_owned(),
        })
    }
}

impl Sink for Journal {
    fn write(&mut self, level: Level, text: &[u8]) -> io::Result<()> {
        self.socket.send_to(&entry(level, text), &self.address).map(drop)
    }
}

fn entry(level: Level, text: &[u8]) -> Vec<u8> {
    let text = text.trim_ascii();
    let text = &text[..text.len().min(MESSAGE_BYTES)];
    let priority = priority(level);
    let mut entry = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=xblade\n");
    for (name, value) in str::from_utf8(text).map(fields::of).unwrap_or_default() {
        entry += &format!("{name}={value}\n");
    }
    let mut entry = (entry + "MESSAGE\n").into_bytes();
    entry.extend((text.len() as u64).to_le_bytes());
    entry.extend(text);
    entry.push(b'\n');
    entry
}

/// Severities of syslog (RFC 5424, table 2).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_lines_is_one_entry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::at(&path).unwrap();
        let mut bytes = [0; 1000];
        let mut received = |text: &[u8]| {
            journal.write(Level::WARN, text).unwrap();
            let count = journald.recv(&mut bytes).unwrap();
            bytes[..count].to_vec()
        };
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=xblade\nMESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n";
        assert_eq!(received(b"two\nlines\n"), expected);
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=xblade\nXBLADE_EXPORT=e1.1\nMESSAGE\n\x0a\0\0\0\0\0\0\0e1.1: lost\n";
        assert_eq!(received(b"e1.1: lost\n"), expected);
    }

    #[test]
    fn every_level_has_its_priority() {
        let all = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        assert_eq!(all.map(priority), [3, 4, 6, 7, 7]);
    }

    #[test]
    fn no_message_is_too_long_for_a_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _journald = UnixDatagram::bind(&path).unwrap();
        Journal::at(&path)
            .unwrap()
            .write(Level::INFO, &vec![b'x'; 10 << 20])
            .unwrap();
    }
}
