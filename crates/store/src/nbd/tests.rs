//! The store against a server that goes wrong at will. Real servers are for the lab.

pub(crate) mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::server::{ALL_FLAGS, Misbehaviour, Server, ServerBehaviour, address};
use super::NbdStore;
use super::sockets::Sockets;
use super::table::Work;
use crate::completion_queue::CompletionQueue;
use crate::options::{StoreKind, StoreOptions};
use crate::tests::{Driver, counter};
use engine::{Durability, Event, Extent, FaultKind, Health, Step, Store, Token};

const SECTORS: u64 = 64;

fn options(path: &Path) -> StoreOptions {
    StoreOptions::new(StoreKind::Nbd, path)
}

fn open(path: &Path) -> Result<Arc<dyn Store<CompletionQueue>>, String> {
    crate::open(&options(path)).map_err(|error| error.to_string())
}

fn driver(server: &Server) -> Driver {
    Driver::new(&open(&server.address()).unwrap())
}

fn sectors(byte: u8, count: usize) -> Vec<u8> {
    vec![byte; count * 512]
}

/// Polls until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{what}: not within a minute"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A bug of ours ends the connection, and the next one goes on.
#[test]
fn a_panic_of_a_connection_costs_the_connection() {
    let server = Server::start(ServerBehaviour::new(SECTORS));
    let store = Arc::new(NbdStore::open(&options(&server.address())).unwrap());
    let panics = Box::new(|_| panic!("on purpose, for a test"));
    store.shared.add(Work::Read { at: 0, length: 512 }, panics);
    let same: Arc<dyn Store<CompletionQueue>> = store;
    until("the connection ends", || {
        counter(&same, "nbd_lost_connections") == 1
    });
    let mut driver = Driver::new(&same);
    driver.write(3, &sectors(7, 4), Durability::WriteBack).unwrap();
    assert_eq!(driver.read(3, 4).unwrap(), sectors(7, 4));
}

#[test]
fn what_is_answered_has_been_flushed() {
    for structured in [false, true] {
        let server = Server::start(ServerBehaviour {
            structured,
            ..ServerBehaviour::new(SECTORS)
        });
        let mut driver = driver(&server);
        assert_eq!(driver.store.sectors(), SECTORS);
        driver.write(3, &sectors(7, 4), Durability::WriteBack).unwrap();
        assert_eq!(server.durable(6), sectors(7, 1));
        assert_eq!(
            driver.read(2, 6).unwrap(),
            [sectors(0, 1), sectors(7, 4), sectors(0, 1)].concat()
        );
        driver
            .trim(&[Extent { lba: 4, count: 1 }, Extent { lba: 5, count: 1 }])
            .unwrap();
        assert_eq!(server.durable(4), sectors(0, 1));
        assert_eq!(
            driver.read(3, 4).unwrap(),
            [sectors(7, 1), sectors(0, 2), sectors(7, 1)].concat()
        );
        driver.verify(0, SECTORS).unwrap();
        driver.flush().unwrap();
        driver.store.close().unwrap();
    }
}

#[test]
fn a_server_without_flush_has_done_what_it_answers() {
    let server = Server::start(ServerBehaviour {
        flags: 0,
        ..ServerBehaviour::new(SECTORS)
    });
    let mut driver = driver(&server);
    driver.write(0, &sectors(9, 1), Durability::Durable).unwrap();
    assert_eq!(server.seen(3), 0);
    assert_eq!(driver.read(0, 1).unwrap(), sectors(9, 1));
    assert!(!driver.store.traits().trim);
}

#[test]
fn errors_are_told_as_what_they_are() {
    let server = Server::start(ServerBehaviour::new(SECTORS));
    let mut driver = driver(&server);
    let mut fails = |command, error: i32, run: &mut dyn FnMut(&mut Driver) -> Result<(), engine::Fault>| {
        server.set(|behaviour| behaviour.misbehaviour = Some((command, Misbehaviour::Error(error as u32))));
        let fault = run(&mut driver).unwrap_err();
        assert_eq!(fault.source.raw_os_error(), Some(error));
        // It does not stay.
        run(&mut driver).unwrap();
        fault.kind
    };
    let mut write = |driver: &mut Driver| driver.write(1, &sectors(1, 2), Durability::WriteBack);
    assert_eq!(
        fails(0, libc::EIO, &mut |driver| driver.read(1, 2).map(drop)),
        FaultKind::Read
    );
    assert_eq!(
        fails(0, libc::EIO, &mut |driver| driver.verify(0, 9)),
        FaultKind::Read
    );
    assert_eq!(fails(1, libc::ENOSPC, &mut write), FaultKind::Write);
    assert_eq!(fails(3, libc::EIO, &mut write), FaultKind::Write);
    let mut trim = |driver: &mut Driver| driver.trim(&[Extent { lba: 0, count: 4 }]);
    assert_eq!(fails(6, libc::EIO, &mut trim), FaultKind::Write);
    let outside = driver.read(SECTORS - 1, 2).unwrap_err();
    assert_eq!(outside.kind, FaultKind::Read);
}

