//! What an operator does while machines run: whatever it is, a machine reads what it wrote or the image, and never what another one wrote.

use std::collections::BTreeSet;

use super::*;

/// Rounds of writes and reads, with a command of the operator's in each.
const ROUNDS: u64 = 24;

/// A machine, and the last value of each sector that it wrote.
struct User<'a> {
    machine: Machine<'a>,
    letter: u8,
    last: Option<[u8; 8]>,
    /// Whether the operator may have taken it away.
    may_be_gone: bool,
}

impl User<'_> {
    fn writes(&mut self, round: u64) -> Result<()> {
        let mut word = *b".-------";
        word[0] = self.letter;
        word[7] = u8::try_from(round)?;
        for lba in [5, 6] {
            self.machine.write(lba, word)?;
        }
        self.last = Some(word);
        self.may_be_gone = false;
        Ok(())
    }

    fn reads(&self, after: &str) -> Result<()> {
        for lba in [5, 6] {
            let read = self.machine.read(lba)?;
            let own = self.last.is_some_and(|word| read == pattern(lba, word));
            let of_image = (self.may_be_gone || self.last.is_none()) && read == stamp(lba);
            ensure!(
                own || of_image,
                "after {after}, {} finds {:?} in sector {lba}, and wrote {:?}",
                self.machine.mac,
                &read[..16],
                self.last
            );
        }
        Ok(())
    }
}

/// Each of them is to succeed at least once.
const EVERY: [&str; 7] = [
    "export pause",
    "overlay discard",
    "overlay list",
    "overlay pin",
    "overlay reset",
    "overlay unpin",
    "reload",
];

/// The operator's command of a round.
fn order(round: u64, stranger: &str) -> Vec<&str> {
    match round % 8 {
        0 => vec!["overlay", "reset", "--force", "e12.9", "pc17"],
        1 => vec!["overlay", "discard", "--force", "e12.9", stranger],
        2 => vec!["overlay", "pin", "e12.9", "pc17"],
        3 | 6 => vec!["reload"],
        4 => vec!["overlay", "unpin", "e12.9", "pc17"],
        5 => vec!["export", "pause", "e12.9"],
        _ => vec!["overlay", "list"],
    }
}

/// In the second of three times xblade is killed and started with the configuration that was changed, before the operator reloads it.
fn starts_again(round: u64) -> bool {
    matches!(round % 8, 3 | 6) && round / 8 == 1
}

#[test]
fn whatever_the_operator_does_no_machine_reads_what_another_wrote() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let mut target = room.start("")?;
    let initiator = room.lab.open(0)?;
    let third = Mac([2, 0, 0, 0xae, 0, 10]);
    let mut users = [(PC[0], b'p'), (STRANGER, b's'), (third, b't')].map(|(mac, letter)| User {
        machine: machine(&initiator, mac),
        letter,
        last: None,
        may_be_gone: false,
    });
    let stranger = STRANGER.to_string();
    // The addresses change hands, and come back.
    let swapped = format!(
        "[[machine]]\nname = \"pc18\"\nmacs = [\"{STRANGER}\"]\n[[machine]]\nname = \"pc19\"\nmacs = [\"{third}\"]\n"
    );
    let mut succeeded = BTreeSet::new();
    for round in 0..ROUNDS {
        for user in &mut users {
            user.writes(round)?;
        }
        let order = &*order(round, &stranger);
        let config = match round % 8 {
            3 => Some(room.config("", &swapped)?),
            6 => Some(room.config("", "")?),
            _ => None,
        };
        if let Some(config) = config.filter(|_| starts_again(round)) {
            target.process.kill()?;
            target = room.start_config(&config)?;
        }
        let output = target.ask(order)?;
        // A disk that is not there cannot be taken away, and so on.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            succeeded.insert(order[..order.len().min(2)].join(" "));
            match round % 8 {
                0 => users[0].may_be_gone = true,
                1 => users[1].may_be_gone = true,
                _ => {}
            }
        }
        if order.contains(&"pause") {
            done(&target, &["export", "resume", "e12.9"])?;
        }
        for user in &users {
            user.reads(&format!("{order:?} {said}"))?;
        }
    }
    ensure!(succeeded.iter().eq(&EVERY), "only {succeeded:?} did anything");
    // The image has pc17's writes when it is merged; who runs does not see that.
    users[1].writes(ROUNDS)?;
    done(&target, &["overlay", "commit", "--force", "e12.9", "pc17"])?;
    for user in &users[1..] {
        user.reads("commit")?;
    }
    let made = std::fs::read(room.golden.path())?;
    ensure!(
        made[5 * 512..6 * 512] != stamp(5),
        "the new image has what pc17 wrote"
    );
    Ok(())
}
