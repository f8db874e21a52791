//! What to open, and sizes that suit an MTU.

use arrayvec::ArrayVec;

/// Bytes that the kernel keeps free before every received frame (`XDP_PACKET_HEADROOM`).
pub(super) const XDP_HEADROOM: u32 = 256;

/// Ethernet header, two VLAN tags: what a frame has beside its MTU.
const FRAMING: u32 = 14 + 8;

/// Smallest chunk in zero-copy mode.
///
/// There the driver tells the NIC how much of a chunk it may fill, and several NICs count in whole KiB: igb and igc
/// (`SRRCTL.BSIZEPKT`, Linux `drivers/net/ethernet/intel/igb/igb_main.c`, `igb_setup_srrctl`; `igc/igc_main.c`) and ixgbe
/// (`ixgbe_main.c`, `ixgbe_configure_srrctl`). A 2 KiB chunk has 1792 bytes for a frame, hence 1 KiB for them, and they cut
/// what is longer. 4 KiB chunks have 3 KiB.
const ZEROCOPY_CHUNK_BYTES: u32 = 4096;

/// Unit in which such a NIC counts the room in a chunk.
const NIC_BUFFER_UNIT: u32 = 1024;

/// Frame check sequence, which some NICs write into the chunk before they take it off.
const FCS_BYTES: u32 = 4;

/// How frames travel between the NIC and the UMEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bind {
    /// Zero-copy if driver and frame size allow it, else by copy.
    #[default]
    Auto,
    /// Zero-copy or not at all.
    ZeroCopy,
    /// By copy, which every driver can.
    Copy,
}

/// What to open; Linux 5.18 takes all of it but long frames. [`SocketConfig::for_mtu`] fills it in; fields may be changed before [`super::Socket::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketConfig {
    /// The interface, which must be in the network namespace of the calling thread.
    pub ifindex: u32,
    /// The receive queue; frames are sent by the transmit queue of the same number.
    pub queue: u32,
    /// Zero-copy or copy.
    pub bind: Bind,
    /// The longest frame that the port carries, in bytes with its Ethernet header and tags. Where one chunk holds it,
    /// multi-buffer mode is not asked for: several drivers have zero-copy only without it. More than a chunk (`XDP_USE_SG`) needs Linux 6.6.
    pub frame_bytes: u32,
    /// Size of a chunk: 2048 or 4096. Zero-copy mode takes 4096 whatever is asked for, since NICs cut frames in smaller ones.
    pub chunk_bytes: u32,
    /// Number of chunks; all of their memory is resident as long as the socket is open.
    pub chunks: u32,
    /// Entries in each of the four rings, a power of two.
    pub ring: u32,
    /// Chunks kept in the fill ring at first. The level doubles whenever a burst takes three quarters of it, up to what
    /// ring and pool allow; a low level keeps the chunks in use few, hence in the CPU's cache. Zero-copy starts at the top,
    /// since the driver takes a whole NIC ring of chunks at once.
    pub fill: u32,
}

impl SocketConfig {
    /// Sizes for a port of this MTU (bytes): the socket's memory, and how much may arrive while the worker is away.
    ///
    /// | MTU | chunks | resident | frames that fit while nobody looks | at first |
    /// | --- | --- | --- | --- | --- |
    /// | ≤ 1500 | 2048 × 2 KiB | 4 MiB | 1536 | 512 |
    /// | ≤ 1500, zero-copy | 2048 × 4 KiB | 8 MiB | the same | 1536 |
    /// | 9000 | 2048 × 4 KiB | 8 MiB | 512 of full size | 256 |
    ///
    /// No headroom beyond the kernel's own: behind it the header of a short frame lies in one cache line, and it is another CPU that
    /// wrote it.
    pub fn for_mtu(ifindex: u32, queue: u32, mtu: u32) -> SocketConfig {
        let one_chunk = mtu <= 1500;
        SocketConfig {
            ifindex,
            queue,
            bind: Bind::Auto,
            frame_bytes: mtu.saturating_add(FRAMING),
            chunk_bytes: if one_chunk { 2048 } else { 4096 },
            chunks: 2048,
            ring: 2048,
            fill: if one_chunk { 512 } else { 768 },
        }
    }

    /// What to try for [`SocketConfig::bind`], best first: each names one mode.
    pub(super) fn attempts(&self) -> ArrayVec<SocketConfig, 2> {
        let zerocopy = || SocketConfig {
            bind: Bind::ZeroCopy,
            chunk_bytes: self.chunk_bytes.max(ZEROCOPY_CHUNK_BYTES),
            ..self.clone()
        };
        let copy = || SocketConfig {
            bind: Bind::Copy,
            ..self.clone()
        };
        match self.bind {
            Bind::Auto => ArrayVec::from([zerocopy(), copy()]),
            Bind::ZeroCopy => ArrayVec::from_iter([zerocopy()]),
            Bind::Copy => ArrayVec::from_iter([copy()]),
        }
    }

