//! Takes a TOML table apart key by key, collecting every mistake with its place instead of stopping at the first.
//!
//! serde would do with less code, but it ends at the first wrong value and cannot say what range a number has.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values::Number;

/// Characters of a value that are shown in messages.
const SHOWN_CHARS: usize = 60;

/// A value with its place.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// A mistake in the text, not yet turned into lines and columns.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

/// Where the values of a table stand, by key.
#[derive(Debug, Clone, Default)]
pub(super) struct Spans {
    keys: BTreeMap<&'static str, Range<usize>>,
}

impl Spans {
    pub(super) fn get(&self, key: &str) -> Option<Range<usize>> {
        self.keys.get(key).cloned()
    }
}

/// A table being read. What was not asked for when it is [finished](Keys::finish) is unknown.
pub(super) struct Keys<'t, 'i, 'm> {
    table: &'t DeTable<'i>,
    asked: Vec<&'static str>,
    spans: Spans,
    mistakes: &'m mut Vec<Mistake>,
}

impl<'t, 'i, 'm> Keys<'t, 'i, 'm> {
    pub(super) fn new(table: &'t DeTable<'i>, mistakes: &'m mut Vec<Mistake>) -> Self {
        Keys {
            table,
            asked: Vec::new(),
            spans: Spans::default(),
            mistakes,
        }
    }

    /// The table that each `[[key]]` is, with the keys it cannot do without; `what` is its name with an article. What is no table is noted and
    /// leaves `None`.
    pub(super) fn of(
        value: &'t Value<'i>,
        (key, what): (&str, &str),
        needed: &[&str],
        mistakes: &'m mut Vec<Mistake>,
    ) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            let shown = show(value.get_ref());
            mistakes.push(Mistake {
                span: value.span(),
                message: format!("{key} = {shown}: {what} is a table: write [[{key}]]"),
            });
            return None;
        };
        let mut keys = Keys::new(table, mistakes);
        let name = what.split_once(' ').map_or(what, |(_, name)| name);
        for key in needed.iter().filter(|key| !table.contains_key(**key)) {
            keys.mistake(value.span(), format!("the {name} has no `{key}`"));
        }
        Some(keys)
    }

    /// The table.
    pub(super) fn table(&self) -> &'t DeTable<'i> {
        self.table
    }

    /// The value of a key, unread.
    pub(super) fn raw(&mut self, key: &'static str) -> Option<&'t Value<'i>> {
        self.asked.push(key);
        let value = self.table.get(key)?;
        self.spans.keys.insert(key, value.span());
        Some(value)
    }

    /// Reads a key if it is there; a mistake is noted and leaves `None`.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'i>) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.raw(key)?;
        match read(value) {
            Ok(value) => Some(value),
            Err(reason) => {
                let message = format!("{key} = {}: {reason}", show(value.get_ref()));
                self.mistakes.push(Mistake {
                    span: value.span(),
                    message,
                });
                None
            }
        }
    }

    /// Reads a key into `into` if it is there.
    pub(super) fn set<T>(
        &mut self,
        key: &'static str,
        into: &mut T,
        read: impl FnOnce(&Value<'i>) -> Result<T, String>,
    ) {
        if let Some(value) = self.get(key, read) {
            *into = value;
        }
    }

    /// Reads an array; `read` notes its own mistakes about an element.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&'t Value<'i>, &mut Vec<Mistake>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.raw(key)?;
        let Some(array) = value.get_ref().as_array() else {
            let message = format!("{key} = {}: a list is needed, in [ ]", show(value.get_ref()));
            self.mistakes.push(Mistake {
                span: value.span(),
                message,
            });
            return None;
        };
        Some(
            array
                .iter()
                .filter_map(|element| read(element, self.mistakes))
                .collect(),
        )
    }

    pub(super) fn mistake(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.mistakes.push(Mistake {
            span,
            message: message.into(),
        });
    }

    pub(super) fn mistakes(&mut self) -> &mut Vec<Mistake> {
        self.mistakes
    }

    /// Notes every key that nobody asked for. `elsewhere` explains keys that are known but belong to another table.
    pub(super) fn finish(self, elsewhere: &[(&str, &str)]) -> Spans {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let message = if let Some((_, hint)) = elsewhere.iter().find(|(known, _)| *known == name) {
                format!("`{name}` does not belong here: {hint}")
            } else if let Some(meant) = self.asked.iter().find(|known| alike(known, name)) {
                format!("unknown key `{name}`; did you mean `{meant}`?")
            } else {
                format!("unknown key `{name}`; known here: {}", self.asked.join(", "))
            };
            self.mistakes.push(Mistake {
                span: key.span(),
                message,
            });
        }
        self.spans
    }
}

