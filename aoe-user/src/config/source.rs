//! The text of a config file: read within bounds, and searched for lines and columns.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};

/// Largest config file that is read: some 30 000 exports. The oddest text of this length takes a second or two to refuse.
const MAX_BYTES: u64 = 4 << 20;
/// How long a pipe may take to give all of a config.
const PIPE_TIMEOUT: Duration = Duration::from_secs(2);

/// A file's text, with an index of its lines.
#[derive(PartialEq, Eq)]
pub struct Source {
    file: PathBuf,
    text: String,
    /// Where each line starts.
    lines: Vec<usize>,
}

impl Source {
    /// The text of `file`, which is not looked at.
    pub fn new(file: &Path, text: String) -> Source {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Source {
            file: file.to_owned(),
            text,
            lines,
        }
    }

    /// Its name.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// All of it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The number of the line that holds byte `at`, from 1, and the bytes of that line without its end.
    pub(crate) fn line(&self, at: usize) -> (usize, Range<usize>) {
        let number = self.lines.partition_point(|start| *start <= at);
        let start = self.lines[number - 1];
        let end = self.lines.get(number).map_or(self.text.len(), |next| next - 1);
        (number, start..end)
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Reads a config file, ours or another target's, of which nothing is known yet: it may be a disk image, a pipe that nobody writes to, or a folder.
///
/// # Errors
/// Why it is no config file, in words that follow its name.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, String> {
    // Not to wait for whoever may open the other end of a FIFO.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = open(file, flags, Mode::empty()).map_err(|errno| io::Error::from(errno).to_string())?;
    let kind = fstat(&opened).map_err(|errno| errno.to_string())?.st_mode;
    let mut bytes = Vec::new();
    let file = File::from(opened);
    match FileType::from_raw_mode(kind) {
        FileType::RegularFile => read_some(&file, &mut bytes).map(drop),
        FileType::Fifo => read_pipe(&file, &mut bytes),
        FileType::Directory => return Err("it is a folder, and a config is one file".into()),
        FileType::BlockDevice => return Err("it is a block device, not a config file".into()),
        _ => return Err("it is no file with text in it".into()),
    }
    .map_err(|error| error.to_string())?;
    // A FIFO that nobody has open for writing is at its end at once.
    if bytes.is_empty() && FileType::from_raw_mode(kind) == FileType::Fifo {
        return Err("it is a pipe that nobody writes to".into());
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!(
            "it has more than {} MiB, which no config has; is it another file?",
            MAX_BYTES >> 20
        ));
    }
    Ok(bytes)
}

/// Appends what can be read now, to one byte over the limit; true at the end.
fn read_some(file: &File, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let room = MAX_BYTES + 1 - bytes.len() as u64;
    match file.take(room).read_to_end(bytes) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_pipe(file: &File, bytes: &mut Vec<u8>) -> io::Result<()> {
    let end = Instant::now() + PIPE_TIMEOUT;
    while !read_some(file, bytes)? {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or_default();
        let mut wanted = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)];
        if left.is_zero() || poll(&mut wanted, Some(&timeout))? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it is a pipe, and its writer did not finish within {PIPE_TIMEOUT:?}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn every_byte_is_on_a_line() {
        let source = Source::new(Path::new("x"), "ab\n\nc".into());
        for (at, number, line) in [
            (0, 1, 0..2),
            (2, 1, 0..2),
            (3, 2, 3..3),
            (4, 3, 4..5),
            (5, 3, 4..5),
        ] {
            assert_eq!(source.line(at), (number, line), "{at}");
        }
        assert_eq!(Source::new(Path::new("x"), String::new()).line(0), (1, 0..0));
    }

    #[test]
    fn what_is_no_config_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.raw");
        std::fs::File::create(&image).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&image).unwrap_err().contains("more than 4 MiB"));
        assert!(read(dir.path()).unwrap_err().contains("a folder"));
        assert!(
            read(Path::new("/dev/zero"))
                .unwrap_err()
                .contains("no file with text")
        );
        assert!(
            read(&dir.path().join("none"))
                .unwrap_err()
                .contains("No such file")
        );
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"a = 1\n").unwrap();
        // The pipe ends when the child does, a moment after the first byte was read.
        let mut held = Command::new("sleep").arg("0.1").stdout(writer).spawn().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(read(Path::new(&path)).unwrap(), b"a = 1\n");
        held.wait().unwrap();
    }

    #[test]
    fn a_pipe_without_an_end_is_given_up() {
        let (reader, _writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert!(read(Path::new(&path)).unwrap_err().contains("did not finish"));
    }

    #[test]
    fn a_pipe_without_a_bound_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endless");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Opened for both, so that the reader finds a writer.
        let hold = File::options().read(true).write(true).open(&path).unwrap();
        let mut yes = Command::new("cat").arg("/dev/zero").stdout(hold).spawn().unwrap();
        let found = read(&path);
        yes.kill().unwrap();
        yes.wait().unwrap();
        assert!(found.unwrap_err().contains("more than 4 MiB"));
    }
}
