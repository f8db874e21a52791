//! Reads `tests/data/vectors.txt`; the file says what its lines mean.

const VECTORS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/data/vectors.txt"
));

/// What a line, or a vector of several, asks for.
pub enum Line {
    /// Another setting of the export.
    Export(String),
    /// A request and what must come back.
    Vector {
        name: String,
        request: String,
        reply: String,
    },
}

/// All of the file, in order.
pub fn vectors() -> Vec<Line> {
    let mut found = Vec::new();
    let (mut name, mut request) = (String::new(), String::new());
    for line in VECTORS.lines() {
        match line.split_at_checked(2) {
            Some(("@ ", rule)) => found.push(Line::Export(rule.into())),
            Some(("> ", frame)) => request = frame.into(),
            Some(("< ", reply)) => found.push(Line::Vector {
                name: name.clone(),
                request: request.clone(),
                reply: reply.into(),
            }),
            _ if line.starts_with('#') => {}
            _ => name = line.into(),
        }
    }
    found
}

/// Hex, repetitions and names of data to bytes; `identify` is what `<identify>` stands for.
pub fn expand(text: &str, identify: &[u8]) -> Vec<u8> {
    let hex = |digits: &str| -> Vec<u8> {
        assert!(digits.len().is_multiple_of(2), "{digits}");
        (0..digits.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
            .collect()
    };
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['(', '<']) {
        bytes.extend(hex(&rest[..at]));
        let (close, inner) = (rest[at..].find([')', '>']).unwrap() + at, &rest[at + 1..]);
        let inner = &inner[..close - at - 1];
        match inner.split_once('*') {
            Some((byte, times)) => bytes.extend(hex(byte).repeat(times.parse().unwrap())),
            None if inner == "identify" => bytes.extend(identify),
            None => {
                let number: u64 = inner.strip_prefix('S').unwrap().parse().unwrap();
                for _ in 0..32 {
                    bytes.extend(number.to_le_bytes());
                    bytes.extend(b"AoEsectr");
                }
            }
        }
        rest = &rest[close + 1..];
    }
    bytes.extend(hex(rest));
    bytes
}
