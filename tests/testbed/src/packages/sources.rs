//! Where Debian's packages come from on this machine, told for a suite that it is not set up for.
//!
//! The mirror, its key and its options are the machine's own: only the suite is changed, in files of ours.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One file of package sources: its name as apt wants it, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The form is in the ending: `.list` or `.sources`.
    pub name: String,
    /// What stands in it.
    pub text: String,
}

/// What the machine's sources say of Debian, with `more` suites added to the release itself.
///
/// # Errors
/// When none of them is Debian's archive.
pub(super) fn of_debian(etc_apt: &Path, codename: &str, more: &[String]) -> Result<Vec<Source>> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(parts) = fs::read_dir(etc_apt.join("sources.list.d")) {
        files.extend(parts.filter_map(Result::ok).map(|part| part.path()));
    }
    files.sort();
    let mut sources = Vec::new();
    for (n, path) in files.iter().enumerate() {
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        let (form, text) = match path.extension().and_then(|ending| ending.to_str()) {
            Some("list") => ("list", lines(&text, codename, more)),
            Some("sources") => ("sources", stanzas(&text, codename, more)),
            _ => continue,
        };
        if !text.is_empty() {
            sources.push(Source {
                name: format!("{n}.{form}"),
                text,
            });
        }
    }
    (!sources.is_empty()).then_some(sources).with_context(|| {
        format!(
            "no source of Debian {codename} in {}/sources.list or sources.list.d",
            etc_apt.display()
        )
    })
}

/// The address of a mirror of Debian's archive: of the first source that has the release itself.
///
/// # Errors
/// When no source does.
pub(super) fn mirror(etc_apt: &Path, codename: &str) -> Result<String> {
    // A suite of our own is put beside the release, and nowhere else.
    let sources = of_debian(etc_apt, codename, &["release".to_owned()])?;
    let has_release = |text: &str| text.split_whitespace().any(|word| word == "release");
    let uri = |text: &str| {
        let words = text.split_whitespace();
        words.map(str::to_owned).find(|word| word.contains(":/"))
    };
    let texts = sources
        .iter()
        .flat_map(|source| match source.name.ends_with("list") {
            true => source.text.lines().collect::<Vec<&str>>(),
            false => source.text.split("\n\n").collect(),
        });
    texts
        .filter(|text| has_release(text))
        .find_map(uri)
        .with_context(|| format!("no mirror of Debian {codename} in {}", etc_apt.display()))
}

/// The lines `deb [options] URI SUITE COMPONENT…` of Debian's archive.
fn lines(text: &str, codename: &str, more: &[String]) -> String {
    let mut kept = String::new();
    for line in text.lines().map(str::trim) {
        let Some(rest) = line.strip_prefix("deb ").or_else(|| line.strip_prefix("deb\t")) else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((options, rest)) => (format!("[{options}] "), rest),
            None => (String::new(), rest),
        };
        let mut words = rest.split_whitespace();
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            continue;
        };
        for suite in suites(&[uri], &[suite], codename, more) {
            kept += &format!("deb {options}{uri} {suite} main\n");
        }
    }
    kept
}

/// The stanzas of Debian's archive, with all their fields but the suites and components.
fn stanzas(text: &str, codename: &str, more: &[String]) -> String {
    let mut kept = String::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let values = |field: &str| -> Vec<&str> { values(stanza, field) };
        let off = values("Enabled").first().is_some_and(|word| *word == "no");
        if off || !values("Types").contains(&"deb") {
            continue;
        }
        let suites = suites(&values("URIs"), &values("Suites"), codename, more);
        if suites.is_empty() {
            continue;
        }
        kept += &format!("Types: deb\nSuites: {}\nComponents: main\n", suites.join(" "));
        let mut keep = false;
        for line in stanza {
            if !line.starts_with([' ', '\t']) {
                keep = !["Types", "Suites", "Components", "Enabled"]
                    .iter()
                    .any(|field| is_field(line, field));
            }
            if keep {
                kept += line;
                kept += "\n";
            }
        }
        kept += "\n";
    }
    kept
}

/// The words of a field, those on its further lines too.
fn values<'a>(stanza: &[&'a str], field: &str) -> Vec<&'a str> {
    let mut lines = stanza.iter().skip_while(|line| !is_field(line, field));
    let first = lines.next().and_then(|line| line.split_once(':'));
    first
        .map(|(_, value)| value)
        .into_iter()
        .chain(lines.take_while(|line| line.starts_with([' ', '\t'])).copied())
        .flat_map(str::split_whitespace)
        .collect()
}

