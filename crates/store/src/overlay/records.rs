//! The file of a persistent overlay that says which sectors are the delta's: a header, and records of one disk sector each.
//!
//! Every record has a checksum. A disk writes a sector wholly or not at all, and bits are only ever set, so what a power cut leaves of a
//! commit is each record as it was before or after it, and both are true. Anything else is damage, and is noticed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::fingerprint::GoldenFingerprint;

/// What is written at a time: a page of the page cache, so that no record goes to the disk half copied.
pub(crate) const PAGE_BYTES: u64 = 4096;
const RECORD_BYTES: usize = 512;
const CHECKSUM_BYTES: usize = 8;
/// Words of bits in a record.
const RECORD_WORDS: u64 = ((RECORD_BYTES - CHECKSUM_BYTES) / 8) as u64;
/// Words of bits in a page.
pub(crate) const PAGE_WORDS: u64 = RECORD_WORDS * PAGE_BYTES / RECORD_BYTES as u64;
const MAGIC: [u8; 8] = *b"XBLDPER\x01";

/// What the file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordsHeader {
    /// Another number for each overlay that was ever made.
    pub(crate) copy: u64,
    pub(crate) sectors: u64,
    pub(crate) golden: GoldenFingerprint,
}

/// Pages for so many words of bits.
pub(crate) fn pages_for(words: u64) -> u64 {
    words.div_ceil(PAGE_WORDS)
}

/// Where a page lies in the file: behind the header's.
pub(crate) fn position(page: u64) -> u64 {
    (1 + page) * PAGE_BYTES
}

fn checksum(copy: u64, number: u64, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    // The seed ties a record to its place and its overlay.
    xxh3_64_with_seed(payload, copy.wrapping_add(number)).to_le_bytes()
}

/// A sector with its checksum behind it.
fn seal(copy: u64, number: u64, mut payload: Vec<u8>) -> Vec<u8> {
    payload.resize(RECORD_BYTES - CHECKSUM_BYTES, 0);
    payload.extend(checksum(copy, number, &payload));
    payload
}

/// What is in a sector, if its checksum fits.
fn unseal(copy: u64, number: u64, sector: &[u8]) -> Option<&[u8]> {
    let (payload, sum) = sector.split_at_checked(RECORD_BYTES - CHECKSUM_BYTES)?;
    (checksum(copy, number, payload) == sum).then_some(payload)
}

/// A page of records from its words.
pub(crate) fn encode(copy: u64, page: u64, word: impl Fn(u64) -> u64) -> Vec<u8> {
    let records = PAGE_BYTES / RECORD_BYTES as u64;
    let record = |number: u64| {
        let words = number * RECORD_WORDS..(number + 1) * RECORD_WORDS;
        seal(
            copy,
            number,
            words.flat_map(|index| word(index).to_le_bytes()).collect(),
        )
    };
    (page * records..(page + 1) * records).flat_map(record).collect()
}

/// The words of a page; `None`: it is damaged.
pub(crate) fn decode(copy: u64, page: u64, bytes: &[u8]) -> Option<Vec<u64>> {
    let first = page * PAGE_BYTES / RECORD_BYTES as u64;
    let mut words = Vec::with_capacity(PAGE_WORDS as usize);
    for (number, sector) in (first..).zip(bytes.chunks(RECORD_BYTES)) {
        let payload = unseal(copy, number, sector)?;
        let (payload, _) = payload.as_chunks();
        words.extend(payload.iter().map(|word| u64::from_le_bytes(*word)));
    }
    Some(words)
}

impl RecordsHeader {
    /// Writes a new file: this header, and records with these bits.
    ///
    /// # Errors
    /// Of the writes.
    pub(crate) fn create(&self, file: &File, words: u64, word: impl Fn(u64) -> u64) -> io::Result<()> {
        for page in 0..pages_for(words) {
            file.write_all_at(&encode(self.copy, page, &word), position(page))?;
        }
        let mut header = seal(0, 0, self.payload());
        header.resize(PAGE_BYTES as usize, 0);
        file.write_all_at(&header, 0)
    }

