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
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long silence must last to count as silence.
pub const SILENCE: Duration = Duration::from_millis(150);

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

    /// Every frame that arrives till nothing has for `quiet`.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn collect(&self, quiet: Duration) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.receive(quiet)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Throws away what has arrived so far.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn drain(&self) -> Result<()> {
        while self.receive(Duration::ZERO)?.is_some() {}
        Ok(())
    }

    /// Sends a request from this interface's address (unless it has another) and waits for the answer to its tag.
    ///
    /// # Errors
    /// When none comes, or it is malformed.
    pub fn ask(&self, mut request: Request) -> Result<Reply> {
        self.fill(&mut request);
        self.send(&request.bytes())?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(frame) = self.receive(deadline.saturating_duration_since(Instant::now()))? {
            let reply = Reply::parse(&frame)?;
            if reply.tag == request.tag {
                ensure!(reply.dst == request.src, "the reply went to {}", reply.dst);
                ensure!(
                    reply.command == request.command,
                    "the reply has command {}",
                    reply.command
                );
                return Ok(reply);
            }
        }
        bail!("no answer within {PATIENCE:?} to {request:?}")
    }

    /// Sends a request and returns every answer to its tag that comes till silence.
    ///
    /// # Errors
    /// When an answer is malformed.
    pub fn ask_all(&self, mut request: Request) -> Result<Vec<Reply>> {
        self.fill(&mut request);
        self.send(&request.bytes())?;
        let mut replies = Vec::new();
        for frame in self.collect(SILENCE)? {
            let reply = Reply::parse(&frame)?;
            if reply.tag == request.tag {
                replies.push(reply);
            }
        }
        Ok(replies)
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

    /// Broadcasts a config query to all exports and returns the answers.
    ///
    /// # Errors
    /// As [`Initiator::ask_all`].
    pub fn discover(&self) -> Result<Vec<Reply>> {
        self.ask_all(Request::query(Mac::BROADCAST, Address::ALL, 0, b""))
    }

    /// Discovers till an export at this address answers, and gives a handle to it.
    ///
    /// # Errors
    /// When it does not within [`PATIENCE`].
    pub fn find(&self, address: Address) -> Result<Disk<'_>> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let query = Request::query(Mac::BROADCAST, address, 0, b"");
            if let Some(reply) = self.ask_all(query)?.first() {
                return Ok(Disk {
                    initiator: self,
                    mac: reply.src,
                    address,
                });
            }
        }
        bail!("nobody answers for e{}.{}", address.shelf, address.slot)
    }
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
    /// When the reply is malformed.
    pub fn query(&self, subcommand: u8, string: &[u8]) -> Result<Option<Reply>> {
        let replies = self
            .initiator
            .ask_all(Request::query(self.mac, self.address, subcommand, string))?;
        ensure!(replies.len() <= 1, "{} replies to one request", replies.len());
        Ok(replies.into_iter().next())
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
