//! The subcommands that work on files, through the real binary.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use aoe_common::Mac;
use xblade::config::{Config, Source, file};
use xblade::control::state::{Before, StateDir, StateKey};
use xblade::target::Persistent;

fn xblade(dir: &Path, line: &str) -> Output {
    let args = line.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_xblade"))
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap()
}

#[track_caller]
fn done(dir: &Path, line: &str) -> String {
    let output = xblade(dir, line);
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn failed(dir: &Path, line: &str, expected: &str) {
    let output = xblade(dir, line);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
    assert!(stderr.contains(expected), "{line}: {stderr}");
}

#[test]
fn images_are_made() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    assert_eq!(done(dir, "create a.raw 1G"), "a.raw: 1 GiB, sparse\n");
    assert_eq!(fs::metadata(dir.join("a.raw")).unwrap().len(), 1 << 30);
    done(dir, "create --prealloc b.raw 2048s");
    let found = fs::metadata(dir.join("b.raw")).unwrap();
    assert_eq!(found.len(), 1 << 20);
    assert!(found.blocks() * 512 >= 1 << 20);
}

#[test]
fn images_that_cannot_be_made_leave_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fs::write(dir.join("old.raw"), "precious").unwrap();
    failed(
        dir,
        "create old.raw 1M",
        "old.raw exists already, and create never overwrites",
    );
    assert_eq!(fs::read(dir.join("old.raw")).unwrap(), b"precious");
    failed(dir, "create no/a.raw 1M", "cannot make no/a.raw");
    failed(dir, "create --prealloc a.raw 200T", "are free there");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn ctrl_c_leaves_no_half_made_image() {
    let temp = tempfile::tempdir().unwrap();
    // Sent before it starts and blocked until it looks: the same moment in every run.
    let script = "kill -INT $$; exec \"$@\"";
    let output = Command::new("env")
        .args([
            "--block-signal=INT",
            "sh",
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_xblade"),
        ])
        .args(["create", "--prealloc", "a.raw", "1M"])
        .current_dir(temp.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("interrupted"), "{stderr}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}

fn state() -> Persistent {
    Persistent {
        string: b"vm\"01\xff".to_vec(),
        mask: vec![Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])],
        reserve: vec![Mac([2, 0, 0, 0, 0, 3])],
    }
}

fn key(name: &str) -> StateKey {
    name.parse().unwrap()
}

#[test]
fn kept_states_are_shown_and_cleared() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let kept = StateDir::open(&dir.join("s"), Before::Unknown).unwrap();
    kept.store(&key("1.1"), &state()).unwrap();
    kept.store(&key("1.11"), &state()).unwrap();
    kept.store(&key("1.2"), &Persistent::default()).unwrap();
    drop(kept);

    let list = done(dir, "state list --state-dir s");
    let rows: Vec<&str> = list.lines().collect();
    assert_eq!(rows.len(), 3, "an empty state is not worth a line: {list}");
    assert!(
        rows[1].starts_with("1.1 ") && rows[1].contains(r#""vm\"01\xff""#),
        "{list}"
    );
    assert!(
        rows[1].contains("2 addresses") && rows[1].ends_with("02:00:00:00:00:03"),
        "{list}"
    );

    let shown = done(dir, "state show 1 1 --state-dir s");
    assert!(
        shown.contains("MAC mask       02:00:00:00:00:01 02:00:00:00:00:02\n"),
        "{shown}"
    );

    done(dir, "state clear 1 1 --mask --state-dir s");
    let shown = done(dir, "state show 1 1 --state-dir s");
    assert!(shown.contains("MAC mask       everyone\n"), "{shown}");
    assert!(
        shown.contains("reserved for   02:00:00:00:00:03\n"),
        "only what was named: {shown}"
    );

    done(dir, "state clear 1 1 --state-dir s");
    let kept = StateDir::open(&dir.join("s"), Before::Unknown).unwrap();
    assert_eq!(kept.load(&key("1.1")).unwrap(), Persistent::default());
    assert_eq!(
        kept.load(&key("1.11")).unwrap(),
        state(),
        "another export's is untouched"
    );
}

