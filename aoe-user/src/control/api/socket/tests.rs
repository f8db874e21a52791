use std::cell::Cell;

use super::super::listening::Listening;
use super::super::places::CONNECTIONS_MAX;
use super::*;
use std::path::{Path, PathBuf};

fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(test);
}

/// A socket whose every request is answered with its text.
fn echo(directory: &Path) -> (Listening, PathBuf) {
    let path = directory.join("control.sock");
    let (socket, mut calls) = Listening::new(&path);
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            call.answer.result(format!("{:?}", call.request));
        }
    });
    (socket, path)
}

async fn ask(stream: &mut BufReader<UnixStream>, text: &[u8]) -> String {
    stream.write_all(text).await.unwrap();
    next(stream).await
}

async fn next(stream: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    line
}

#[test]
fn malformed_requests_are_answered_and_the_connection_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let (socket, path) = echo(directory.path());
        let mut stream = BufReader::new(UnixStream::connect(&path).await.unwrap());
        for bad in [
            &b"\n"[..],
            b"{}\n",
            b"\xff\xfe\n",
            b"{\"call\":\"x\"}\n",
            b"[[[[[[\n",
        ] {
            let reply = ask(&mut stream, bad).await;
            assert!(
                reply.starts_with("{\"schema\":1,\"error\":\"no request: "),
                "{reply}"
            );
        }
        let reply = ask(&mut stream, b"{\"call\":\"metrics\"}\n").await;
        assert_eq!(
            reply,
            "{\"schema\":1,\"result\":\"Metrics { format: OpenMetrics }\"}\n"
        );
        let long = vec![b' '; REQUEST_BYTES_MAX as usize];
        assert!(ask(&mut stream, &long).await.contains("too long"));
        assert_eq!(next(&mut stream).await, "", "and closed");
        drop(socket);
        assert!(!path.exists());
    });
}

#[test]
fn a_stream_goes_on_until_the_reader_says_something_else() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let (_socket, path) = echo(directory.path());
        let mut stream = BufReader::new(UnixStream::connect(&path).await.unwrap());
        let request = b"{\"call\":\"state\",\"every_ms\":1}\n";
        let first = ask(&mut stream, request).await;
        assert!(first.contains("State"));
        assert_eq!(next(&mut stream).await, first);
        stream.write_all(b"{\"call\":\"metrics\"}\n").await.unwrap();
        while !next(&mut stream).await.contains("Metrics") {}
    });
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let (_socket, path) = echo(directory.path());
        let mut stuck = Vec::new();
        for _ in 0..CONNECTIONS_MAX[1] - 1 {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            // Far more replies than a socket buffers, and none is read.
            let many = b"{\"call\":\"metrics\"}\n".repeat(2000);
            let _ = tokio::time::timeout(Duration::from_millis(20), stream.write_all(&many)).await;
            stuck.push(stream);
        }
        let mut stream = BufReader::new(UnixStream::connect(&path).await.unwrap());
        assert!(
            ask(&mut stream, b"{\"call\":\"metrics\"}\n")
                .await
                .contains("Metrics")
        );
    });
}

#[test]
fn connections_are_bounded_where_all_have_something_to_do() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let path = directory.path().join("control.sock");
        let (_socket, mut calls) = Listening::new(&path);
        let mut unanswered = Vec::new();
        let mut busy = Vec::new();
        for _ in 0..CONNECTIONS_MAX[1] {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"{\"call\":\"reload\"}\n").await.unwrap();
            unanswered.push(calls.recv().await.unwrap());
            busy.push(stream);
        }
        let mut more = BufReader::new(UnixStream::connect(&path).await.unwrap());
        assert!(next(&mut more).await.contains("too many connections"));
        let mut more = BufReader::new(UnixStream::connect(&path).await.unwrap());
        drop(busy);
        drop(unanswered);
        more.write_all(b"{\"call\":\"reload\"}\n").await.unwrap();
        calls.recv().await.unwrap().answer.error("as asked");
        assert!(
            next(&mut more).await.contains("as asked"),
            "it waited for a place"
        );
    });
}

#[test]
fn readers_keep_nobody_out_who_has_to_change_something() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let path = directory.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (calls, mut receiver) = mpsc::channel(1);
        let accepted = Cell::new(0);
        let may_change = move |_: &UnixStream| {
            accepted.set(accepted.get() + 1);
            accepted.get() > CONNECTIONS_MAX[0] + 1
        };
        let local = tokio::task::LocalSet::new();
        local.spawn_local(async move { accept(&listener, calls, may_change).await });
        local.spawn_local(async move {
            while let Some(call) = receiver.recv().await {
                call.answer.result(format!("{:?}", call.request));
            }
        });
        let asked = async {
            let mut readers = Vec::new();
            for _ in 0..CONNECTIONS_MAX[0] {
                readers.push(watching(&path).await);
            }
            let mut more = BufReader::new(UnixStream::connect(&path).await.unwrap());
            assert!(next(&mut more).await.contains("too many connections"));
            let mut root = BufReader::new(UnixStream::connect(&path).await.unwrap());
            let reply = ask(&mut root, b"{\"call\":\"reload\"}\n").await;
            assert!(reply.contains("Reload"), "{reply}");
        };
        local.run_until(asked).await;
    });
}

/// A connection that is answered over and over.
async fn watching(path: &Path) -> BufReader<UnixStream> {
    let mut stream = BufReader::new(UnixStream::connect(path).await.unwrap());
    let reply = ask(&mut stream, b"{\"call\":\"state\",\"every_ms\":50}\n").await;
    assert!(reply.contains("State"), "{reply}");
    stream
}

#[test]
fn roots_own_streams_and_forgotten_connections_keep_root_out_neither() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let (_socket, path) = echo(directory.path());
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS_MAX[0] {
            streams.push(watching(&path).await);
        }
        let mut more = BufReader::new(UnixStream::connect(&path).await.unwrap());
        let reply = ask(&mut more, b"{\"call\":\"state\",\"every_ms\":50}\n").await;
        assert!(reply.contains("too many connections"), "{reply}");
        let reply = ask(&mut more, b"{\"call\":\"reload\"}\n").await;
        assert!(
            reply.contains("Reload"),
            "a change on the same connection: {reply}"
        );
        drop(more);

        let mut forgotten = Vec::new();
        for _ in 0..CONNECTIONS_MAX[1] * 2 {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"{\"call\"").await.unwrap();
            forgotten.push(stream);
        }
        let mut root = BufReader::new(UnixStream::connect(&path).await.unwrap());
        let reply = ask(&mut root, b"{\"call\":\"reload\"}\n").await;
        assert!(reply.contains("Reload"), "{reply}");
        assert!(next(&mut streams[0]).await.contains("State"), "streams go on");
    });
}
