//! The data path of one receive queue.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::{fmt, mem};

use nix::sys::socket::{setsockopt, sockopt::SndBufForce};
use rustix::io::Errno;
use rustix::net::sockopt::xdp_statistics;
use rustix::net::xdp::{XdpDesc, XdpDescOptions};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::chunk::{ChunkCounts, Chunks};
use super::config::{SocketConfig, XDP_HEADROOM};
use super::error::XskError;
use super::frame::{Frame, Layout, MAX_PIECES, Piece, Pieces, PiecesMut};
use super::release::QueueRelease;
use super::ring::{Consumer, Producer};
use super::setup::Setup;
use super::sockopt::set_send_budget;
use super::stats::Statistics;
use super::umem::Umem;

/// Bytes of frames under way in copy mode, where each is a socket buffer charged to the socket; the usual 208 KiB are
/// fewer than a full TX ring, and the kernel refuses what is above.
const SEND_BUFFER_BYTES: usize = 16 << 20;

/// An AF_XDP socket on one receive queue, with its own frame memory. Any thread may have it, one at a time.
///
/// The rhythm: [`Socket::receive`] all there is, [`Socket::transmit`] what is to be sent, [`Socket::kick`] once. To sleep, poll
/// [`Socket::fd`] for reading, but for a moment only while [`Socket::needs_kick`].
///
/// Minimum kernel: 5.18, as XDP programs for frames of several chunks (`xdp.frags`) need; frames longer than a chunk need 6.6.
pub struct Socket {
    // Dropped in this order: rings, socket, memory. Frames left over below may be dropped once the memory is gone.
    rx: Consumer<XdpDesc>,
    tx: Producer<XdpDesc>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    fd: Arc<OwnedFd>,
    umem: Umem,
    chunks: Chunks,
    layout: Layout,
    zerocopy: bool,
    /// A frame of which not every piece has arrived.
    partial: Frame,
    /// The arriving frame has too many pieces: they go straight back to the pool.
    discarding: bool,
    /// Frames that wait for room in the TX ring.
    waiting: VecDeque<Frame>,
    /// Frames stayed in the TX ring and the kernel will not look at them by itself.
    unsent: bool,
    /// Chunks that the kernel's receive side is to have, and the most it may have.
    fill_level: u32,
    fill_limit: u32,
    /// Chunks that the receive side may not take, so that there is something to send from while frames pour in.
    reserve: u32,
    own: Statistics,
    release: QueueRelease,
}

impl Socket {
    /// Opens the socket, gives the kernel chunks to receive into, and binds it.
    ///
    /// Frames arrive once an XDP program redirects them to it. Without `CAP_IPC_LOCK` the frame memory counts against
    /// `RLIMIT_MEMLOCK`. May wait up to three seconds for the queue's last socket to go away.
    ///
    /// With [`Bind::Auto`](super::Bind::Auto) zero-copy is tried first, as the kernel itself would, but with a memory of its own: the two modes
    /// want other chunks.
    ///
    /// # Errors
    /// Names the call, the interface, the queue and what to do; [`XskError::errno`] tells them apart.
    pub fn open(config: &SocketConfig) -> Result<Socket, XskError> {
        let mut outcome = None;
        for attempt in config.attempts() {
            let opened = Socket::open_as(&attempt);
            let is_final = match &opened {
                Ok(_) => true,
                Err(error) => error.errno() == Some(Errno::BUSY),
            };
            outcome = Some(opened);
            if is_final {
                break;
            }
        }
        outcome.expect("there is always an attempt")
    }

