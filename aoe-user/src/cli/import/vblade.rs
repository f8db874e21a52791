//! vblade: Debian's shell fragments (vblade-persistence(5)), which are read and not executed, and the lines of
//! `/etc/vblade.conf` in Fedora's package: interface, shelf, slot, file and addresses.

use std::collections::BTreeMap;

use super::export::{Import, ImportedExport, addresses};

/// Variables that the scripts know.
const VARIABLES: [&str; 6] = ["shelf", "slot", "netif", "filename", "options", "ionice"];

/// What files say, each with its name.
pub(super) fn import(files: &[(String, String)]) -> Import {
    let mut import = Import::default();
    for (name, text) in files {
        let is_fragment = lines(text).any(|(_, line)| assignment(line).is_some());
        if is_fragment {
            import.exports.push(fragment(name, text));
        } else {
            import
                .exports
                .extend(lines(text).map(|(number, line)| row(name, number, line)));
        }
    }
    if import.exports.is_empty() {
        import.remarks.push("No exports were found there.".into());
    }
    import
}

/// Lines that say something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// Name and value of `NAME=VALUE`.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let (name, value) = line.split_once('=')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(is_name)).then_some((name, value))
}

/// The word that a shell would make of a value without executing anything.
fn word(value: &str) -> Result<String, String> {
    let (mut in_single, mut in_double, mut is_escaped) = (false, false, false);
    for letter in value.chars() {
        if std::mem::take(&mut is_escaped) {
            continue;
        }
        match letter {
            '\'' if !in_double => in_single = !in_single,
            _ if in_single => {}
            '"' => in_double = !in_double,
            '\\' => is_escaped = true,
            '$' | '`' => return Err("it must be executed by a shell to know its value".into()),
            ';' | '&' | '|' | '<' | '>' | '(' | ')' if !in_double => {
                return Err(format!("{letter} makes it a command of the shell"));
            }
            _ => {}
        }
    }
    let words = shlex::split(value).ok_or("a quote is not closed")?;
    match <[String; 1]>::try_from(words) {
        Ok([word]) => Ok(word),
        Err(words) if words.is_empty() => Ok(String::new()),
        Err(_) => Err("more than one word makes it a command of the shell".into()),
    }
}

fn fragment(name: &str, text: &str) -> ImportedExport {
    let mut export = ImportedExport {
        from: name.to_owned(),
        ..ImportedExport::default()
    };
    let mut values = BTreeMap::new();
    for (number, line) in lines(text) {
        let Some((variable, value)) = assignment(line) else {
            export.refuse(format!("line {number} is no assignment: {line}"));
            continue;
        };
        match word(value) {
            Ok(value) => drop(values.insert(variable.to_owned(), value)),
            Err(reason) => export.refuse(format!("line {number}: {line}: {reason}")),
        }
    }
    for (variable, value) in &values {
        if !VARIABLES.contains(&variable.as_str()) {
            export.remark(format!(
                "{variable}={value}: vblade's scripts do not know it either"
            ));
        }
    }
    let mut take = |variable: &str| values.remove(variable).filter(|value| !value.is_empty());
    let (netif, options, ionice) = (take("netif"), take("options"), take("ionice"));
    for (key, variable) in [("shelf", "shelf"), ("slot", "slot")] {
        match take(variable) {
            Some(value) => export.set_number(key, &value),
            None => export.refuse(format!(
                "{variable} is missing: vblade's scripts ignore such a file"
            )),
        }
    }
    match take("filename") {
        Some(path) => export.set("path", path),
        None => export.refuse("filename is missing: vblade's scripts ignore such a file"),
    }
    export.interfaces.extend(netif);
    if let Some(value) = ionice {
        export.remark(format!(
            "ionice={value}: no counterpart for one export; IOSchedulingClass= in a drop-in of the unit is for all"
        ));
    }
    let words = options.map(|options| shlex::split(&options).ok_or(options));
    match words {
        None => {}
        Some(Ok(words)) => take_options(&mut export, &words),
        Some(Err(options)) => export.refuse(format!("options={options}: a quote is not closed")),
    }
    export
}

/// vblade's options, as getopt(3) reads them.
fn take_options(export: &mut ImportedExport, words: &[String]) {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            return export.refuse(format!("{word} is no option of vblade"));
        };
        for (at, letter) in letters.char_indices() {
            match letter {
                'd' => export.set("store", "direct"),
                's' => export.set("sync", true),
                'r' => export.set("read_only", true),
                'b' | 'm' | 'o' | 'l' => {
                    let rest = &letters[at + 1..];
                    let value = if rest.is_empty() {
                        words.next().map(String::as_str)
                    } else {
                        Some(rest)
                    };
                    match value {
                        Some(value) => take_option(export, letter, value),
                        None => export.refuse(format!("-{letter} lacks its value")),
                    }
                    break;
                }
                _ => return export.refuse(format!("-{letter} is no option of vblade")),
            }
        }
    }
}

