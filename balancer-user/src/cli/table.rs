//! Tables of plain text: columns apart by blanks, no lines, so that `awk`
//! reads them as well as people do.

use comfy_table::{Cell, CellAlignment, ContentArrangement, presets};

pub(super) use comfy_table::Color;

/// A table that is being filled.
pub(super) struct Table {
    inner: comfy_table::Table,
    color: bool,
}

/// A column's heading and how its cells are aligned.
pub(super) enum Column {
    /// Text, to the left.
    Text(&'static str),
    /// Numbers, to the right.
    Number(&'static str),
}

impl Table {
    /// A table with these columns; cells are coloured only if `color`.
    pub(super) fn new(columns: &[Column], color: bool) -> Self {
        let mut inner = comfy_table::Table::new();
        inner
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(columns.iter().map(|column| match column {
                Column::Text(heading) | Column::Number(heading) => *heading,
            }));
        if color {
            inner.enforce_styling();
        } else {
            inner.force_no_tty();
        }
        for (index, column) in columns.iter().enumerate() {
            let Some(settings) = inner.column_mut(index) else {
                continue;
            };
            settings.set_padding((0, 2));
            if matches!(column, Column::Number(_)) {
                settings.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { inner, color }
    }

    /// Adds a row of plain cells.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.colored_row(cells.into_iter().map(|cell| (cell, None)));
    }

    /// Adds a row, some of its cells in a colour.
    pub(super) fn colored_row(&mut self, cells: impl IntoIterator<Item = (String, Option<Color>)>) {
        let color = self.color;
        self.inner
            .add_row(cells.into_iter().map(|(cell, wanted)| match wanted {
                Some(wanted) if color => Cell::new(cell).fg(wanted),
                _ => Cell::new(cell),
            }));
    }

    /// The table as text, each line after `indent`; nothing without rows.
    pub(super) fn render(&self, indent: &str) -> String {
        if self.inner.is_empty() {
            return String::new();
        }
        self.inner
            .lines()
            .map(|line| format!("{indent}{}\n", line.trim_end()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stands_left_numbers_right_and_lines_end_without_blanks() {
        let mut table = Table::new(&[Column::Text("name"), Column::Number("flows")], false);
        table.row(["web-1".to_owned(), "7".to_owned()]);
        table.row(["w".to_owned(), "1.2k".to_owned()]);
        assert_eq!(
            table.render("  "),
            "  name   flows\n  web-1      7\n  w       1.2k\n"
        );
    }

    #[test]
    fn colour_is_only_where_it_is_asked_for() {
        for (color, expected) in [(false, false), (true, true)] {
            let mut table = Table::new(&[Column::Text("state")], color);
            table.colored_row([("down".to_owned(), Some(Color::Red))]);
            assert_eq!(table.render("").contains('\u{1b}'), expected);
        }
    }

    #[test]
    fn table_without_rows_is_nothing() {
        assert_eq!(Table::new(&[Column::Text("name")], false).render(""), "");
    }
}