/// True when two keys differ in what fingers and habits get wrong: case, `-` for `_`, a letter too many or too few.
fn alike(known: &str, given: &str) -> bool {
    // A slip has about its length; a line of megabytes is not looked at for each key.
    if given.len() > 2 * known.len() + 2 {
        return false;
    }
    let plain = |text: &str| {
        text.replace(['-', '_'], "")
            .to_ascii_lowercase()
            .trim_end_matches('s')
            .to_owned()
    };
    let (known, given) = (plain(known), plain(given));
    let (long, short) = if known.len() >= given.len() {
        (&known, &given)
    } else {
        (&given, &known)
    };
    let same_start = long
        .bytes()
        .zip(short.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let same_end = long
        .bytes()
        .rev()
        .zip(short.bytes().rev())
        .take_while(|(a, b)| a == b)
        .count();
    long.len() >= 3 && long.len() - short.len() <= 1 && same_start + same_end + 1 >= long.len()
}

/// A value as it is shown in messages.
pub(super) fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => shorten(format!("{text:?}")),
        DeValue::Integer(number) if number.radix() == 10 => shorten(number.as_str().to_owned()),
        DeValue::Integer(number) => shorten(number.to_string()),
        DeValue::Float(number) => shorten(number.as_str().to_owned()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(_) => "[…]".to_owned(),
        DeValue::Table(_) => "{…}".to_owned(),
    }
}

/// Leaves of a long value enough to find it by.
fn shorten(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(SHOWN_CHARS) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// Reads a whole number in range.
pub(super) fn number<T: TryFrom<u64>>(range: Number) -> impl Fn(&Value<'_>) -> Result<T, String> {
    move |value| {
        let integer = value.get_ref().as_integer().ok_or_else(|| range.expected())?;
        range.check(u64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| range.expected())?)
    }
}

/// Reads `true` or `false`.
pub(super) fn boolean(value: &Value<'_>) -> Result<bool, String> {
    value
        .get_ref()
        .as_bool()
        .ok_or_else(|| "true or false is needed".into())
}

/// Reads a string in one of the text forms of [`super::values`].
pub(super) fn text<T>(read: impl Fn(&str) -> Result<T, String>) -> impl Fn(&Value<'_>) -> Result<T, String> {
    move |value| match value.get_ref().as_str() {
        Some(text) => read(text),
        // An impossible text makes the reader of the form say what it wants.
        None => Err(read("")
            .err()
            .unwrap_or_else(|| "a string is needed, in quotes".into())),
    }
}

/// Reads a string, or a whole number as the string of its digits.
pub(super) fn text_or_number<T>(
    read: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&Value<'_>) -> Result<T, String> {
    let parse = text(read);
    move |value| match value.get_ref().as_integer() {
        Some(integer) => match i128::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => parse(&Spanned::new(
                value.span(),
                DeValue::String(number.to_string().into()),
            )),
            Err(_) => parse(value),
        },
        None => parse(value),
    }
}

/// Reads one of several names. `others` are taken too, but not told.
pub(super) fn one_of<T: Copy>(
    names: &'static [(&'static str, T)],
    others: &'static [(&'static str, T)],
) -> impl Fn(&Value<'_>) -> Result<T, String> {
    move |value| {
        let given = value.get_ref().as_str();
        let known = names.iter().chain(others).find(|(name, _)| Some(*name) == given);
        known.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<String> = names.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            format!("it is one of {}", names.join(", "))
        })
    }
}

/// An element of a list, or a mistake about it.
pub(super) fn read_element<T>(
    key: &str,
    value: &Value<'_>,
    read: impl Fn(&Value<'_>) -> Result<T, String>,
    mistakes: &mut Vec<Mistake>,
) -> Option<T> {
    let note = |reason| Mistake {
        span: value.span(),
        message: format!("{key}: {}: {reason}", show(value.get_ref())),
    };
    read(value).map_err(|reason| mistakes.push(note(reason))).ok()
}

#[cfg(test)]
mod tests {
    use super::alike;

    #[test]
    fn slips_are_recognised_and_words_are_not() {
        for (known, given) in [
            ("read_only", "readonly"),
            ("read_only", "Read-Only"),
            ("interfaces", "interface"),
            ("sync", "synk"),
            ("path", "pth"),
        ] {
            assert!(alike(known, given), "{known} {given}");
        }
        assert!(!alike("slot", "path"));
        assert!(!alike("vlan", ""));
    }
}
