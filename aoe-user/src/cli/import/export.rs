//! One export of another target, in the words of our config file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use aoe_common::Mac;
use toml::Value;

use crate::config::file;
use crate::config::values;

/// What another target's configuration says.
#[derive(Debug, Default)]
pub(super) struct Import {
    /// About all of it.
    pub(crate) remarks: Vec<String>,
    /// The exports.
    pub(crate) exports: Vec<ImportedExport>,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ImportedExport {
    /// Where it was.
    pub(crate) from: String,
    /// Keys of `[[export]]` but those below.
    pub(crate) keys: BTreeMap<&'static str, Value>,
    /// Where it is served.
    pub(crate) interfaces: Vec<String>,
    /// Who may use it, and whether only for reading; `None`: everyone.
    pub(crate) allow: Option<BTreeMap<Mac, bool>>,
    /// What has no counterpart.
    pub(crate) remarks: Vec<String>,
    /// Why it cannot be taken over.
    pub(crate) refused: Option<String>,
}

impl Import {
    /// Exports that differ only in where they are served are one: the others have a process for each interface.
    pub(super) fn merged(self) -> Vec<ImportedExport> {
        let mut merged: Vec<ImportedExport> = Vec::new();
        for export in self.exports {
            let is_same = |other: &&mut ImportedExport| {
                export.refused.is_none()
                    && other.refused.is_none()
                    && other.keys == export.keys
                    && other.allow == export.allow
            };
            match merged.iter_mut().find(is_same) {
                Some(first) => {
                    first.from = format!("{}, {}", first.from, export.from);
                    first.interfaces.extend(export.interfaces);
                    first.remarks.extend(export.remarks);
                }
                None => merged.push(export),
            }
        }
        merged
    }
}

impl ImportedExport {
    /// Sets a key.
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.keys.insert(key, value.into());
    }

    /// Sets a key to a number that is written as text.
    pub(super) fn set_number(&mut self, key: &'static str, text: &str) {
        match text.parse::<i64>() {
            Ok(number) => self.set(key, number),
            Err(_) => self.refuse(format!("{key} = {text} is no number")),
        }
    }

    /// Says that something is not taken over.
    pub(super) fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// Leaves the export to the operator; the first reason stays.
    pub(super) fn refuse(&mut self, reason: impl Into<String>) {
        self.refused.get_or_insert(reason.into());
    }

    /// Its text, and whether it is in force there: what our own parser refuses is a comment with its reason.
    pub(super) fn render(mut self) -> (String, bool) {
        // An empty list is everyone's: it must not come of a list that shuts everyone out.
        if self.allow.as_ref().is_some_and(BTreeMap::is_empty) {
            self.refuse("its access list lets nobody in");
        }
        if self.interfaces.is_empty() {
            self.refuse("it names no interface");
        }
        let table = self.table();
        if let Err(problems) = file::parse(Path::new("export"), table.clone()) {
            let first = problems.0.first().map(|problem| problem.message.clone());
            self.refuse(first.unwrap_or_default());
        }
        let mut text = format!("# From {}\n", one_line(&self.from));
        for remark in &self.remarks {
            let _ = writeln!(text, "# {}", one_line(remark));
        }
        let Some(reason) = &self.refused else {
            return (text + &table, true);
        };
        let _ = writeln!(text, "# NOT TAKEN OVER: {}", one_line(reason));
        for line in table.lines() {
            let _ = writeln!(text, "# {line}");
        }
        (text, false)
    }

    fn table(&self) -> String {
        let mut text = "[[export]]\n".to_owned();
        let mut keys: Vec<_> = self.keys.iter().collect();
        // What names it comes first.
        let place = |key: &str| ["shelf", "slot", "path"].iter().position(|first| *first == key);
        keys.sort_by_key(|(key, _)| place(key).unwrap_or(usize::MAX));
        for (key, value) in keys {
            let _ = writeln!(text, "{key} = {value}");
        }
        let list = |values: Vec<String>| values.join(", ");
        let names = self
            .interfaces
            .iter()
            .map(|name| Value::from(name.as_str()).to_string());
        let _ = writeln!(text, "interfaces = [{}]", list(names.collect()));
        if let Some(allow) = &self.allow {
            let entry = |(mac, reads_only): (&Mac, &bool)| match reads_only {
                false => format!("\"{mac}\""),
                true => format!("{{ mac = \"{mac}\", access = \"ro\" }}"),
            };
            let _ = writeln!(text, "allow = [{}]", list(allow.iter().map(entry).collect()));
        }
        text
    }
}

/// The addresses in a list with commas.
///
/// # Errors
/// What is none.
pub(super) fn addresses(text: &str) -> Result<Vec<Mac>, String> {
    let address = |word: &str| values::initiator(word).map_err(|error| format!("{word}: {error}"));
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(address).collect()
}

/// The config file, and how many exports it has only as comments.
pub(super) fn text(import: Import, from: &str) -> (String, usize) {
    let mut text =
        format!("# Made of {from} by `xblade import`. Read it, then: xblade check --config FILE\n");
    for remark in &import.remarks {
        let _ = writeln!(text, "# {}", one_line(remark));
    }
    let mut refused = 0;
    for export in import.merged() {
        let (rendered, is_whole) = export.render();
        refused += usize::from(!is_whole);
        text.push('\n');
        text.push_str(&rendered);
    }
    (text, refused)
}

/// What is said in a comment stays in it.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}
