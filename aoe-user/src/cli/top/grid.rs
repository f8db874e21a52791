//! Rows and columns that can be sorted, filtered and cut to a width.

use std::cmp::Ordering;

use super::theme::Tone;

/// What a column is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// Its heading.
    pub(crate) name: &'static str,
    /// Its width; the last one shown takes what is left.
    pub(crate) width: u16,
    /// It is shown on screens of at least this width.
    pub(crate) from: u16,
    /// Where its text goes.
    pub(crate) side: Side,
}

/// How a text fits its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// From the left, cut at the right.
    Left,
    /// To the right: numbers.
    Right,
    /// The end of it is shown: what grows at the right.
    End,
}

/// A value and how it is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    /// As it is shown.
    pub(crate) text: String,
    /// Sorts before the text; `NAN` last.
    pub(crate) number: f64,
}

impl Cell {
    /// Sorted by its letters.
    pub(super) fn text(text: impl Into<String>) -> Cell {
        Cell {
            text: text.into(),
            number: 0.0,
        }
    }

    /// Sorted by a number.
    pub(super) fn number(number: f64, text: impl Into<String>) -> Cell {
        Cell {
            text: text.into(),
            number,
        }
    }

    fn order(&self, other: &Cell) -> Ordering {
        self.number
            .total_cmp(&other.number)
            .then_with(|| self.text.cmp(&other.text))
    }
}

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GridRow {
    /// Stays the same as long as the thing it is about.
    pub(crate) id: String,
    /// One for each head.
    pub(crate) cells: Vec<Cell>,
    /// How it looks.
    pub(crate) tone: Tone,
    /// What else is to be said of it.
    pub(crate) detail: String,
}

/// A column of things of a kind: its head, and a thing's cell in it.
pub(super) struct GridColumn<T>(pub(crate) Head, pub(crate) fn(&T) -> Cell);

/// A column's head in one line.
pub(super) const fn head(name: &'static str, width: u16, from: u16, side: Side) -> Head {
    Head {
        name,
        width,
        from,
        side,
    }
}

/// Rows of the same columns.
#[derive(Debug, Clone, Default)]
pub(super) struct Grid {
    /// The columns.
    pub(crate) heads: Vec<Head>,
    /// The rows.
    pub(crate) rows: Vec<GridRow>,
}

impl Grid {
    /// Of things, each with its id, tone and detail.
    pub(super) fn of<T>(
        columns: &[GridColumn<T>],
        things: &[T],
        about: fn(&T) -> (String, Tone, String),
    ) -> Grid {
        let row = |thing: &T| {
            let (id, tone, detail) = about(thing);
            GridRow {
                id,
                cells: columns.iter().map(|GridColumn(_, cell)| cell(thing)).collect(),
                tone,
                detail,
            }
        };
        Grid {
            heads: columns.iter().map(|GridColumn(head, _)| *head).collect(),
            rows: things.iter().map(row).collect(),
        }
    }

    /// Keeps the rows with a text in which this one is, in letters of either case.
    pub(super) fn filter(&mut self, wanted: &str) {
        let wanted = wanted.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        self.rows
            .retain(|row| has(&row.detail) || row.cells.iter().any(|cell| has(&cell.text)));
    }

    /// Sorts by a column; rows that are equal in it stay as they were.
    pub(super) fn sort(&mut self, column: usize, falling: bool) {
        self.rows.sort_by(|a, b| {
            let (Some(a), Some(b)) = (a.cells.get(column), b.cells.get(column)) else {
                return Ordering::Equal;
            };
            // What has no value comes last either way.
            match (a.number.is_nan(), b.number.is_nan()) {
                (false, false) if falling => b.order(a),
                (false, false) => a.order(b),
                (a, b) => a.cmp(&b),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let columns = [
            GridColumn(head("NAME", 4, 0, Side::Left), |n: &f64| {
                Cell::text(format!("n{n}"))
            }),
            GridColumn(head("VALUE", 4, 0, Side::Right), |n: &f64| {
                Cell::number(if *n == 3.0 { f64::NAN } else { *n }, n.to_string())
            }),
        ];
        Grid::of(&columns, &[10.0, 9.0, 3.0], |n| {
            (n.to_string(), Tone::Plain, format!("about {n}"))
        })
    }

    fn ids(grid: &Grid) -> Vec<&str> {
        grid.rows.iter().map(|row| row.id.as_str()).collect()
    }

    #[test]
    fn numbers_sort_as_numbers_and_what_has_none_comes_last() {
        let mut grid = grid();
        grid.sort(1, false);
        assert_eq!(ids(&grid), ["9", "10", "3"]);
        grid.sort(1, true);
        assert_eq!(ids(&grid), ["10", "9", "3"]);
        grid.sort(0, false);
        assert_eq!(ids(&grid), ["10", "3", "9"], "text by its letters");
        grid.sort(7, false);
        assert_eq!(ids(&grid), ["10", "3", "9"], "no such column");
    }

    #[test]
    fn the_filter_looks_at_all_texts() {
        for (wanted, found) in [("N9", 1), ("about 1", 1), ("", 3), ("none", 0)] {
            let mut grid = grid();
            grid.filter(wanted);
            assert_eq!(grid.rows.len(), found, "{wanted}");
        }
    }
}
