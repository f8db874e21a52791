//! Access lists with names, through the parser of the config file.

use std::path::Path;

use crate::config::file::parse;
use crate::config::{Access, AccessEntry};

fn of(acl: &str, allow: &str) -> Result<Vec<AccessEntry>, String> {
    let text = format!(
        "[acl]\n{acl}\n[defaults]\ninterfaces = [\"eth0\"]\n[[export]]\nshelf = 1\nslot = 1\npath = \"/a\"\nallow = {allow}\n"
    );
    let file = parse(Path::new("x.toml"), text).map_err(|problems| problems.to_string())?;
    Ok(file.config.exports[0].allow.to_vec())
}

const LISTS: &str = "lab = [\"02:00:00:00:00:01\", { mac = \"02:00:00:00:00:02\", access = \"ro\" }]\n\
    more-2 = [\"02:00:00:00:00:01\", \"02:00:00:00:00:03\"]\nother = [\"02:00:00:00:00:02\"]\n";

#[test]
fn lists_with_names_are_what_they_contain() {
    let allow = of(LISTS, "[\"@lab\", \"@more-2\", \"02:00:00:00:00:09\"]").unwrap();
    let last: Vec<u8> = allow.iter().map(|entry| entry.mac.0[5]).collect();
    assert_eq!(last, [1, 2, 3, 9], "one that is on two lists is there once");
    assert_eq!(allow[1].access, Access::ReadOnly);
    assert_eq!(
        of(LISTS, "[]").unwrap(),
        [],
        "lists that nobody refers to let nobody in and shut nobody out"
    );
}

#[test]
fn mistakes_let_nobody_in() {
    for (acl, allow, message) in [
        (LISTS, "[\"@labs\"]", "there is no list labs"),
        (LISTS, "[\"@\"]", "there is no list  under"),
        (
            LISTS,
            "[\"@lab\", \"@other\"]",
            "listed twice, with different rights",
        ),
        (
            LISTS,
            "[\"@lab\", \"02:00:00:00:00:01\"]",
            "02:00:00:00:00:01 is listed twice",
        ),
        ("lab = []", "[\"@lab\"]", "lab is empty"),
        (
            "lab = \"02:00:00:00:00:01\"",
            "[\"@lab\"]",
            "lab is a list of addresses",
        ),
        ("lab = [\"@other\"]", "[\"@lab\"]", "@other"),
        ("lab = [\"x\"]", "[]", "allow: \"x\""),
        ("\"a b\" = [\"02:00:00:00:00:01\"]", "[]", "is no name"),
    ] {
        let error = of(acl, allow).unwrap_err();
        assert!(error.contains(message), "{acl}, {allow}: {error}");
    }
}
