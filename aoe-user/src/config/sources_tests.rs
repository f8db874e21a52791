//! Files in a folder, and what may be wrong with them.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::config::file::{load, parse_further};
use crate::config::validate::{SettingNames, contradictions};

const MAIN: &str = "[defaults]\ninterfaces = [\"eth0\"]\n[acl]\nlab = [\"02:00:00:00:00:01\"]\n";

/// A config file with a folder beside it.
struct Files(tempfile::TempDir);

impl Files {
    fn new(main: &str) -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        std::fs::write(files.main(), main).unwrap();
        std::fs::create_dir(files.0.path().join("conf.d")).unwrap();
        files
    }

    fn main(&self) -> PathBuf {
        self.0.path().join("xblade.toml")
    }

    fn part(&self, name: &str) -> PathBuf {
        self.0.path().join("conf.d").join(name)
    }

    fn with(self, name: &str, text: &str) -> Files {
        std::fs::write(self.part(name), text).unwrap();
        self
    }

    /// All that is wrong with them.
    fn problems(&self) -> String {
        match load(&self.main()) {
            Err(problems) => problems.to_string(),
            Ok(file) => {
                let report = contradictions(&file.config, SettingNames::File);
                report.problems(Some(&file.origin)).to_string()
            }
        }
    }

    fn slots(&self) -> Vec<u8> {
        let config = load(&self.main()).unwrap().config;
        config.exports.iter().map(|export| export.slot).collect()
    }
}

fn export(slot: u8) -> String {
    format!("[[export]]\nshelf = 1\nslot = {slot}\npath = \"{slot}.raw\"\n")
}

#[test]
fn each_config_file_has_a_folder_of_its_own() {
    for (file, expected) in [
        ("/etc/xblade/xblade.toml", Some("/etc/xblade/conf.d")),
        ("/etc/xblade/san2.toml", Some("/etc/xblade/san2.d")),
        ("xblade.toml", Some("conf.d")),
        ("/dev/stdin", None),
        ("/etc/xblade/xblade.toml.new", None),
    ] {
        assert_eq!(folder(Path::new(file)), expected.map(PathBuf::from), "{file}");
    }
}

#[test]
fn files_follow_each_other_by_name_and_know_each_others_lists() {
    let files = Files::new(&(MAIN.to_owned() + &export(1)))
        .with("20-b.toml", &(export(3) + "allow = [\"@lab\", \"@office\"]\n"))
        .with("10-a.toml", &export(2))
        .with("99.toml", "[acl]\noffice = [\"02:00:00:00:00:02\"]\n")
        .with("empty.toml", "# nothing yet\n");
    assert_eq!(files.slots(), [1, 2, 3]);
    let config = load(&files.main()).unwrap().config;
    assert_eq!(config.exports[2].allow.len(), 2);
    assert_eq!(config.exports[2].interfaces, ["eth0"]);
    assert_eq!(
        config.exports[1].path,
        files.part("2.raw"),
        "from where the file is that says so"
    );
}

#[test]
fn the_main_file_may_leave_all_exports_to_others() {
    let files = Files::new(MAIN);
    assert!(files.problems().contains("nothing to serve"));
    assert_eq!(files.with("a.toml", &export(7)).slots(), [7]);
}

#[test]
fn what_others_leave_in_the_folder_is_none_of_ours() {
    let files = Files::new(&(MAIN.to_owned() + &export(1)));
    for name in [
        "a.toml~",
        "a.toml.dpkg-old",
        ".a.toml.swp",
        ".#a.toml",
        ".hidden.toml",
        "README",
    ] {
        std::fs::write(files.part(name), "no TOML [").unwrap();
    }
    std::fs::create_dir(files.part("folder")).unwrap();
    assert_eq!(files.slots(), [1]);
}

#[test]
fn mistakes_of_all_files_are_told_with_their_places() {
    let files = Files::new(&(MAIN.to_owned() + &export(255)))
        .with(
            "a.toml",
            "[[export]]\nshelf = 1\nslot = 2\npath = \"x\"\nreadonly = true\n",
        )
        .with("b.toml", "[defaults]\nsync = true\n");
    let problems = files.problems();
    for words in [
        "3 problems",
        "xblade.toml:7:8: slot = 255",
        "conf.d/a.toml:5:1: unknown key `readonly`",
        "conf.d/b.toml:1:1: [defaults] holds for the exports of all files, and belongs in ",
    ] {
        assert!(problems.contains(words), "{words}: {problems}");
    }
}