    /// Whether frames can be longer than a chunk has room for.
    ///
    /// By copy the kernel uses all of a chunk behind its headroom (Linux `net/xdp/xsk.c`, `xsk_rcv_check`). Without it
    /// the NIC decides, and only whole KiB are certain.
    pub(super) fn multi_buffer(&self) -> bool {
        let room = self.chunk_bytes.saturating_sub(XDP_HEADROOM);
        match self.bind {
            Bind::Copy => self.frame_bytes > room,
            Bind::Auto | Bind::ZeroCopy => {
                let certain = room.saturating_sub(room % NIC_BUFFER_UNIT);
                self.frame_bytes.saturating_add(FCS_BYTES) > certain
            }
        }
    }

    /// The first thing wrong with it, in words for a person.
    pub(super) fn problem(&self) -> Option<String> {
        if !matches!(self.chunk_bytes, 2048 | 4096) {
            return Some(format!(
                "chunk size {}: must be 2048 or 4096 bytes",
                self.chunk_bytes
            ));
        }
        if !self.ring.is_power_of_two() || !(64..=32768).contains(&self.ring) {
            return Some(format!(
                "ring size {}: must be a power of two from 64 to 32768",
                self.ring
            ));
        }
        if !(64..=1 << 20).contains(&self.chunks) {
            return Some(format!("{} chunks: must be from 64 to 1048576", self.chunks));
        }
        if self.fill == 0 {
            return Some("fill level 0: nothing could be received".into());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_frames_fit_one_chunk_and_jumbo_frames_do_not() {
        for attempt in SocketConfig::for_mtu(1, 0, 1500).attempts() {
            assert!(!attempt.multi_buffer(), "{attempt:?}");
        }
        for attempt in SocketConfig::for_mtu(1, 0, 9000).attempts() {
            assert!(attempt.multi_buffer(), "{attempt:?}");
        }
    }

    /// igb, igc and ixgbe program the room in a chunk in whole KiB and cut what is longer.
    #[test]
    fn no_nic_that_counts_in_kib_cuts_a_frame_that_is_to_lie_in_one_chunk() {
        for mtu in (68..=9216).step_by(if cfg!(miri) { 509 } else { 1 }) {
            for bind in [Bind::Auto, Bind::ZeroCopy] {
                let config = SocketConfig {
                    bind,
                    ..SocketConfig::for_mtu(1, 0, mtu)
                };
                let zerocopy = &config.attempts()[0];
                assert_eq!(zerocopy.bind, Bind::ZeroCopy);
                let kib = (zerocopy.chunk_bytes - XDP_HEADROOM) / 1024;
                let longest = mtu + 14 + 4 + 4 + 4;
                assert!(
                    zerocopy.multi_buffer() || longest <= kib * 1024,
                    "MTU {mtu}: frames of {longest} bytes in {kib} KiB"
                );
            }
        }
    }

    #[test]
    fn copy_mode_uses_all_of_a_chunk() {
        let copy = |mtu| SocketConfig {
            bind: Bind::Copy,
            ..SocketConfig::for_mtu(1, 0, mtu)
        };
        assert_eq!(copy(1500).attempts()[0].chunk_bytes, 2048);
        assert!(!copy(3818).attempts()[0].multi_buffer());
        assert!(copy(3819).attempts()[0].multi_buffer());
    }

    #[test]
    fn problems_name_the_value() {
        let good = SocketConfig::for_mtu(1, 0, 1500);
        assert_eq!(good.problem(), None);
        for (bad, word) in [
            (
                SocketConfig {
                    chunk_bytes: 8192,
                    ..good.clone()
                },
                "8192",
            ),
            (
                SocketConfig {
                    ring: 1000,
                    ..good.clone()
                },
                "1000",
            ),
            (
                SocketConfig {
                    ring: 32,
                    ..good.clone()
                },
                "32",
            ),
            (
                SocketConfig {
                    chunks: 8,
                    ..good.clone()
                },
                "8 chunks",
            ),
            (
                SocketConfig {
                    fill: 0,
                    ..good.clone()
                },
                "fill level 0",
            ),
        ] {
            let problem = bad.problem().expect("a bad configuration is refused");
            assert!(problem.contains(word), "{problem}");
        }
    }
}
