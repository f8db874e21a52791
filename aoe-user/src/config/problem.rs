//! What is wrong, and where it stands.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::source::Source;

/// Problems shown at once; the rest is counted.
const SHOWN: usize = 20;
/// Characters shown of a line, around what is wrong with it.
const LINE_CHARS: usize = 100;
/// Characters shown before what is wrong.
const LEAD_CHARS: usize = 40;
/// Characters shown of a message: of its start, and of its end, where the remedy is.
const MESSAGE_CHARS: (usize, usize) = (500, 200);

/// A mistake for the reader to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong and what would be right.
    pub message: String,
    /// Where it stands; `None` for the command line.
    pub place: Option<TextPlace>,
}

/// A place in a config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextPlace {
    source: Arc<Source>,
    /// Bytes of the text; on character boundaries, inside one line, of which it may be the end.
    span: Range<usize>,
}

impl TextPlace {
    /// The place of any span of bytes; what is outside the text or the span's first line is cut off.
    pub(crate) fn new(source: &Arc<Source>, span: Range<usize>) -> TextPlace {
        let text = source.text();
        let start = text.floor_char_boundary(span.start);
        let (_, line) = source.line(start);
        let start = start.min(line.end);
        let end = text.floor_char_boundary(span.end).clamp(start, line.end);
        TextPlace {
            source: Arc::clone(source),
            span: start..end,
        }
    }

    /// Its bytes in the text.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Line, from 1.
    pub fn line(&self) -> usize {
        self.source.line(self.span.start).0
    }

    /// Column in characters, from 1.
    pub fn column(&self) -> usize {
        let (_, line) = self.source.line(self.span.start);
        self.source.text()[line.start..self.span.start].chars().count() + 1
    }

    /// The file.
    pub(crate) fn file(&self) -> &std::path::Path {
        self.source.file()
    }

    /// File, line and column, as compilers write them.
    pub(crate) fn name(&self) -> String {
        format!("{}:{}:{}", self.file().display(), self.line(), self.column())
    }

    /// The line with the place underlined, or as much of it as fits a terminal.
    fn excerpt(&self) -> String {
        let text = self.source.text();
        let (number, line) = self.source.line(self.span.start);
        let before = &text[line.start..self.span.start];
        let lead = before.char_indices().rev().nth(LEAD_CHARS - 1);
        let from = lead.map_or(line.start, |(at, _)| line.start + at);
        let rest = text[from..line.end].char_indices().nth(LINE_CHARS);
        let to = rest.map_or(line.end, |(at, _)| from + at);
        let mut shown = String::new();
        if from > line.start {
            shown.push('…');
        }
        let shift = shown.len();
        shown.extend(text[from..to].chars().map(without_control));
        let span = shift + self.span.start - from..shift + self.span.end.min(to) - from;
        if to < line.end {
            shown.push('…');
        }
        let mark = AnnotationKind::Primary.span(span);
        let snippet = Snippet::source(shown).line_start(number).annotation(mark);
        Renderer::plain()
            .decor_style(DecorStyle::Ascii)
            .render(&[Group::with_level(Level::ERROR).element(snippet)])
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = printable(&self.message);
        let Some(place) = &self.place else {
            return f.write_str(&message);
        };
        write!(f, "{}: {message}\n{}", place.name(), place.excerpt())
    }
}

/// What is shown for a character that would move the cursor: as many bytes, so that spans stay where they are.
fn without_control(c: char) -> char {
    match c {
        _ if c.is_ascii_control() => ' ',
        _ if c.is_control() => '·',
        _ => c,
    }
}

/// A message without what would move the cursor, and no longer than people read.
fn printable(message: &str) -> Cow<'_, str> {
    let (start, end) = MESSAGE_CHARS;
    let long = message.char_indices().nth(start + end).is_some();
    let odd = |c: char| c.is_control() && c != '\n';
    if !long && !message.contains(odd) {
        return Cow::Borrowed(message);
    }
    let mut short: Vec<char> = message.chars().collect();
    if long {
        short.splice(start..short.len() - end, " … ".chars());
    }
    let escape = |c: char| {
        if odd(c) {
            c.escape_default().collect()
        } else {
            String::from(c)
        }
    };
    Cow::Owned(short.into_iter().map(escape).collect())
}

