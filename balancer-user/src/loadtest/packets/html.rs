//! The report of a test with packets as a page.

use maud::html;

use super::super::html::{began, chart, number, page, shares, verdict};
use super::report::Report;

/// The page.
pub fn render(report: &Report) -> String {
    let sent: Vec<f64> = report.seconds.iter().map(|it| it.sent as f64).collect();
    let missed: Vec<f64> = report.seconds.iter().map(|it| it.missed as f64).collect();
    let body = html! {
        p {
            (began(report.began)) ". "
            (number(report.rate_wanted)) " packets a second wished for "
            (number(report.seconds_wanted)) " s to " (report.address) ", of "
            (report.flows) " flows, from " (report.source)
            @if report.sources > 1 { " and " (report.sources - 1) " more" }
            ", in frames of " (report.frame_bytes) " bytes by " (report.interface)
            " to " (report.next_hop) "."
        }
        (verdict(&report.verdict))
        h2 { "Packets" }
        table {
            tbody {
                tr { th scope="row" { "sent" } td class="n" { (report.sent) } }
                tr { th scope="row" { "missed" } td class="n" { (report.missed) } }
                @if let (Some(counted), Some(lost)) = (report.counted, report.lost) {
                    tr { th scope="row" { "counted by the balancer" } td class="n" { (counted) } }
                    tr { th scope="row" { "lost on the way" } td class="n" { (lost) } }
                }
            }
        }
        h2 { "Second by second" }
        (chart("packets sent a second", &sent, "var(--bar)"))
        @if report.missed > 0 {
            (chart("packets missed a second", &missed, "var(--bad)"))
        }
        @if !report.shares.is_empty() {
            h2 { "Shares of backends" }
            p { "Of service " (report.service.as_deref().unwrap_or("?"))
                ", by the balancer's counters: of all clients." }
            (shares("counted", report.shares.iter().map(|it| {
                (it.backend.as_str(), it.counted, it.expected, it.seen)
            })))
        }
    };
    page(&report.target, report.passed(), &body)
}

#[cfg(test)]
mod tests {
    use super::super::report::testing::report;
    use super::*;

    #[test]
    fn page_has_what_was_sent_and_what_arrived() {
        let mut report = report();
        report.missed = 7;
        let page = render(&report);
        assert!(page.contains("<h1>Load test of udp://192.0.2.1:53: <span class=\"good\">passed"));
        assert!(page.contains("counted by the balancer</th><td class=\"n\">6000"));
        assert!(page.contains("lost on the way</th><td class=\"n\">0"));
        assert_eq!(page.matches("<figure>").count(), 2);
        assert!(page.contains("dns-1"));
    }
}
