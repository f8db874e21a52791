//! What an MTU costs: many drivers have native XDP, or zero-copy, for frames of one buffer only.

use aoe_common::wire::sectors_per_frame;

use super::{Nic, Obtained};
use crate::config::Mode;
use crate::filter::{Attach, FilterError};
use crate::host::limits::{ZERO_COPY_ONE_CHUNK_MTU, least_mtu_with_sectors_of, native_mtu, whole_frames_mtu};
use crate::host::{XdpFeatures, driver, xdp_features};

/// Up to this MTU every driver has what it has.
const STANDARD_MTU: u32 = 1500;

/// Refuses native XDP where the driver would take the program, and give it no long frame or a part of it.
///
/// # Errors
/// [`FilterError::MtuTooLarge`].
pub(super) fn sees_whole_frames(nic: &Nic, attach: Attach) -> Result<(), FilterError> {
    let most = || whole_frames_mtu(&driver(&nic.name, nic.index)?);
    match attach == Attach::Native
        && nic.mtu_bytes > STANDARD_MTU
        && most().is_some_and(|most| nic.mtu_bytes > most)
    {
        true => Err(FilterError::MtuTooLarge {
            interface: nic.name.clone(),
        }),
        false => Ok(()),
    }
}

/// Drivers answer in different ways when the MTU is the reason: told so where the kernel says that native XDP is there.
pub(super) fn name_the_reason(nic: &Nic, error: FilterError) -> FilterError {
    let refused = matches!(
        error,
        FilterError::NoNativeXdp { .. }
            | FilterError::Attach {
                attach: Attach::Native,
                ..
            }
    );
    let one_buffer = |xdp: XdpFeatures| xdp.basic() && !xdp.multi_buffer();
    if refused && nic.mtu_bytes > STANDARD_MTU && xdp_features(nic.index).is_some_and(one_buffer) {
        let interface = nic.name.clone();
        return FilterError::MtuTooLarge { interface };
    }
    error
}

/// Which smaller MTU would keep a better mode, in words; `None` where none would, or where the mode was asked for.
pub(super) fn costs(nic: &Nic, mode: Mode, obtained: Obtained) -> Option<String> {
    if nic.mtu_bytes <= STANDARD_MTU || matches!(mode, Mode::Skb) {
        return None;
    }
    let driver = driver(&nic.name, nic.index);
    let (better, most) = cost(
        (nic.mtu_bytes, driver.as_deref(), xdp_features(nic.index)?),
        mode,
        obtained,
    )?;
    let (name, mtu_bytes) = (&nic.name, nic.mtu_bytes);
    Some(format!(
        "{name}: {better} ends at MTU {most} with this driver: {} sectors a request there, {} at MTU {mtu_bytes}. Measure which is \
         better for you; `ip link set {name} mtu {}` before xblade starts",
        sectors_per_frame(most),
        sectors_per_frame(mtu_bytes),
        least_mtu_with_sectors_of(most)
    ))
}

/// The better mode, and up to which MTU there is one.
fn cost(
    (mtu_bytes, driver, xdp): (u32, Option<&str>, XdpFeatures),
    mode: Mode,
    obtained: Obtained,
) -> Option<(&'static str, u32)> {
    if !obtained.native {
        let single = xdp.basic() && xdp.redirect() && !xdp.multi_buffer();
        let most = single.then(|| native_mtu(driver?))??;
        return (mtu_bytes > most).then_some(("native XDP", most));
    }
    let wanted = !matches!(mode, Mode::Copy) && xdp.zero_copy() && xdp.zero_copy_pieces <= 1;
    let most = match driver {
        // Its zero-copy buffers have a fixed size.
        Some("tsnep") => STANDARD_MTU,
        _ => ZERO_COPY_ONE_CHUNK_MTU,
    };
    (wanted && !obtained.zero_copy && mtu_bytes > most).then_some(("zero-copy", most))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IGB: XdpFeatures = XdpFeatures {
        bits: 0x0b,
        zero_copy_pieces: 1,
    };
    const VIRTIO: XdpFeatures = XdpFeatures {
        bits: 0x2b,
        zero_copy_pieces: 1,
    };
    const GENERIC: Obtained = Obtained {
        native: false,
        zero_copy: false,
    };
    const COPY: Obtained = Obtained {
        native: true,
        zero_copy: false,
    };

    #[test]
    fn what_a_large_mtu_costs_is_told_with_the_mtu_that_keeps_it() {
        let of = |driver, xdp, obtained| cost((9000, Some(driver), xdp), Mode::Auto, obtained);
        assert_eq!(of("igb", IGB, GENERIC), Some(("native XDP", 3046)));
        assert_eq!(of("vmxnet3", IGB, GENERIC), Some(("native XDP", 3050)));
        assert_eq!(of("virtio_net", VIRTIO, COPY), Some(("zero-copy", 3046)));
        assert_eq!(
            of("virtio_net", VIRTIO, GENERIC),
            None,
            "the MTU was not the reason"
        );
        assert_eq!(of("of-tomorrow", IGB, GENERIC), None);
    }

    #[test]
    fn nothing_is_said_where_nothing_is_lost() {
        let at = |mtu, mode, obtained| cost((mtu, Some("igb"), IGB), mode, obtained);
        assert_eq!(at(3046, Mode::Auto, GENERIC), None);
        assert_eq!(at(3400, Mode::Copy, COPY), None);
        let zero_copy = Obtained {
            native: true,
            zero_copy: true,
        };
        assert_eq!(at(3400, Mode::Auto, zero_copy), None);
    }
}