/// The server is this process, and lives: it may still write what it has in memory.
#[test]
fn what_was_answered_and_not_flushed_is_never_sent_to_another_server_while_the_old_one_may_live() {
    let server = Server::start(ServerBehaviour::new(SECTORS));
    let mut driver = driver(&server);
    driver.write(0, &sectors(1, 1), Durability::WriteBack).unwrap();
    server.set(|behaviour| behaviour.misbehaviour = Some((3, Misbehaviour::Hangup)));
    let token = begin(&mut driver, 0, 2);
    until("the loss", || is_in_doubt(&driver.store.health()));
    for lba in 1..SECTORS {
        driver.write(lba, &sectors(3, 1), Durability::WriteBack).unwrap();
    }
    assert_eq!(server.seen(1), 1 + SECTORS as usize, "it was not sent again");
    assert!(is_in_doubt(&driver.store.health()));
    driver.store.close().unwrap();
    let ended = driver.wait(token);
    assert!(matches!(ended, Event::Finished(Err(_))), "{ended:?}");
    assert!(driver.store.is_silenced(), "no initiator hears of the error");
}

/// Begins a write of one sector.
fn begin(driver: &mut Driver, lba: u64, byte: u8) -> Token {
    let token = driver.token();
    let (store, extent) = (Arc::clone(&driver.store), Extent { lba, count: 1 });
    let (data, durability) = (sectors(byte, 1), Durability::WriteBack);
    let step = store.write(&mut driver.queue, token, extent, &[&data], durability);
    assert_eq!(step.unwrap(), Step::Later);
    token
}

fn is_in_doubt(health: &Health) -> bool {
    matches!(health, Health::Degraded(why) if why.contains("1 writes had no answer or were not flushed"))
}

#[test]
fn reads_survive_a_lost_connection_and_a_server_that_shuts_down() {
    let server = Server::start(ServerBehaviour::new(SECTORS));
    let mut driver = driver(&server);
    driver.write(0, &sectors(1, 1), Durability::WriteBack).unwrap();
    for misbehaviour in [
        Misbehaviour::Hangup,
        Misbehaviour::WrongCookie,
        Misbehaviour::Error(libc::ESHUTDOWN as u32),
    ] {
        server.set(|behaviour| behaviour.misbehaviour = Some((0, misbehaviour)));
        assert_eq!(driver.read(0, 1).unwrap(), sectors(1, 1), "{misbehaviour:?}");
    }
    // What is answered so has not been carried out.
    let shuts_down = Misbehaviour::Error(libc::ESHUTDOWN as u32);
    server.set(|behaviour| behaviour.misbehaviour = Some((1, shuts_down)));
    driver.write(5, &sectors(3, 1), Durability::WriteBack).unwrap();
    assert_eq!(server.durable(5), sectors(3, 1));
}

/// The server is this process, and lives: it may still carry the write out.
#[test]
fn a_write_without_an_answer_is_never_sent_to_another_server_while_the_old_one_may_live() {
    let server = Server::start(ServerBehaviour::new(SECTORS));
    let mut driver = driver(&server);
    driver.write(0, &sectors(1, 1), Durability::WriteBack).unwrap();
    server.set(|behaviour| behaviour.misbehaviour = Some((1, Misbehaviour::Hangup)));
    let store = Arc::clone(&driver.store);
    let token = begin(&mut driver, 0, 2);
    server.wait_for(1, 2);
    // A write that is sent before the loss is noticed is in doubt, too.
    until("the loss", || is_in_doubt(&store.health()));
    // Everything else goes on at the new connection.
    for lba in 1..SECTORS {
        driver.write(lba, &sectors(3, 1), Durability::WriteBack).unwrap();
        assert_eq!(driver.read(lba, 1).unwrap(), sectors(3, 1));
    }
    assert_eq!(server.seen(1), 2 + SECTORS as usize - 1, "it was not sent again");
    let health = store.health();
    assert!(is_in_doubt(&health), "{health:?}");
    assert_eq!(driver.read(0, 1).unwrap(), sectors(1, 1));
    store.close().unwrap();
    let ended = driver.wait(token);
    assert!(matches!(ended, Event::Finished(Err(_))), "{ended:?}");
}

