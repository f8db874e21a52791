//! A raw initiator on AF_PACKET: sends any bytes, collects what comes back.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aoe_common::Mac;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt,
    socket, sockopt,
};

use crate::frame::{Address, Identity, Reply, Request, ata};
use crate::net::Namespace;

/// Longest wait for an answer that must come; generous, the machine may be busy.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait before a request is sent again.
const LOST: Duration = Duration::from_secs(3);
/// How long to wait before a query that may have come too early is sent again.
const AGAIN: Duration = Duration::from_millis(500);

const PACKET_OUTGOING: u8 = 4;

/// A socket on one interface that sees every frame which arrives there.
#[derive(Debug)]
pub struct Initiator {
    socket: OwnedFd,
    mac: Mac,
    next_tag: std::cell::Cell<u32>,
}

impl Initiator {
    /// Opens a socket on an interface of the namespace.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Initiator> {
        let name = interface.to_owned();
        let (socket, mac) = namespace
            .run(move || open(&name))
            .with_context(|| format!("opening {interface}"))?;
        Ok(Initiator {
            socket,
            mac,
            next_tag: std::cell::Cell::new(0x8000_0001),
        })
    }

    /// The interface's address, which frames carry as their source unless they say otherwise.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the interface does not take them (it is down, or they are longer than its MTU).
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let mut tries = 0;
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::ENOBUFS) if tries < 1000 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_micros(50));
                }
                Err(error) => bail!("sending {} bytes: {error}", frame.len()),
            }
        }
    }

    /// Sends many frames with few system calls; frames the link does not take at once are tried again.
    ///
    /// # Errors
    /// As [`Initiator::send`].
    pub fn send_many(&self, frames: &[Vec<u8>]) -> Result<()> {
        use nix::sys::socket::{MultiHeaders, sendmmsg};
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(64, None);
        for batch in frames.chunks(64) {
            let mut left = batch;
            while !left.is_empty() {
                let slices: Vec<[IoSlice<'_>; 1]> = left.iter().map(|frame| [IoSlice::new(frame)]).collect();
                let addresses = vec![None; slices.len()];
                let sent = sendmmsg(
                    self.socket.as_raw_fd(),
                    &mut headers,
                    &slices,
                    &addresses,
                    [],
                    MsgFlags::empty(),
                );
                match sent {
                    Ok(results) => {
                        let count = results.count();
                        left = &left[count..];
                    }
                    Err(nix::errno::Errno::ENOBUFS) => std::thread::sleep(Duration::from_micros(50)),
                    Err(error) => bail!("sending a batch: {error}"),
                }
            }
        }
        Ok(())
    }

    /// The next AoE frame that arrives within `timeout`.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn receive(&self, timeout: Duration) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        let mut buffer = vec![0; 65536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait =
                PollTimeout::try_from(left.as_millis().min(60_000) as i32 + i32::from(!left.is_zero()))?;
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, wait) {
                Ok(0) if Instant::now() >= deadline => return Ok(None),
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                Ok(_) => {}
                Err(error) => bail!("poll: {error}"),
            }
            let (length, from) = match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok(got) => got,
                // The interface went down: that is for the test to notice by what does not arrive.
                Err(nix::errno::Errno::ENETDOWN | nix::errno::Errno::EINTR) => continue,
                Err(error) => bail!("receiving: {error}"),
            };
            let outgoing = from.is_some_and(|from| from.pkttype() == PACKET_OUTGOING);
            if !outgoing && length >= 14 && buffer[12..14] == [0x88, 0xa2] {
                return Ok(Some(buffer[..length].to_vec()));
            }
        }
    }

    /// Waits for the advertisement of an export, which nobody asked for.
    ///
    /// # Errors
    /// When none that `wanted` accepts comes within [`TIMEOUT`].
    pub fn advertisement(&self, wanted: impl Fn(&Reply) -> bool) -> Result<Reply> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let reply = self.reply_to(0, left)?.context("no advertisement")?;
            if reply.command == 1 && wanted(&reply) {
                return Ok(reply);
            }
        }
    }

    /// Throws away what has arrived so far.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn drain(&self) -> Result<()> {
        while self.receive(Duration::ZERO)?.is_some() {}
        Ok(())
    }

    /// Sends a request from this interface's address (unless it has another), and again where there is no answer, and waits for the
    /// answer to its tag.
    ///
    /// # Errors
    /// When none comes, or it is malformed.
    pub fn ask(&self, mut request: Request) -> Result<Reply> {
        self.fill(&mut request);
        let deadline = Instant::now() + TIMEOUT;
        // As initiators do: a write that the machine was too busy to look at in time is dropped.
        while Instant::now() < deadline {
            self.send(&request.bytes())?;
            let Some(reply) = self.reply_to(request.tag, LOST)? else {
                continue;
            };
            ensure!(reply.dst == request.src, "the reply went to {}", reply.dst);
            ensure!(
                reply.command == request.command,
                "the reply has command {}",
                reply.command
            );
            return Ok(reply);
        }
        bail!("no answer within {TIMEOUT:?} to {request:?}")
    }

    /// Sends a request and returns every answer to its tag. None is silence, told by order and not by time: `witness`
    /// is asked afterwards, and when it has answered the request has been dealt with, however slow the machine is.
    ///
    /// # Errors
    /// When an answer is malformed, or the witness does not answer.
    pub fn answers(&self, mut request: Request, witness: &Disk<'_>) -> Result<Vec<Reply>> {
        self.fill(&mut request);
        self.send(&request.bytes())?;
        with_tag(request.tag, &witness.barrier()?)
    }

    fn fill(&self, request: &mut Request) {
        if request.src == Mac::ZERO {
            request.src = self.mac;
        }
        if request.tag == 0 {
            request.tag = self.next_tag.get();
            self.next_tag.set(request.tag.wrapping_add(1) | 0x8000_0000);
        }
    }

    /// Broadcasts a config query and returns all answers, once there are this many; more are among them.
    ///
    /// # Errors
    /// When there are not so many within [`TIMEOUT`], or one is malformed.
    pub fn discover(&self, address: Address, expected: usize) -> Result<Vec<Reply>> {
        let mut query = Request::query(Mac::BROADCAST, address, 0, b"");
        self.fill(&mut query);
        self.send(&query.bytes())?;
        let mut replies = Vec::new();
        let deadline = Instant::now() + TIMEOUT;
        while replies.len() < expected {
            let left = deadline.saturating_duration_since(Instant::now());
            let reply = self.reply_to(query.tag, left)?;
            replies.push(reply.with_context(|| format!("{} of {expected} answers", replies.len()))?);
        }
        let first = replies.first().context("discover() is for exports that answer")?;
        let witness = Disk {
            initiator: self,
            mac: first.src,
            address: first.address,
        };
        replies.extend(with_tag(query.tag, &witness.barrier()?)?);
        Ok(replies)
    }

    /// Asks till an export at this address answers, and gives a handle to it.
    ///
    /// # Errors
    /// When it does not within [`TIMEOUT`].
    pub fn find(&self, address: Address) -> Result<Disk<'_>> {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            let mut query = Request::query(Mac::BROADCAST, address, 0, b"");
            self.fill(&mut query);
            self.send(&query.bytes())?;
            if let Some(reply) = self.reply_to(query.tag, AGAIN)? {
                return Ok(Disk {
                    initiator: self,
                    mac: reply.src,
                    address,
                });
            }
        }
        bail!("nobody answers for e{}.{}", address.shelf, address.slot)
    }

    /// The next reply with this tag that arrives in time.
    fn reply_to(&self, tag: u32, timeout: Duration) -> Result<Option<Reply>> {
        let deadline = Instant::now() + timeout;
        while let Some(frame) = self.receive(deadline.saturating_duration_since(Instant::now()))? {
            if let Some(reply) = with_tag(tag, &[frame])?.pop() {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }
}

/// The replies with this tag; the target's own requests are passed over.
fn with_tag(tag: u32, frames: &[Vec<u8>]) -> Result<Vec<Reply>> {
    let is_reply = |frame: &&Vec<u8>| frame.get(14).is_some_and(|flags| flags & 0x08 != 0);
    let replies: Vec<Reply> = frames
        .iter()
        .filter(is_reply)
        .map(|frame| Reply::parse(frame))
        .collect::<Result<_>>()?;
    Ok(replies.into_iter().filter(|reply| reply.tag == tag).collect())
}

/// An export as an initiator sees it.
#[derive(Debug, Clone, Copy)]
pub struct Disk<'a> {
    initiator: &'a Initiator,
    /// The port that answers.
    pub mac: Mac,
    /// Its address.
    pub address: Address,
}

