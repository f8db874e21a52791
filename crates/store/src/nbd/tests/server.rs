//! An NBD server in this process that goes wrong at will. What it has answered it loses unless a flush came after it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

use super::super::wire::array;

/// How a server behaves.
#[derive(Clone, Debug)]
pub(crate) struct ServerBehaviour {
    /// Transmission flags beside the one that says that there are flags.
    pub flags: u16,
    /// Replies come in parts.
    pub structured: bool,
    pub least_block: u32,
    pub bytes: u64,
    /// It accepts connections and says nothing.
    pub mute: bool,
    /// What becomes of the next request of a kind: 0 read, 1 write, 3 flush, 6 write zeroes.
    pub misbehaviour: Option<(u16, Misbehaviour)>,
}

/// What a server does once instead of what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misbehaviour {
    /// It answers with this error.
    Error(u32),
    /// The connection ends, and nothing is carried out.
    Hangup,
    /// The connection ends, and everything that was not flushed is lost.
    Crash,
    /// It answers a request that nobody has sent.
    WrongCookie,
    /// It carries the request out when it is let go on, even if the client has gone by then.
    Hold,
}

/// Flush, trim, write zeroes, several connections.
pub(crate) const ALL_FLAGS: u16 = 1 << 2 | 1 << 5 | 1 << 6 | 1 << 8;

impl ServerBehaviour {
    pub(crate) fn new(sectors: u64) -> ServerBehaviour {
        ServerBehaviour {
            flags: ALL_FLAGS,
            structured: true,
            least_block: 512,
            bytes: sectors * 512,
            mute: false,
            misbehaviour: None,
        }
    }
}

#[derive(Debug)]
struct Disk {
    behaviour: ServerBehaviour,
    durable: Vec<u8>,
    cached: Vec<u8>,
    /// Requests carried out or not, by command.
    seen: Vec<u16>,
    /// Clients of now, by their number.
    streams: BTreeMap<usize, UnixStream>,
    /// Clients so far.
    clients: usize,
    /// Some client got no word.
    muted: bool,
    /// Requests are held.
    holds: bool,
    ends: bool,
}

/// A server on a socket of its own.
#[derive(Debug)]
pub(crate) struct Server {
    dir: TempDir,
    disk: Arc<(Mutex<Disk>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(behaviour: ServerBehaviour) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![0; behaviour.bytes as usize];
        let disk = Disk {
            behaviour,
            durable: bytes.clone(),
            cached: bytes,
            seen: Vec::new(),
            streams: BTreeMap::new(),
            clients: 0,
            muted: false,
            holds: false,
            ends: false,
        };
        let disk = Arc::new((Mutex::new(disk), Condvar::new()));
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let serves = Arc::clone(&disk);
        let thread = Some(thread::spawn(move || {
            thread::scope(|scope| {
                for stream in listener.incoming() {
                    let stream = stream.unwrap();
                    let mut disk = serves.0.lock();
                    if disk.ends {
                        break;
                    }
                    disk.clients += 1;
                    let client = disk.clients;
                    disk.streams.insert(client, stream.try_clone().unwrap());
                    drop(disk);
                    let serves = &serves;
                    scope.spawn(move || {
                        // Ends with an error when either side hangs up.
                        drop(serve(stream, serves));
                        serves.0.lock().streams.remove(&client);
                    });
                }
            });
        }));
        Server { dir, disk, thread }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Gives its socket another name beside the one it has.
    pub(crate) fn link(&self, path: &Path) {
        std::fs::hard_link(self.socket(), path).unwrap();
    }

    pub(crate) fn address(&self) -> PathBuf {
        address(&self.socket(), "disk")
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut ServerBehaviour)) {
        change(&mut self.disk.0.lock().behaviour);
    }

    /// Gives the export another size, which connections of now do not hear of.
    pub(crate) fn resize(&self, sectors: u64) {
        let mut disk = self.disk.0.lock();
        disk.behaviour.bytes = sectors * 512;
        disk.durable.resize(sectors as usize * 512, 0);
        disk.cached.resize(sectors as usize * 512, 0);
    }

