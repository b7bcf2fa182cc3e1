//! What is seen of a load test while it goes on.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::units;
use crate::loadtest::run::Glance;

/// Drawn on stderr, where that is a terminal.
pub(super) fn bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    // Not drawn where stderr is no terminal.
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template("{spinner} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar
}

/// What there is to see just now.
pub(super) fn live(glance: &Glance<'_>) -> String {
    let tally = glance.tally;
    let times = tally.times().map_or(String::new(), |it| {
        format!(
            "  half within {:.1} ms, 99 of 100 within {:.1} ms",
            it.p50, it.p99
        )
    });
    format!(
        "{} s  {} answered, {} failed, {} not made, {} under way{times}",
        glance.passed.as_secs(),
        units::count(tally.answered()),
        tally.failed(),
        tally.skipped(),
        glance.under_way
    )
}