#[test]
fn states_that_are_not_there_are_told_and_looking_moves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    for action in ["list", "show 1 1", "clear 1 1", "adopt 1 1 --from x"] {
        let line = format!("state {action} --state-dir none");
        failed(dir, &line, "there is no directory none");
        assert!(!dir.join("none").exists(), "{action}");
    }

    let kept = StateDir::open(&dir.join("s"), Before::Unknown).unwrap();
    kept.store(&key("1.1"), &state()).unwrap();
    done(dir, "state show 1 1 --state-dir s");
    failed(
        dir,
        "state show 2 2 --state-dir s",
        "nothing is kept for 2.2 in s",
    );
    fs::write(dir.join("s/3.3.state"), "junk").unwrap();
    assert!(done(dir, "state list --state-dir s").contains("damaged"));
    failed(dir, "state show 3 3 --state-dir s", "3.3: damaged");
    assert_eq!(fs::read(dir.join("s/3.3.state")).unwrap(), b"junk");
}

#[test]
fn a_daemon_carries_out_what_is_decided_about_its_states() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let kept = StateDir::open(&dir.join("s"), Before::Unknown).unwrap();
    kept.store(&key("1.1"), &state()).unwrap();
    fs::remove_file(dir.join("s/1.1.state")).unwrap();
    assert!(done(dir, "state list --state-dir s").contains("its file is gone"));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| done(dir, "state clear 1 1 --state-dir s"));
        while kept.load(&key("1.1")).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        asked.join().unwrap();
    });
    assert_eq!(kept.load(&key("1.1")).unwrap(), Persistent::default());
}

/// The shapes of Debian's vblade package, of ggaoed's example and of qaoed's.
const OTHERS: [(&str, &str, &str); 3] = [
    (
        "vblade",
        "vblade.conf.d/demo.conf",
        "shelf=1\nslot=3\nnetif=em3\nfilename=/dev/mapper/export\noptions='-m 10:22:33:44:55:66 -o 8'\n",
    ),
    (
        "ggaoed",
        "ggaoed.conf",
        "[defaults]\ninterfaces = eth0\n[testdev]\npath = /dev/sdb\nshelf = 1\nslot = 2\n#read-only = true\n",
    ),
    (
        "qaoed",
        "qaoed.conf",
        "device {\n  shelf = 0;\n  slot = 2;\n  target = /root/data;\n  interface = eth0;\n}\n",
    ),
];

#[test]
fn what_is_imported_is_a_config_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("vblade.conf.d")).unwrap();
    for (format, name, text) in OTHERS {
        fs::write(dir.path().join(name), text).unwrap();
        let path = name.strip_suffix("/demo.conf").unwrap_or(name);
        let made = done(dir.path(), &format!("import {format} {path}"));
        fs::write(dir.path().join("xblade.toml"), made).unwrap();
        done(dir.path(), "check --file-only --config xblade.toml");
    }
    // What is not taken over is told by the exit code, and the rest is there.
    let touched = dir.path().join("touched");
    let bad = format!(
        "shelf=1\nslot=4\nnetif=em3\nfilename=$(touch {})\n",
        touched.display()
    );
    fs::write(dir.path().join("vblade.conf.d/bad.conf"), bad).unwrap();
    let output = xblade(dir.path(), "import vblade vblade.conf.d");
    assert_eq!(output.status.code(), Some(3));
    let made = String::from_utf8(output.stdout).unwrap();
    assert!(
        made.contains("\nslot = 3\n") && made.contains("\n# slot = 4\n"),
        "{made}"
    );
    assert!(!touched.exists(), "nothing is executed");
    failed(
        dir.path(),
        "import qaoed missing.conf",
        "cannot read missing.conf",
    );
}

