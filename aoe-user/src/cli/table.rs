//! Columns for people.

use super::output;

/// Rows of text, each column as wide as its widest cell.
#[derive(Debug)]
pub(super) struct TextTable {
    rows: Vec<Vec<String>>,
}

impl TextTable {
    pub(super) fn new<const N: usize>(heading: [&str; N]) -> TextTable {
        TextTable {
            rows: vec![heading.map(str::to_owned).to_vec()],
        }
    }

    /// Of rows, the headings among them.
    pub(super) fn of(rows: Vec<Vec<String>>) -> TextTable {
        TextTable { rows }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Prints the table to standard output.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        output::print(self.text())
    }

    /// The table as text.
    pub(super) fn text(&self) -> String {
        let mut widths = Vec::new();
        for row in &self.rows {
            widths.resize(row.len().max(widths.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// A number of sectors in the largest unit that keeps three digits.
pub(super) fn size(sectors: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = sectors as f64 / 2.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value.fract() == 0.0 { 0 } else { 1 };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = TextTable::new(["A", "LONG"]);
        table.row(["wide".into(), "é".into()]);
        assert_eq!(table.text(), "A     LONG\nwide  é\n");
    }

    #[test]
    fn sizes_read_well() {
        for (sectors, text) in [
            (1, "0.5 KiB"),
            (2, "1 KiB"),
            (1 << 21, "1 GiB"),
            (3 << 20, "1.5 GiB"),
            (1 << 31, "1 TiB"),
        ] {
            assert_eq!(size(sectors), text);
        }
    }
}