    /// Opens it in the one mode that `config` names.
    fn open_as(config: &SocketConfig) -> Result<Socket, XskError> {
        let setup = Setup::new(config)?;
        let unbound = setup.prepare::<XdpDesc>()?;
        let umem = unbound.umem;
        let ring = config.ring;
        let reserve = config.chunks.wrapping_div(4);
        let fill_limit = ring.min(config.chunks.saturating_sub(reserve));
        let fd = Arc::new(unbound.fd);
        let rings = [
            &unbound.rx.0,
            &unbound.tx.0,
            &unbound.fill.0,
            &unbound.completion.0,
        ];
        let release = QueueRelease::new(&fd, rings);
        let mut socket = Socket {
            // SAFETY: all four were mapped just now as rings of `ring` entries of this type; this is the only user end.
            rx: unsafe { Consumer::new(unbound.rx.0, unbound.rx.1, ring) },
            // SAFETY: as above.
            tx: unsafe { Producer::new(unbound.tx.0, unbound.tx.1, ring) },
            // SAFETY: as above.
            fill: unsafe { Producer::new(unbound.fill.0, unbound.fill.1, ring) },
            // SAFETY: as above.
            completion: unsafe { Consumer::new(unbound.completion.0, unbound.completion.1, ring) },
            fd,
            chunks: Chunks::new(config.chunks),
            layout: Layout {
                // Both at most 4096, as the configuration's check made sure.
                chunk_bytes: config.chunk_bytes as u16,
                data_offset: XDP_HEADROOM as u16,
                max_pieces: if config.multi_buffer() { MAX_PIECES } else { 1 },
            },
            zerocopy: false,
            partial: Frame::empty(umem.id()),
            discarding: false,
            waiting: VecDeque::new(),
            unsent: false,
            fill_level: config.fill.min(fill_limit),
            fill_limit,
            reserve,
            own: Statistics::default(),
            release,
            umem,
        };
        // Neither is needed to work: without them a burst takes more kicks.
        set_send_budget(&socket.fd, ring);
        let _ = setsockopt(&socket.fd, SndBufForce, &SEND_BUFFER_BYTES);
        socket.top_up();
        socket.zerocopy = setup.bind(&socket.fd)?;
        if socket.zerocopy {
            // The driver takes a NIC ring full of chunks at once and keeps them.
            socket.fill_level = fill_limit;
            socket.top_up();
        }
        Ok(socket)
    }

    /// For poll(2), and for the map that the XDP program redirects by.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// For whoever must free the queue when the owner of this socket cannot.
    pub fn queue_release(&self) -> QueueRelease {
        self.release.clone()
    }

    /// Whether the NIC reads and writes the frame memory itself.
    pub fn is_zerocopy(&self) -> bool {
        self.zerocopy
    }

    /// Whether [`Socket::receive`] would find something: a look at one word of memory, for spinning.
    #[inline]
    pub fn is_readable(&self) -> bool {
        !self.rx.is_empty()
    }

    /// The next frame that has arrived, without a system call.
    #[inline]
    pub fn receive(&mut self) -> Option<Frame> {
        while let Some(descriptor) = self.rx.pop() {
            let piece = self.piece(&descriptor);
            if let Err(surplus) = self.partial.push(piece) {
                self.chunks.put(surplus.chunk);
                self.discarding = true;
            }
            if descriptor.options.contains(XdpDescOptions::XDP_PKT_CONTD) {
                continue;
            }
            let frame = mem::replace(&mut self.partial, Frame::empty(self.umem.id()));
            if !mem::take(&mut self.discarding) {
                self.own.rx_frames = self.own.rx_frames.wrapping_add(1);
                return Some(frame);
            }
            self.own.rx_overlong = self.own.rx_overlong.wrapping_add(1);
            self.free(frame);
        }
        None
    }

    /// The `N` bytes in front of a received frame: what an XDP program has left there with `bpf_xdp_adjust_meta`, or anything. `None`
    /// where the chunk has no room for them. Which fields are of use depends on the program, not on this crate; any kernel that [`Socket::open`] takes.
    #[inline]
    pub fn metadata<const N: usize>(&self, frame: &Frame) -> Option<[u8; N]> {
        self.umem.before(frame)
    }

    /// Frames, or pieces of frames, that [`Socket::receive`] would find now, at least.
    #[inline]
    pub fn readable(&mut self) -> u32 {
        self.rx.known()
    }

    /// Starts to bring the frame's first bytes, at most those of its first piece, to this CPU: another one has just written them.
    /// To be called for a whole batch before the first frame is looked into, so that nobody waits for one after the other.
    #[inline]
    pub fn prefetch(&self, frame: &Frame, bytes: usize) {
        self.umem.prefetch(frame, bytes);
    }

    /// The frame's bytes.
    ///
    /// # Panics
    /// When the frame comes from another socket, as do all calls that take a frame.
    #[inline]
    pub fn pieces<'a>(&'a self, frame: &'a Frame) -> Pieces<'a> {
        self.umem.pieces(frame)
    }

    /// The frame's bytes, writable.
    #[inline]
    pub fn pieces_mut<'a>(&'a self, frame: &'a mut Frame) -> PiecesMut<'a> {
        self.umem.pieces_mut(frame)
    }

    /// A new frame of `len` bytes that hold anything, laid out like a received one; `None` when the pool has too few
    /// chunks, or a frame cannot be that long.
    #[inline]
    pub fn allocate(&mut self, len: usize) -> Option<Frame> {
        let mut frame = Frame::empty(self.umem.id());
        self.layout
            .resize(&mut frame, len, &mut self.chunks)
            .then_some(frame)
    }

