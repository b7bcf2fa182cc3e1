//! Findings about a configuration, and how they are shown.
//!
//! A [`Finding`] is what a rule has to say, with its place in the source. A
//! [`Report`] is all of them with the source, as text for people
//! ([`Report::render`]), JSON and SARIF. Lines and columns are 1-based;
//! columns count characters.

mod formats;
mod lines;
mod text;

use std::ops::Range;

use super::check::rules::{self, Rule};
use super::wording::counted;
use lines::LineIndex;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The configuration is refused.
    Error,
    /// The configuration works, but somebody will be sorry.
    Warning,
}

impl Level {
    /// Its name in every output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// What a rule has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Id of the rule.
    pub rule: &'static str,
    /// How bad it is.
    pub level: Level,
    /// Object, value and limit; lower case, no full stop.
    pub message: String,
    /// Bytes of the source it is about; `None` for what has no place there.
    pub span: Option<Range<usize>>,
    /// Config path, such as `service.web.backend.web-1.weight`; empty for
    /// the file as a whole.
    pub path: String,
    /// The way out.
    pub help: Option<String>,
    /// Other places that matter.
    pub related: Vec<Related>,
    /// The reason why a person accepts it; then it counts neither as an
    /// error nor as a warning.
    pub allowed: Option<String>,
}

/// Another place that matters to a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// Bytes of the source.
    pub span: Range<usize>,
    /// What is there.
    pub label: String,
}

impl Finding {
    /// A finding of `rule` at its usual level, without place or way out.
    pub fn new(rule: &Rule, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            rule: rule.id,
            level: rule.level,
            message: message.into(),
            span: None,
            path: path.into(),
            help: None,
            related: Vec::new(),
            allowed: None,
        }
    }

    /// The same at that place.
    pub fn at(mut self, span: Option<Range<usize>>) -> Self {
        self.span = span;
        self
    }

    /// The same at that level.
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// The same with a way out.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with another place that matters, if it has one.
    pub fn related(mut self, span: Option<Range<usize>>, label: impl Into<String>) -> Self {
        self.related.extend(span.map(|span| Related {
            span,
            label: label.into(),
        }));
        self
    }

    /// Whether it counts at `level`, that is, nobody has allowed it.
    fn counts_as(&self, level: Level) -> bool {
        self.level == level && self.allowed.is_none()
    }
}

/// All findings about one source, in the order of their places.
#[derive(Debug, Clone)]
pub struct Report {
    source_name: String,
    text: String,
    lines: LineIndex,
    findings: Vec<Finding>,
}

impl Report {
    /// The report on `text`, which is called `source_name` in messages.
    pub fn new(
        source_name: impl Into<String>,
        text: impl Into<String>,
        findings: Vec<Finding>,
    ) -> Self {
        let text = text.into();
        let mut report = Self {
            source_name: source_name.into(),
            lines: LineIndex::new(&text),
            text,
            findings,
        };
        report.sort();
        report
    }

    /// Adds findings, such as those of the live rules.
    pub fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
        self.sort();
    }

    /// Marks the findings of a rule as allowed, as `--allow` asks for, and
    /// says how many there were; an unknown or unallowable rule is refused
    /// with a message.
    pub fn allow(&mut self, rule: &str, reason: &str) -> Result<usize, String> {
        let rule =
            rules::find_allowable(rule).map_err(|(message, help)| format!("{message}; {help}"))?;
        let mut count = 0;
        for finding in &mut self.findings {
            if finding.rule == rule.id && finding.allowed.is_none() {
                finding.allowed = Some(reason.to_owned());
                count += 1;
            }
        }
        Ok(count)
    }

    /// The findings, also the allowed ones, in the order of their places.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What the source is called.
    pub fn source_name(&self) -> &str {
        &self.source_name
    }

    /// The source.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The same findings without the source and their places in it: a large
    /// one is not to be in memory for their sake.
    pub fn without_text(&self) -> Self {
        let findings = self.findings.iter().map(|finding| Finding {
            span: None,
            related: Vec::new(),
            ..finding.clone()
        });
        Self::new(self.source_name.clone(), "", findings.collect())
    }

    /// How many errors count.
    pub fn errors(&self) -> usize {
        self.count(Level::Error)
    }

    /// How many warnings count.
    pub fn warnings(&self) -> usize {
        self.count(Level::Warning)
    }

    /// How many findings are allowed.
    pub fn allowed(&self) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.allowed.is_some())
            .count()
    }

    /// Whether the configuration must be refused.
    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// One line, such as `balancer.toml: 1 error, 2 warnings, 0 allowed`.
    pub fn summary(&self) -> String {
        format!(
            "{}: {}, {}, {} allowed",
            self.source_name,
            counted(self.errors(), "error"),
            counted(self.warnings(), "warning"),
            self.allowed()
        )
    }

    /// Line and column at which a finding begins.
    pub fn position(&self, finding: &Finding) -> Option<(usize, usize)> {
        let span = finding.span.as_ref()?;
        Some(self.lines.position(&self.text, span.start))
    }

    fn count(&self, level: Level) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.counts_as(level))
            .count()
    }

    fn sort(&mut self) {
        // Stable: rules of one place stay in the order they ran in.
        self.findings
            .sort_by_key(|finding| finding.span.as_ref().map(|span| (span.start, span.end)));
    }
}

#[cfg(test)]
mod tests;
