//! Ethernet addresses.

use core::fmt;
use core::str::FromStr;

/// A 48-bit Ethernet address in wire order.
///
/// ```
/// use aoe_common::Mac;
///
/// let mac: Mac = "02-00-00-00-00-0a".parse()?;
/// assert!(mac.is_station() && !mac.is_group());
/// assert_eq!(mac.to_string(), "02:00:00:00:00:0a");
/// # Ok::<(), aoe_common::mac::ParseMacError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// 00:00:00:00:00:00
    pub const ZERO: Mac = Mac([0; 6]);

    /// True for multicast and broadcast addresses (the group bit of IEEE 802).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// True for an address that can be the source of a frame: neither zero nor a group.
    pub const fn is_station(self) -> bool {
        !self.is_group() && self.to_u64() != 0
    }

    /// The address in the low 48 bits, first byte highest: how map keys carry it.
    pub const fn to_u64(self) -> u64 {
        let b = self.0;
        u64::from_be_bytes([0, 0, b[0], b[1], b[2], b[3], b[4], b[5]])
    }

    /// The inverse of [`Mac::to_u64`]; the high 16 bits are ignored.
    pub const fn from_u64(value: u64) -> Mac {
        let [_, _, a, b, c, d, e, f] = value.to_be_bytes();
        Mac([a, b, c, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was no Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseMacError;

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MAC address is six two-digit hexadecimal numbers, as in 02:00:00:00:00:01")
    }
}

impl core::error::Error for ParseMacError {}

impl FromStr for Mac {
    type Err = ParseMacError;

    /// Takes `02:00:00:00:00:01`, `02-00-00-00-00-01` and vblade's `020000000001`.
    fn from_str(text: &str) -> Result<Mac, ParseMacError> {
        let mut mac = [0u8; 6];
        let bytes = text.as_bytes();
        let step = match bytes.len() {
            17 => 3,
            12 => 2,
            _ => return Err(ParseMacError),
        };
        for (i, byte) in mac.iter_mut().enumerate() {
            let at = i * step;
            if step == 3 && i > 0 && !matches!(bytes[at - 1], b':' | b'-') {
                return Err(ParseMacError);
            }
            let digit = |b: u8| (b as char).to_digit(16).ok_or(ParseMacError);
            *byte = (digit(bytes[at])? << 4 | digit(bytes[at + 1])?) as u8;
        }
        Ok(Mac(mac))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn text_and_number_forms_agree() {
        let mac: Mac = "02:0a:00:00:ff:01".parse().unwrap();
        assert_eq!(mac, Mac([2, 10, 0, 0, 255, 1]));
        assert_eq!(mac.to_string(), "02:0a:00:00:ff:01");
        assert_eq!("020a0000ff01".parse(), Ok(mac));
        assert_eq!("02-0A-00-00-FF-01".parse(), Ok(mac));
        assert_eq!(Mac::from_u64(mac.to_u64()), mac);
        for bad in [
            "",
            "02:00",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:001",
            "02.00.00.00.00.01",
            "é2:00:00:00:00:0",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(ParseMacError), "{bad}");
        }
    }

    #[test]
    fn groups_and_zero_are_no_stations() {
        assert!(Mac([2, 0, 0, 0, 0, 1]).is_station());
        assert!(!Mac([3, 0, 0, 0, 0, 1]).is_station());
        assert!(!Mac::BROADCAST.is_station());
        assert!(!Mac::ZERO.is_station());
    }
}