/// What the packages install for scripts that call vblade.
#[test]
fn a_line_of_vblade_reaches_serve() {
    let script = |line: &str| {
        let folder = Path::new(env!("CARGO_BIN_EXE_xblade")).parent().unwrap();
        let mut shell = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/xblade-vblade"));
        shell.env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
        shell.args(line.split(' ')).output().unwrap()
    };
    let refused = script("-b 32 -d -s -r -m 020000000001 1 2 nosuch0 /nonexistent/a.raw");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("/nonexistent/a.raw"), "{said}");
    let wrong = script("1 2 eth0");
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(wrong.status.code() == Some(2) && said.contains("FILE"), "{said}");
}

#[test]
fn packagers_get_manuals_and_completions() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    assert!(done(dir, "man").contains(".TH xblade 8"));
    done(dir, "man pages");
    for page in [
        "xblade.8",
        "xblade-serve.8",
        "xblade-state-clear.8",
        "xblade.toml.5",
    ] {
        let text = fs::read_to_string(dir.join("pages").join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        assert!(text.contains(".SH NAME"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            done(dir, &format!("completions {shell}")).contains("xblade"),
            "{shell}"
        );
    }
}

/// What dpkg does with the package's scripts, in a folder that stands for the root.
#[test]
fn removing_the_package_keeps_what_purging_takes() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    for dir in [
        &wants,
        &root.join("var/lib/xblade"),
        &root.join("etc/xblade"),
        &root.join("srv"),
    ] {
        fs::create_dir_all(dir).unwrap();
    }
    let link = wants.join("xblade.service");
    std::os::unix::fs::symlink("/usr/lib/systemd/system/xblade.service", &link).unwrap();
    fs::write(root.join("var/lib/xblade/1.1.state"), "kept").unwrap();
    fs::write(root.join("srv/a.raw"), "precious").unwrap();
    let run = |script: &str, args: &[&str]| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../packaging/debian")
            .join(script);
        let status = Command::new("sh")
            .arg(path)
            .args(args)
            .env("DPKG_ROOT", root)
            .status();
        assert!(status.unwrap().success(), "{script} {args:?}");
    };
    run("postinst", &["configure", ""]);
    run("postinst", &["configure", "0.0.9"]);
    run("prerm", &["upgrade", "0.2"]);
    run("prerm", &["remove"]);
    run("postrm", &["remove"]);
    assert!(link.is_symlink() && root.join("var/lib/xblade/1.1.state").exists());
    run("postrm", &["purge"]);
    assert!(!link.is_symlink(), "a link to nothing is left");
    assert!(!root.join("var/lib/xblade").exists() && !root.join("etc/xblade").exists());
    assert!(root.join("srv/a.raw").exists(), "an image is nobody's to remove");
}

/// Chapters that the table of contents lacks are not found, and links that lead nowhere are worse.
#[test]
fn the_book_has_all_its_chapters_and_its_links_lead_somewhere() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let contents = project("docs/SUMMARY.md");
    let overview = project("docs/README.md");
    let anchors = |text: &str| -> Vec<String> {
        let headings = text.lines().filter(|line| line.starts_with('#'));
        let anchor = |line: &str| {
            let text = line
                .trim_start_matches('#')
                .trim()
                .to_lowercase()
                .replace(' ', "-");
            text.chars()
                .filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_')
                .collect()
        };
        headings.map(anchor).collect()
    };
    for entry in fs::read_dir(&docs).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix(".md") else {
            continue;
        };
        if !["SUMMARY", "README"].contains(&stem) {
            assert!(
                contents.contains(&format!("({name})")),
                "{name} is not in SUMMARY.md"
            );
            assert!(
                overview.contains(&format!("({name})")),
                "{name} is not in README.md"
            );
        }
        let text = project(&format!("docs/{name}"));
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
            .map(|(link, _)| link)
        {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                docs.join(&name)
            } else {
                docs.join(file)
            };
            assert!(target.exists(), "{name}: {link}");
            assert!(
                !file.starts_with(".."),
                "{name}: {link} is not in the book, nor on its site"
            );
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(&target).unwrap());
                assert!(
                    there.iter().any(|found| found == anchor),
                    "{name}: {link}: {there:?}"
                );
            }
        }
    }
}

