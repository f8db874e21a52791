//! Config files with mistakes, and what is none.

use std::fs;

use super::place::{Place, XBLADE, refused, xblade};

#[test]
fn a_config_file_is_refused_with_line_and_column() {
    let place = Place::new();
    let file = place.file(
        "x.toml",
        "[defaults]\ninterfaces = [\"lo\"]\n\n[[export]]\nshelf = 1\nslot = 255\npath = \"a.raw\"\nreadonly = true\n",
    );
    for command in ["check", "daemon"] {
        let output = xblade(&[command, "--config", &file]);
        refused(&output, 1, "2 problems");
        refused(
            &output,
            1,
            "x.toml:6:8: slot = 255: a slot is a whole number from 0 to 254",
        );
        refused(&output, 1, "6 | slot = 255\n  |        ^^^");
        refused(
            &output,
            1,
            "x.toml:8:1: unknown key `readonly`; did you mean `read_only`?",
        );
    }
}

#[test]
fn contradictions_are_refused_with_line_and_column() {
    let place = Place::new();
    let file = place.file(
        "x.toml",
        "[[export]]\nshelf = 1\nslot = 1\npath = \"a.raw\"\ninterfaces = [\"lo\"]\n\n\
         [[export]]\nshelf = 1\nslot = 1\npath = \"a.raw\"\ninterfaces = [\"lo\"]\nmode = \"skb\"\n",
    );
    let output = xblade(&["check", "-c", &file]);
    refused(&output, 1, "x.toml:9:8: 1.1 is exported on lo already");
    refused(&output, 1, "x.toml:10:8: ");
    refused(&output, 1, "is exported for writing by 1.1 too");
    refused(
        &output,
        1,
        "x.toml:12:8: mode \"skb\" on lo, where 1.1 wants \"auto\"",
    );
}

#[test]
fn a_missing_config_file_is_named() {
    refused(
        &xblade(&["check", "--config", "/nonexistent/x.toml"]),
        1,
        "/nonexistent/x.toml: No such file",
    );
    refused(
        &xblade(&["daemon", "-c", "/nonexistent/x.toml"]),
        1,
        "--config names another",
    );
}

#[test]
fn an_image_in_another_format_is_refused_with_line_and_column() {
    let place = Place::new();
    fs::write(
        place.path("disk.qcow2"),
        [b"QFI\xfb\0\0\0\x03", [0; 4088].as_slice()].concat(),
    )
    .unwrap();
    let config = |more: &str| {
        let text =
            format!("[[export]]\nshelf = 1\nslot = 1\npath = \"disk.qcow2\"\ninterfaces = [\"lo\"]\n{more}");
        xblade(&["check", "-c", &place.file("x.toml", &text)])
    };
    refused(&config(""), 1, "x.toml:4:8: ");
    refused(&config(""), 1, "qemu-img convert -f qcow2 -O raw");
    for own in ["format = \"raw\"\n", "offset = 1\n", "store = \"null\"\n"] {
        let said = String::from_utf8_lossy(&config(own).stderr).into_owned();
        assert!(!said.contains("qcow2 image"), "{own}: {said}");
    }
}

/// What nobody means to give as a config file, but does.
#[test]
fn what_is_no_config_file_is_refused_in_a_moment() {
    let place = Place::new();
    let fifo = place.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let huge = place.path("huge.toml");
    fs::write(&huge, "[[export]]\n".repeat(1_000_000)).unwrap();
    let nested = place.file(
        "nested.toml",
        &format!("a = {}1{}", "[\n".repeat(500_000), "]".repeat(500_000)),
    );
    let deep = place.file("deep.toml", &"[a.a.a.a.a.a.a.a.a.a.a]\n".repeat(100_000));
    let text = place.file("text", &"x".repeat(200_000));
    let keys = place.file("keys", &"x y\n".repeat(200_000));
    let mut members: String = (0..70_000).map(|n| format!("\"0200000{n:05x}\", ")).collect();
    members.push_str("\"0200\"");
    let export = "[[export]]\nshelf = 1\nslot = 1\npath = \"a.raw\"\ninterfaces = [\"lo\"]\n";
    let list = place.file("list.toml", &format!("{export}allow = [{members}]\n"));
    let serial = place.file(
        "serial.toml",
        &format!("{export}serial = \"{}\"\n", "7".repeat(100_000)),
    );
    let path = place.file("path.toml", &export.replace("a.raw", &"p".repeat(100_000)));
    let key = place.file("key.toml", &format!("{export}{} = 1\n", "x".repeat(3_000_000)));
    let binary = XBLADE.to_owned();
    for (file, expected) in [
        (place.image.as_str(), "is it a disk image?"),
        (&binary, "more than 4 MiB"),
        (fifo.to_str().unwrap(), "a pipe that nobody writes to"),
        (huge.to_str().unwrap(), "more than 4 MiB"),
        ("/dev/urandom", "no file with text"),
        ("/", "a folder"),
        (&nested, "not TOML"),
        (&deep, "problems"),
        (&text, "not TOML"),
        (&keys, "and "),
        (&list, "six two-digit hexadecimal numbers"),
        (&serial, "1 to 20 printable ASCII"),
        (&path, "a path has at most 4095 bytes"),
        (&key, "unknown key"),
    ] {
        let start = std::time::Instant::now();
        let output = xblade(&["check", "--config", file]);
        refused(&output, 1, expected);
        assert!(
            output.stderr.len() < 20_000,
            "{file}: {} bytes",
            output.stderr.len()
        );
        println!("{file}: {:?}", start.elapsed());
        assert!(start.elapsed().as_secs() < 30, "{file}: {:?}", start.elapsed());
    }
}

#[test]
fn one_mistake_of_the_defaults_is_one_problem() {
    let place = Place::new();
    let mut text = "[defaults]\ninterfaces = [\"nosuchif0\"]\n".to_owned();
    for slot in 0..40 {
        text += &format!("[[export]]\nshelf = 1\nslot = {slot}\npath = \"a.raw\"\nread_only = true\n");
    }
    let output = xblade(&["check", "--config", &place.file("x.toml", &text)]);
    refused(&output, 1, "x.toml:2:14: no interface nosuchif0 here");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.matches("nosuchif0 here").count(), 1, "{stderr}");
}
