//! Socket options that no library sets.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Socket option: frames that one kick may send. Since Linux 6.17; 32 where it cannot be set.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// `linux/if_packet.h`; `libc` has it for other systems only.
const PACKET_MR_UNICAST: libc::c_ushort = 3;

/// Has an interface take frames to one more address for as long as this packet socket is open (`packet(7)`,
/// `PACKET_MR_UNICAST`; `net/packet/af_packet.c`, `packet_dev_mc`). A driver without a filter for more addresses takes all frames.
pub(crate) fn add_address(fd: &OwnedFd, interface_index: u32, address: [u8; 6]) -> io::Result<()> {
    let mut membership = libc::packet_mreq {
        mr_ifindex: i32::try_from(interface_index).map_err(io::Error::other)?,
        mr_type: PACKET_MR_UNICAST,
        mr_alen: 6,
        mr_address: [0; 8],
    };
    membership.mr_address[..6].copy_from_slice(&address);
    // SAFETY: the option's value is a packet_mreq, alive during the call, which keeps nothing of it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const membership).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets one kick send a whole ring of frames, where the kernel can.
pub(crate) fn set_send_budget(fd: &OwnedFd, frames: u32) {
    // SAFETY: the option's value is a u32, alive during the call. A refusal (older kernels) changes nothing.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            (&raw const frames).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
}
