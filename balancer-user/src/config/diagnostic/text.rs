//! Findings as a compiler shows them.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level as Title, Origin, Renderer, Snippet};

use super::{Finding, Level, Report};

/// A longer line is not shown: it would be cut to nothing useful anyway.
const MAX_LINE_LEN: usize = 4096;

impl Report {
    /// All findings for people to read, with colours if asked for.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut text = String::new();
        for finding in &self.findings {
            text.push_str(&renderer.render(&[self.group(finding)]));
            text.push_str("\n\n");
        }
        text
    }

    fn group<'a>(&'a self, finding: &'a Finding) -> Group<'a> {
        let title = match (&finding.allowed, finding.level) {
            (Some(_), _) => Title::NOTE.with_name("allowed"),
            (None, Level::Error) => Title::ERROR,
            (None, Level::Warning) => Title::WARNING,
        };
        let mut group = Group::with_title(
            title
                .primary_title(finding.message.as_str())
                .id(finding.rule),
        );
        group = match &finding.span {
            Some(span) => self.point_at(group, AnnotationKind::Primary, span, None),
            None => group.element(Origin::path(self.source_name.as_str())),
        };
        for related in &finding.related {
            let label = Some(related.label.as_str());
            group = self.point_at(group, AnnotationKind::Context, &related.span, label);
        }
        if let Some(help) = &finding.help {
            group = group.element(Title::HELP.message(help.as_str()));
        }
        if let Some(reason) = &finding.allowed {
            group = group.element(Title::NOTE.message(format!("allowed: {reason}")));
        }
        group
    }

    /// Shows the line a span begins in. Handing over that line alone keeps
    /// the cost independent of the file's length.
    fn point_at<'a>(
        &'a self,
        group: Group<'a>,
        kind: AnnotationKind,
        span: &Range<usize>,
        label: Option<&'a str>,
    ) -> Group<'a> {
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.floor_char_boundary(span.end);
        let line = self.lines.line_range(&self.text, start);
        let (line_number, column) = self.lines.position(&self.text, start);
        if line.len() > MAX_LINE_LEN {
            return group.element(
                Origin::path(self.source_name.as_str())
                    .line(line_number)
                    .char_column(column),
            );
        }
        let start_in_line = start.min(line.end) - line.start;
        let end_in_line = end.clamp(line.start + start_in_line, line.end) - line.start;
        group.element(
            Snippet::source(&self.text[line])
                .path(self.source_name.as_str())
                .line_start(line_number)
                .annotation(kind.span(start_in_line..end_in_line).label(label)),
        )
    }
}