    /// The connections of now end.
    pub(crate) fn hang_up(&self) {
        hang_up(&mut self.disk.0.lock());
    }

    /// Whether a client waits for its first word.
    pub(crate) fn is_muted(&self) -> bool {
        self.disk.0.lock().muted
    }

    /// Lets go on who was held.
    pub(crate) fn let_go(&self) {
        self.disk.0.lock().holds = false;
        self.disk.1.notify_all();
    }

    /// What a crash would leave.
    pub(crate) fn durable(&self, lba: usize) -> Vec<u8> {
        self.disk.0.lock().durable[lba * 512..][..512].to_vec()
    }

    /// The same of the whole disk.
    pub(crate) fn all(&self) -> Vec<u8> {
        self.disk.0.lock().durable.clone()
    }

    /// Waits until so many requests of a kind have come.
    pub(crate) fn wait_for(&self, command: u16, count: usize) {
        let mut disk = self.disk.0.lock();
        while self::count(&disk.seen, command) < count {
            let late = self
                .disk
                .1
                .wait_for(&mut disk, std::time::Duration::from_secs(60));
            assert!(!late.timed_out(), "{command} came too seldom: {:?}", disk.seen);
        }
    }

    pub(crate) fn seen(&self, command: u16) -> usize {
        count(&self.disk.0.lock().seen, command)
    }
}

fn count(seen: &[u16], command: u16) -> usize {
    seen.iter().filter(|other| **other == command).count()
}

pub(crate) fn address(socket: &Path, export: &str) -> PathBuf {
    format!("nbd+unix:///{export}?socket={}", socket.display()).into()
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut disk = self.disk.0.lock();
        disk.ends = true;
        disk.holds = false;
        hang_up(&mut disk);
        drop(disk);
        self.disk.1.notify_all();
        let _ = UnixStream::connect(self.socket());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            thread::panicking() || matches!(ended, Some(Ok(()))),
            "the server panicked"
        );
    }
}

