//! qaoed.conf: blocks of `key = value;`, one for each device, access list and interface.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::vec::IntoIter;

use anyhow::{Result, bail};
use aoe_common::Mac;

use super::export::{Import, ImportedExport, addresses};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Equals,
    End,
    Word(String),
}

/// What stands between braces.
#[derive(Debug, Clone, Default)]
struct Block {
    /// In their order: an access list has several `accept`.
    values: Vec<(String, String)>,
    blocks: Vec<(String, Block)>,
}

impl Block {
    fn get(&self, key: &str) -> Option<&str> {
        let mut found = self.values.iter().rev();
        found
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Block> {
        let blocks = self.blocks.iter();
        blocks
            .filter(move |(found, _)| found == name)
            .map(|(_, block)| block)
    }
}

/// What the file says.
///
/// # Errors
/// When braces and semicolons do not match.
pub(super) fn import(text: &str) -> Result<Import> {
    let mut tokens = tokens(text)?.into_iter().peekable();
    let file = block(&mut tokens, 0)?;
    let lists = file.all("access-list").map(List::of).collect::<Vec<_>>();
    let none = Block::default();
    let defaults = file.all("default").last().unwrap_or(&none);
    let mut import = Import::default();
    for interface in file.all("interface") {
        let name = interface.get("interface").unwrap_or_default();
        if let Some(mtu) = interface.get("mtu").filter(|mtu| *mtu != "auto") {
            import.remarks.push(format!(
                "interface {name}: mtu = {mtu}: the interface's own is used; max_sectors limits commands further"
            ));
        }
    }
    if file.all("logging").next().is_some() {
        import
            .remarks
            .push("logging: the log goes to the journal, see --log".into());
    }
    for device in file.all("device") {
        import.exports.push(export(device, defaults, &lists));
    }
    Ok(import)
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let (token, length) = match letter {
            '#' => (None, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => match rest.find("*/") {
                Some(end) => (None, end + 2),
                None => bail!("a comment is not closed"),
            },
            '{' => (Some(Token::Open), 1),
            '}' => (Some(Token::Close), 1),
            '=' => (Some(Token::Equals), 1),
            ';' => (Some(Token::End), 1),
            '"' => match rest[1..].find('"') {
                Some(end) => (Some(Token::Word(rest[1..=end].to_owned())), end + 2),
                None => bail!("a quote is not closed"),
            },
            letter if letter.is_whitespace() => (None, letter.len_utf8()),
            _ => {
                let is_end = |c: char| c.is_whitespace() || "{}=;\"#".contains(c);
                let end = rest.find(is_end).unwrap_or(rest.len());
                (Some(Token::Word(rest[..end].to_owned())), end)
            }
        };
        tokens.extend(token);
        rest = &rest[length..];
    }
    Ok(tokens)
}

/// Deeper than any file of qaoed.
const DEEPEST: usize = 8;

fn block(tokens: &mut Peekable<IntoIter<Token>>, depth: usize) -> Result<Block> {
    let mut block = Block::default();
    while let Some(token) = tokens.next() {
        let name = match token {
            Token::Word(name) => name,
            Token::End => continue,
            Token::Close if depth > 0 => return Ok(block),
            other => bail!("{other:?} stands where a name is expected"),
        };
        match tokens.next() {
            Some(Token::Equals) => {
                let mut words = Vec::new();
                while let Some(Token::Word(word)) = tokens.next_if(|token| matches!(token, Token::Word(_))) {
                    words.push(word);
                }
                if tokens.next() != Some(Token::End) {
                    bail!("{name} = {}: the ; is missing", words.join(" "));
                }
                block.values.push((name, words.join(" ")));
            }
            Some(Token::Open) if depth < DEEPEST => {
                block.blocks.push((name, self::block(tokens, depth + 1)?));
            }
            _ => bail!("{name}: neither = nor {{ follows"),
        }
    }
    if depth > 0 {
        bail!("a block is not closed");
    }
    Ok(block)
}

/// An access list.
struct List<'a> {
    name: &'a str,
    /// Whom it lets in; `None`: everyone.
    accepts: Result<Option<BTreeSet<Mac>>, String>,
}

