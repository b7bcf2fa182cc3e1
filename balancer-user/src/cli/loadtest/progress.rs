//! What is seen of a load test while it goes on.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::units;
use crate::loadtest::packets::report::Second;
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

/// What there is to see of packets, second by second.
pub(super) fn packets(seconds: &[Second]) -> String {
    let [sent, missed] = [
        seconds.iter().map(|it| it.sent).sum::<u64>(),
        seconds.iter().map(|it| it.missed).sum(),
    ];
    // The last one is not over.
    let rate = seconds.iter().rev().nth(1).map_or(0, |it| it.sent);
    format!(
        "{} s  {} sent, {missed} missed, {} a second",
        seconds.len().saturating_sub(1),
        units::count(sent),
        units::count(rate)
    )
}
