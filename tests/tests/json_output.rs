//! What every command prints with `--json`: objects with the number of their form, also where it fails.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::frame::ata;
use lab::image::stamp;
use lab::needs::Need;
use lab::process::Process;
use lab::target::daemon;
use lab::{Address, Image, Initiator, Lab, Options, Request, Target, needs, target};
use serde_json::{Deserializer, Value};

const GOLDEN: Address = Address::new(12, 9);

/// Commands that ask a running target, in an order in which each has something to do. FILE is an image that is not served yet.
const ASKING: [&[&str]; 27] = [
    &["status"],
    &["ls"],
    &["stat", "50ms", "--count", "2"],
    &["initiators"],
    &["denied"],
    &["log"],
    &["log", "info"],
    &["export", "add", "1", "5", "eth0", "FILE"],
    &["export", "pause", "e1.5"],
    &["export", "resume", "e1.5"],
    &["export", "rm", "e1.5"],
    &["reload", "--dry-run"],
    &["reload"],
    &["state", "list"],
    &["state", "show", "1", "1"],
    &["state", "clear", "1", "1", "--string"],
    &["failover", "status"],
    &["failover", "release", "g"],
    &["failover", "take", "g"],
    &["overlay", "list"],
    &["overlay", "pin", "e12.9", "pc1"],
    &["overlay", "unpin", "e12.9", "pc1"],
    &["overlay", "reset", "--force", "e12.9", "pc1"],
    &["overlay", "commit", "--force", "e12.9", "pc2"],
    &["overlay", "discard", "--force", "e12.9", "pc3"],
    &["overlay", "list", "e12.9"],
    &["status"],
];

/// Commands that fail here whatever is served, and how.
const FAILING: [(&[&str], &str); 7] = [
    (
        &["state", "adopt", "1", "1", "--from", "1.1@eth7"],
        "a state of its own",
    ),
    (&["state", "show", "9", "9"], "nothing is kept"),
    (&["export", "pause", "e7.7"], "matches no export"),
    (&["overlay", "list", "e7.7"], "matches no export"),
    (&["discover", "nosuch0"], "nosuch0"),
    (&["bench", "nosuch0"], "nosuch0"),
    (&["failover", "take", "h"], "h"),
];

/// Commands on an initiator.
const OUTSIDE: [&[&str]; 4] = [
    &["discover", "eth0"],
    &["doctor", "eth0"],
    &["bench", "eth0", "1.1", "--count", "10"],
    &[
        "bench",
        "eth0",
        "1.1",
        "--flood",
        "strangers",
        "--rate",
        "100/s",
        "--duration",
        "100ms",
    ],
];

/// All objects in what a command printed.
fn objects(words: &[&str], text: &str) -> Result<Vec<Value>> {
    let values: Result<Vec<Value>, _> = Deserializer::from_str(text).into_iter().collect();
    let values = values.with_context(|| format!("{words:?}: {text}"))?;
    ensure!(!values.is_empty(), "{words:?} printed nothing");
    for value in &values {
        ensure!(value["schema"] == 1, "{words:?}: {value}");
    }
    Ok(values)
}

/// The commands that have `--json`, by their manual pages.
fn with_json(folder: &std::path::Path) -> Result<BTreeSet<String>> {
    let made = Command::new(target::binary()?).arg("man").arg(folder).output()?;
    ensure!(made.status.success(), "{made:?}");
    let mut commands = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .context("an odd name")?;
        if std::fs::read_to_string(&path)?.contains(r"\-\-json") {
            commands.extend(name.strip_prefix("xblade-").map(|name| name.replace('-', " ")));
        }
    }
    Ok(commands)
}

#[test]
fn every_command_that_can_print_json_is_tried() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let commands = with_json(folder.path())?;
    ensure!(commands.len() > 20, "{commands:?}");
    let failing = FAILING.iter().map(|(words, _)| *words);
    let tried: Vec<String> = ASKING
        .iter()
        .chain(&OUTSIDE)
        .copied()
        .chain(failing)
        .map(|words| words.join(" ") + " ")
        .collect();
    for command in commands {
        ensure!(
            tried
                .iter()
                .any(|tried| tried.starts_with(&format!("{command} "))),
            "`xblade {command}` has --json and is not tried here"
        );
    }
    Ok(())
}

