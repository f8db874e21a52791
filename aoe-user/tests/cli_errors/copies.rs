//! What `xblade check` says of machines' copies.

use std::fs;

use super::place::{Place, refused, xblade};

/// A config with a golden image, and two machines of which one has a persistent copy.
fn config(place: &Place, directory: &str, lines: &str) -> String {
    place.file(
        "x.toml",
        &format!(
            "[[export]]\nshelf = 12\nslot = 9\npath = \"a.raw\"\ninterfaces = [\"lo0-none*\"]\noverlay = \"volatile\"\noverlay_dir = {directory:?}\n\
             {lines}\n\n[[machine]]\nname = \"pc17\"\nmacs = [\"02:00:00:00:00:01\"]\n\n\
             [[machine]]\nname = \"teacher\"\nmacs = [\"02:00:00:00:00:02\"]\noverlay = \"persistent\"\n"
        ),
    )
}

/// All that is said; no interface is there to serve on, which is always among it.
fn said(config: &str) -> String {
    let output = xblade(&["check", "--config", config]);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn says(config: &str, words: &[&str]) {
    let text = said(config);
    for word in words {
        assert!(text.contains(word), "{word:?} in:\n{text}");
    }
}

#[test]
fn a_directory_that_is_no_use_is_a_mistake_with_its_line() {
    let place = Place::new();
    place.file("file", "");
    for directory in ["file", "file/below"] {
        let config = config(&place, directory, "");
        refused(
            &xblade(&["check", "--config", &config]),
            1,
            "machines' copies cannot be there",
        );
        says(&config, &["x.toml:7"]);
    }
    // Nobody may write to it, root included.
    says(
        &config(&place, "/proc/self/copies", ""),
        &["machines' copies cannot be made there"],
    );
}

#[test]
fn a_directory_that_is_not_there_yet_is_told_with_where_it_would_be_made() {
    let place = Place::new();
    let at = place.dir.path().display().to_string();
    says(
        &config(&place, "overlays", ""),
        &[
            "overlays: is not there yet",
            &format!("on the file system of {at}"),
            "mount it first",
        ],
    );
    fs::create_dir(place.path("overlays")).unwrap();
    let text = said(&config(&place, "overlays", ""));
    assert!(!text.contains("overlays"), "{text}");
}

#[test]
fn room_that_does_not_do_is_told() {
    let place = Place::new();
    fs::create_dir(place.path("overlays")).unwrap();
    let image = fs::File::options().write(true).open(&place.image).unwrap();
    image.set_len(1 << 43).unwrap();
    drop(image);
    says(
        &config(&place, "overlays", "overlay_limit = \"7TiB\""),
        &["3 copies may take", "are free", "overlay_limit"],
    );
    let text = said(&config(&place, "overlays", "overlay_limit = \"1MiB\""));
    assert!(!text.contains("copies may take"), "{text}");
}

#[test]
fn persistent_copies_in_memory_are_told() {
    let place = Place::new();
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let directory = memory.path().to_str().unwrap();
    says(
        &config(&place, directory, ""),
        &["persistent copies there end with the host"],
    );
}

#[test]
fn a_persistent_copy_that_cannot_be_served_is_told() {
    let place = Place::new();
    let own = place.path("overlays/12.9");
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("machine-teacher.marks"), "no header").unwrap();
    says(
        &config(&place, "overlays", ""),
        &[
            "teacher will hear nothing",
            "machine-teacher.marks",
            "xblade overlay reset",
        ],
    );
}
