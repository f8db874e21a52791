//! The ranges and text forms of single values, shared by the config file and the command line.
//!
//! A refusal says what the value should be; whoever asked puts the offending value in front.

use std::time::Duration;

use aoe_common::Mac;

use super::Vlan;

/// A whole number with its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// What it is, with its article: "a shelf".
    what: &'static str,
    min: u64,
    max: u64,
    /// More to say about the range.
    note: &'static str,
}

/// Major address. 65535 is the wildcard (AoEr11 §2.4).
pub const SHELF: Number = Number::new("a shelf", 0, 65534, " (65535 is the wildcard)");
/// Minor address. 255 is the wildcard (AoEr11 §2.4).
pub const SLOT: Number = Number::new("a slot", 0, 254, " (255 is the wildcard)");
/// First sector of an export; LBA48 can count no further.
pub const OFFSET: Number = Number::new("an offset", 0, (1 << 48) - 1, " sectors");
/// Sectors of an export; 0 is "to the end".
pub const LENGTH: Number = Number::new("a length", 0, (1 << 48) - 1, " sectors (0: to the end)");
/// Buffer count of Query Config: 16 bits on the wire, and initiators want two to keep one moving.
pub const BUFFERS: Number = Number::new("a buffer count", 2, 65535, "");
/// Cap of the sectors in one command: a byte on the wire, and none would serve nothing.
pub const MAX_SECTORS: Number = Number::new("a cap of sectors", 1, 255, " (255: as the MTU allows)");
/// Longest spin before sleeping.
pub const SPIN_US: Number = Number::new("a spinning time", 0, 1_000_000, " microseconds");
/// VLAN identifiers of IEEE 802.1Q; 0 is a priority tag and 4095 reserved.
pub const VLAN: Number = Number::new("a VLAN", 1, 4094, ", or \"any\"");
/// Number of a CPU, as far as the kernel's affinity masks go.
pub const CPU: Number = Number::new("a CPU", 0, 1023, "");

/// Characters of an ATA serial number (ACS-3, IDENTIFY words 10 to 19).
const SERIAL_MAX: usize = 20;

impl Number {
    const fn new(what: &'static str, min: u64, max: u64, note: &'static str) -> Number {
        Number { what, min, max, note }
    }

    /// What the number must be.
    pub fn expected(&self) -> String {
        let Number { what, min, max, note } = self;
        format!("{what} is a whole number from {min} to {max}{note}")
    }

    /// The value, if it is in range and fits `T`.
    ///
    /// # Errors
    /// What the number must be.
    pub fn check<T: TryFrom<u64>>(&self, value: u64) -> Result<T, String> {
        if !(self.min..=self.max).contains(&value) {
            return Err(self.expected());
        }
        T::try_from(value).map_err(|_| self.expected())
    }

    /// Reads decimal text.
    ///
    /// # Errors
    /// What the number must be.
    pub fn parse<T: TryFrom<u64>>(&self, text: &str) -> Result<T, String> {
        self.check(text.parse().map_err(|_| self.expected())?)
    }
}

/// The address of an initiator.
///
/// # Errors
/// When the text is no Ethernet address, or one that no station can have.
pub fn initiator(text: &str) -> Result<Mac, String> {
    let mac: Mac = text
        .parse()
        .map_err(|e: aoe_common::mac::ParseMacError| e.to_string())?;
    if mac.is_group() {
        return Err(
            "a group address is never the source of a frame; give the initiator's own address".into(),
        );
    }
    if mac == Mac::ZERO {
        return Err("the zero address belongs to no initiator".into());
    }
    Ok(mac)
}

/// A VLAN rule: `any` or an identifier.
///
/// # Errors
/// What the rule must be.
pub fn vlan(text: &str) -> Result<Vlan, String> {
    if text == "any" {
        return Ok(Vlan::Any);
    }
    VLAN.parse(text).map(Vlan::Id)
}

/// Longest `state_name`: it becomes part of a file's name.
const STATE_NAME_MAX: usize = 32;

/// The name that tells the kept state of exports with the same address and VLAN apart.
///
/// # Errors
/// What such a name looks like.
pub fn state_name(text: &str) -> Result<String, String> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=STATE_NAME_MAX).contains(&text.len()) && text.bytes().all(is_fit) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a state name has 1 to {STATE_NAME_MAX} letters, digits, '-' and '_'"
        ))
    }
}

/// Frames a second: `800/s`, `50k/s`, `2M/s`.
///
/// # Errors
/// What a rate looks like.
pub fn rate(text: &str) -> Result<u32, String> {
    let expected = || {
        format!(
            "a rate is a number of frames a second from 1/s to {}/s, such as 50k/s",
            u32::MAX
        )
    };
    let (digits, factor) = match text.strip_suffix("/s") {
        None => return Err(expected()),
        Some(number) => match number.as_bytes().last() {
            Some(b'k') => (&number[..number.len() - 1], 1_000),
            Some(b'M') => (&number[..number.len() - 1], 1_000_000),
            _ => (number, 1),
        },
    };
    let frames: u32 = digits.parse().map_err(|_| expected())?;
    frames
        .checked_mul(factor)
        .filter(|&rate| rate > 0)
        .ok_or_else(expected)
}

