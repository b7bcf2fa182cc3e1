//! Reads `[apply]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::model::{Apply, Keep};
use super::defaults;
use super::fields::{Field, Fields, Path, Step, Value};
use super::values::{duration, integer, list};

const KEYS: &[&str] = &["stages", "hold", "keep_revisions", "keep_for"];
const MAX_STAGES: usize = 20;
/// A rollback needs the one in force and the one before it.
const REVISIONS: RangeInclusive<u32> = 2..=100_000;

/// `[apply]`; all defaults where there is none.
pub(super) fn apply(root: &mut Fields<'_, '_>) -> Apply {
    let Some(value) = root.value("apply") else {
        return defaults::apply();
    };
    let Some(table) = value.get_ref().as_table() else {
        let help = "write it as `[apply]`";
        root.field("apply").wrong_type(value, "a table", help);
        return defaults::apply();
    };
    let (parent, sink) = root.inner();
    let place = Path {
        parent: Some(parent),
        step: Step::Table("apply"),
    };
    let mut fields = Fields::new(table, value.span(), place, KEYS, sink);
    let hour = Duration::from_secs(3600);
    let stages = fields.optional("stages", stages);
    let hold = fields.optional("hold", duration(Duration::ZERO..=hour));
    let revisions = fields.optional("keep_revisions", integer(REVISIONS));
    let age = fields.optional("keep_for", duration(hour..=hour * 24 * 3650));
    let unset = defaults::apply();
    Apply {
        stages: stages.unwrap_or(unset.stages),
        hold: hold.unwrap_or(unset.hold),
        keep: Keep {
            revisions: revisions.unwrap_or(unset.keep.revisions),
            age: age.unwrap_or(unset.keep.age),
        },
    }
}

fn stages(field: &mut Field<'_>, value: &Value<'_>) -> Option<Vec<u8>> {
    let stages: Vec<u8> = list(MAX_STAGES, integer_percent)(field, value)?;
    if let Err(fault) = check_stages(&stages) {
        field.bad(
            value,
            fault,
            "write ascending percents up to 100, such as [1, 10, 50, 100]",
        );
        return None;
    }
    Some(stages)
}

fn integer_percent(field: &mut Field<'_>, value: &Value<'_>) -> Option<u8> {
    integer(1..=100)(field, value)
}

/// What is wrong with stages, if anything.
pub fn check_stages(stages: &[u8]) -> Result<(), String> {
    if let Some(pair) = stages.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(format!("goes from {} to {}, wanted more", pair[0], pair[1]));
    }
    match stages.last() {
        Some(100) => Ok(()),
        Some(last) => Err(format!("ends at {last}, wanted 100")),
        None => Err("is empty".to_owned()),
    }
}
