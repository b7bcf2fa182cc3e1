//! The picture: a bar a case beside the reference's.
//!
//! Plain SVG with a style sheet of its own, which follows the reader's light
//! or dark scheme; nothing in it needs a font or a file from elsewhere.

use std::fmt::Write;

use super::machine::Machine;
use super::packets::Figure;

const WIDTH: f64 = 790.0;
/// Where bars begin.
const BARS_AT: f64 = 300.0;
/// Room right of the longest bar for its figure.
const FIGURE_WIDTH: f64 = 60.0;
const HEAD: f64 = 64.0;
const ROW: f64 = 34.0;
const BAR: f64 = 11.0;
const FOOT: f64 = 34.0;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}\
.title{font-size:16px;font-weight:600}\
.small{font-size:11px;fill:#59636e}\
.ours{fill:#0969da}\
.reference{fill:#afb8c1}\
@media(prefers-color-scheme:dark){\
text{fill:#e6edf3}.small{fill:#9198a1}.ours{fill:#4493f8}.reference{fill:#57606a}}";

/// Draws the cases that have a figure of the reference to stand beside.
pub(super) fn draw(machine: &Machine, figures: &[Figure]) -> String {
    let rows: Vec<(&Figure, f64)> = figures
        .iter()
        .filter_map(|figure| Some((figure, figure.reference_nanos?)))
        .collect();
    let height = HEAD + ROW * rows.len() as f64 + FOOT;
    let longest = rows
        .iter()
        .map(|(figure, reference)| reference.max(figure.net_nanos.median))
        .fold(1.0, f64::max);
    let scale = (WIDTH - BARS_AT - FIGURE_WIDTH) / longest;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         aria-label=\"Nanoseconds a packet, case by case\"><style>{STYLE}</style>\n\
         <text class=\"title\" x=\"12\" y=\"24\">Nanoseconds a packet, net of the loop; less is \
         better</text>\n"
    );
    legend(&mut svg);
    for (index, (figure, reference)) in rows.iter().enumerate() {
        let top = HEAD + ROW * index as f64;
        row(&mut svg, figure, *reference, top, scale);
    }
    let foot = escaped(&format!("{}, Linux {}", machine.cpu_model, machine.kernel));
    line(
        &mut svg,
        &format!(
            "<text class=\"small\" x=\"12\" y=\"{:.0}\">{foot}</text>",
            height - 12.0
        ),
    );
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String) {
    for (class, name, x) in [
        ("ours", "this balancer", 12.0),
        (
            "reference",
            "best known C balancer, same loop, like machine",
            130.0,
        ),
    ] {
        line(
            svg,
            &format!(
                "<rect class=\"{class}\" x=\"{x}\" y=\"36\" width=\"11\" height=\"11\"/>\
                 <text class=\"small\" x=\"{}\" y=\"46\">{name}</text>",
                x + 17.0
            ),
        );
    }
}

fn row(svg: &mut String, figure: &Figure, reference: f64, top: f64, scale: f64) {
    line(
        svg,
        &format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            BARS_AT - 10.0,
            top + BAR + 4.0,
            escaped(&figure.case)
        ),
    );
    bar(svg, "ours", figure.net_nanos.median, top, scale);
    bar(svg, "reference", reference, top + BAR + 2.0, scale);
}

fn bar(svg: &mut String, class: &str, nanos: f64, top: f64, scale: f64) {
    let width = (nanos * scale).max(1.0);
    line(
        svg,
        &format!(
            "<rect class=\"{class}\" x=\"{BARS_AT}\" y=\"{top:.1}\" width=\"{width:.1}\" \
             height=\"{BAR}\" rx=\"1.5\"/><text class=\"small\" x=\"{:.1}\" y=\"{:.1}\">{nanos:.0}\
             </text>",
            BARS_AT + width + 5.0,
            top + BAR - 1.5
        ),
    );
}

fn line(svg: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "{text}");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Spread;

    fn figure(case: &str, net: f64, reference: Option<f64>) -> Figure {
        Figure {
            case: case.to_owned(),
            net_nanos: Spread::of(vec![net]),
            floor_nanos: Spread::of(vec![40.0]),
            reference_nanos: reference,
            of_reference: None,
            limit_nanos: None,
        }
    }

    #[test]
    fn every_case_with_a_reference_has_two_bars_in_proportion() {
        let machine = Machine {
            cpu_model: "A & B".to_owned(),
            cpus: 2,
            megahertz: None,
            kernel: "6.18".to_owned(),
            architecture: "x86_64".to_owned(),
        };
        let figures = [
            figure("a <b>", 100.0, Some(400.0)),
            figure("alone", 100.0, None),
        ];
        let svg = draw(&machine, &figures);
        assert!(svg.contains("a &lt;b&gt;") && svg.contains("A &amp; B"));
        assert!(!svg.contains("alone"));
        let widths: Vec<f64> = svg
            .split("rx=\"1.5\"")
            .filter_map(|part| part.rsplit_once("width=\""))
            .filter_map(|(_, rest)| rest.split('"').next())
            .filter_map(|width| width.parse().ok())
            .take(2)
            .collect();
        assert_eq!(widths.len(), 2);
        assert!((widths[1] / widths[0] - 4.0).abs() < 0.01, "{widths:?}");
    }
}