/// All mistakes that were found, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0.as_slice() {
            return write!(f, "{only}");
        }
        write!(f, "{} problems", self.0.len())?;
        self.0
            .iter()
            .take(SHOWN)
            .try_for_each(|problem| write!(f, "\n{problem}"))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn place(text: &str, span: Range<usize>) -> TextPlace {
        TextPlace::new(&Arc::new(Source::new(Path::new("x.toml"), text.into())), span)
    }

    fn problem(message: &str, text: &str, span: Range<usize>) -> String {
        let place = Some(place(text, span));
        let message = message.into();
        Problem { message, place }.to_string()
    }

    #[test]
    fn a_problem_shows_its_line() {
        assert_eq!(
            problem("too much", "a = 1\nslot = 255\n", 13..16),
            "x.toml:2:8: too much\n  |\n2 | slot = 255\n  |        ^^^"
        );
    }

    #[test]
    fn a_long_line_is_shown_in_part() {
        let text = format!(
            "allow = [{}\"bad\"{}]",
            "\"020000000001\", ".repeat(5000),
            ", 1".repeat(5000)
        );
        let at = text.find("\"bad\"").unwrap();
        let shown = problem("no address", &text, at..at + 5);
        assert!(
            shown.starts_with(&format!("x.toml:1:{}: no address\n", at + 1)),
            "{shown}"
        );
        assert!(
            shown.contains("…020000000001\", ") || shown.contains("\"020000000001\", \"bad\", 1"),
            "{shown}"
        );
        assert!(shown.len() < 400, "{} bytes: {shown}", shown.len());
        let (line, mark) = (shown.lines().nth(2).unwrap(), shown.lines().nth(3).unwrap());
        let column = line.chars().position(|c| c == 'b').unwrap();
        assert_eq!(mark.chars().position(|c| c == '^'), Some(column - 1), "{shown}");
    }

    #[test]
    fn a_long_mark_and_a_long_message_are_cut() {
        let text = format!("serial = \"{}\"", "é".repeat(100_000));
        let shown = problem(&format!("{text}: too long; take less"), &text, 9..text.len());
        assert!(shown.chars().count() < 1200, "{shown}");
        assert!(shown.contains("too long; take less"), "the remedy stays: {shown}");
    }

    #[test]
    fn terminals_get_no_orders() {
        let shown = problem("unknown key `\x1b[2J`", "\x1b[2J\x07 = 1", 0..4);
        assert!(
            !shown.contains(|c: char| c.is_control() && c != '\n'),
            "{shown:?}"
        );
    }

    #[test]
    fn many_problems_are_counted() {
        let problem = Problem {
            message: "bad".into(),
            place: Some(place(&"x".repeat(1 << 20), 1 << 19..1 << 20)),
        };
        let shown = Problems(vec![problem; 100_000]).to_string();
        assert!(
            shown.starts_with("100000 problems\n") && shown.ends_with("\nand 99980 more"),
            "{shown}"
        );
        assert!(shown.len() < 20 * 400, "{}", shown.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_text_and_no_span_panics(
            text in prop_oneof!["\\PC{0,300}", "(.|\n|\t|\r|\u{202e}|漢|e\u{301}|\u{0}|\u{feff}|👩‍👩‍👧){0,400}"],
            repeat in prop_oneof![8 => 1usize..3, 1 => 1000usize..3000],
            message in "(.|\n){0,40}",
            start in 0usize..200_000,
            length in prop_oneof![0usize..20, 0usize..200_000],
        ) {
            let text = text.repeat(repeat);
            let span = start % (text.len() + 3)..start % (text.len() + 3) + length;
            let place = place(&text, span);
            prop_assert!((1..=text.matches('\n').count() + 1).contains(&place.line()));
            prop_assert!(place.column() >= 1);
            let shown = Problem { message, place: Some(place) }.to_string();
            prop_assert!(shown.len() < 5000, "{} bytes", shown.len());
        }
    }
}
