//! Bar charts: two bars a row, ours and what it is held against.
//!
//! Plain SVG with a style sheet of its own, which follows the reader's light
//! or dark scheme; nothing in it needs a font or a file from elsewhere.

use std::fmt::Write;

const WIDTH: f64 = 790.0;
/// Where bars begin.
const BARS_AT: f64 = 300.0;
/// Room right of the longest bar for its figure.
const FIGURE_WIDTH: f64 = 60.0;
const HEAD: f64 = 64.0;
const ROW: f64 = 34.0;
const BAR: f64 = 11.0;
const FOOT: f64 = 34.0;
/// Room of a legend's entry: what it takes beside its text, and a character.
const LEGEND: (f64, f64) = (40.0, 6.0);

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}\
.title{font-size:16px;font-weight:600}\
.small{font-size:11px;fill:#59636e}\
.ours{fill:#0969da}\
.reference{fill:#afb8c1}\
@media(prefers-color-scheme:dark){\
text{fill:#e6edf3}.small{fill:#9198a1}.ours{fill:#4493f8}.reference{fill:#57606a}}";

/// How long a bar is.
#[derive(Debug, Clone, Copy)]
pub enum Scale {
    /// In proportion to its value.
    Linear,
    /// By its decades above this value, which has none.
    Decades(f64),
}

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Chart<'a> {
    /// Above all.
    pub title: &'a str,
    /// What it shows, for those who do not see it.
    pub label: &'a str,
    /// What the two bars of a row are.
    pub legend: [&'a str; 2],
    /// Below all.
    pub foot: &'a str,
    /// How long bars are.
    pub scale: Scale,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// Two bars.
#[derive(Debug, Clone)]
pub struct Row {
    /// Left of them.
    pub name: String,
    /// Ours, then the other, each with its figure as it is written beside it.
    pub bars: [(f64, String); 2],
}

impl Chart<'_> {
    /// The whole picture.
    pub fn draw(&self) -> String {
        let height = HEAD + ROW * self.rows.len() as f64 + FOOT;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
             aria-label=\"{}\"><style>{STYLE}</style>\n\
             <text class=\"title\" x=\"12\" y=\"24\">{}</text>\n",
            escaped(self.label),
            escaped(self.title)
        );
        self.draw_legend(&mut svg);
        let bars = self.rows.iter().flat_map(|row| &row.bars);
        let longest = bars
            .map(|(value, _)| self.length(*value))
            .fold(1.0, f64::max);
        let scale = (WIDTH - BARS_AT - FIGURE_WIDTH) / longest;
        for (index, row) in self.rows.iter().enumerate() {
            self.draw_row(&mut svg, row, HEAD + ROW * index as f64, scale);
        }
        line(
            &mut svg,
            &format!(
                "<text class=\"small\" x=\"12\" y=\"{:.0}\">{}</text>",
                height - 12.0,
                escaped(self.foot)
            ),
        );
        svg.push_str("</svg>\n");
        svg
    }

    fn length(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Decades(from) => (value / from).log10().max(0.0),
        }
    }

    fn draw_legend(&self, svg: &mut String) {
        let mut x = 12.0;
        for (class, name) in ["ours", "reference"].into_iter().zip(self.legend) {
            line(
                svg,
                &format!(
                    "<rect class=\"{class}\" x=\"{x}\" y=\"36\" width=\"11\" height=\"11\"/>\
                     <text class=\"small\" x=\"{}\" y=\"46\">{}</text>",
                    x + 17.0,
                    escaped(name)
                ),
            );
            x += LEGEND.0 + LEGEND.1 * name.len() as f64;
        }
    }

    fn draw_row(&self, svg: &mut String, row: &Row, top: f64, scale: f64) {
        line(
            svg,
            &format!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                BARS_AT - 10.0,
                top + BAR + 4.0,
                escaped(&row.name)
            ),
        );
        let classes = ["ours", "reference"].into_iter().enumerate();
        for ((place, class), (value, figure)) in classes.zip(&row.bars) {
            let width = (self.length(*value) * scale).max(1.0);
            let top = top + (BAR + 2.0) * place as f64;
            line(
                svg,
                &format!(
                    "<rect class=\"{class}\" x=\"{BARS_AT}\" y=\"{top:.1}\" width=\"{width:.1}\" \
                     height=\"{BAR}\" rx=\"1.5\"/><text class=\"small\" x=\"{:.1}\" \
                     y=\"{:.1}\">{}</text>",
                    BARS_AT + width + 5.0,
                    top + BAR - 1.5,
                    escaped(figure)
                ),
            );
        }
    }
}

fn line(svg: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "{text}");
}

/// Text as it stands in SVG.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Lengths of the bars, from top to bottom.
    pub(crate) fn lengths(svg: &str) -> Vec<f64> {
        svg.split("rx=\"1.5\"")
            .filter_map(|part| part.rsplit_once("width=\""))
            .filter_map(|(_, rest)| rest.split('"').next())
            .filter_map(|width| width.parse().ok())
            .collect()
    }

    fn chart(scale: Scale) -> String {
        let row = |name: &str, ours: f64, other: f64| Row {
            name: name.to_owned(),
            bars: [(ours, ours.to_string()), (other, other.to_string())],
        };
        let chart = Chart {
            title: "a < b",
            label: "a \"b\"",
            legend: ["here", "there & then"],
            foot: "A & B",
            scale,
            rows: vec![row("one", 10.0, 1000.0), row("<two>", 0.1, 100.0)],
        };
        chart.draw()
    }

    #[test]
    fn decades_are_of_one_length_and_nothing_is_shorter_than_nothing() {
        let lengths = lengths(&chart(Scale::Decades(1.0)));
        // What comes after the last bar is no bar.
        let [one, three, least, two, ..] = lengths[..] else {
            panic!("{lengths:?}");
        };
        assert!((three / one - 3.0).abs() < 0.01 && (two / one - 2.0).abs() < 0.01);
        assert_eq!(least, 1.0);
    }

    #[test]
    fn texts_are_escaped() {
        let svg = chart(Scale::Linear);
        for text in [
            "a &lt; b",
            "a &quot;b&quot;",
            "there &amp; then",
            "&lt;two&gt;",
        ] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
    }
}
