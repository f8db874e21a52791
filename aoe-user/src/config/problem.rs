//! What is wrong, and where it stands.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A mistake for the reader to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong and what would be right.
    pub message: String,
    /// Where it stands; `None` for the command line.
    pub place: Option<Place>,
}

/// A place in a config file, with its line for showing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The whole line.
    text: String,
    /// Characters to underline.
    width: usize,
}

impl Place {
    /// The place of a span of bytes in the file's text.
    pub fn new(file: &Path, text: &str, span: Range<usize>) -> Place {
        let start = floor_char_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = floor_char_boundary(text, span.end).clamp(start, line_end);
        Place {
            file: file.to_owned(),
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            // Tabs and other control characters would put the caret in the wrong column.
            text: text[line_start..line_end]
                .trim_end()
                .replace(|c: char| c.is_control(), " "),
            width: text[start..end].chars().count().max(1),
        }
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else {
            return f.write_str(&self.message);
        };
        let Place {
            line, column, width, ..
        } = *place;
        let number = line.to_string();
        let indent = number.len();
        writeln!(f, "{}:{line}:{column}: {}", place.file.display(), self.message)?;
        writeln!(f, "  {number} | {}", place.text)?;
        write!(
            f,
            "  {:indent$} | {:skip$}{:^<width$}",
            "",
            "",
            "",
            skip = column - 1
        )
    }
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
        self.0.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_line() {
        let text = "a = 1\nslot = 255\n";
        let place = Place::new(Path::new("x.toml"), text, 13..16);
        let problem = Problem {
            message: "too much".into(),
            place: Some(place),
        };
        assert_eq!(
            problem.to_string(),
            "x.toml:2:8: too much\n  2 | slot = 255\n    |        ^^^"
        );
    }

    #[test]
    fn odd_spans_stay_inside_the_text() {
        for (text, span) in [
            ("", 0..0),
            ("", 5..9),
            ("é", 1..1),
            ("a\nb", 0..3),
            ("a\r\n", 2..3),
        ] {
            let place = Place::new(Path::new("x"), text, span);
            assert!(place.line >= 1 && place.column >= 1 && place.width >= 1);
        }
    }
}
