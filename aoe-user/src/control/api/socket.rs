//! The socket itself: who may connect, how much they may send, and how long they may take to read.

use std::time::Duration;

use nix::unistd::geteuid;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::places::{Place, Places};
use super::types::{ControlReply, ControlRequest, SCHEMA};
use crate::dump::{self, DumpSession};

/// What those are told who find no place.
const TOO_MANY: &str = "too many connections; try again";
/// Longest request.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// How long a reader may take for one reply.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection may ask for nothing.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Requests that wait for the control loop, of all connections.
pub(super) const CALLS_MAX: usize = 64;
/// Shortest time between two replies of a stream.
const EVERY_MIN: Duration = Duration::from_millis(50);

/// A request on its way to the control loop.
#[derive(Debug)]
pub(in crate::control) struct ControlCall {
    pub(crate) request: ControlRequest,
    pub(crate) answer: ControlAnswer,
    /// It was answered before on this connection, and is asked for over and over.
    pub(crate) again: bool,
}

/// A reply: a line of JSON, without its end, and what comes after it instead of further replies.
#[derive(Debug)]
struct Replied {
    line: String,
    dump: Option<DumpSession>,
}

impl Replied {
    /// A reply that others may follow.
    fn line(line: String) -> Replied {
        Replied { line, dump: None }
    }
}

/// Where the reply goes.
#[derive(Debug)]
pub(in crate::control) struct ControlAnswer(oneshot::Sender<Replied>);

impl ControlAnswer {
    /// Replies with a result.
    pub(crate) fn result<T: Serialize>(self, result: T) {
        self.send(&ControlReply {
            schema: SCHEMA,
            result: Some(result),
            error: None,
        });
    }

    /// Replies that it could not be done.
    pub(crate) fn error(self, reason: impl Into<String>) {
        self.send(&ControlReply::<()> {
            schema: SCHEMA,
            result: None,
            error: Some(reason.into()),
        });
    }

    /// Replies with a result, after which the connection is for the frames that the session shows.
    pub(in crate::control) fn and_dump<T: Serialize>(self, result: T, session: DumpSession) {
        let line = line(&ControlReply {
            schema: SCHEMA,
            result: Some(result),
            error: None,
        });
        let dump = Some(session);
        // Whoever asked may have gone.
        let _ = self.0.send(Replied { line, dump });
    }

    fn send<T: Serialize>(self, reply: &ControlReply<T>) {
        // As above.
        let _ = self.0.send(Replied::line(line(reply)));
    }
}

fn line<T: Serialize>(reply: &ControlReply<T>) -> String {
    serde_json::to_string(reply).unwrap_or_else(|error| {
        format!("{{\"schema\":{SCHEMA},\"error\":\"the reply cannot be written: {error}\"}}")
    })
}

fn error_line(reason: &str) -> String {
    line(&ControlReply::<()> {
        schema: SCHEMA,
        result: None,
        error: Some(reason.to_owned()),
    })
}

/// Takes connections, for ever.
pub(super) async fn accept(
    listener: &UnixListener,
    calls: mpsc::Sender<ControlCall>,
    may_change: impl Fn(&UnixStream) -> bool,
) {
    let places = Places::new();
    let mut is_told = false;
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    warn!("control socket: no connection can be taken, trying again each second: {error}");
                }
                // Out of descriptors, most likely: it passes.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        is_told = false;
        let calls = calls.clone();
        let may_change = may_change(&stream);
        let places = places.clone();
        let Some(waiting) = places.ask(may_change) else {
            refuse(&stream);
            continue;
        };
        drop(tokio::spawn(async move {
            match waiting.place().await {
                Some(place) => {
                    let connection = Connection::new(stream, may_change, calls);
                    connection.serve(place, &places).await;
                }
                None => refuse(&stream),
            }
        }));
    }
}

/// Tells that there is no place, to whoever is not going to have one.
fn refuse(stream: &UnixStream) {
    let busy = error_line(TOO_MANY);
    // One short line fits the socket's buffer.
    let _ = stream.try_write(format!("{busy}\n").as_bytes());
}

/// Root, and the user that the target runs as.
pub(super) fn may_change(stream: &UnixStream) -> bool {
    let user = stream.peer_cred().map(|peer| peer.uid()).ok();
    user.is_some_and(|user| user == 0 || user == geteuid().as_raw())
}

struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    may_change: bool,
    calls: mpsc::Sender<ControlCall>,
}

impl Connection {
    fn new(stream: UnixStream, may_change: bool, calls: mpsc::Sender<ControlCall>) -> Connection {
        let (reader, writer) = stream.into_split();
        Connection {
            reader: BufReader::new(reader),
            writer,
            may_change,
            calls,
        }
    }

    async fn serve(mut self, mut place: Place, places: &Places) {
        while let Some(request) = self.next_request(&place).await {
            let going_on = match request {
                Ok(request) if request.every().is_some() && !place.is_watcher(places) => {
                    // It may stay for ever, and then not in a place that others need to change something.
                    match places.watcher() {
                        Some(watcher) => {
                            place = watcher;
                            self.answer(request).await
                        }
                        None => self.write(&error_line(TOO_MANY)).await.map(|()| None),
                    }
                }
                Ok(request) => self.answer(request).await,
                Err(reason) => self.write(&error_line(&reason)).await.map(|()| None),
            };
            match going_on {
                Some(None) => {}
                Some(Some(session)) => return self.hand_over(session),
                None => break,
            }
        }
    }

    /// The next line; `None` when the connection is to be closed.
    async fn next_request(&mut self, place: &Place) -> Option<Result<ControlRequest, String>> {
        let mut text = Vec::new();
        let mut limited = (&mut self.reader).take(REQUEST_BYTES_MAX);
        let mut idle = place.idle();
        let read = tokio::select! {
            biased;
            read = tokio::time::timeout(IDLE_LIMIT, limited.read_until(b'\n', &mut text)) => read,
            _ = &mut idle.leave => {
                debug!("control socket: a connection that asks for nothing gives way to another");
                return None;
            }
        };
        drop(idle);
        let count = read.ok()?.ok()?;
        if count == 0 {
            return None;
        }
        if !text.ends_with(b"\n") && text.len() as u64 >= REQUEST_BYTES_MAX {
            let _ = self
                .write(&error_line("the request is too long: 64 KiB at most"))
                .await;
            return None;
        }
        let request = serde_json::from_slice(&text);
        Some(request.map_err(|error| format!("no request: {error}")))
    }

    /// The connection is a thread's from now on: its reader may be slower than everything.
    fn hand_over(self, session: DumpSession) {
        let Connection { reader, writer, .. } = self;
        let stream = reader.into_inner().reunite(writer);
        let sent = match stream.map(UnixStream::into_std) {
            Ok(Ok(stream)) => dump::send(session, stream),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(std::io::Error::other(error)),
        };
        if let Err(error) = sent {
            warn!("control socket: no dump: {error}");
        }
    }

    /// Answers once, or again and again; `None` when the connection is to be closed.
    async fn answer(&mut self, request: ControlRequest) -> Option<Option<DumpSession>> {
        if request.is_for_root() && !self.may_change {
            let refused = "only root may change anything, or see what is on the disks";
            return self.write(&error_line(refused)).await.map(|()| None);
        }
        let every = request.every().map(|every| every.max(EVERY_MIN));
        let mut again = false;
        loop {
            let (answer, reply) = oneshot::channel();
            let call = ControlCall {
                request: request.clone(),
                answer: ControlAnswer(answer),
                again: std::mem::replace(&mut again, true),
            };
            self.calls.send(call).await.ok()?;
            let silence = |_| Replied::line(error_line("the target is ending, or could not answer"));
            let Replied { line, dump } = reply.await.unwrap_or_else(silence);
            self.write(&line).await?;
            let Some(every) = every else { return Some(dump) };
            // Whoever says something else has enough of this.
            let next = tokio::time::timeout(every, self.reader.fill_buf()).await;
            match next {
                Err(_) => {}
                Ok(Ok([])) | Ok(Err(_)) => return None,
                Ok(Ok(_)) => return Some(None),
            }
        }
    }

    async fn write(&mut self, line: &str) -> Option<()> {
        let bytes = [line.as_bytes(), b"\n"].concat();
        match tokio::time::timeout(WRITE_LIMIT, self.writer.write_all(&bytes)).await {
            Ok(result) => result.ok(),
            Err(_) => {
                debug!("control socket: a reader takes too long; its connection is closed");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
