//! Shares before and after a change, as a table.

use super::table::{Column, Table};
use super::units;
use crate::api::types::ShareChange;

/// The table; nothing if no share changes.
pub(super) fn render(changes: &[ShareChange]) -> String {
    let columns = [
        Column::Text("service"),
        Column::Text("backend"),
        Column::Number("share before"),
        Column::Number("share after"),
    ];
    let mut table = Table::new(&columns, false);
    for change in changes {
        let or = |share: Option<f64>, none: &str| share.map_or(none.to_owned(), units::percent);
        table.row([
            change.service.clone(),
            change.backend.clone(),
            or(change.before, "new"),
            or(change.after, "removed"),
        ]);
    }
    table.render("")
}
