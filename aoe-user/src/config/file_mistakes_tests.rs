use super::tests::{mistakes, read, with};
use super::*;
use proptest::prelude::*;

#[test]
fn wrong_values_are_shown_with_their_range_and_place() {
    for (line, column, expected) in [
        (
            "slot = 255",
            8,
            "slot = 255: a slot is a whole number from 0 to 254",
        ),
        (
            "shelf = 65535",
            9,
            "shelf = 65535: a shelf is a whole number from 0 to 65534",
        ),
        (
            "offset = -1",
            10,
            "offset = -1: an offset is a whole number from 0 to",
        ),
        ("offset = 1.5", 10, "offset = 1.5: an offset is a whole number"),
        (
            "length = \"8x\"",
            10,
            "length = \"8x\": a length is a whole number",
        ),
        (
            "buffers = 1",
            11,
            "buffers = 1: a buffer count is a whole number from 2 to 65535",
        ),
        (
            "max_sectors = 0",
            15,
            "max_sectors = 0: a cap of sectors is a whole number from 1 to 255",
        ),
        ("max_sectors = 256", 15, "max_sectors = 256: a cap of sectors"),
        ("spin_us = 1000001", 11, "from 0 to 1000000 microseconds"),
        (
            "vlan = 4095",
            8,
            "vlan = 4095: a VLAN is a whole number from 1 to 4094, or \"any\"",
        ),
        (
            "vlan = \"5\"",
            8,
            "vlan = \"5\": a VLAN is a whole number from 1 to 4094, or \"any\"",
        ),
        (
            "mode = \"fast\"",
            8,
            "mode = \"fast\": it is one of \"auto\", \"native\", \"zerocopy\", \"copy\", \"skb\"",
        ),
        (
            "store = 1",
            9,
            "store = 1: it is one of \"mmap\", \"direct\", \"rbd\", \"nbd\", \"ram\", \"null\"",
        ),
        ("sync = \"yes\"", 8, "sync = \"yes\": true or false is needed"),
        ("serial = \"grün\"", 10, "printable ASCII"),
        (
            "rate_limit = 0",
            14,
            "rate_limit = 0: a rate is a number of frames a second",
        ),
        ("flush_interval = \"1ms\"", 18, "from 10ms to 1h"),
        ("allow = \"02:00:00:00:00:01\"", 9, "a list is needed, in [ ]"),
        (
            "allow = [\"02:00\"]",
            10,
            "allow: \"02:00\": a MAC address is six two-digit",
        ),
        ("allow = [\"01:00:5e:00:00:01\"]", 10, "group address"),
        ("allow = [{ access = \"ro\" }]", 10, "the entry has no `mac`"),
        (
            "allow = [{ mac = \"020000000001\", access = \"none\" }]",
            43,
            "\"rw\", \"ro\"",
        ),
        (
            "allow = [\"020000000001\", \"02:00:00:00:00:01\"]",
            26,
            "02:00:00:00:00:01 is listed twice",
        ),
        (
            "read-only = true",
            1,
            "unknown key `read-only`; did you mean `read_only`?",
        ),
        ("colour = 1", 1, "unknown key `colour`; known here: shelf, slot"),
        (
            "cpus = [1]",
            1,
            "`cpus` does not belong here: the workers serve every export",
        ),
    ] {
        let key = line.split(' ').next().unwrap();
        // A key that the frame of the test has already takes its place there.
        let text = match key {
            "slot" => with("").replace("slot = 2", line),
            "shelf" => with("").replace("shelf = 1", line),
            _ => with(line),
        };
        let row = match key {
            "slot" => 3,
            "shelf" => 2,
            _ => 6,
        };
        let found = mistakes(&text);
        assert_eq!(found.len(), 1, "{line}: {found:?}");
        assert_eq!((found[0].0, found[0].1), (row, column), "{line}: {found:?}");
        assert!(found[0].2.contains(expected), "{line}: {found:?}");
    }
}