impl<'a> List<'a> {
    fn of(block: &'a Block) -> List<'a> {
        let name = block.get("name").unwrap_or_default();
        let listed = |key: &str| {
            let mut found = BTreeSet::new();
            for (_, value) in block.values.iter().filter(|(name, _)| name == key) {
                found.extend(addresses(value).map_err(|error| format!("access list {name}: {error}"))?);
            }
            Ok::<_, String>(found)
        };
        let accepts = || match (
            block.get("policy").unwrap_or("reject"),
            listed("accept")?,
            listed("reject")?,
        ) {
            ("reject", accept, reject) => Ok(Some(accept.difference(&reject).copied().collect())),
            ("accept", _, reject) if reject.is_empty() => Ok(None),
            ("accept", ..) => Err(format!(
                "access list {name} says who may not; there are only lists of those who may"
            )),
            (policy, ..) => Err(format!(
                "access list {name}: policy = {policy} is neither accept nor reject"
            )),
        };
        List {
            name,
            accepts: accepts(),
        }
    }
}

/// Whom the list for an operation lets in; `None`: everyone.
fn accepted(acl: Option<&Block>, operation: &str, lists: &[List]) -> Result<Option<BTreeSet<Mac>>, String> {
    let Some(name) = acl.and_then(|acl| acl.get(operation)) else {
        return Ok(None);
    };
    let list = lists.iter().find(|list| list.name == name);
    list.map_or_else(
        || Err(format!("there is no access list {name}")),
        |list| list.accepts.clone(),
    )
}

/// Those who may see and read it, each with whether that is all; `None`: everyone may do everything.
fn allowed(acl: Option<&Block>, lists: &[List]) -> Result<Option<BTreeMap<Mac, bool>>, String> {
    let mut readers: Option<BTreeSet<Mac>> = None;
    for operation in ["discover", "cfgread", "read"] {
        if let Some(more) = accepted(acl, operation, lists)? {
            readers = Some(match readers {
                Some(readers) => readers.intersection(&more).copied().collect(),
                None => more,
            });
        }
    }
    match (readers, accepted(acl, "write", lists)?) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err("everyone may read and some may write: a list names all who may do anything".into())
        }
        (Some(readers), writers) => {
            let reads_only = |mac: &Mac| writers.as_ref().is_some_and(|writers| !writers.contains(mac));
            Ok(Some(
                readers.into_iter().map(|mac| (mac, reads_only(&mac))).collect(),
            ))
        }
    }
}

fn export(device: &Block, defaults: &Block, lists: &[List]) -> ImportedExport {
    let get = |key: &str| device.get(key).or_else(|| defaults.get(key));
    let target = device.get("target").unwrap_or_default();
    let mut export = ImportedExport {
        from: format!("device {target}"),
        ..ImportedExport::default()
    };
    export.set_number("shelf", get("shelf").unwrap_or("0"));
    match device.get("slot") {
        Some(slot) => export.set_number("slot", slot),
        None => export.refuse("it has no slot of its own: qaoed counts up; write down which it has had"),
    }
    if target.is_empty() {
        export.refuse("target is missing");
    } else {
        export.set("path", target);
    }
    export
        .interfaces
        .push(get("interface").unwrap_or("eth0").to_owned());
    match get("writecache").unwrap_or("on") {
        "on" => {}
        "off" => export.set("sync", true),
        other => export.refuse(format!("writecache = {other} is neither on nor off")),
    }
    let acl = device.all("acl").last().or_else(|| defaults.all("acl").last());
    match allowed(acl, lists) {
        Ok(allow) => export.allow = allow,
        Err(reason) => export.refuse(reason),
    }
    if acl.is_some_and(|acl| acl.get("cfgset").is_some()) {
        export.set("wire_admin", false);
        export.remark(
            "cfgset: nobody may change the config string any more; wire_admin = true lets all of `allow`",
        );
    }
    for key in ["broadcast", "log", "log-level"] {
        if let Some(value) = device.get(key) {
            export.remark(format!("{key} = {value}: no counterpart"));
        }
    }
    export
}

