//! The text of `GET /metrics`, read as a scraper does.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// Samples by their name with labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// Reads the text format 0.0.4, without timestamps.
    ///
    /// # Errors
    /// A line is no sample.
    pub fn read(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let read = line.rsplit_once(' ');
            let read = read.and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
            read.with_context(|| format!("no sample: {line}"))
        };
        lines.map(sample).collect::<Result<_>>().map(Self)
    }

    /// A sample, by its name and labels as they stand there.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// As [`Samples::get`].
    ///
    /// # Errors
    /// There is none.
    pub fn of(&self, name: &str) -> Result<f64> {
        let found = self.get(name);
        found.with_context(|| format!("no {name} in {:#?}", self.0))
    }

    /// All of a metric in which a label has this value, together.
    pub fn sum_where(&self, metric: &str, label: &str, value: &str) -> f64 {
        let label = format!("{label}=\"{value}\"");
        let is_its = |name: &str| {
            let labels = name
                .strip_prefix(metric)
                .and_then(|it| it.strip_prefix('{'));
            labels.is_some_and(|labels| {
                labels
                    .trim_end_matches('}')
                    .split(',')
                    .any(|it| it == label)
            })
        };
        let its = self.iter().filter(|(name, _)| is_its(name));
        its.map(|(_, value)| value).sum()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_total What it is.\n# TYPE a_total counter\n\
        a_total{service=\"web\",result=\"failed\"} 3\n\
        a_total{service=\"shop\",result=\"failed\"} 4\n\
        a_total{service=\"failed\",result=\"passed\"} 100\na 1.5\n";

    #[test]
    fn samples_are_found_and_summed_by_label() {
        let samples = Samples::read(TEXT).unwrap();
        assert_eq!(samples.get("a"), Some(1.5));
        assert_eq!(samples.sum_where("a_total", "result", "failed"), 7.0);
        assert_eq!(samples.sum_where("a", "result", "failed"), 0.0);
        assert!(samples.of("b").is_err());
        assert_eq!(samples.iter().count(), 4);
    }

    #[test]
    fn what_is_no_sample_is_named() {
        let error = Samples::read("a 1\nb two\n").unwrap_err();
        assert_eq!(error.to_string(), "no sample: b two");
    }
}
