//! Writes the seeds into a corpus directory: `seeds DIR` makes `DIR/frame/seed-0`, and so on.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from);
    let dir = dir.ok_or_else(|| std::io::Error::other("usage: seeds DIR"))?;
    for target in trials::seeds::TARGETS {
        let dir = dir.join(target);
        std::fs::create_dir_all(&dir)?;
        for (number, seed) in trials::seeds::of(target).iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