#[cfg(test)]
mod tests {
    use super::super::export::text;
    use super::*;
    use crate::config::{Access, file};

    fn of(device: &str) -> (String, usize) {
        let lists = "access-list { name = few; accept = \"00:12:23:45:66:FE\"; accept = 00:10:33:43:32:FE; }\n\
            access-list { name = one; policy = reject; accept = 00:10:33:43:32:FE; log = x; }\n\
            access-list { name = \"all of them\"; policy = accept; }\n\
            access-list { name = not; policy = accept; reject = 00:10:33:43:32:FE; }\n";
        let file = format!(
            "## qaoed.conf\nlog-level = error;\nlogging {{ name = default; type = syslog; }}\n\
             interface {{ interface = \"eth0\"; mtu = 4096; }}\n/* a device {{ */\n\
             default {{ shelf = 33; writecache = off; interface = eth1; }}\n{lists}device {{ target = /root/data; {device} }}\n"
        );
        text(import(&file).unwrap(), "qaoed.conf")
    }

    fn exports(text: String) -> Vec<crate::config::ExportConfig> {
        file::parse("x".as_ref(), text).unwrap().config.exports
    }

    #[test]
    fn a_device_is_an_export() {
        let (text, refused) = of("slot = 2; log-level = info;");
        assert_eq!(refused, 0, "{text}");
        assert!(
            text.contains("# interface eth0: mtu = 4096") && text.contains("# log-level = info"),
            "{text}"
        );
        let export = &exports(text)[0];
        assert_eq!((export.shelf, export.slot, export.sync), (33, 2, true));
        assert_eq!(
            (export.path.to_str(), &export.interfaces[0][..]),
            (Some("/root/data"), "eth1")
        );
        assert!(export.allow.is_empty());
    }

    #[test]
    fn lists_for_operations_are_one_list() {
        let (text, refused) = of("slot = 2; acl { read = few; write = one; cfgset = one; }");
        assert_eq!(refused, 0, "{text}");
        let export = &exports(text)[0];
        let allow: Vec<_> = export
            .allow
            .iter()
            .map(|entry| (entry.mac.to_string(), entry.access))
            .collect();
        let expected = [
            ("00:10:33:43:32:fe", Access::ReadWrite),
            ("00:12:23:45:66:fe", Access::ReadOnly),
        ];
        assert_eq!(allow, expected.map(|(mac, access)| (mac.to_owned(), access)));
        assert_eq!(export.wire_admin, Some(false));
        let (text, _) = of("slot = 2; acl { cfgread = one; read = \"all of them\"; }");
        assert_eq!(exports(text)[0].allow.len(), 1);
    }

    #[test]
    fn a_list_that_is_not_understood_lets_nobody_in() {
        for device in [
            "slot = 2; acl { write = one; }",
            "slot = 2; acl { read = not; }",
            "slot = 2; acl { read = missing; }",
            "slot = 2; writecache = maybe;",
            "slot = 2; shelf = x;",
            "",
        ] {
            let (text, refused) = of(device);
            assert_eq!(refused, 1, "{device}: {text}");
            assert!(
                file::parse("x".as_ref(), text).is_err(),
                "nothing to serve is left"
            );
        }
        for broken in [
            "device {",
            "device }",
            "device { target = \"/a; }",
            "/* x",
            "a = b c",
            "= ;",
        ] {
            assert!(import(broken).is_err(), "{broken}");
        }
    }
}