/// Connections know the size from when they began, as nbdkit's do.
#[test]
fn a_larger_export_is_served_as_it_is_heard_of() {
    let server = Server::start(ServerBehaviour::new(SECTORS));
    let mut driver = driver(&server);
    driver.write(0, &sectors(1, 1), Durability::WriteBack).unwrap();
    server.resize(2 * SECTORS);
    until("the new size", || driver.store.refresh().unwrap() == 2 * SECTORS);
    driver
        .write(2 * SECTORS - 1, &sectors(1, 1), Durability::WriteBack)
        .unwrap();
    assert_eq!(counter(&driver.store, "nbd_lost_connections"), 0);
    assert_eq!(driver.store.health(), Health::Healthy);
}

#[test]
fn an_export_that_is_cut_short_fails_where_it_is_cut_and_says_so() {
    let server = Server::start(ServerBehaviour::new(SECTORS));
    let mut driver = driver(&server);
    driver.write(0, &sectors(1, 1), Durability::WriteBack).unwrap();
    server.resize(SECTORS / 2);
    let is_told =
        |health: Health| matches!(health, Health::Degraded(why) if why.contains("cut the export short"));
    until("it is noticed", || {
        assert_eq!(driver.store.refresh().unwrap(), SECTORS, "a disk does not shrink");
        is_told(driver.store.health())
    });
    assert_eq!(driver.read(0, 1).unwrap(), sectors(1, 1));
    assert_eq!(driver.read(SECTORS - 1, 1).unwrap_err().kind, FaultKind::Read);
    server.resize(SECTORS);
    until("it is whole again", || {
        driver.store.refresh().unwrap();
        driver.store.health() == Health::Healthy
    });
}

/// Another server comes up in the place of the first one, and can less: nobody is answered until there is one that can as much.
#[test]
fn a_server_that_cannot_do_what_was_promised_gets_nothing() {
    type Change = fn(&mut ServerBehaviour);
    let cases: [(&str, Change); 6] = [
        ("it cannot write zeros", |now| now.flags &= !(1 << 6)),
        ("it cannot write zeros", |now| now.flags &= !(1 << 5 | 1 << 6)),
        ("it cannot flush", |now| now.flags &= !(1 << 2)),
        ("is read-only", |now| now.flags |= 1 << 1),
        ("larger blocks", |now| now.least_block = 4096),
        ("has 16384 bytes and the one that is served has 32768", |now| {
            now.bytes /= 2;
        }),
    ];
    for (reason, change) in cases {
        let first = ServerBehaviour::new(SECTORS);
        let server = Server::start(first.clone());
        let mut driver = driver(&server);
        driver.write(0, &sectors(1, 1), Durability::WriteBack).unwrap();
        server.set(change);
        server.hang_up();
        let store = Arc::clone(&driver.store);
        until(
            reason,
            || matches!(store.health(), Health::Silent(why) if why.contains(reason)),
        );
        let token = begin(&mut driver, 0, 2);
        assert_eq!(server.seen(1), 1, "{reason}: nothing is sent to it");
        server.set(|now| *now = first);
        let ended = driver.wait(token);
        assert!(matches!(ended, Event::Finished(Ok(_))), "{reason}: {ended:?}");
        assert_eq!(server.durable(0), sectors(2, 1));
        until("it is healthy", || store.health() == Health::Healthy);
    }
}

/// A server without flush is believed, and one that only knows TRIM promises nothing of what is read: more is welcome.
#[test]
fn a_server_that_can_more_takes_the_place_of_one_that_can_less() {
    let server = Server::start(ServerBehaviour {
        flags: 1 << 5,
        ..ServerBehaviour::new(SECTORS)
    });
    let mut driver = driver(&server);
    driver.write(0, &sectors(1, 1), Durability::WriteBack).unwrap();
    server.set(|now| now.flags = ALL_FLAGS);
    server.hang_up();
    until("the loss", || counter(&driver.store, "nbd_lost_connections") == 1);
    driver.write(0, &sectors(2, 1), Durability::WriteBack).unwrap();
    assert_eq!(server.durable(0), sectors(2, 1));
    driver.trim(&[Extent { lba: 0, count: 1 }]).unwrap();
    assert_eq!(server.durable(0), sectors(0, 1));
}