/// Time between a write and its way to the medium: `1s`, `500ms`.
///
/// # Errors
/// What an interval looks like.
pub fn flush_interval(text: &str) -> Result<Duration, String> {
    let (digits, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1000),
        (None, None) => ("", 1),
    };
    let milliseconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    milliseconds
        .filter(|n| (10..=3_600_000).contains(n))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            "an interval is a whole number with its unit, from 10ms to 3600s, such as 500ms".into()
        })
}

/// A size in bytes: `1G`, `512M`, `64K`, `2T`, or sectors as in `2097152s`.
///
/// A bare number is refused: half of its readers would take it for bytes and half for sectors.
///
/// # Errors
/// What a size looks like.
pub fn size_bytes(text: &str) -> Result<u64, String> {
    let expected = || {
        "a size is a whole number with its unit: 512M, 1G, 2T (powers of 1024) or sectors as in 2097152s, \
         from 1s to 256T - 512 bytes"
            .to_string()
    };
    let unit_at = text.len() - text.chars().next_back().map_or(0, char::len_utf8);
    let factor = match &text[unit_at..] {
        "s" => 512,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err(expected()),
    };
    // Files end at 2^63 - 1 bytes; LBA48 at 2^48 sectors is far beyond what file systems hold.
    let count: u64 = text[..unit_at].parse().map_err(|_| expected())?;
    count
        .checked_mul(factor)
        .filter(|&bytes| bytes > 0 && bytes < 1 << 48)
        .ok_or_else(expected)
}

/// A serial number.
///
/// # Errors
/// What a serial number must be.
pub fn serial(text: &str) -> Result<String, String> {
    let printable = |b: u8| b == b' ' || b.is_ascii_graphic();
    if text.trim().is_empty() || text.len() > SERIAL_MAX || !text.bytes().all(printable) {
        return Err(format!(
            "a serial number has 1 to {SERIAL_MAX} printable ASCII characters"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_to_their_range_and_say_it() {
        assert_eq!(SHELF.parse("65534"), Ok(65534u16));
        assert_eq!(SLOT.parse("254"), Ok(254u8));
        for bad in [
            "65535",
            "70000",
            "-1",
            "1.5",
            "one",
            "",
            "0x10",
            "18446744073709551616",
        ] {
            let message = SHELF.parse::<u16>(bad).unwrap_err();
            assert!(message.contains("0 to 65534"), "{bad}: {message}");
        }
        assert!(SLOT.parse::<u8>("255").unwrap_err().contains("0 to 254"));
        assert!(BUFFERS.parse::<u16>("1").unwrap_err().contains("2 to 65535"));
        assert!(OFFSET.parse::<u64>("-5").unwrap_err().contains("sectors"));
    }

    #[test]
    fn only_stations_are_initiators() {
        assert_eq!(initiator("020000000001"), Ok(Mac([2, 0, 0, 0, 0, 1])));
        assert!(initiator("02:00:00").unwrap_err().contains("six two-digit"));
        assert!(initiator("01:00:5e:00:00:01").unwrap_err().contains("group"));
        assert!(initiator("ff:ff:ff:ff:ff:ff").unwrap_err().contains("group"));
        assert!(initiator("00:00:00:00:00:00").unwrap_err().contains("zero"));
    }

    #[test]
    fn vlans() {
        assert_eq!(vlan("any"), Ok(Vlan::Any));
        assert_eq!(vlan("5"), Ok(Vlan::Id(5)));
        for bad in ["0", "4095", "all", "-1"] {
            assert!(vlan(bad).unwrap_err().contains("1 to 4094"), "{bad}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(rate("50k/s"), Ok(50_000));
        assert_eq!(rate("800/s"), Ok(800));
        assert_eq!(rate("2M/s"), Ok(2_000_000));
        for bad in [
            "0/s", "50k", "k/s", "/s", "", "5G/s", "-1/s", "5000M/s", "1.5k/s", "50 k/s", "é/s",
        ] {
            assert!(rate(bad).unwrap_err().contains("50k/s"), "{bad}");
        }
    }

    #[test]
    fn intervals() {
        assert_eq!(flush_interval("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(flush_interval("500ms"), Ok(Duration::from_millis(500)));
        for bad in [
            "1",
            "0s",
            "9ms",
            "3601s",
            "1m",
            "s",
            "ms",
            "",
            "99999999999999999999s",
            "-1s",
        ] {
            assert!(
                flush_interval(bad).unwrap_err().contains("10ms to 3600s"),
                "{bad}"
            );
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(size_bytes("1G"), Ok(1 << 30));
        assert_eq!(size_bytes("512M"), Ok(512 << 20));
        assert_eq!(size_bytes("3s"), Ok(1536));
        for bad in [
            "1024",
            "0G",
            "G",
            "",
            "1g",
            "1.5G",
            "-1G",
            "99999999T",
            "1é",
            "256T",
        ] {
            assert!(size_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn serials_fit_their_words() {
        assert_eq!(serial("12345678901234567890").unwrap().len(), 20);
        for bad in ["", "  ", "123456789012345678901", "grün", "a\nb"] {
            assert!(serial(bad).unwrap_err().contains("1 to 20"), "{bad}");
        }
    }
}