fn take_option(export: &mut ImportedExport, letter: char, value: &str) {
    match letter {
        'b' => export.set_number("buffers", value),
        'o' => export.set_number("offset", value),
        'l' => export.set_number("length", value),
        _ => match addresses(value) {
            Ok(list) => {
                let allow = export.allow.get_or_insert_default();
                allow.extend(list.into_iter().map(|mac| (mac, false)));
            }
            Err(reason) => export.refuse(format!("-m {value}: {reason}")),
        },
    }
}

/// `eth0 0 1 /dev/sdb 00:11:22:33:44:55,…`
fn row(name: &str, number: usize, line: &str) -> ImportedExport {
    let mut export = ImportedExport {
        from: format!("{name} line {number}"),
        ..ImportedExport::default()
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let (&[netif, shelf, slot, path], macs) = words.split_at(words.len().min(4)) else {
        export.refuse(format!(
            "{line}: expected interface, shelf, slot, file and addresses"
        ));
        return export;
    };
    export.interfaces.push(netif.to_owned());
    export.set_number("shelf", shelf);
    export.set_number("slot", slot);
    export.set("path", path);
    match macs {
        [] => {}
        [macs] => take_option(&mut export, 'm', macs),
        _ => export.refuse(format!(
            "{line}: more words than interface, shelf, slot, file and addresses"
        )),
    }
    export
}

#[cfg(test)]
mod tests {
    use super::super::export::text;
    use super::*;
    use crate::config::{Access, StoreKind, file};

    /// The output for one file, and how many exports of it are comments.
    fn of(file: &str) -> (String, usize) {
        text(import(&[("demo.conf".to_owned(), file.to_owned())]), "demo.conf")
    }

    #[test]
    fn a_fragment_of_debians_package_is_an_export() {
        let (text, refused) = of("# a comment\nshelf=10\nslot=3\nnetif=em3\nfilename='/dev/mapper/an export'\n\
             options='-rs -m 11:22:33:44:55:66,20:22:33:44:55:66 -o8 -b 32'\nionice='--class best-effort --classdata 7'\n"
            .replace("11:22", "10:22")
            .as_str());
        assert_eq!(refused, 0, "{text}");
        assert!(text.contains("# ionice=--class best-effort"), "{text}");
        let config = file::parse("x".as_ref(), text).unwrap().config;
        let export = &config.exports[0];
        assert_eq!(
            (export.shelf, export.slot, export.offset, export.buffers),
            (10, 3, 8, 32)
        );
        assert_eq!(export.path.to_str(), Some("/dev/mapper/an export"));
        assert!(export.read_only && export.sync && export.store == StoreKind::Mmap);
        assert_eq!(export.allow.len(), 2);
        assert!(export.allow.iter().all(|entry| entry.access == Access::ReadWrite));
    }

    #[test]
    fn nothing_is_executed_and_nobody_is_let_in() {
        let good = "shelf=1\nslot=2\nnetif=eth0\nfilename=/a\n";
        for (bad, reason) in [
            ("slot=$(reboot)", "executed by a shell"),
            ("slot=`reboot`", "executed by a shell"),
            ("filename=\"$HOME/a\"", "executed by a shell"),
            ("slot=2; reboot", "a command of the shell"),
            ("slot=2 reboot", "a command of the shell"),
            ("reboot", "is no assignment"),
            ("options='-m $X'", "-m $X"),
            ("options='-m 1'", "-m 1"),
            ("options='-m '", "lacks its value"),
            ("options='-m ,'", "lets nobody in"),
            ("options=-x", "-x is no option of vblade"),
            ("slot=255", "255"),
            ("filename='/a", "not closed"),
            ("netif=", "names no interface"),
        ] {
            let (text, refused) = of(&format!("{good}{bad}\n"));
            assert_eq!(refused, 1, "{bad}: {text}");
            let line = text.lines().find(|line| line.starts_with("# NOT TAKEN OVER: "));
            assert!(line.is_some_and(|line| line.contains(reason)), "{bad}: {text}");
            assert!(
                file::parse("x".as_ref(), text).is_err(),
                "nothing to serve is left"
            );
        }
        let (text, _) = of("filename='/a$b`c;d'\nshelf=1\nslot=1\nnetif=eth0\n");
        assert!(
            text.contains("path = \"/a$b`c;d\""),
            "quoted it is a text: {text}"
        );
        let (text, refused) = of("shelf=1\nslot=2\nnetif=eth0\n");
        assert!(refused == 1 && text.contains("filename is missing"), "{text}");
    }

    #[test]
    fn rows_are_exports_and_those_on_several_interfaces_are_one() {
        let (text, refused) = of(
            "#netif shelf slot file macs\neth0 0 1 /dev/sdb 02:00:00:00:00:01\neth1 0 1 /dev/sdb 02:00:00:00:00:01\neth0 0 2 /dev/sdc\nx\n",
        );
        assert_eq!(refused, 1, "{text}");
        let config = file::parse("x".as_ref(), text).unwrap().config;
        assert_eq!(config.exports.len(), 2);
        assert_eq!(config.exports[0].interfaces, ["eth0", "eth1"]);
        assert_eq!(
            (config.exports[0].allow.len(), config.exports[1].allow.len()),
            (1, 0)
        );
    }
}