#[test]
fn what_stands_in_two_files_is_refused_with_both_places() {
    let machine = "[[machine]]\nname = \"pc\"\nmacs = [\"02:00:00:00:00:07\"]\n";
    let group =
        "[[failover]]\nname = \"san\"\nmac = \"02:78:62:00:00:01\"\npeers = [\"02:00:00:00:00:0a\"]\n";
    for (one, other, wrong, place) in [
        (
            export(1),
            export(1),
            "1.1 is exported on eth0 already",
            "a.toml:1:1",
        ),
        (
            export(1) + "[acl]\nx = [\"02:00:00:00:00:01\"]\n",
            "[acl]\nx = [\"02:00:00:00:00:02\"]\n".into(),
            "there is a list x already",
            "a.toml:6:1",
        ),
        (
            export(1) + machine,
            machine.into(),
            "another machine is called so",
            "a.toml:6:8",
        ),
        (
            export(1) + group,
            group.into(),
            "another failover group is called so",
            "a.toml:6:8",
        ),
    ] {
        let problems = Files::new(MAIN)
            .with("a.toml", &one)
            .with("b.toml", &other)
            .problems();
        for words in [wrong, place, "b.toml:"] {
            assert!(problems.contains(words), "{words}: {problems}");
        }
    }
}

#[test]
fn two_writers_of_one_file_are_told_with_both_places() {
    let writer = |slot| export(slot).replace(&format!("{slot}.raw"), "/srv/one.raw");
    let problems = Files::new(MAIN)
        .with("a.toml", &writer(1))
        .with("b.toml", &writer(2))
        .problems();
    assert!(
        problems.contains("b.toml:4:8: /srv/one.raw is exported for writing by 1.1 too")
            && problems.contains("conf.d/a.toml:1:1"),
        "{problems}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_nothing_is_taken_over() {
    let files = Files::new(&(MAIN.to_owned() + &export(1))).with("good.toml", &export(2));
    std::fs::create_dir(files.part("a.toml")).unwrap();
    symlink("/nonexistent/b", files.part("b.toml")).unwrap();
    symlink("d.toml", files.part("d.toml")).unwrap();
    std::fs::write(files.part("e.toml"), [0xff, 0xfe]).unwrap();
    std::fs::write(files.part("f.toml"), [0; 4096]).unwrap();
    std::fs::write(files.part("g.toml"), "[[export\n").unwrap();
    let problems = files.problems();
    for words in [
        "a.toml: it is a folder",
        "b.toml: No such file",
        "d.toml: Too many levels of symbolic links",
        "e.toml:1:1: not UTF-8",
        "f.toml: it holds no text",
    ] {
        assert!(problems.contains(words), "{words}: {problems}");
    }
    // Root reads it all the same.
    if !rustix::process::geteuid().is_root() {
        let sealed = files.part("h.toml");
        std::fs::write(&sealed, "").unwrap();
        std::fs::set_permissions(&sealed, std::fs::Permissions::from_mode(0o0)).unwrap();
        assert!(files.problems().contains("h.toml: Permission denied"));
    }
}

#[test]
fn a_folder_that_is_none_is_told() {
    let files = Files::new(&(MAIN.to_owned() + &export(1)));
    std::fs::remove_dir(files.part("")).unwrap();
    assert_eq!(files.slots(), [1], "there need not be one");
    symlink("/nonexistent", files.0.path().join("conf.d")).unwrap();
    assert!(files.problems().contains("cannot read the folder"));
    std::fs::remove_file(files.0.path().join("conf.d")).unwrap();
    std::fs::write(files.0.path().join("conf.d"), "").unwrap();
    assert!(
        files.problems().contains("Not a directory"),
        "{}",
        files.problems()
    );
}

#[test]
fn thousands_of_files_are_one_configuration() {
    let mut files = Files::new(MAIN);
    for slot in 0..=254 {
        for shelf in 1..=8 {
            let text = export(slot).replace("shelf = 1", &format!("shelf = {shelf}"));
            files = files.with(
                &format!("{shelf}-{slot}.toml"),
                &text.replace(".raw", &format!("-{shelf}.raw")),
            );
        }
    }
    assert_eq!(files.slots().len(), 8 * 255);
    assert_eq!(files.problems(), "0 problems");
}

#[test]
fn a_folder_without_a_bound_is_refused() {
    let mut files = Files::new(MAIN);
    let text = "#".repeat(4 << 20);
    for part in ["a.toml", "b.toml", "c.toml", "d.toml", "e.toml"] {
        files = files.with(part, &text);
    }
    assert!(files.problems().contains("more than 16 MiB together"));
}

#[test]
fn what_the_files_say_holds_for_exports_that_are_added_while_serving() {
    let main = MAIN.replace("[acl]", "allow = [\"@lab\"]\nsync = true\n[acl]");
    let files = Files::new(&(main + &export(1)));
    let sources = load(&files.main()).unwrap().config.sources;
    let add = |text: &str| parse_further(&sources, Path::new("request"), text.to_owned());
    let added = add(&export(2)).unwrap();
    let [added] = &added[..] else { panic!("{added:?}") };
    assert_eq!((added.slot, added.sync, added.allow.len()), (2, true, 1));
    assert!(add("# none\n").unwrap().is_empty());
    let refused = add("[defaults]\nsync = false\n").unwrap_err().to_string();
    assert!(refused.contains("belongs in"), "{refused}");
    // Without a file there is nothing to hold.
    let alone = parse_further(&[], Path::new("request"), export(2) + "interfaces = [\"eth0\"]\n").unwrap();
    assert!(alone[0].allow.is_empty());
}
