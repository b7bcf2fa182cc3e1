//! A screen as SVG: every run of cells in its place, whatever font the reader
//! has. What programs draw with, bars and frames, is drawn and not written, so
//! that it meets.

use std::fmt::Write as _;

use vt100::{Cell, Color, Screen};

use crate::chart::escaped;

/// A cell.
const WIDTH: f64 = 8.0;
const HEIGHT: f64 = 17.0;
/// From the top of a cell to its letters' foot.
const FOOT: f64 = 13.0;
const MARGIN: f64 = 10.0;

const BACK: &str = "#0e1116";
const LETTERS: &str = "#d5dae0";
/// The first sixteen colours.
const COLOURS: [&str; 16] = [
    "#1b2027", "#e5534b", "#57ab5a", "#c69026", "#539bf5", "#b083f0", "#39c5cf", "#adbac7",
    "#545d68", "#ff6a61", "#6bc46d", "#daaa3f", "#6cb6ff", "#dcbdfb", "#56d4dd", "#ffffff",
];

/// How a run of cells looks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    letters: String,
    back: String,
    is_bold: bool,
    is_dim: bool,
}

impl Look {
    fn of(cell: &Cell) -> Self {
        let (mut letters, mut back) = (cell.fgcolor(), cell.bgcolor());
        let mut defaults = (LETTERS, BACK);
        if cell.inverse() {
            std::mem::swap(&mut letters, &mut back);
            defaults = (BACK, LETTERS);
        }
        Self {
            letters: colour(letters, defaults.0),
            back: colour(back, defaults.1),
            is_bold: cell.bold(),
            is_dim: cell.dim(),
        }
    }
}

