//! The ranges and text forms of single values, shared by the config file and the command line.
//!
//! A refusal says what the value should be; whoever asked puts the offending value in front.

mod sizes;

use std::borrow::Cow;
use std::time::Duration;

use aoe_common::Mac;
use aoe_common::wire::SECTOR_BYTES;
use parse_size::{ByteSuffix, Config as Sizes};

use super::Vlan;
pub(crate) use sizes::{sectors, size_bytes};

/// A whole number with its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    /// What it is, with its article: "a shelf".
    what: &'static str,
    min: u64,
    max: u64,
    /// More to say about the range.
    note: &'static str,
}

/// Major address. 65535 is the wildcard (AoEr11 §2.4).
pub(crate) const SHELF: Number = Number::new("a shelf", 0, 65534, " (65535 is the wildcard)");
/// Minor address. 255 is the wildcard (AoEr11 §2.4).
pub(crate) const SLOT: Number = Number::new("a slot", 0, 254, " (255 is the wildcard)");
/// First sector of an export; LBA48 can count no further.
pub(crate) const OFFSET: Number = Number::new("an offset", 0, (1 << 48) - 1, " sectors");
/// Sectors of an export; 0 is "to the end".
pub(crate) const LENGTH: Number = Number::new("a length", 0, (1 << 48) - 1, " sectors (0: to the end)");
/// Sectors that a load goes to.
pub(crate) const SPAN: Number = Number::new("a span", 1, (1 << 48) - 1, " sectors");
/// Buffer count of Query Config: 16 bits on the wire, and initiators want two to keep one moving.
pub(crate) const BUFFERS: Number = Number::new("a buffer count", 2, 65535, "");
/// Cap of the sectors in one command: a byte on the wire, and none would serve nothing.
pub(crate) const MAX_SECTORS: Number = Number::new("a cap of sectors", 1, 255, " (255: as the MTU allows)");
/// Longest spin before sleeping.
pub(crate) const SPIN_US: Number = Number::new("a spinning time", 0, 1_000_000, " microseconds");
/// Machines that nobody named which get an overlay.
pub(crate) const UNKNOWN_MAX: Number = Number::new("a number of unknown machines", 0, 65535, "");
/// VLAN identifiers of IEEE 802.1Q; 0 is a priority tag and 4095 reserved.
pub(crate) const VLAN: Number = Number::new("a VLAN", 1, 4094, ", or \"any\"");
/// Number of a CPU, as far as the kernel's affinity masks go.
pub(crate) const CPU: Number = Number::new("a CPU", 0, 1023, "");

/// A sector in bytes.
const SECTOR: u64 = SECTOR_BYTES as u64;
/// Characters of a number with its unit; no value that is of use has more.
const LONGEST_NUMBER: usize = 20;
/// Characters of an ATA serial number (ACS-3, IDENTIFY words 10 to 19).
const SERIAL_MAX: usize = 20;

impl Number {
    pub(super) const fn new(what: &'static str, min: u64, max: u64, note: &'static str) -> Number {
        Number { what, min, max, note }
    }

    /// What the number must be.
    pub(crate) fn expected(&self) -> String {
        let Number { what, min, max, note } = self;
        format!("{what} is a whole number from {min} to {max}{note}")
    }

    /// The value, if it is in range and fits `T`.
    ///
    /// # Errors
    /// What the number must be.
    pub(crate) fn check<T: TryFrom<u64>>(&self, value: u64) -> Result<T, String> {
        if !(self.min..=self.max).contains(&value) {
            return Err(self.expected());
        }
        T::try_from(value).map_err(|_| self.expected())
    }

    /// Reads decimal text.
    ///
    /// # Errors
    /// What the number must be.
    pub(crate) fn parse<T: TryFrom<u64>>(&self, text: &str) -> Result<T, String> {
        self.check(text.parse().map_err(|_| self.expected())?)
    }
}

/// The address of an initiator.
///
/// # Errors
/// When the text is no Ethernet address, or one that no station can have.
pub(crate) fn initiator(text: &str) -> Result<Mac, String> {
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
pub(crate) fn vlan(text: &str) -> Result<Vlan, String> {
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
pub(crate) fn state_name(text: &str) -> Result<String, String> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=STATE_NAME_MAX).contains(&text.len()) && text.bytes().all(is_fit) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a state name has 1 to {STATE_NAME_MAX} letters, digits, '-' and '_'"
        ))
    }
}

/// Frames a second: `800/s`, `50k/s`, `1.5M/s` (powers of 1000); the `/s` may be left out.
///
/// # Errors
/// What a rate looks like.
pub(crate) fn rate(text: &str) -> Result<u32, String> {
    let count = text.strip_suffix("/s").unwrap_or(text);
    let decimal = Sizes::new().with_decimal().with_byte_suffix(ByteSuffix::Deny);
    let powers_of_1024 = count.contains(['i', 'I']);
    scaled(&decimal, count)
        .filter(|_| !powers_of_1024)
        .and_then(|frames| u32::try_from(frames).ok())
        .filter(|&frames| frames > 0)
        .ok_or_else(|| {
            let most = u32::MAX;
            format!("a rate is a number of frames a second from 1/s to {most}/s, such as 50k/s")
        })
}

