//! What must hold of every report on a configuration.

use std::ops::Range;

use balancer_user::config::diagnostic::Report;

/// Rule, level, config path and whether it is allowed, of each finding; sorted,
/// as places differ between two texts that say the same.
pub fn summary(report: &Report) -> Vec<(&str, &str, &str, bool)> {
    let mut all: Vec<_> = report
        .findings()
        .iter()
        .map(|it| {
            (
                it.rule,
                it.level.name(),
                it.path.as_str(),
                it.allowed.is_some(),
            )
        })
        .collect();
    all.sort_unstable();
    all
}

/// Findings say something, and of a place that is there; every form of output
/// stands them.
///
/// # Panics
/// When that does not hold.
pub fn check(report: &Report) {
    let text = report.text();
    for finding in report.findings() {
        assert!(!finding.message.is_empty(), "{finding:?}");
        if let Some(span) = &finding.span {
            assert_inside(text, span, &finding.message);
        }
        for related in &finding.related {
            assert_inside(text, &related.span, &related.label);
        }
    }
    assert_eq!(
        report.render(false).is_empty(),
        report.findings().is_empty()
    );
    report.render(true);
    let json = report.to_json();
    for finding in json["findings"].as_array().into_iter().flatten() {
        let place = |line: &str, column: &str| (finding[line].as_u64(), finding[column].as_u64());
        let (start, end) = (place("line", "column"), place("end_line", "end_column"));
        assert!(start <= end && start.0 != Some(0), "{finding}");
    }
    let sarif = report.to_sarif();
    let results = sarif["runs"][0]["results"].as_array().map(Vec::len);
    assert_eq!(results, Some(report.findings().len()));
}

fn assert_inside(text: &str, span: &Range<usize>, message: &str) {
    let holds = text.get(span.clone()).is_some();
    assert!(holds, "{span:?} of {} bytes: {message}", text.len());
}