/// A target with one of everything: an export, one of a failover group, a golden image with three machines.
fn start(lab: &Lab, image: &Image) -> Result<Target> {
    let directory = image.directory();
    let path = |name: &str| directory.join(name).display().to_string();
    for name in ["two.raw", "golden.raw"] {
        std::fs::copy(image.path(), directory.join(name))?;
    }
    let (one, two, golden) = (image.as_str(), path("two.raw"), path("golden.raw"));
    let mut text = format!(
        "[defaults]\ninterfaces = [\"eth0\"]\n\
         [[failover]]\nname = \"g\"\nmac = \"02:78:62:00:00:01\"\npeers = [\"02:00:00:00:00:0a\"]\ncommand = \"/bin/true\"\n\
         [[export]]\nshelf = 1\nslot = 1\npath = {one:?}\n\
         [[export]]\nshelf = 1\nslot = 2\npath = {two:?}\nsync = true\nfailover = \"g\"\n\
         [[export]]\nshelf = 12\nslot = 9\npath = {golden:?}\noverlay = \"volatile\"\noverlay_dir = \"overlays\"\n"
    );
    for n in 1..=3 {
        text += &format!("[[machine]]\nname = \"pc{n}\"\nmacs = [\"02:00:00:00:ae:0{n}\"]\n");
    }
    std::fs::write(path("xblade.toml"), text)?;
    Target::ready(&lab.target, &daemon(directory)?, 3)
}

/// Each machine writes into its copy.
fn write_copies(initiator: &Initiator) -> Result<()> {
    for n in 1..=3 {
        let to = initiator.find(GOLDEN)?.mac;
        let request = Request {
            src: Mac([2, 0, 0, 0, 0xae, n]),
            ..Request::ata(to, GOLDEN, ata::WRITE_EXT, 7, 1, &stamp(1))
        };
        ensure!(initiator.ask(request)?.error == 0);
    }
    Ok(())
}

#[test]
fn whatever_is_printed_as_json_has_the_number_of_its_form() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let target = start(&lab, &image)?;
    let initiator = lab.open(0)?;
    initiator.find(Address::new(1, 1))?.query(4, b"label")?;
    write_copies(&initiator)?;
    let new = Image::stamped(64)?;
    for words in ASKING {
        let words: Vec<&str> = words
            .iter()
            .map(|word| if *word == "FILE" { new.as_str() } else { word })
            .chain(["--json"])
            .collect();
        let output = target.ask(&words)?;
        let text = String::from_utf8(output.stdout)?;
        let values = objects(&words, &text)?;
        ensure!(
            output.status.success() && values.iter().all(|value| value.get("error").is_none()),
            "{words:?}: {}: {text}",
            output.status
        );
        // Without a target it is an error, and the exit code says which.
        let nobody = Command::new(target::binary()?)
            .args(&words)
            .args(["--control", "/nonexistent/socket"])
            .output()?;
        let values = objects(&words, &String::from_utf8(nobody.stdout)?)?;
        ensure!(
            nobody.status.code() == Some(4) && values[0]["error"].is_string(),
            "{words:?}: {}: {values:?}",
            nobody.status
        );
    }
    for (words, expected) in FAILING {
        let words = [words, &["--json"]].concat();
        let output = target.ask(&words)?;
        let values = objects(&words, &String::from_utf8(output.stdout)?)?;
        let error = values[0]["error"].as_str().unwrap_or_default();
        ensure!(
            output.status.code() == Some(1) && values.len() == 1 && error.contains(expected),
            "{words:?}: {}: {values:?}",
            output.status
        );
    }
    // One that has printed its report already adds nothing.
    let doctor = target.ask(&["doctor", "nosuch0", "--json"])?;
    let values = objects(&["doctor"], &String::from_utf8(doctor.stdout)?)?;
    ensure!(
        !doctor.status.success() && values.len() == 1 && values[0]["ok"] == false,
        "{values:?}"
    );
    for words in OUTSIDE {
        let words = [words, &["--json", "--log", "off"]].concat();
        let mut process = Process::spawn(&lab.initiator, &target::binary()?, &words)?;
        ensure!(process.wait(target::START)?.success(), "{}", process.log());
        objects(&words, &process.log())?;
    }
    Ok(())
}
