//! Wrong arguments and wrong usage.

use super::place::{Place, refused, xblade};

/// A line, the value that the message shows, and what it says; IMAGE is an image's path, LONG a name of 128 characters.
const WRONG: [(&str, &str, &str); 37] = [
    (
        "serve 65535 1 eth0 IMAGE",
        "'65535'",
        "a shelf is a whole number from 0 to 65534",
    ),
    ("serve 70000 1 eth0 IMAGE", "'70000'", "from 0 to 65534"),
    ("serve -1 1 eth0 IMAGE", "'-1'", "from 0 to 65534"),
    ("serve 1.5 1 eth0 IMAGE", "'1.5'", "from 0 to 65534"),
    ("serve one 1 eth0 IMAGE", "'one'", "from 0 to 65534"),
    (
        "serve 1 255 eth0 IMAGE",
        "'255'",
        "a slot is a whole number from 0 to 254",
    ),
    ("serve 1 300 eth0 IMAGE", "'300'", "from 0 to 254"),
    ("serve 1 x eth0 IMAGE", "'x'", "from 0 to 254"),
    (
        "serve 1 1 eth0 IMAGE -o -8",
        "'-8'",
        "an offset is a whole number from 0 to 281474976710655 sectors",
    ),
    (
        "serve 1 1 eth0 IMAGE -o 1.5",
        "'1.5'",
        "an offset is a whole number",
    ),
    (
        "serve 1 1 eth0 IMAGE -l -8",
        "'-8'",
        "a length is a whole number from 0 to 281474976710655 sectors",
    ),
    (
        "serve 1 1 eth0 IMAGE -b 1",
        "'1'",
        "a buffer count is a whole number from 2 to 65535",
    ),
    (
        "serve 1 1 eth0 IMAGE --spin-us 1000001",
        "'1000001'",
        "from 0 to 1000000 microseconds",
    ),
    (
        "serve 1 1 eth0 IMAGE -m 02:00",
        "'02:00'",
        "six two-digit hexadecimal numbers",
    ),
    (
        "serve 1 1 eth0 IMAGE -m 020000000001,01:00:5e:00:00:01",
        "'01:00:5e:00:00:01'",
        "a group address",
    ),
    (
        "serve 1 1 eth0 IMAGE --vlan 4095",
        "'4095'",
        "a VLAN is a whole number from 1 to 4094, or \"any\"",
    ),
    ("serve 1 1 eth0 IMAGE --vlan 0", "'0'", "from 1 to 4094"),
    (
        "serve 1 1 eth0 IMAGE --mode fast",
        "'fast'",
        "auto, native, zerocopy, copy, skb",
    ),
    (
        "serve 1 1 eth0 IMAGE --store tape",
        "'tape'",
        "mmap, direct, rbd, nbd, ram, null",
    ),
    (
        "serve 1 1 eth0 IMAGE --serial 123456789012345678901",
        "'123456789012345678901'",
        "1 to 20 printable ASCII",
    ),
    (
        "serve 1 1 eth0 IMAGE --rate-limit 50kB",
        "'50kB'",
        "such as 50k/s",
    ),
    (
        "serve 1 1 eth0 IMAGE --flush-interval 1ms",
        "'1ms'",
        "from 10ms to 1h",
    ),
    (
        "serve 1 1 eth0 IMAGE --flush-interval -1s",
        "'-1s'",
        "from 10ms to 1h",
    ),
    (
        "serve 1 1 eth0 IMAGE --rate-limit -50k/s",
        "'-50k/s'",
        "such as 50k/s",
    ),
    (
        "bench eth0 --duration -1m",
        "'-1m'",
        "a time is a number with its unit",
    ),
    (
        "serve 1 1 eth0 IMAGE --cpus 0,x",
        "'0,x'",
        "numbers and ranges such as 0-3,5; a CPU is a whole number from 0 to 1023",
    ),
    ("serve 1 1 LONG IMAGE", "'aaaaaaaa", "1 to 127 characters"),
    ("create x 1GB", "'1GB'", "a size is a number with its unit"),
    ("create x -1G", "'-1G'", "a size is a number with its unit"),
    ("bench eth0 --duration 0", "'0'", "longer than nothing"),
    (
        "bench eth0 --duration 1x",
        "'1x'",
        "a time is a number with its unit",
    ),
    ("bench eth0 --timeout 0s", "'0s'", "longer than nothing"),
    ("bench eth0 --count 0", "'0'", "1.."),
    ("bench eth0 --span 0", "'0'", "a span is a whole number from 1"),
    ("bench eth0 --depth 0", "'0'", "1.."),
    ("bench eth0 --first -1", "-1", "--first"),
    ("--log x=y=z check", "'x=y=z'", "--log"),
];

#[test]
fn wrong_arguments_name_the_value_and_the_range() {
    let place = Place::new();
    let long = "a".repeat(128);
    for (line, value, expected) in WRONG {
        let words = line.split(' ').map(|word| match word {
            "IMAGE" => place.image.as_str(),
            "LONG" => long.as_str(),
            word => word,
        });
        let output = xblade(&words.collect::<Vec<_>>());
        refused(&output, 2, expected);
        refused(&output, 2, value);
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [&[][..], &["serve"], &["frobnicate"], &["serve", "-Z"]] {
        refused(&xblade(args), 2, "Usage");
    }
    for (args, missing) in [
        (&["serve", "1", "1", "eth0"][..], "<FILE>"),
        (&["serve", "1", "1"], "<NETIF[,NETIF…]>"),
        (&["serve", "-r", "1", "1", "eth0"], "<FILE>"),
    ] {
        let output = xblade(args);
        refused(&output, 2, missing);
        let first = String::from_utf8_lossy(&output.stderr)
            .lines()
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        assert!(
            first.contains(missing),
            "the first that is missing is {missing}, not {first}"
        );
    }
    let both = xblade(&["serve", "1", "1", "eth0", "/f", "-d", "--store", "ram"]);
    refused(&both, 2, "cannot be used with");
}

#[test]
fn help_and_version_are_no_failures() {
    for args in [["--help"], ["--version"]] {
        let output = xblade(&args);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("xblade"));
    }
}