/// A write of a store that has ended is still at the server, as after `kill -9`: the next store waits for it.
#[test]
fn what_an_earlier_client_has_left_at_the_server_comes_before_anything_new() {
    let server = Server::start(ServerBehaviour::new(SECTORS));
    let mut earlier = driver(&server);
    server.set(|behaviour| behaviour.misbehaviour = Some((1, Misbehaviour::Hold)));
    begin(&mut earlier, 0, 1);
    server.wait_for(1, 1);
    earlier.store.close().unwrap();
    let at = super::parse(&server.address()).unwrap().server;
    let probe = super::connecting::connect(&at, &Sockets::default()).unwrap();
    if probe.leftovers() == 0 {
        println!("skipped: the kernel does not tell of Unix sockets");
        return;
    }
    drop(probe);
    let mut later = driver(&server);
    let waits =
        |health: Health| matches!(health, Health::Silent(why) if why.contains("clients that have ended"));
    until("it waits", || waits(later.store.health()));
    let token = begin(&mut later, 0, 2);
    assert_eq!(server.seen(1), 1, "nothing is sent");
    server.let_go();
    let ended = later.wait(token);
    assert!(matches!(ended, Event::Finished(Ok(_))), "{ended:?}");
    assert_eq!(server.durable(0), sectors(2, 1));
    assert_eq!(later.store.health(), Health::Healthy);
}

/// A connection that stays open would have a client for the next store, which would not wait for what the server still does for it.
#[test]
fn the_end_of_a_store_is_the_end_of_its_connections_whatever_it_waits_for() {
    let server = Server::start(ServerBehaviour::new(SECTORS));
    let store = Arc::new(NbdStore::open(&options(&server.address())).unwrap());
    let mut driver = Driver::new(&(Arc::clone(&store) as Arc<dyn Store<CompletionQueue>>));
    driver.write(0, &sectors(1, 1), Durability::WriteBack).unwrap();
    server.set(|behaviour| behaviour.mute = true);
    store.refresh().unwrap();
    until("it is asked for the size", || server.is_muted());
    store.close().unwrap();
    let of_the_thread = Arc::strong_count(&store.shared) - 1;
    assert_eq!(of_the_thread, 0, "the thread goes on, with its connections");
}

/// A server that is stopped accepts nothing: the end does not wait for it.
#[test]
fn a_store_that_cannot_connect_again_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = Server::start(ServerBehaviour::new(SECTORS));
    server.link(&path);
    let store = Arc::new(NbdStore::open(&options(&address(&path, "disk"))).unwrap());
    std::fs::remove_file(&path).unwrap();
    let _full = super::connecting::full(&path);
    server.hang_up();
    let same: Arc<dyn Store<CompletionQueue>> = Arc::clone(&store) as _;
    until("the loss", || counter(&same, "nbd_lost_connections") == 1);
    drop(same);
    let (end, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        store.close().unwrap();
        end.send(Arc::strong_count(&store.shared))
    });
    let left = ended
        .recv_timeout(Duration::from_secs(60))
        .expect("within a minute");
    assert_eq!(left, 1, "its thread has ended");
}

#[test]
fn what_cannot_be_served_says_why() {
    let refused = |behaviour: ServerBehaviour, word: &str| {
        let server = Server::start(behaviour);
        let error = open(&server.address()).unwrap_err();
        assert!(error.contains(word), "{error}");
    };
    let good = ServerBehaviour::new(SECTORS);
    refused(
        ServerBehaviour {
            flags: ALL_FLAGS | 1 << 1,
            ..good.clone()
        },
        "read_only",
    );
    refused(
        ServerBehaviour {
            least_block: 4096,
            ..good.clone()
        },
        "4096 bytes",
    );
    refused(
        ServerBehaviour {
            bytes: 0,
            ..good.clone()
        },
        "empty",
    );
    let server = Server::start(good);
    let socket = server
        .address()
        .to_str()
        .unwrap()
        .split_once('=')
        .unwrap()
        .1
        .to_owned();
    let error = open(&address(Path::new(&socket), "other")).unwrap_err();
    assert!(
        error.contains("no such export") && error.contains("which one?"),
        "{error}"
    );
    let error = open(&address(Path::new("/nowhere/s"), "")).unwrap_err();
    assert!(
        error.contains("/nowhere/s") && error.contains("No such file"),
        "{error}"
    );
    let error = open(Path::new("nbd+unix:///x")).unwrap_err();
    assert!(error.contains("nbd+unix:///NAME?socket=PATH"), "{error}");
}
