//! Tables whose columns the user chooses.

use anyhow::{Result, bail};

use super::args::OutputArgs;
use crate::cli::table::TextTable;

/// A column: its name, as `-o` takes it, and a row's cell in it.
pub(super) type Column<T> = (&'static str, fn(&T) -> String);

/// The columns that are to be shown: those named, else the first `usual`.
///
/// # Errors
/// When one has no such name.
pub(super) fn choose<'a, T>(
    all: &'a [Column<T>],
    usual: usize,
    output: &OutputArgs,
) -> Result<Vec<&'a Column<T>>> {
    if output.columns.is_empty() {
        return Ok(all.iter().take(usual).collect());
    }
    let find = |name: &String| {
        let found = all.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let Some(found) = found else {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            bail!("there is no column {name}; there are {}", names.join(", "));
        };
        Ok(found)
    };
    output.columns.iter().map(find).collect()
}

/// The rows as text.
pub(super) fn table<T>(columns: &[&Column<T>], rows: &[T], output: &OutputArgs) -> TextTable {
    let mut lines: Vec<Vec<String>> = Vec::new();
    if !output.no_header {
        // The names of iostat stay as everybody knows them.
        let is_iostat = columns.iter().any(|(name, _)| name.contains('/'));
        let heading = |name: &str| {
            if is_iostat {
                name.to_owned()
            } else {
                name.to_uppercase()
            }
        };
        lines.push(columns.iter().map(|(name, _)| heading(name)).collect());
    }
    for row in rows {
        lines.push(columns.iter().map(|(_, cell)| cell(row)).collect());
    }
    TextTable::of(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Column<u32>; 3] = [
        ("one", |n| n.to_string()),
        ("twice", |n| (n * 2).to_string()),
        ("rare", |_| "x".into()),
    ];

    fn output(columns: &[&str]) -> OutputArgs {
        OutputArgs {
            json: false,
            columns: columns.iter().map(ToString::to_string).collect(),
            no_header: false,
        }
    }

    #[test]
    fn the_usual_columns_or_those_named_are_shown() {
        let usual = output(&[]);
        let shown = table(&choose(&ALL, 2, &usual).unwrap(), &[4, 5], &usual);
        assert_eq!(shown.text(), "ONE  TWICE\n4    8\n5    10\n");
        let named = OutputArgs {
            no_header: true,
            ..output(&["RARE", "one"])
        };
        let shown = table(&choose(&ALL, 2, &named).unwrap(), &[4], &named);
        assert_eq!(shown.text(), "x  4\n");
        let error = choose(&ALL, 2, &output(&["none"])).unwrap_err().to_string();
        assert_eq!(error, "there is no column none; there are one, twice, rare");
    }
}