/// A file of the project.
fn project(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[track_caller]
/// What it says, in whatever words.
fn config(text: &str) -> Config {
    let file = file::parse(Path::new("/x.toml"), text.to_owned());
    let file = file.unwrap_or_else(|e| panic!("{e}\n{text}"));
    Config {
        sources: Vec::new(),
        ..file.config
    }
}

/// The key of a commented-out setting: `# mode = "auto"`.
fn commented_key(line: &str) -> Option<&str> {
    let (key, _) = line.strip_prefix("# ")?.split_once(" = ")?;
    key.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        .then_some(key)
}

#[test]
fn the_packaged_example_reads_with_and_without_its_comments() {
    let text = project("packaging/xblade.toml");
    let plain = config(&text);
    let keys: Vec<&str> = text.lines().filter_map(commented_key).collect();
    assert!(keys.len() > 10, "{keys:?}");
    let with = |wanted: &dyn Fn(&str) -> bool| {
        let line = |line: &str| match commented_key(line) {
            Some(key) if wanted(key) => line.trim_start_matches("# ").to_owned() + "\n",
            _ => line.to_owned() + "\n",
        };
        config(&text.lines().map(line).collect::<String>())
    };
    let all = with(&|_| true);
    assert_ne!(all, plain);
    let without_a_default = ["allow", "rate_limit", "cpus", "vlan", "serial", "wire_admin"];
    assert_eq!(
        with(&|key| !without_a_default.contains(&key)),
        plain,
        "the rest are said to be the defaults"
    );
}

#[test]
fn the_examples_of_the_manual_read() {
    for (page, examples) in [("docs/configuration.md", 3), ("docs/one-image.md", 2)] {
        let text = project(page);
        let blocks = text
            .split("```toml\n")
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap());
        // Of a file that has more, or of one in its folder.
        let is_part =
            |block: &&str| block.starts_with("# /etc/xblade/conf.d/") || !block.contains("[[export]]");
        let (parts, blocks): (Vec<&str>, Vec<&str>) = blocks.partition(is_part);
        assert_eq!(blocks.len(), examples, "{page}");
        let main = "[defaults]\ninterfaces = [\"eth1\"]\n[acl]\nlab = [\"02:00:00:00:00:01\"]\n\
            [[export]]\nshelf = 9\nslot = 9\npath = \"/srv/9\"\n";
        let main = Arc::new(Source::new(Path::new("xblade.toml"), main.into()));
        for part in parts {
            file::parse_further(&[Arc::clone(&main)], Path::new("part.toml"), part.into()).unwrap();
        }
        blocks.into_iter().for_each(|block| drop(config(block)));
    }
}

#[test]
fn every_key_and_option_is_in_the_manual() {
    let unknown = file::parse(
        Path::new("/x.toml"),
        "[defaults]\nzzz = 1\n[[export]]\nzzz = 1\n".into(),
    );
    let message = unknown.unwrap_err().to_string();
    let manual = project("docs/configuration.md");
    let lists = message.lines().filter_map(|line| line.split_once("known here: "));
    let keys: Vec<&str> = lists.flat_map(|(_, keys)| keys.split(", ")).collect();
    assert!(keys.contains(&"cpus") && keys.contains(&"serial"), "{keys:?}");
    for key in keys {
        assert!(
            manual.contains(&format!("| `{key}` |")),
            "{key} is missing in docs/configuration.md"
        );
    }

    let manual = project("docs/cli.md");
    for command in ["serve", "daemon", "create"] {
        let help = done(Path::new("/"), &format!("{command} --help"));
        let options = help.split_whitespace().filter(|word| word.starts_with("--"));
        for option in options.filter(|option| !["--help", "--version", "--log"].contains(option)) {
            let option = option.trim_matches(|c: char| !c.is_ascii_lowercase() && c != '-');
            assert!(
                manual.contains(option),
                "{option} of {command} is missing in docs/cli.md"
            );
        }
    }
}
