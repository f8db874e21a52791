//! A stranger's malformed frames at full rate over veth: the image stays as it was, the process alive, its memory flat.

use std::time::Instant;

use anyhow::{Result, ensure};
use aoe_common::Mac;
use lab::image::{Random, stamp};
use lab::needs::Need;
use lab::{Address, Image, Lab, Options, Target, needs};

const SECTORS: u64 = 4096;
const FRAMES: usize = 10_000_000;
/// Different frames in the pool; each is sent many times, every time in another neighbourhood.
const POOL: usize = 200_000;

/// A frame that must change nothing: junk, or a request that is wrong somewhere.
fn malformed(random: &mut Random, target: Mac) -> Vec<u8> {
    let length = match random.below(10) {
        0..4 => 14 + random.below(46),
        4..8 => 60 + random.below(500),
        _ => 560 + random.below(954),
    };
    let mut frame = vec![0; length as usize];
    random.fill(&mut frame);
    let dst = if random.below(4) == 0 {
        Mac::BROADCAST
    } else {
        target
    };
    frame[..6].copy_from_slice(&dst.0);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 9, (random.below(250)) as u8]);
    frame[12..14].copy_from_slice(&[0x88, 0xa2]);
    if frame.len() < 24 {
        return frame;
    }
    // Half of them have a header that leads further in.
    if random.below(2) == 0 {
        frame[14] = 0x10;
        frame[16..18].copy_from_slice(&7_u16.to_be_bytes());
        frame[18] = 3;
        frame[19] = random.below(5) as u8;
    }
    defuse(&mut frame);
    frame
}

/// Takes from a frame what would be a good request with an effect: this fuzzer proves that bad ones have none.
fn defuse(frame: &mut [u8]) {
    let for_us = frame[14] >> 4 == 1 && frame[14] & 8 == 0;
    if !for_us || frame.len() < 36 {
        return;
    }
    match frame[19] {
        // Writes and TRIM go beyond the end; so do all others, which does no harm.
        0 => frame[28..34].copy_from_slice(&[0xff; 6]),
        // Config strings, masks and reservations are only read, or their subcommand is wrong.
        1 if matches!(frame[29] & 0xf, 3 | 4) => frame[29] |= 8,
        2 if frame[25] == 1 => frame[25] = 2,
        3 if matches!(frame[24], 1 | 2) => frame[24] = 3,
        _ => {}
    }
    // TRIM carries its sectors in the data, and forgets the LBA: lengths of 0xffff are beyond the end of this disk.
    if frame[19] == 0 && frame[27] == 0x06 {
        frame[36..].fill(0xff);
    }
}

#[test]
fn ten_million_malformed_frames_change_nothing() -> Result<()> {
    needs!(Need::Root);
    let seed = 0xa0e;
    println!("seed {seed:#x}");
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(SECTORS)?;
    let mut target = Target::ready(&lab.target, &["serve", "7", "3", "eth0", image.as_str()], 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(Address::new(7, 3))?;
    let mut random = Random::new(seed);
    let pool: Vec<Vec<u8>> = (0..POOL).map(|_| malformed(&mut random, disk.mac)).collect();

    let start = Instant::now();
    let mut sent = 0;
    let mut settled = 0;
    while sent < FRAMES {
        let at = random.below((POOL - 20_000) as u64) as usize;
        initiator.send_many(&pool[at..at + 20_000])?;
        sent += 20_000;
        // Replies to what was well-formed enough fill our own buffer: not what is tested here.
        if sent % 1_000_000 == 0 {
            initiator.drain()?;
        }
        if sent == FRAMES / 10 {
            settled = target.process.anonymous_kib()?;
        }
    }
    let rate = sent as f64 / start.elapsed().as_secs_f64();
    println!("{sent} frames at {rate:.0} a second");
    initiator.drain()?;

    ensure!(
        target.process.is_running(),
        "the process is gone:\n{}",
        target.process.log()
    );
    let grown = target.process.anonymous_kib()?.saturating_sub(settled);
    ensure!(grown < 4096, "memory grew by {grown} KiB after the first tenth");
    let expected: Vec<u8> = (0..SECTORS).flat_map(stamp).collect();
    ensure!(
        image.read(0, SECTORS as usize)? == expected,
        "seed {seed:#x}: the image has changed"
    );
    let disk = initiator.find(Address::new(7, 3))?;
    ensure!(disk.read(5, 1)? == stamp(5));
    ensure!(
        disk.query(0, b"")?
            .is_some_and(|reply| reply.config().2.is_empty()),
        "the config string has changed"
    );
    ensure!(target.process.stop()? == 0);
    Ok(())
}