    /// Makes the frame `len` bytes long: surplus chunks go back to the pool; what is missing comes from the tail of its
    /// last chunk, then from whole chunks. Bytes that stay, stay where they are; new bytes hold anything.
    ///
    /// False, and nothing changed, when the pool has too few chunks, a frame cannot be that long, or `len` is 0.
    #[inline]
    pub fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.umem.check_owner(frame);
        self.layout.resize(frame, len, &mut self.chunks)
    }

    /// As [`Socket::resize`], but all bytes hold anything afterwards, and where there is a choice they lie in chunks that
    /// were sent lately: still in the CPU's cache, a copy into them is twice as fast as into the chunk that
    /// was just received.
    #[inline]
    pub fn renew(&mut self, frame: &mut Frame, len: usize) -> bool {
        let Some(fresh) = self.allocate(len) else {
            return self.resize(frame, len);
        };
        self.free(mem::replace(frame, fresh));
        true
    }

    /// Gives the frame's chunks back to the pool.
    #[inline]
    pub fn free(&mut self, mut frame: Frame) {
        self.umem.check_owner(&frame);
        for piece in frame.drain() {
            self.chunks.put(piece.chunk);
        }
    }

    /// Queues the frame to be sent with the next [`Socket::kick`], after those before it.
    #[inline]
    pub fn transmit(&mut self, mut frame: Frame) {
        self.umem.check_owner(&frame);
        if !self.waiting.is_empty() || !self.put_on_ring(&mut frame) {
            self.own.tx_waited = self.own.tx_waited.wrapping_add(1);
            self.waiting.push_back(frame);
        }
    }

    /// Has the queued frames sent, takes back the chunks of frames that are out, and gives the kernel room and chunks to
    /// receive into. To be called once for each batch, and also when nothing was sent. It does not wait: where the kernel or the
    /// driver cannot take all frames now, [`Socket::needs_kick`] says so. In copy mode Linux before 6.17 sends 32 frames a system call, later ones a
    /// whole ring.
    #[inline]
    pub fn kick(&mut self) {
        if self.chunks.in_transmission() != 0 {
            loop {
                self.tx.publish();
                self.wake_sender();
                self.reap();
                if !self.refill_ring() {
                    break;
                }
            }
        }
        self.rx.release();
        if self.top_up() && self.zerocopy && self.fill.needs_wakeup() {
            // Tells the driver that there are chunks again. Nothing is received, errors change nothing.
            let _ = recv(&self.fd, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
        }
    }

    /// Whether [`Socket::kick`] must be called again soon though nothing arrives: frames could not be sent yet, or the
    /// kernel has hardly a chunk left to receive into and gets more when frames are out.
    #[inline]
    pub fn needs_kick(&self) -> bool {
        self.unsent || !self.waiting.is_empty() || (self.is_starved() && self.chunks.in_transmission() != 0)
    }

    /// What the kernel and the socket have counted.
    pub fn statistics(&self) -> Statistics {
        let Ok(kernel) = xdp_statistics(&self.fd) else {
            return self.own;
        };
        Statistics {
            rx_dropped: kernel.rx_dropped,
            rx_invalid: kernel.rx_invalid_descs,
            rx_ring_full: kernel.rx_ring_full.unwrap_or(0),
            fill_ring_empty: kernel.rx_fill_ring_empty_descs.unwrap_or(0),
            tx_invalid: kernel.tx_invalid_descs,
            tx_ring_empty: kernel.tx_ring_empty_descs.unwrap_or(0),
            ..self.own
        }
    }

    /// Where the chunks are.
    pub fn chunk_counts(&self) -> ChunkCounts {
        let mut counts = self.chunks.chunk_counts();
        // Frames that wait keep their tokens, but the caller no longer has them.
        let waiting = self
            .waiting
            .iter()
            .fold(0u32, |sum, frame| sum.saturating_add(frame.pieces().len() as u32));
        counts.in_use = counts.in_use.wrapping_sub(waiting);
        counts.tx = counts.tx.wrapping_add(waiting);
        debug_assert!(counts.is_conserved(), "{counts:?}");
        counts
    }

    /// What a descriptor of the RX ring names. Nonsense, which the kernel does not write, is refused by `Chunks` and `Umem`.
    fn piece(&mut self, descriptor: &XdpDesc) -> Piece {
        let chunk_bytes = u64::from(self.layout.chunk_bytes);
        let index = descriptor.addr.wrapping_shr(chunk_bytes.trailing_zeros());
        Piece {
            chunk: self.chunks.received(u32::try_from(index).unwrap_or(u32::MAX)),
            offset: (descriptor.addr & chunk_bytes.wrapping_sub(1)) as u16,
            len: u16::try_from(descriptor.len).unwrap_or(u16::MAX),
        }
    }

    /// Where a chunk begins, as the kernel counts.
    fn address(&self, index: u32) -> u64 {
        u64::from(index).wrapping_mul(u64::from(self.layout.chunk_bytes))
    }

    /// Puts the frame on the TX ring, all of it or nothing.
    fn put_on_ring(&mut self, frame: &mut Frame) -> bool {
        let mut left = frame.pieces().len() as u32;
        if self.tx.room(left) < left {
            return false;
        }
        for piece in frame.drain() {
            left = left.saturating_sub(1);
            let index = self.chunks.transmitted(piece.chunk);
            let more = if left > 0 {
                XdpDescOptions::XDP_PKT_CONTD
            } else {
                XdpDescOptions::empty()
            };
            let pushed = self.tx.push(XdpDesc {
                addr: self.address(index).wrapping_add(u64::from(piece.offset)),
                len: u32::from(piece.len),
                options: more,
            });
            debug_assert!(pushed, "room was there");
        }
        self.own.tx_frames = self.own.tx_frames.wrapping_add(1);
        true
    }

    /// Puts waiting frames on the ring; whether there was one and room for it.
    fn refill_ring(&mut self) -> bool {
        let mut any = false;
        while let Some(mut frame) = self.waiting.pop_front() {
            if !self.put_on_ring(&mut frame) {
                self.waiting.push_front(frame);
                break;
            }
            any = true;
        }
        any
    }

    /// Has the kernel send what is in the TX ring. One call may end early, so it is repeated as long as it gets on.
    fn wake_sender(&mut self) {
        self.unsent = false;
        let mut pending = self.tx.pending();
        while pending != 0 && self.tx.needs_wakeup() {
            self.own.kicks = self.own.kicks.wrapping_add(1);
            let result = send(&self.fd, &[], SendFlags::DONTWAIT);
            let left = self.tx.pending();
            match result {
                // In zero-copy the driver has been woken and goes on by itself.
                Ok(_) => return,
                // The budget of one call is used up, or the completion ring is full.
                Err(Errno::AGAIN | Errno::INTR) if left < pending || self.reap() => {}
                // Down or gone: frames stay until the next kick, and coming back sooner would not help.
                Err(Errno::NETDOWN | Errno::NODEV | Errno::NXIO) => return,
                Err(errno) => {
                    self.unsent = left != 0;
                    if errno != Errno::AGAIN {
                        self.own.kicks_refused = self.own.kicks_refused.wrapping_add(1);
                    }
                    return;
                }
            }
            pending = left;
        }
    }

    /// Takes back the chunks of sent frames; whether there were any.
    fn reap(&mut self) -> bool {
        let before = self.chunks.in_transmission();
        let shift = u32::from(self.layout.chunk_bytes).trailing_zeros();
        while let Some(address) = self.completion.pop() {
            self.chunks
                .completed(u32::try_from(address.wrapping_shr(shift)).unwrap_or(u32::MAX));
        }
        self.chunks.in_transmission() < before
    }

    /// Brings the kernel's chunks to the level, which rises when most of them were used up between two calls. Not for
    /// a few: each time costs the receiving CPU a cache line. Says whether the kernel got any.
    fn top_up(&mut self) -> bool {
        let has = self.chunks.chunk_counts().fill;
        if has < self.fill_level.wrapping_div(4) && self.own.rx_frames != 0 {
            self.fill_level = self.fill_level.saturating_mul(2).min(self.fill_limit);
        }
        let missing = self.fill_level.saturating_sub(has);
        if missing <= self.fill_level.wrapping_div(8) {
            return false;
        }
        let wanted = missing.min(self.chunks.free().saturating_sub(self.reserve));
        let count = wanted.min(self.fill.room(wanted));
        for _ in 0..count {
            if let Some(index) = self.chunks.take_for_fill() {
                let pushed = self.fill.push(self.address(index));
                debug_assert!(pushed, "room was there");
            }
        }
        self.fill.publish();
        count != 0
    }

    /// Whether the kernel has so few chunks to receive into that frames may soon be lost.
    fn is_starved(&self) -> bool {
        self.chunks.chunk_counts().fill < self.fill_level.wrapping_div(4)
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("fd", &self.fd.as_raw_fd())
            .field("zerocopy", &self.zerocopy)
            .field("chunks", &self.chunk_counts())
            .finish_non_exhaustive()
    }
}
