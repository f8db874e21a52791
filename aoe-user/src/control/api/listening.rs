//! The control socket's place in the file system: taken as soon as it is free, and again when it was lost.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::unistd::{Gid, Group, chown};
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use super::socket::{self, CALLS_MAX, ControlCall};

/// How often it is looked whether the socket is still in its place.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 5000 });
/// Pauses between two tries to listen: the first, and the longest.
const PAUSES: [Duration; 2] = match cfg!(test) {
    true => [Duration::from_millis(10), Duration::from_millis(40)],
    false => [Duration::from_secs(1), Duration::from_secs(15)],
};

/// Members of this group may read.
const GROUP: &str = "xblade";

/// What a path leads to: device and inode.
type Place = (u64, u64);

/// Listens for the operator. Dropped, it removes its socket, and nothing else that lies there.
#[derive(Debug)]
pub(in crate::control) struct Listening {
    path: PathBuf,
    ours: Arc<Mutex<Option<Place>>>,
    look: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Listens at this path as soon as that can be; requests come out of the receiver. Must be called inside the runtime.
    pub(in crate::control) fn new(path: &Path) -> (Listening, mpsc::Receiver<ControlCall>) {
        let (calls, receiver) = mpsc::channel(CALLS_MAX);
        let ours = Arc::new(Mutex::new(None));
        // At once: who starts a target may ask it when it says that it is ready.
        let first = take(path, &ours);
        let look = Arc::new(Notify::new());
        let task = tokio::spawn(keep(
            path.to_owned(),
            first,
            (Arc::clone(&ours), Arc::clone(&look)),
            calls,
        ));
        let listening = Listening {
            path: path.to_owned(),
            ours,
            look,
            task,
        };
        (listening, receiver)
    }

    /// Tries again at once where it does not listen, and looks whether its socket is still in its place where it does.
    pub(in crate::control) fn hasten(&self) {
        self.look.notify_waiters();
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        let ours = self.ours.lock().take();
        if ours.is_some() && place(&self.path) == ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A socket at this path. Must be called inside the runtime.
///
/// # Errors
/// When the path cannot be bound, or somebody listens there.
fn bind(path: &Path) -> Result<UnixListener> {
    make_way(path)?;
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid);
    if let Err(error) = permit(path, group) {
        let (shown, group) = (path.display(), GROUP);
        warn!("{shown}: the group {group} cannot be given the right to read ({error}): root only");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot set who may use {shown}"))?;
    }
    Ok(listener)
}

/// Removes a socket that a process has left behind that was killed.
fn make_way(path: &Path) -> Result<()> {
    if let Some(directory) = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
    {
        // Only that of the packages, which a start takes away: whoever mistypes a path is not to find new directories.
        if path == Path::new(super::SOCKET) {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        }
        if !directory.is_dir() {
            bail!(
                "there is no directory {} to make the control socket in; make it, or give another path by --control",
                directory.display()
            );
        }
    }
    let kind = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    };
    if !kind.is_socket() {
        bail!("{} is no socket: give another path by --control", path.display());
    }
    if has_listener(path) {
        bail!(
            "another xblade listens on {}: give one of them another path by --control",
            path.display()
        );
    }
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Whether somebody has this socket. Never waits for one that takes no connections, as a process that was stopped.
fn has_listener(path: &Path) -> bool {
    let connected = || {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::NONBLOCK,
            None,
        )?;
        connect(&socket, &SocketAddrUnix::new(path)?)
    };
    connected() != Err(Errno::CONNREFUSED)
}

fn permit(path: &Path, group: Option<Gid>) -> Result<()> {
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(())
}

fn place(path: &Path) -> Option<Place> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn take(path: &Path, ours: &Mutex<Option<Place>>) -> Result<UnixListener> {
    // A place that was lost may be somebody else's by now, under the same number.
    *ours.lock() = None;
    let listener = bind(path)?;
    *ours.lock() = place(path);
    Ok(listener)
}

/// Takes connections; listens again when the socket was removed, or something else lies in its place.
async fn keep(
    path: PathBuf,
    mut taken: Result<UnixListener>,
    (ours, look): (Arc<Mutex<Option<Place>>>, Arc<Notify>),
    calls: mpsc::Sender<ControlCall>,
) {
    let (mut told, mut pause) = (None, PAUSES[0]);
    loop {
        match taken {
            Ok(listener) => {
                if told.take().is_some() {
                    info!("{}: listening", path.display());
                }
                pause = PAUSES[0];
                tokio::select! {
                    () = socket::accept(&listener, calls.clone(), socket::may_change) => {}
                    () = lost(&path, *ours.lock(), &look) => {}
                }
                told = Some(String::new());
                warn!(
                    "{}: the control socket is gone from there: it is made again",
                    path.display()
                );
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if told.as_ref() != Some(&reason) {
                    warn!("`xblade status` and others cannot reach this target, trying again: {reason}");
                }
                told = Some(reason);
                let _ = timeout(pause, look.notified()).await;
                pause = (pause * 2).min(PAUSES[1]);
            }
        }
        taken = take(&path, &ours);
    }
}

/// Until the path leads elsewhere.
async fn lost(path: &Path, ours: Option<Place>, look: &Notify) {
    while ours.is_some() && place(path) == ours {
        let _ = timeout(LOOK, look.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::UnixStream;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(test);
    }

    /// The answer of whoever listens there, as soon as somebody does.
    async fn asked(path: &Path) -> String {
        let mut stream = loop {
            match UnixStream::connect(path).await {
                Ok(stream) => break BufReader::new(stream),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        stream.write_all(b"{\"call\":\"metrics\"}\n").await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        line
    }

    fn answering(path: &Path) -> Listening {
        let (listening, mut calls) = Listening::new(path);
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                call.answer.result("here");
            }
        });
        listening
    }

    #[test]
    fn a_socket_that_was_removed_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        run(async {
            let _listening = answering(&path);
            assert!(asked(&path).await.contains("here"));
            std::fs::remove_file(&path).unwrap();
            assert!(asked(&path).await.contains("here"));
        });
    }

    #[test]
    fn a_place_that_another_one_had_is_taken_when_that_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        run(async {
            let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
            let _listening = answering(&path);
            drop(other);
            assert!(asked(&path).await.contains("here"));
        });
    }

    #[test]
    fn what_others_have_put_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        run(async {
            let listening = answering(&path);
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, "mine").unwrap();
            drop(listening);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
            std::fs::remove_file(&path).unwrap();
            drop(answering(&path));
            assert!(!path.exists());
        });
    }

    #[test]
    fn a_socket_left_behind_is_taken_over_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        run(async {
            let path = directory.path().join("control.sock");
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let _listening = answering(&path);
            assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o660);
            let error = bind(&path).unwrap_err().to_string();
            assert!(error.contains("another xblade"), "{error}");
            let missing = directory.path().join("no/control.sock");
            let error = bind(&missing).unwrap_err().to_string();
            assert!(error.contains("there is no directory"), "{error}");
            assert!(!directory.path().join("no").exists());
            let stopped = directory.path().join("stopped.sock");
            let listener = std::os::unix::net::UnixListener::bind(&stopped).unwrap();
            rustix::net::listen(&listener, 0).unwrap();
            let _queued = std::os::unix::net::UnixStream::connect(&stopped).unwrap();
            let error = bind(&stopped).unwrap_err().to_string();
            assert!(error.contains("another xblade"), "at once: {error}");
            let file = directory.path().join("file");
            std::fs::write(&file, "").unwrap();
            assert!(bind(&file).unwrap_err().to_string().contains("is no socket"));
        });
    }
}