#[test]
fn interfaces_are_needed_and_checked() {
    let none = with("").replace("interfaces = [\"eth0\"]", "");
    assert!(
        mistakes(&none)[0]
            .2
            .contains("no `interfaces`, here or in [defaults]")
    );
    let empty = with("").replace("[\"eth0\"]", "[]");
    assert!(mistakes(&empty)[0].2.contains("at least one is needed"));
    let long = with("").replace("eth0", &"a".repeat(128));
    assert!(mistakes(&long)[0].2.contains("1 to 127 characters"));
}

#[test]
fn an_export_needs_its_identity() {
    let found = mistakes("[[export]]\ninterfaces = [\"eth0\"]\n");
    let messages: Vec<&str> = found.iter().map(|(_, _, message)| message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "the export has no `shelf`",
            "the export has no `slot`",
            "the export has no `path`"
        ]
    );
    assert!(found.iter().all(|(line, ..)| *line == 1), "{found:?}");
}

#[test]
fn what_belongs_to_an_export_is_refused_in_the_defaults() {
    let found = mistakes(&format!("[defaults]\npath = \"/d\"\n{}", with("")));
    assert_eq!(
        found,
        [(
            2,
            1,
            "`path` does not belong here: it is each export's own; put it under [[export]]".into()
        )]
    );
}

#[test]
fn text_that_is_not_toml_is_shown_where_it_breaks() {
    let found = mistakes("[[export]]\nshelf = \nslot = 1\n");
    assert_eq!(found[0].0, 2, "{found:?}");
    assert!(found[0].2.starts_with("not TOML"), "{found:?}");
    let twice = mistakes(&with("slot = 3"));
    assert_eq!(twice[0].0, 6, "{twice:?}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = "[defaults]\nsync = 1\n[[export]]\nshelf = 70000\nslot = 300\npath = \"/d\"\ninterfaces = [\"eth0\"]\n\
                [[export]]\nshelf = 1\nslot = 1\npath = \"/e\"\ninterfaces = [\"eth0\"]\nvlan = 0\ncolor = 1\n";
    let lines: Vec<usize> = mistakes(text).into_iter().map(|(line, ..)| line).collect();
    assert_eq!(lines, [2, 4, 5, 13, 14]);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = load(Path::new("/nonexistent/xblade.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("/nonexistent/xblade.toml") && missing.contains("No such file"),
        "{missing}"
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.toml");
    std::fs::write(&file, b"# \xff\n").unwrap();
    let binary = load(&file).unwrap_err().to_string();
    assert!(binary.contains("x.toml:1:3: not UTF-8"), "{binary}");
}

/// Text that is nearly a config file.
fn nearly_config() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "[defaults]",
        "[[export]]",
        "[export]",
        "shelf",
        "slot",
        "path",
        "interfaces",
        "allow",
        "vlan",
        "rate_limit",
        "flush_interval",
        "mode",
        "cpus",
        "serial",
        "state_name",
        "=",
        "=",
        "=",
        "1",
        "-1",
        "0x7f",
        "1.5",
        "nan",
        "true",
        "\"any\"",
        "\"02:00:00:00:00:01\"",
        "\"eth[\"",
        "\"50k/s\"",
        "\"é\"",
        "{ mac = 1 }",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        "\n",
        "\n",
        "\n",
        "\t",
        "\r\n",
        "#",
        "é",
        "\u{0}",
        "1979-05-27",
        "99999999999999999999",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn no_text_ends_the_process(text in any::<String>()) {
        if let Err(problems) = read(&text) {
            prop_assert!(!problems.to_string().is_empty());
        }
    }

    #[test]
    fn no_nearly_right_text_ends_the_process(text in nearly_config()) {
        match read(&text) {
            Ok(file) => prop_assert!(!file.config.exports.is_empty()),
            Err(problems) => {
                prop_assert!(!problems.0.is_empty());
                prop_assert!(problems.0.iter().all(|problem| problem.place.is_some()));
                prop_assert!(!problems.to_string().is_empty());
            }
        }
    }
}