/// Draws it.
pub(super) fn draw(screen: &Screen, title: &str) -> String {
    let (rows, columns) = screen.size();
    let (rows, columns) = (rows.get(), columns.get());
    let (width, height) = (
        f64::from(columns) * WIDTH + 2.0 * MARGIN,
        f64::from(rows) * HEIGHT + 2.0 * MARGIN,
    );
    let title = escaped(title);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\
         <style>text{{font:13px ui-monospace,Menlo,Consolas,monospace;white-space:pre}}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"{BACK}\"/>\n"
    );
    for row in 0..rows {
        let mut from = 0;
        while from < columns {
            from = run(&mut svg, screen, row, from, columns);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Draws the cells from `from` on that look the same; gives the first behind.
fn run(svg: &mut String, screen: &Screen, row: u16, from: u16, columns: u16) -> u16 {
    let cell = |column| screen.cell(row, column);
    let Some(first) = cell(from) else {
        return columns;
    };
    let look = Look::of(first);
    let mut end = from + 1;
    while end < columns && cell(end).is_some_and(|cell| Look::of(cell) == look) {
        end += 1;
    }
    let (x, y) = (
        MARGIN + f64::from(from) * WIDTH,
        MARGIN + f64::from(row) * HEIGHT,
    );
    let letters: Vec<char> = (from..end)
        .map(|column| cell(column).and_then(|cell| cell.contents().chars().next()))
        .map(|letter| letter.unwrap_or(' '))
        .collect();
    if look.back != BACK {
        let width = f64::from(end - from) * WIDTH;
        let back = &look.back;
        rect(svg, [x, y, width, HEIGHT], back, 1.0);
    }
    for (at, letter) in letters.iter().enumerate() {
        shape(svg, *letter, x + at as f64 * WIDTH, y, &look.letters);
    }
    words(svg, &letters, x, y + FOOT, &look);
    end
}

/// Writes the letters that are no shapes, word by word: a reader's font may be
/// wider than ours.
fn words(svg: &mut String, letters: &[char], x: f64, y: f64, look: &Look) {
    let is_written = |letter: char| letter != ' ' && pieces(letter).is_empty();
    let mut at = 0;
    while at < letters.len() {
        let word: String = letters[at..]
            .iter()
            .take_while(|letter| is_written(**letter))
            .collect();
        let count = word.chars().count();
        if count > 0 {
            let weight = if look.is_bold {
                " font-weight=\"700\""
            } else {
                ""
            };
            let opacity = if look.is_dim { " opacity=\".65\"" } else { "" };
            let (left, wide) = (x + at as f64 * WIDTH, count as f64 * WIDTH);
            let (fill, word) = (&look.letters, escaped(&word));
            // Writing to a `String` cannot fail.
            let _ = writeln!(
                svg,
                "<text x=\"{left}\" y=\"{y}\" textLength=\"{wide}\" \
                 lengthAdjust=\"spacingAndGlyphs\" fill=\"{fill}\"{weight}{opacity}>{word}</text>"
            );
        }
        at += count.max(1);
    }
}

/// Draws a letter that is a shape.
fn shape(svg: &mut String, letter: char, x: f64, y: f64, fill: &str) {
    for ([left, top, wide, high], opacity) in pieces(letter) {
        let at = [
            x + left * WIDTH,
            y + top * HEIGHT,
            wide * WIDTH,
            high * HEIGHT,
        ];
        rect(svg, at, fill, opacity);
    }
}

/// The rectangles that a letter is made of: left, top, width and height as
/// shares of the cell, and how opaque; none if it is written.
fn pieces(letter: char) -> Vec<([f64; 4], f64)> {
    /// A line's thickness, across and down.
    const THIN: [f64; 2] = [0.14, 0.07];
    let [down, across] = THIN;
    let (middle, half) = ((1.0 - down) / 2.0, (1.0 - across) / 2.0);
    let left = [0.0, half, middle + down, across];
    let right = [middle, half, 1.0 - middle, across];
    let up = [middle, 0.0, down, half + across];
    let below = [middle, half, down, 1.0 - half];
    let lines = |lines: &[[f64; 4]]| lines.iter().map(|line| (*line, 1.0)).collect();
    match letter {
        // U+2581 to U+2588: eighths of the cell from below.
        '▁'..='█' => {
            let eighths = f64::from(letter as u32 - '▁' as u32 + 1) / 8.0;
            vec![([0.0, 1.0 - eighths, 1.0, eighths], 1.0)]
        }
        '░' => vec![([0.0, 0.0, 1.0, 1.0], 0.3)],
        '┃' => vec![([0.35, 0.0, 0.3, 1.0], 1.0)],
        '─' => lines(&[left, right]),
        '│' => lines(&[up, below]),
        '┌' => lines(&[right, below]),
        '┐' => lines(&[left, below]),
        '└' => lines(&[right, up]),
        '┘' => lines(&[left, up]),
        _ => Vec::new(),
    }
}

fn rect(svg: &mut String, [x, y, width, height]: [f64; 4], fill: &str, opacity: f64) {
    let opacity = match opacity {
        1.0 => String::new(),
        part => format!(" opacity=\"{part}\""),
    };
    // Writing to a `String` cannot fail.
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" \
         fill=\"{fill}\"{opacity}/>"
    );
}

fn colour(colour: Color, default: &str) -> String {
    match colour {
        Color::Default => default.to_owned(),
        Color::Idx(index) => match COLOURS.get(usize::from(index)) {
            Some(colour) => (*colour).to_owned(),
            None => default.to_owned(),
        },
        Color::Rgb(red, green, blue) => format!("#{red:02x}{green:02x}{blue:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use vt100::Parser;

    use super::*;

    #[test]
    fn words_colours_and_bars_are_in_their_places() {
        let size = |it| NonZeroU16::new(it).unwrap();
        let mut parser = Parser::new(size(2), size(20), 0);
        parser.process("a<b \x1b[31;1mred\x1b[0m ▄\r\n\x1b[7mmarked\x1b[0m".as_bytes());
        let svg = draw(parser.screen(), "a \"screen\"");
        for part in [
            "aria-label=\"a &quot;screen&quot;\"",
            "<text x=\"10\" y=\"23\" textLength=\"24\" lengthAdjust=\"spacingAndGlyphs\" \
             fill=\"#d5dae0\">a&lt;b</text>",
            "fill=\"#e5534b\" font-weight=\"700\">red</text>",
            // Half of the ninth cell.
            "<rect x=\"74.00\" y=\"18.50\" width=\"8.00\" height=\"8.50\"",
            "fill=\"#0e1116\">marked</text>",
        ] {
            assert!(svg.contains(part), "no {part} in {svg}");
        }
    }
}