impl Disk<'_> {
    /// An ATA command and its reply, good or bad.
    ///
    /// # Errors
    /// When there is no reply.
    pub fn ata(&self, command: u8, lba: u64, count: u8, data: &[u8]) -> Result<Reply> {
        self.initiator
            .ask(Request::ata(self.mac, self.address, command, lba, count, data))
    }

    fn good(&self, command: u8, lba: u64, count: u8, data: &[u8]) -> Result<Reply> {
        let reply = self.ata(command, lba, count, data)?;
        ensure!(
            reply.aoe_error().is_none() && reply.status() & 0xa9 == 0,
            "command {command:#04x} at {lba}: AoE error {:?}, status {:#04x}, error {:#04x}",
            reply.aoe_error(),
            reply.status(),
            reply.ata_error()
        );
        Ok(reply)
    }

    /// IDENTIFY DEVICE.
    ///
    /// # Errors
    /// When it fails.
    pub fn identify(&self) -> Result<Identity> {
        Ok(Identity::new(self.good(ata::IDENTIFY, 0, 1, &[])?.data()))
    }

    /// Reads sectors with one command.
    ///
    /// # Errors
    /// When it fails, or has not exactly the bytes asked for.
    pub fn read(&self, lba: u64, count: u8) -> Result<Vec<u8>> {
        let reply = self.good(ata::READ_EXT, lba, count, &[])?;
        ensure!(
            reply.data().len() == usize::from(count) * 512,
            "{} bytes for {count} sectors",
            reply.data().len()
        );
        Ok(reply.data().to_vec())
    }

    /// Writes sectors with one command.
    ///
    /// # Errors
    /// When it fails.
    pub fn write(&self, lba: u64, data: &[u8]) -> Result<()> {
        let count = u8::try_from(data.len() / 512).context("too much for one command")?;
        self.good(ata::WRITE_EXT, lba, count, data).map(drop)
    }

    /// FLUSH CACHE EXT.
    ///
    /// # Errors
    /// When it fails.
    pub fn flush(&self) -> Result<()> {
        self.good(ata::FLUSH_EXT, 0, 0, &[]).map(drop)
    }

    /// Query Config with a subcommand: the reply, or `None` for silence.
    ///
    /// # Errors
    /// When the reply is malformed, or there are several.
    pub fn query(&self, subcommand: u8, string: &[u8]) -> Result<Option<Reply>> {
        let mut query = Request::query(self.mac, self.address, subcommand, string);
        // Only a question whether the string is this one may stay without an answer. What changes the string is answered
        // when that is kept, and later questions overtake it.
        if !matches!(subcommand, 1 | 2) {
            return self.initiator.ask(query).map(Some);
        }
        self.initiator.fill(&mut query);
        self.initiator.send(&query.bytes())?;
        let replies = with_tag(query.tag, &self.behind(vec![self.question()])?)?;
        ensure!(replies.len() <= 1, "{} replies to one request", replies.len());
        Ok(replies.into_iter().next())
    }

    /// Waits till the target has dealt with all that was sent before, and returns what else arrived meanwhile.
    ///
    /// A flush is answered after every write before it, a config query after every frame of this link before it (on a
    /// link with several queues: of its queue). An error is an answer.
    ///
    /// # Errors
    /// When the export does not answer within [`TIMEOUT`].
    pub fn barrier(&self) -> Result<Vec<Vec<u8>>> {
        let flush = Request::ata(self.mac, self.address, ata::FLUSH_EXT, 0, 0, &[]);
        self.behind(vec![flush, self.question()])
    }

    fn question(&self) -> Request {
        Request::query(self.mac, self.address, 0, b"")
    }

    /// Sends requests, each when the one before is answered, and returns what else arrived.
    fn behind(&self, requests: Vec<Request>) -> Result<Vec<Vec<u8>>> {
        let mut others = Vec::new();
        for mut request in requests {
            self.initiator.fill(&mut request);
            self.initiator.send(&request.bytes())?;
            let deadline = Instant::now() + TIMEOUT;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let frame = self.initiator.receive(left)?.with_context(|| {
                    format!("e{}.{} does not answer", self.address.shelf, self.address.slot)
                })?;
                let is_it = Reply::parse(&frame).is_ok_and(|reply| reply.tag == request.tag);
                if is_it {
                    break;
                }
                others.push(frame);
            }
        }
        Ok(others)
    }
}

/// Opens and binds the socket; runs in the namespace.
fn open(interface: &str) -> Result<(OwnedFd, Mac)> {
    let address = nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("there is no interface {interface}"))?;
    let mac = Mac(address.addr().context("the interface has no address")?);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
    setsockopt(&socket, sockopt::SndBufForce, &(8 << 20))?;
    bind(socket.as_raw_fd(), &address)?;
    // Before the bind it heard every interface.
    let mut scrap = [0; 64];
    while nix::sys::socket::recvmsg::<()>(
        socket.as_raw_fd(),
        &mut [IoSliceMut::new(&mut scrap)],
        None,
        MsgFlags::MSG_DONTWAIT,
    )
    .is_ok()
    {}
    Ok((socket, mac))
}
