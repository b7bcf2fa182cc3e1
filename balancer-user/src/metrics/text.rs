//! The text that a scrape is answered with.
//!
//! `prometheus-client` writes OpenMetrics. Who does not ask for that gets the
//! older format of Prometheus, which differs in the lines above the samples
//! alone: there a counter is called by its whole name.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Snapshot;
use super::families::{Family, Kind};

/// How samples are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Version 0.0.4 of Prometheus's own.
    Prometheus,
}

impl Format {
    /// What is best for who sends this `Accept` field.
    pub fn accepted(field: Option<&str>) -> Self {
        match field {
            Some(field) if field.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// What stands behind all families.
    pub fn end(self) -> &'static str {
        match self {
            Self::OpenMetrics => "# EOF\n",
            Self::Prometheus => "",
        }
    }
}

/// A family with its samples; nothing if it has none.
pub fn family(family: &'static Family, snapshot: &Arc<Snapshot>, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Written {
        family,
        snapshot: Arc::clone(snapshot),
    }));
    let mut text = String::new();
    // Writing to a `String` cannot fail, and no value is one that cannot be
    // written.
    let _ = encode_registry(&mut text, &registry);
    let header = text.match_indices('\n').nth(1).map(|(at, _)| at + 1);
    let samples = header.map_or("", |at| &text[at..]);
    match format {
        _ if samples.is_empty() => String::new(),
        Format::OpenMetrics => text,
        Format::Prometheus => {
            let (name, kind) = (family.name, family.kind.name());
            let mut older = format!("# HELP {name} {}\n# TYPE {name} {kind}\n", family.help);
            older.push_str(samples);
            older
        }
    }
}

#[derive(Debug)]
struct Written {
    family: &'static Family,
    snapshot: Arc<Snapshot>,
}

impl Collector for Written {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Family { name, help, .. } = self.family;
        let name = name.strip_suffix("_total").unwrap_or(name);
        let kind = match self.family.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let mut samples = Samples {
            metric: encoder.encode_descriptor(name, help, None, kind)?,
            names: self.family.labels,
        };
        (self.family.samples)(&self.snapshot, &mut samples)
    }
}

/// Takes the samples of a family.
#[derive(Debug)]
pub struct Samples<'a> {
    metric: MetricEncoder<'a>,
    names: &'static [&'static str],
}

impl Samples<'_> {
    /// A sample of a counter; the labels' values are in their names' order.
    pub fn count(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        self.with(labels, |metric| {
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    /// As [`Samples::count`], of one that counts parts.
    pub fn sum(&mut self, labels: &[&str], value: f64) -> fmt::Result {
        self.with(labels, |metric| {
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    /// A sample of a gauge.
    pub fn level(&mut self, labels: &[&str], value: f64) -> fmt::Result {
        self.with(labels, |metric| metric.encode_gauge(&value))
    }

    /// A sample of a histogram: counts by their upper ends.
    pub fn histogram(&mut self, labels: &[&str], sum: f64, buckets: &[(f64, u64)]) -> fmt::Result {
        let count = buckets.iter().map(|(_, count)| count).sum();
        self.with(labels, |metric| {
            metric.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
        })
    }

    fn with(
        &mut self,
        values: &[&str],
        write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        debug_assert_eq!(values.len(), self.names.len());
        if values.is_empty() {
            return write(&mut self.metric);
        }
        let names = self.names;
        let labels = Labels { names, values };
        write(&mut self.metric.encode_family(&labels)?)
    }
}

struct Labels<'a> {
    names: &'static [&'static str],
    values: &'a [&'a str],
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for pair in self.names.iter().copied().zip(self.values.iter().copied()) {
            pair.encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// All families, for tests and small answers.
pub fn whole(snapshot: &Arc<Snapshot>, format: Format) -> String {
    let mut text = String::new();
    for one in super::families::all() {
        let _ = text.write_str(&family(one, snapshot, format));
    }
    text.push_str(format.end());
    text
}
