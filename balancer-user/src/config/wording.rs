//! How messages of this module show what stands in a file.
//!
//! The text comes from outside: it is escaped, so that it cannot steer a
//! terminal, and cut, so that one long value does not fill the screen.

use std::fmt::Write as _;

/// Characters of a value that a message shows.
const SHOWN_CHARS: usize = 64;

/// `value` in quotes, escaped and cut.
pub(super) fn quoted(value: &str) -> String {
    let mut text = String::from('"');
    push_escaped(&mut text, value);
    text.push('"');
    text
}

/// A key in backticks, escaped and cut.
pub(super) fn ticked(key: &str) -> String {
    let mut text = String::from('`');
    push_escaped(&mut text, key);
    text.push('`');
    text
}

fn push_escaped(text: &mut String, value: &str) {
    for (index, c) in value.chars().enumerate() {
        if index == SHOWN_CHARS {
            text.push('…');
            return;
        }
        // `'` needs no escape inside the quotes we use.
        if c == '\'' {
            text.push(c);
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{}", c.escape_debug());
        }
    }
}

/// `1 error`, `2 errors`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// The word that `input` was probably meant to be.
pub(super) fn nearest<'a>(
    input: &str,
    words: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // The distance is quadratic in the length, and no word of ours is long.
    if input.len() > SHOWN_CHARS {
        return None;
    }
    words
        .into_iter()
        .map(|word| (strsim::normalized_damerau_levenshtein(input, word), word))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_cut() {
        assert_eq!(quoted("a\u{1b}[31m\"'"), "\"a\\u{1b}[31m\\\"'\"");
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), 64 + 3);
        assert_eq!(ticked("a\nb"), "`a\\nb`");
    }

    #[test]
    fn nearest_word_is_found_and_strangers_are_not() {
        let words = ["weight", "address", "zone"];
        assert_eq!(nearest("wieght", words), Some("weight"));
        assert_eq!(nearest("colour", words), None);
        assert_eq!(nearest(&"w".repeat(1 << 20), words), None);
    }
}
