//! Lines and columns of byte offsets.

use std::ops::Range;

/// Where each line of a text begins.
#[derive(Debug, Clone)]
pub(super) struct LineIndex {
    starts: Vec<usize>,
}

impl LineIndex {
    pub(super) fn new(text: &str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Self {
            starts: std::iter::once(0).chain(after_newlines).collect(),
        }
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    pub(super) fn position(&self, text: &str, offset: usize) -> (usize, usize) {
        let offset = text.floor_char_boundary(offset);
        let line = self.line_of(offset);
        let column = text[self.starts[line]..offset].chars().count();
        (line + 1, column + 1)
    }

    /// The bytes of the line that `offset` is in, without its end.
    pub(super) fn line_range(&self, text: &str, offset: usize) -> Range<usize> {
        let line = self.line_of(text.floor_char_boundary(offset));
        let start = self.starts[line];
        let end = self.starts.get(line + 1).copied().unwrap_or(text.len());
        let content = text[start..end].trim_end_matches(['\r', '\n']);
        start..start + content.len()
    }

    fn line_of(&self, offset: usize) -> usize {
        // The first line begins at 0, so there is always one not after.
        self.starts.partition_point(|start| *start <= offset) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_offsets_past_the_end_are_the_end() {
        let text = "a\r\nß=€x\n";
        let lines = LineIndex::new(text);
        assert_eq!(lines.position(text, 0), (1, 1));
        assert_eq!(lines.position(text, 3), (2, 1));
        assert_eq!(lines.position(text, text.find('x').unwrap()), (2, 4));
        // Inside a character: its beginning.
        assert_eq!(lines.position(text, 7), (2, 3));
        assert_eq!(lines.position(text, 999), (3, 1));
        assert_eq!(lines.line_range(text, 0), 0..1);
        assert_eq!(&text[lines.line_range(text, 5)], "ß=€x");
        assert_eq!(lines.line_range(text, text.len()), text.len()..text.len());
    }
}