fn is_field(line: &str, field: &str) -> bool {
    line.split_once(':')
        .is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case(field))
}

/// Those of Debian's suites that a source has, and `more` where the release itself is among them; nothing when the source
/// is not Debian's (others name their suites alike).
fn suites(uris: &[&str], suites: &[&str], codename: &str, more: &[String]) -> Vec<String> {
    // https://…/debian, https://…/debian-security/, mirror+file:/etc/apt/mirrors/debian.list
    let place = |uri: &&str| {
        let last = uri.trim_end_matches('/').rsplit('/').next();
        last.is_some_and(|last| last.starts_with("debian"))
    };
    let names = ["stable", "oldstable", "testing", codename];
    let is_release = |suite: &str| names.contains(&suite);
    let known = |suite: &&&str| {
        let root = suite.split(['-', '/']).next().unwrap_or(suite);
        is_release(root) && !suite.ends_with("backports")
    };
    let mut kept: Vec<String> = suites
        .iter()
        .filter(known)
        .map(|suite| (*suite).to_owned())
        .collect();
    if !uris.iter().all(place) || kept.is_empty() {
        return Vec::new();
    }
    if suites.iter().any(|suite| is_release(suite)) {
        kept.extend(more.iter().cloned());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backports() -> Vec<String> {
        vec!["bookworm-backports".to_owned()]
    }

    #[test]
    fn lines_keep_their_options_and_others_archives_are_left_out() {
        let text = "# deb http://commented.example/debian bookworm main\n\
            deb [signed-by=/k.gpg arch=amd64] http://a.example/debian bookworm main contrib\n\
            deb-src http://a.example/debian bookworm main\n\
            deb http://a.example/debian-security/ bookworm-security main\n\
            deb http://tools.example/apt bookworm main\n\
            deb http://other.example/debian someone-elses main\n\
            deb http://flat.example/debian ./\n";
        assert_eq!(
            lines(text, "bookworm", &backports()),
            "deb [signed-by=/k.gpg arch=amd64] http://a.example/debian bookworm main\n\
             deb [signed-by=/k.gpg arch=amd64] http://a.example/debian bookworm-backports main\n\
             deb http://a.example/debian-security/ bookworm-security main\n"
        );
    }

    #[test]
    fn stanzas_keep_their_key_even_one_written_out() {
        let text = "Types: deb deb-src\n# a remark\nURIs: mirror+file:///etc/apt/mirrors/debian.list\n\
            Suites: bookworm bookworm-updates bookworm-backports\nComponents: main non-free\nSigned-By:\n -----BEGIN\n .\n KEY\n\n\
            Types: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\nEnabled: no\n\n\
            Types: deb\nURIs: http://tools.example/x\nSuites: bookworm\nComponents: main\n";
        assert_eq!(
            stanzas(text, "bookworm", &backports()),
            "Types: deb\nSuites: bookworm bookworm-updates bookworm-backports\nComponents: main\n\
             URIs: mirror+file:///etc/apt/mirrors/debian.list\nSigned-By:\n -----BEGIN\n .\n KEY\n\n"
        );
    }

    #[test]
    fn both_forms_are_read_and_none_is_an_error() {
        let etc = tempfile::tempdir().unwrap();
        std::fs::create_dir(etc.path().join("sources.list.d")).unwrap();
        assert!(of_debian(etc.path(), "bookworm", &[]).is_err());
        std::fs::write(
            etc.path().join("sources.list"),
            "deb http://a.example/debian stable main\n",
        )
        .unwrap();
        std::fs::write(
            etc.path().join("sources.list.d/debian.sources"),
            "Types: deb\nURIs: http://b.example/debian\nSuites: bookworm\nComponents: main\nSigned-By: /k.gpg\n",
        )
        .unwrap();
        assert_eq!(mirror(etc.path(), "bookworm").unwrap(), "http://a.example/debian");
        std::fs::write(
            etc.path().join("sources.list"),
            "deb [arch=amd64] http://s.example/debian-security stable-security main\n",
        )
        .unwrap();
        assert_eq!(mirror(etc.path(), "bookworm").unwrap(), "http://b.example/debian");
        std::fs::write(
            etc.path().join("sources.list"),
            "deb http://a.example/debian stable main\n",
        )
        .unwrap();
        let sources = of_debian(etc.path(), "bookworm", &backports()).unwrap();
        assert_eq!(sources.len(), 2);
        assert!(
            sources
                .iter()
                .all(|source| source.text.contains("bookworm-backports")),
            "{sources:?}"
        );
    }
}
