//! What comes with the binary: manual pages, completions, scripts of the package, the example configuration, the book.

mod run;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use run::done;
use xblade::config::{Config, Source, file};

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

/// What a config file says.
#[track_caller]
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