    /// What is in the file; the error says what is wrong with it.
    ///
    /// # Errors
    /// `InvalidData` for one that is damaged.
    pub(crate) fn read(file: &File) -> io::Result<RecordsHeader> {
        let mut sector = [0; RECORD_BYTES];
        file.read_exact_at(&mut sector, 0).map_err(cut_short)?;
        let header = unseal(0, 0, &sector).and_then(RecordsHeader::parse);
        header.ok_or_else(|| damaged("its header is damaged, or of another release of xblade"))
    }

    /// The bits of all records.
    ///
    /// # Errors
    /// `InvalidData` when one is damaged.
    pub(crate) fn words(&self, file: &File, words: u64) -> io::Result<Vec<u64>> {
        let mut all = Vec::with_capacity((pages_for(words) * PAGE_WORDS) as usize);
        let mut bytes = vec![0; PAGE_BYTES as usize];
        for page in 0..pages_for(words) {
            file.read_exact_at(&mut bytes, position(page))
                .map_err(cut_short)?;
            let decoded =
                decode(self.copy, page, &bytes).ok_or_else(|| damaged("a record of it is damaged"))?;
            all.extend(decoded);
        }
        all.truncate(words as usize);
        Ok(all)
    }

    fn payload(&self) -> Vec<u8> {
        let GoldenFingerprint {
            sectors,
            modified,
            samples,
        } = self.golden;
        let mut bytes = MAGIC.to_vec();
        for number in [self.copy, self.sectors, sectors, samples] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [modified.0, modified.1] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    fn parse(payload: &[u8]) -> Option<RecordsHeader> {
        let (numbers, _) = payload.strip_prefix(&MAGIC)?.as_chunks();
        let number = |index: usize| numbers.get(index).map(|bytes| u64::from_le_bytes(*bytes));
        Some(RecordsHeader {
            copy: number(0)?,
            sectors: number(1)?,
            golden: GoldenFingerprint {
                sectors: number(2)?,
                samples: number(3)?,
                modified: (number(4)?.cast_signed(), number(5)?.cast_signed()),
            },
        })
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn cut_short(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RecordsHeader {
        RecordsHeader {
            copy: 77,
            sectors: 100_000,
            golden: GoldenFingerprint {
                sectors: 100_008,
                modified: (-5, 999_999_999),
                samples: u64::MAX,
            },
        }
    }

    const WORDS: u64 = 100_000u64.div_ceil(64);

    fn word(index: u64) -> u64 {
        index.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn written() -> File {
        let file = tempfile::tempfile().unwrap();
        header().create(&file, WORDS, word).unwrap();
        file
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let file = written();
        let read = RecordsHeader::read(&file).unwrap();
        assert_eq!(read, header());
        let words = read.words(&file, WORDS).unwrap();
        assert_eq!(words, (0..WORDS).map(word).collect::<Vec<_>>());
    }

    #[test]
    fn any_bit_that_is_wrong_is_noticed() {
        let bytes = written().metadata().unwrap().len();
        assert_eq!(bytes, PAGE_BYTES * (1 + pages_for(WORDS)));
        for at in (0..bytes)
            .step_by(97)
            .filter(|at| !(512..PAGE_BYTES).contains(at))
        {
            let file = written();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            let read = RecordsHeader::read(&file).and_then(|header| header.words(&file, WORDS));
            let error = read.expect_err("damage that is not noticed");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {at}: {error}");
        }
    }

    #[test]
    fn records_in_another_place_or_of_another_overlay_are_noticed() {
        let page = encode(1, 0, word);
        assert!(decode(1, 0, &page).is_some());
        assert!(decode(1, 1, &page).is_none() && decode(2, 0, &page).is_none());
        let zeros = vec![0; PAGE_BYTES as usize];
        assert!(
            decode(1, 0, &zeros).is_none(),
            "what was never written is no record"
        );
        let file = written();
        file.set_len(PAGE_BYTES + 512).unwrap();
        let cut = RecordsHeader::read(&file)
            .unwrap()
            .words(&file, WORDS)
            .unwrap_err();
        assert!(cut.to_string().contains("cut short"), "{cut}");
    }
}