/// A time: `500ms`, `1s`, `1.5s`, `1h30m`; a plain number is seconds.
///
/// # Errors
/// What a time looks like.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let with_unit = if plain {
        Cow::from(format!("{text}s"))
    } else {
        Cow::from(text)
    };
    // Such a number of seconds is beyond any use, and beyond what the sums of the library hold.
    Some(with_unit)
        .filter(|text| text.len() <= LONGEST_NUMBER)
        .and_then(|text| humantime::parse_duration(&text).ok())
        .ok_or_else(|| "a time is a number with its unit, such as 500ms, 10s, 1.5s, 2m or 1h30m".into())
}

/// A time that is not zero.
///
/// # Errors
/// What a time looks like.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("it must be longer than nothing".into()),
        time => Ok(time),
    }
}

/// Time between a write and its way to the medium.
///
/// # Errors
/// What an interval looks like.
pub(crate) fn flush_interval(text: &str) -> Result<Duration, String> {
    from_10ms_to_1h(text).ok_or_else(|| "an interval is a time from 10ms to 1h, such as 500ms".into())
}

/// Age from which on a write is too old to be carried out.
///
/// # Errors
/// What an age looks like.
pub(crate) fn stale_after(text: &str) -> Result<Duration, String> {
    from_10ms_to_1h(text).ok_or_else(|| "an age is a time from 10ms to 1h, such as 100ms".into())
}

fn from_10ms_to_1h(text: &str) -> Option<Duration> {
    let range = Duration::from_millis(10)..=Duration::from_secs(3600);
    time(text).ok().filter(|time| range.contains(time))
}

/// A number with a power of 1000 or 1024 behind it.
fn scaled(sizes: &Sizes, text: &str) -> Option<u64> {
    let number_first = text.starts_with(|c: char| c.is_ascii_digit());
    // The library's sums overflow in the twentieth digit.
    let fits = number_first && text.len() < LONGEST_NUMBER && !text.contains(['_', ' ']);
    Some(text)
        .filter(|_| fits)
        .and_then(|text| sizes.parse_size(text).ok())
}

/// CPUs as the kernel lists them: `0-3,5`.
///
/// # Errors
/// What such a list looks like.
pub(crate) fn cpus(text: &str) -> Result<Vec<usize>, String> {
    let expected = || {
        format!(
            "a list of CPUs is numbers and ranges such as 0-3,5; {}",
            CPU.expected()
        )
    };
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (
            CPU.parse(first).map_err(|_| expected())?,
            CPU.parse(last).map_err(|_| expected())?,
        );
        if first > last {
            return Err(expected());
        }
        list.extend(first..=last);
    }
    Ok(list)
}

/// A serial number.
///
/// # Errors
/// What a serial number must be.
pub(crate) fn serial(text: &str) -> Result<String, String> {
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
        for (text, frames) in [
            ("50k/s", 50_000),
            ("50K/s", 50_000),
            ("800/s", 800),
            ("800", 800),
            ("50k", 50_000),
            ("1.5k/s", 1500),
            ("2M/s", 2_000_000),
            ("4G/s", 4_000_000_000),
        ] {
            assert_eq!(rate(text), Ok(frames), "{text}");
        }
        for bad in [
            "0/s", "k/s", "/s", "", "5G/s", "-1/s", "5000M/s", "50 k/s", "é/s", "50kB/s", "50ki/s", "50k/m",
            "1e",
        ] {
            assert!(rate(bad).unwrap_err().contains("50k/s"), "{bad}");
        }
    }

    #[test]
    fn times() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("1s", 1000),
            ("1.5s", 1500),
            ("10", 10_000),
            ("0.5", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1h 30min", 5_400_000),
            ("0", 0),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in [
            "",
            "s",
            "ms",
            "-1s",
            "1x",
            ".",
            "1..5",
            "99999999999999999999s",
            "18446744073709551615s1000000000ns",
        ] {
            assert!(time(bad).unwrap_err().contains("500ms"), "{bad}");
        }
        assert!(some_time("0ms").unwrap_err().contains("longer"));
    }

    #[test]
    fn intervals() {
        assert_eq!(flush_interval("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(flush_interval("1"), Ok(Duration::from_secs(1)));
        assert_eq!(flush_interval("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(flush_interval("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["0s", "9ms", "3601s", "s", "ms", "", "2h", "-1s"] {
            assert!(flush_interval(bad).unwrap_err().contains("10ms to 1h"), "{bad}");
        }
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(cpus("0-3,5"), Ok(vec![0, 1, 2, 3, 5]));
        assert_eq!(cpus("7"), Ok(vec![7]));
        for bad in ["", "3-0", "0-", "-1", "x", "0,,1", "1024", "0-1024", "0 1"] {
            assert!(cpus(bad).unwrap_err().contains("such as 0-3,5"), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "([0-9]{0,22}[._eE -]?[0-9]{0,22}(s|ms|ns|h|m|[kKmMgGtTeE]i?[bB]?|/s|µ|,|-)?){0,3}|.{0,30}") {
            let _ = (rate(&text), time(&text), size_bytes(&text), sectors(LENGTH)(&text), cpus(&text), flush_interval(&text));
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
