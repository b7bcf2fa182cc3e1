//! What libFuzzer's output says of a run.

use std::fmt;
use std::path::{Path, PathBuf};

/// Lines of a failed run that are shown.
const SHOWN_LINES: usize = 12;

/// Longer lines are the input once more, in bytes.
const MAX_LINE_LEN: usize = 240;

/// One run of one target.
pub(super) struct Report {
    runs: u64,
    runs_per_second: u64,
    corpus: u64,
    /// Edges of the code reached by what was there before, and at the end.
    coverage: (u64, u64),
    failed: bool,
    input: Option<PathBuf>,
    fault: String,
    log: PathBuf,
}

impl Report {
    /// Reads the log of a run that succeeded or not.
    pub(super) fn read(text: &str, succeeded: bool, log: PathBuf) -> Self {
        let status = |line: &str| {
            // `#57 INITED cov: 100 ft: 200 corp: 10/4096b exec/s: 0 rss: 45Mb`
            let cov = after(line, "cov: ")?;
            Some((cov, after(line, "corp: ").unwrap_or_default()))
        };
        let statuses = || {
            text.lines()
                .filter(|it| it.starts_with('#'))
                .filter_map(status)
        };
        let first = text.lines().find(|it| it.contains("\tINITED"));
        let (last_coverage, corpus) = statuses().next_back().unwrap_or_default();
        let first_coverage = first.and_then(status).map_or(last_coverage, |(cov, _)| cov);
        let stat = |name: &str| {
            let line = text.lines().rev().find(|it| it.starts_with(name));
            line.and_then(|it| it.rsplit(' ').next()?.parse().ok())
        };
        // A slow input is written as well and ends nothing: the last one counts.
        let input = text
            .lines()
            .rev()
            .find_map(|line| line.split_once("Test unit written to "))
            .map(|(_, path)| PathBuf::from(path.trim()));
        Self {
            runs: stat("stat::number_of_executed_units:").unwrap_or_default(),
            runs_per_second: stat("stat::average_exec_per_sec:").unwrap_or_default(),
            corpus,
            coverage: (first_coverage, last_coverage),
            // A run that ends well and ran nothing has proved nothing.
            failed: !succeeded || first.is_none(),
            input,
            fault: fault(text),
            log,
        }
    }

    pub(super) fn is_failure(&self) -> bool {
        self.failed
    }

    /// The input that broke it, where it left one.
    pub(super) fn input(&self) -> Option<&Path> {
        self.input.as_deref()
    }

    /// What the log says of the fault.
    pub(super) fn fault(&self) -> &str {
        &self.fault
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, reached) = self.coverage;
        write!(
            out,
            "{:>11} runs {:>8}/s  corpus {:>5}  coverage {reached:>5} (+{})  {}",
            self.runs,
            self.runs_per_second,
            self.corpus,
            reached.saturating_sub(before),
            if self.failed { "FAILED" } else { "no crash" }
        )
    }
}

/// The lines from the panic or the sanitizer's report on; the last ones where
/// there is neither.
fn fault(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|it| !it.starts_with('#') && it.len() <= MAX_LINE_LEN)
        .collect();
    let said = |line: &&str| line.contains("panicked at ") || line.contains("ERROR: ");
    let first = lines.iter().position(said);
    let first = first.unwrap_or(lines.len().saturating_sub(SHOWN_LINES));
    let shown = lines[first..].iter().take(SHOWN_LINES);
    shown.map(|line| format!("  {line}\n")).collect()
}

/// The number that follows `word`.
fn after(line: &str, word: &str) -> Option<u64> {
    let (_, rest) = line.split_once(word)?;
    let end = rest
        .find(|it: char| !it.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "INFO: seed corpus: files: 29 min: 42b max: 112b total: 2192b rss: 44Mb\n\
        #30\tINITED cov: 300 ft: 500 corp: 28/2Kb exec/s: 0 rss: 45Mb\n\
        #64\tNEW    cov: 310 ft: 512 corp: 29/2Kb lim: 112 exec/s: 0 rss: 45Mb L: 60/112 MS: 1\n\
        #9000\tDONE   cov: 310 ft: 512 corp: 29/2Kb lim: 112 exec/s: 4500 rss: 45Mb\n\
        Done 9000 runs in 2 second(s)\n\
        stat::number_of_executed_units: 9000\n\
        stat::average_exec_per_sec:     4500\n";

    #[test]
    fn run_without_a_crash_is_one_line_of_figures() {
        let report = Report::read(GOOD, true, PathBuf::from("log"));
        assert!(!report.is_failure());
        let line = report.to_string();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            "9000 runs 4500/s corpus 29 coverage 310 (+10) no crash"
        );
    }

    #[test]
    fn crash_names_its_input_and_shows_the_panic() {
        let text = "#30\tINITED cov: 300 ft: 500 corp: 28/2Kb exec/s: 0 rss: 45Mb\n\
            thread '<unnamed>' panicked at src/a.rs:1:2:\n\
            artifact_prefix='/x/'; Test unit written to /x/crash-0123\n";
        let report = Report::read(text, false, PathBuf::from("log"));
        assert!(report.is_failure());
        assert_eq!(report.input(), Some(Path::new("/x/crash-0123")));
        let fault = report.fault();
        assert!(
            fault.starts_with("  thread '<unnamed>' panicked at src/a.rs:1:2"),
            "{fault}"
        );
    }

    #[test]
    fn run_that_ran_nothing_is_a_failure() {
        let report = Report::read("ParseDictionaryFile: error\n", true, PathBuf::from("log"));
        assert!(report.is_failure());
    }
}
