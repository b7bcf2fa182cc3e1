//! The report of a load test as one page: no script, nothing from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::report::Report;
use super::tally::{Percentiles, Second};
use super::verdict::Judged;

const STYLE: &str = "\
:root{color-scheme:light dark;--good:#1a7f37;--bad:#cf222e;--bar:#0969da;--line:#8886}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}\
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line)}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
.good{color:var(--good)}.bad{color:var(--bad)}\
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:currentColor}\
@media(prefers-color-scheme:dark){:root{--good:#3fb950;--bad:#f85149;--bar:#58a6ff}}";

/// Size of a chart, in its own units.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 160.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 20.0;

/// The page.
pub fn render(report: &Report) -> String {
    let body = html! {
        p {
            (began(report.began)) ". "
            (number(report.rate_wanted)) " requests a second wished for "
            (number(report.seconds_wanted)) " s to " (report.address) ", "
            (report.requests_per_connection) " a connection."
        }
        (verdict(&report.verdict))
        h2 { "Times" }
        (times(report))
        h2 { "Second by second" }
        (charts(&report.seconds))
        @if !report.failures.is_empty() {
            h2 { "Failures" }
            (counts(&["failure", "requests"], report.failures.iter()))
        }
        @if !report.shares.is_empty() {
            h2 { "Shares of backends" }
            p { "Of service " (report.service.as_deref().unwrap_or("?"))
                ", by the balancer's counters: flows of all clients." }
            (shares("flows", report.shares.iter().map(|it| {
                (it.backend.as_str(), it.flows, it.expected, it.seen)
            })))
        }
        @if !report.answered_by.is_empty() {
            h2 { "Who answered" }
            (counts(&["server", "answers"], report.answered_by.iter()))
        }
    };
    page(&report.target, report.passed(), &body)
}

/// What every report has around it.
pub(super) fn page(target: &str, passed: bool, body: &Markup) -> String {
    let title = format!("Load test of {target}");
    let (word, class) = match passed {
        true => ("passed", "good"),
        false => ("failed", "bad"),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) ": " span class=(class) { (word) } }
                (body)
            }
        }
    };
    page.into_string()
}

/// When that was.
pub(super) fn began(seconds: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Each limit and what was seen.
pub(super) fn verdict(verdict: &[Judged]) -> Markup {
    html! {
        table {
            thead { tr { th { "" } th { "limit" } th { "seen" } th { "" } } }
            tbody {
                @for judged in verdict {
                    tr {
                        th scope="row" { (judged.name) }
                        td { (judged.limit) }
                        td { (judged.seen) }
                        @if judged.passed { td class="good" { "passed" } }
                        @else { td class="bad" { "failed" } }
                    }
                }
            }
        }
    }
}

fn times(report: &Report) -> Markup {
    let row = |name: &str, times: &Option<Percentiles>| {
        html! {
            @if let Some(it) = times {
                tr {
                    th scope="row" { (name) }
                    @for value in [it.mean, it.p50, it.p90, it.p99, it.p999, it.max] {
                        td class="n" { (format!("{value:.2}")) }
                    }
                }
            }
        }
    };
    html! {
        table {
            thead { tr {
                th { "milliseconds" }
                @for name in ["mean", "p50", "p90", "p99", "p99.9", "longest"] {
                    th class="n" { (name) }
                }
            } }
            tbody {
                (row("until connected", &report.connect_times))
                (row("until answered", &report.times))
            }
        }
    }
}

fn charts(seconds: &[Second]) -> Markup {
    let answered: Vec<f64> = seconds.iter().map(|it| it.answered as f64).collect();
    let bad = |it: &Second| (it.failed + it.skipped) as f64;
    let bad: Vec<f64> = seconds.iter().map(bad).collect();
    let p99 = |it: &Second| it.times.map_or(0.0, |it| it.p99);
    let p99: Vec<f64> = seconds.iter().map(p99).collect();
    html! {
        (chart("requests answered a second", &answered, "var(--bar)"))
        @if bad.iter().any(|it| *it > 0.0) {
            (chart("requests failed or not made a second", &bad, "var(--bad)"))
        }
        (chart("time of 99 of 100, in ms", &p99, "var(--bar)"))
    }
}

/// A line over the seconds, from 0 up.
pub(super) fn chart(name: &str, values: &[f64], color: &str) -> Markup {
    let most = values.iter().copied().fold(0.0, f64::max);
    let top = if most > 0.0 { most } else { 1.0 };
    let step = (WIDTH - LEFT) / values.len().max(1) as f64;
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - 12.0);
    // Steps, so that one second is to be seen as well as a hundred.
    let points: Vec<String> = values
        .iter()
        .enumerate()
        .flat_map(|(at, value)| {
            let (left, y) = (LEFT + step * at as f64, y(*value));
            [
                format!("{left:.1},{y:.1}"),
                format!("{:.1},{y:.1}", left + step),
            ]
        })
        .collect();
    let floor = HEIGHT - BOTTOM;
    html! {
        figure {
            figcaption { (name) }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img"
                aria-label=(format!("{name}: at most {}", number(most))) {
                line x1=(LEFT) y1=(floor) x2=(WIDTH) y2=(floor) stroke="var(--line)" {}
                text x="0" y=(y(top) + 4.0) { (number(most)) }
                text x="0" y=(floor) { "0" }
                text x=(LEFT) y=(HEIGHT - 4.0) { "0 s" }
                text x=(WIDTH) y=(HEIGHT - 4.0) text-anchor="end" { (values.len()) " s" }
                polyline points=(points.join(" ")) fill="none" stroke=(color) stroke-width="2" {}
            }
        }
    }
}

fn counts<'a>(heads: &[&str; 2], rows: impl Iterator<Item = (&'a String, &'a u64)>) -> Markup {
    html! {
        table {
            thead { tr { th { (heads[0]) } th class="n" { (heads[1]) } } }
            tbody {
                @for (name, count) in rows {
                    tr { td { (name) } td class="n" { (count) } }
                }
            }
        }
    }
}

/// Names of backends with what was counted, the share of that expected and the
/// one seen.
pub(super) fn shares<'a>(
    counted: &str,
    rows: impl Iterator<Item = (&'a str, u64, f64, f64)>,
) -> Markup {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    html! {
        table {
            thead { tr {
                th { "backend" } th class="n" { (counted) } th class="n" { "expected" }
                th class="n" { "seen" }
            } }
            tbody {
                @for (backend, counted, expected, seen) in rows {
                    tr {
                        th scope="row" { (backend) }
                        td class="n" { (counted) }
                        td class="n" { (percent(expected)) }
                        td class="n" { (percent(seen)) }
                    }
                }
            }
        }
    }
}

/// As many digits as matter.
pub(super) fn number(value: f64) -> String {
    match value {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ if value < 10.0 => format!("{value:.2}"),
        _ => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::testing::report;
    use super::*;

    #[test]
    fn page_stands_alone_and_escapes_what_servers_say() {
        let mut report = report();
        report
            .failures
            .insert("<script>alert(1)</script>".to_owned(), 3);
        report.verdict.push(Judged {
            name: "requests that failed".to_owned(),
            limit: "at most 0.0 %".to_owned(),
            seen: "0.3 %".to_owned(),
            passed: false,
        });
        let page = render(&report);
        assert!(page.contains("<h1>Load test of http://192.0.2.1/: <span class=\"bad\">failed"));
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains("<script"));
        for outside in ["src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<figure>").count(), 2);
    }
}