fn hang_up(disk: &mut Disk) {
    for stream in std::mem::take(&mut disk.streams).into_values() {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

fn serve(mut stream: UnixStream, shared: &(Mutex<Disk>, Condvar)) -> io::Result<()> {
    let structured = negotiate(&mut stream, shared)?;
    let bytes = shared.0.lock().behaviour.bytes as usize;
    loop {
        let head: [u8; 28] = array(&mut stream)?;
        assert_eq!(&head[..4], &0x2560_9513u32.to_be_bytes());
        let command = u16::from_be_bytes([head[6], head[7]]);
        let cookie = u64::from_be_bytes(head[8..16].try_into().unwrap());
        let at = u64::from_be_bytes(head[16..24].try_into().unwrap()) as usize;
        let length = u32::from_be_bytes(head[24..].try_into().unwrap()) as usize;
        let mut payload = vec![0; if command == 1 { length } else { 0 }];
        stream.read_exact(&mut payload)?;
        let mut disk = shared.0.lock();
        disk.seen.push(command);
        shared.1.notify_all();
        let misbehaviour = disk.behaviour.misbehaviour.take_if(|(kind, _)| *kind == command);
        match misbehaviour.map(|(_, misbehaviour)| misbehaviour) {
            Some(Misbehaviour::Error(error)) => {
                answer(&mut stream, structured, cookie, Err(error))?;
                continue;
            }
            Some(misbehaviour @ (Misbehaviour::Hangup | Misbehaviour::Crash)) => {
                if misbehaviour == Misbehaviour::Crash {
                    disk.cached = disk.durable.clone();
                }
                hang_up(&mut disk);
                return Ok(());
            }
            Some(Misbehaviour::WrongCookie) => {
                answer(&mut stream, structured, cookie + 1000, Ok((0, &[])))?;
                continue;
            }
            Some(Misbehaviour::Hold) => {
                disk.holds = true;
                while disk.holds {
                    shared.1.wait(&mut disk);
                }
            }
            None => {}
        }
        if at + length > bytes.min(disk.cached.len()) {
            drop(disk);
            answer(&mut stream, structured, cookie, Err(libc::EINVAL as u32))?;
            continue;
        }
        match command {
            0 => {
                let bytes = disk.cached[at..at + length].to_vec();
                drop(disk);
                answer(&mut stream, structured, cookie, Ok((at, &bytes)))?;
                continue;
            }
            1 => disk.cached[at..at + length].copy_from_slice(&payload),
            3 => disk.durable = disk.cached.clone(),
            4 => disk.cached[at..at + length].fill(0xee),
            6 => disk.cached[at..at + length].fill(0),
            _ => return Ok(()),
        }
        drop(disk);
        answer(&mut stream, structured, cookie, Ok((0, &[])))?;
    }
}

fn answer(
    stream: &mut UnixStream,
    structured: bool,
    cookie: u64,
    result: Result<(usize, &[u8]), u32>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    if !structured {
        bytes.extend(0x6744_6698u32.to_be_bytes());
        bytes.extend(result.err().unwrap_or(0).to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(result.unwrap_or((0, &[])).1);
        return stream.write_all(&bytes);
    }
    let mut chunk = |last: bool, kind: u16, data: &[u8]| {
        bytes.extend(0x668e_33efu32.to_be_bytes());
        bytes.extend(u16::from(last).to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
    };
    match result {
        Err(error) => {
            let text = b"by order";
            let mut data = error.to_be_bytes().to_vec();
            data.extend((text.len() as u16).to_be_bytes());
            data.extend(text);
            chunk(true, 0x8001, &data);
        }
        Ok((_, [])) => chunk(true, 0, &[]),
        Ok((at, data)) => {
            // Sector by sector, from the end; holes where there are zeros.
            for (sector, bytes) in data.chunks(512).enumerate().rev() {
                let mut part = ((at + sector * 512) as u64).to_be_bytes().to_vec();
                if bytes.iter().all(|byte| *byte == 0) {
                    part.extend((bytes.len() as u32).to_be_bytes());
                    chunk(false, 2, &part);
                } else {
                    part.extend(bytes);
                    chunk(false, 1, &part);
                }
            }
            chunk(true, 0, &[]);
        }
    }
    stream.write_all(&bytes)
}

fn negotiate(stream: &mut UnixStream, shared: &(Mutex<Disk>, Condvar)) -> io::Result<bool> {
    let mut disk = shared.0.lock();
    if disk.behaviour.mute {
        disk.muted = true;
        drop(disk);
        // Until the client gives up.
        stream.read_exact(&mut [0])?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    drop(disk);
    stream.write_all(b"NBDMAGICIHAVEOPT")?;
    stream.write_all(&3u16.to_be_bytes())?;
    assert_eq!(array(stream)?, 3u32.to_be_bytes(), "fixed newstyle, no zeroes");
    let mut structured = false;
    loop {
        assert_eq!(&array::<8>(stream)?, b"IHAVEOPT");
        let option = u32::from_be_bytes(array(stream)?);
        let mut data = vec![0; u32::from_be_bytes(array(stream)?) as usize];
        stream.read_exact(&mut data)?;
        let behaviour = shared.0.lock().behaviour.clone();
        let mut reply = |kind: u32, data: &[u8]| -> io::Result<()> {
            let mut bytes = 0x0003_e889_0455_65a9u64.to_be_bytes().to_vec();
            bytes.extend(option.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(data);
            stream.write_all(&bytes)
        };
        match option {
            8 if behaviour.structured => {
                structured = true;
                reply(1, &[])?;
            }
            6 | 7 if data[4..8] == *b"disk" => {
                let mut export = 0u16.to_be_bytes().to_vec();
                export.extend(behaviour.bytes.to_be_bytes());
                export.extend((behaviour.flags | 1).to_be_bytes());
                reply(3, &export)?;
                let mut blocks = 3u16.to_be_bytes().to_vec();
                for size in [behaviour.least_block, 4096, 32 << 20] {
                    blocks.extend(size.to_be_bytes());
                }
                reply(3, &blocks)?;
                reply(1, &[])?;
                if option == 7 {
                    return Ok(structured);
                }
            }
            6 | 7 => reply(1 << 31 | 6, b"which one?")?,
            2 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => reply(1 << 31 | 1, &[])?,
        }
    }
}
