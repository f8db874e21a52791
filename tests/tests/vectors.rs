//! Every vector of `tests/data/vectors.txt`, byte for byte, over a veth pair against the real binary.
//!
//! The engine's own tests run the same file without sockets. Two things differ by design and are filled in: the
//! firmware version of config replies, which is xblade's own, and the IDENTIFY block, which names the host.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use lab::capture::Capture;
use lab::image::stamp;
use lab::initiator::TIMEOUT;
use lab::needs::Need;
use lab::{Address, Image, Initiator, Lab, Options, Target, needs};

const VECTORS: &str = include_str!("../data/vectors.txt");
/// The vectors' export.
const ADDRESS: Address = Address::new(7, 3);
/// It has a firmware version of its own.
const VECTOR_FIRMWARE: [u8; 2] = [0x40, 0x19];

/// A frame in the vectors' notation: hex digits, `(xx*N)`, `<S5>`, `<identify>`.
fn bytes(text: &str, identify: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some(group) = rest.strip_prefix('(') {
            let (group, after) = group.split_once(')').context("an open group")?;
            let (byte, times) = group.split_once('*').context("a group without *")?;
            bytes.extend(std::iter::repeat_n(u8::from_str_radix(byte, 16)?, times.parse()?));
            rest = after;
        } else if let Some(name) = rest.strip_prefix('<') {
            let (name, after) = name.split_once('>').context("an open name")?;
            match name.strip_prefix('S') {
                Some(lba) => bytes.extend(stamp(lba.parse()?)),
                None => bytes.extend(identify),
            }
            rest = after;
        } else {
            bytes.push(u8::from_str_radix(rest.get(..2).context("half a byte")?, 16)?);
            rest = &rest[2..];
        }
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_advertisement(frame: &[u8]) -> bool {
    frame.len() >= 24 && frame[14] == 0x18 && frame[19] == 1 && frame[20..24] == [0; 4]
}

struct Bench {
    lab: Lab,
    image: Image,
    initiator: Initiator,
    target: Option<Target>,
    firmware: [u8; 2],
}

impl Bench {
    /// Starts the target with the rule of an `@` line; its state directory carries over.
    fn start(&mut self, rule: &str) -> Result<Vec<u8>> {
        if let Some(mut target) = self.target.take() {
            ensure!(target.process.stop()? == 0);
        }
        let state = self.image.directory().join("state");
        let state = state.to_str().context("odd path")?;
        let mut args = vec![
            "serve",
            "7",
            "3",
            "eth0",
            self.image.as_str(),
            "-b",
            "16",
            "--wire-admin",
            "--state-dir",
            state,
        ];
        match rule {
            "plain" => {}
            "read-only" => args.push("-r"),
            "vlan any" => args.extend(["--vlan", "any"]),
            other => bail!("an unknown rule {other:?}"),
        }
        self.initiator.drain()?;
        self.target = Some(Target::ready(&self.lab.target, &args, 1)?);
        next(&self.initiator, is_advertisement).context("no advertisement at the start")
    }

    /// The expected reply, with what differs by design filled in from what came.
    fn expected(&self, text: &str, got: &[u8]) -> Result<Vec<u8>> {
        let mut expected = bytes(text, got.get(36..548).unwrap_or(&[]))?;
        let at = if expected.get(12..14) == Some(&[0x81, 0]) {
            4
        } else {
            0
        };
        if expected.get(at + 19) == Some(&1) && expected.get(at + 26..at + 28) == Some(&VECTOR_FIRMWARE) {
            expected[at + 26..at + 28].copy_from_slice(&self.firmware);
        }
        Ok(expected)
    }
}

#[test]
fn every_vector_holds_over_a_real_link() -> Result<()> {
    needs!(Need::Root, Need::Tool("dumpcap"));
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(2048)?;
    let initiator = lab.open(0)?;
    let mut bench = Bench {
        lab,
        image,
        initiator,
        target: None,
        firmware: VECTOR_FIRMWARE,
    };
    let mut advertisement = bench.start("plain")?;
    bench.firmware = advertisement[26..28].try_into()?;

    let (mut name, mut request, mut count) = ("", "", 0);
    let mut wrong = Vec::new();
    for line in VECTORS.lines() {
        if let Some(rule) = line.strip_prefix("@ ") {
            advertisement = bench.start(rule)?;
        } else if let Some(frame) = line.strip_prefix("> ") {
            request = frame;
        } else if let Some(expected) = line.strip_prefix("< ") {
            count += 1;
            let silence = expected == "silence";
            let got = if request == "advertise" {
                vec![std::mem::take(&mut advertisement)]
            } else {
                exchange(&bench, &bytes(request, &[])?, !silence)?
            };
            let first = got.first().map_or(&[][..], Vec::as_slice);
            let expected = if silence {
                Vec::new()
            } else {
                bench.expected(expected, first)?
            };
            if first != expected || got.len() > 1 {
                wrong.push(format!(
                    "{name}\n  sent     {request}\n  expected {}\n  got      {}",
                    hex(&expected),
                    hex(first)
                ));
            }
        } else if !line.starts_with('#') && !line.is_empty() {
            name = line;
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {count} vectors fail:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    ensure!(count >= 38, "only {count} vectors were found");
    Ok(())
}

/// The next frame that `wanted` accepts.
fn next(initiator: &Initiator, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let frame = initiator.receive(left)?.context("nothing came")?;
        if wanted(&frame) {
            return Ok(frame);
        }
    }
}

/// Sends a frame and returns the replies, one at least when one is `due`; that there are no more is told by later
/// requests that are answered. The kernel takes VLAN tags out of what sockets see, a capture does not.
fn exchange(bench: &Bench, request: &[u8], due: bool) -> Result<Vec<Vec<u8>>> {
    let tagged = request.get(12..14) == Some(&[0x81, 0]);
    let capture = tagged
        .then(|| Capture::start(&bench.lab.initiator, "eth0"))
        .transpose()?;
    let witness = bench.initiator.find(ADDRESS)?;
    bench.initiator.send(request)?;
    // The tags of the witness's answers have the highest bit, the vectors' do not.
    let is_reply = |frame: &[u8]| frame[14] & 8 != 0 && !is_advertisement(frame) && frame[20] & 0x80 == 0;
    let mut replies = Vec::new();
    if due {
        replies.push(next(&bench.initiator, is_reply)?);
    }
    replies.extend(witness.barrier()?.into_iter().filter(|frame| is_reply(frame)));
    let Some(capture) = capture else {
        return Ok(replies);
    };
    let frames = capture.stop()?.frames()?.into_iter();
    let is_tagged = |frame: &Vec<u8>| frame[12..14] == [0x81, 0];
    Ok(frames
        .filter(|frame| frame[6..12] != bench.initiator.mac().0 && is_tagged(frame))
        .collect())
}
