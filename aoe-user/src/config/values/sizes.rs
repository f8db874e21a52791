//! Sizes in bytes and in sectors.

use parse_size::Config as Sizes;

use super::{Number, SECTOR, scaled};

/// A size in bytes: `1G`, `1.5g`, `512MiB`, `64K` (powers of 1024), sectors as in `2097152s`, or bytes without a unit. A part
/// of a sector counts as a whole one.
///
/// `GB` and the like are refused: half of their readers would take them for powers of 1000.
///
/// # Errors
/// What a size looks like.
pub(crate) fn size_bytes(text: &str) -> Result<u64, String> {
    let bytes = match text.strip_suffix(['s', 'S']) {
        Some(sectors) => sectors
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(SECTOR)),
        None => binary_bytes(text),
    };
    // LBA48 at 2^48 sectors is far beyond what file systems hold.
    bytes
        .and_then(|bytes| bytes.checked_next_multiple_of(SECTOR))
        .filter(|&bytes| bytes > 0 && bytes < 1 << 48)
        .ok_or_else(|| {
            "a size is a number with its unit, such as 512M, 1.5G or 2TiB (powers of 1024; GB is 1000 to some: write G or GiB), sectors \
             as in 2097152s, or a number of bytes; from 1s to 256T - 512 bytes"
                .into()
        })
}

/// Reads sectors: a plain number of them, or a size with its unit that is whole sectors.
pub(crate) fn sectors(range: Number) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync {
    move |text| {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return range.parse(text);
        }
        let expected = || format!("{}, or a size of whole sectors such as 1GiB", range.expected());
        let sectors = match text.strip_suffix(['s', 'S']) {
            Some(sectors) => sectors.parse().ok(),
            None => binary_bytes(text)
                .filter(|bytes| bytes % SECTOR == 0)
                .map(|bytes| bytes / SECTOR),
        };
        sectors
            .and_then(|sectors| range.check(sectors).ok())
            .ok_or_else(expected)
    }
}

fn binary_bytes(text: &str) -> Option<u64> {
    let ambiguous = matches!(text.as_bytes(), [.., before, b'b' | b'B'] if before.is_ascii_alphabetic() && !b"iI".contains(before));
    if ambiguous {
        return None;
    }
    scaled(&Sizes::new().with_binary(), text)
}

#[cfg(test)]
mod tests {
    use super::super::OFFSET;
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1G", 1 << 30),
            ("1g", 1 << 30),
            ("1GiB", 1 << 30),
            ("1Gi", 1 << 30),
            ("1.5G", 3 << 29),
            ("512M", 512 << 20),
            ("64k", 64 << 10),
            ("2TiB", 2 << 40),
            ("3s", 1536),
            ("1024", 1024),
            ("1024B", 1024),
            ("1000", 1024),
            ("1.3K", 1536),
        ] {
            assert_eq!(size_bytes(text), Ok(bytes), "{text}");
        }
        for bad in [
            "0",
            "0G",
            "G",
            "",
            "-1G",
            "99999999T",
            "1é",
            "256T",
            "1GB",
            "1kb",
            "1 G",
            "1_000",
            "1.5s",
            "s",
            "1X",
            "184467440737095516155",
        ] {
            assert!(size_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sectors_are_counted_or_measured() {
        let read = sectors(OFFSET);
        for (text, count) in [
            ("0", 0),
            ("8", 8),
            ("8s", 8),
            ("1GiB", 1 << 21),
            ("4k", 8),
            ("512B", 1),
        ] {
            assert_eq!(read(text), Ok(count), "{text}");
        }
        for bad in ["", "-8", "1.5", "1.5s", "513B", "0.3k", "281474976710656", "1GB"] {
            assert!(
                read(bad).unwrap_err().contains("an offset is a whole number"),
                "{bad}"
            );
        }
    }
}
