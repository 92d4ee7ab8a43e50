//! The Prometheus text, in the OpenMetrics form.

use super::counter::Kind;
use super::figure::Sample;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// Of the text that `encode` makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Each sample with its HELP and its TYPE.
pub fn encode(samples: impl Iterator<Item = Sample>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("rainbow");
    registry.register_collector(Box::new(Collected(samples.collect())));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Collected(Vec<Sample>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.iter().try_for_each(|sample| match sample.kind {
            Kind::Counter => encode_one(&mut encoder, sample, &ConstCounter::new(sample.value)),
            Kind::Gauge => encode_one(&mut encoder, sample, &ConstGauge::new(sample.value as i64)),
        })
    }
}

fn encode_one(
    encoder: &mut DescriptorEncoder<'_>,
    sample: &Sample,
    metric: &impl EncodeMetric,
) -> Result<(), fmt::Error> {
    // Prometheus writes a HELP text without a full stop.
    let help = sample.help.trim_end_matches('.');
    metric.encode(encoder.encode_descriptor(sample.name, help, None::<&Unit>, metric.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::process::{Metrics, Readings};

    #[test]
    fn the_text_has_help_type_and_value_of_a_sample() {
        let samples = [
            Sample { name: "pings", help: "Pings sent.", kind: Kind::Counter, value: 3 },
            Sample { name: "connections", help: "Open connections.", kind: Kind::Gauge, value: 7 },
        ];
        let expected = "# HELP rainbow_pings Pings sent\n# TYPE rainbow_pings counter\nrainbow_pings_total 3\n\
                        # HELP rainbow_connections Open connections\n# TYPE rainbow_connections gauge\n\
                        rainbow_connections 7\n# EOF\n";
        assert_eq!(encode(samples.into_iter()).as_deref(), Ok(expected));
    }

    #[test]
    fn the_text_has_every_figure_of_the_process_once() {
        let metrics = Metrics::new(2, true);
        let samples = || {
            metrics.samples(&Readings {
                memory_bytes: Some(1),
                uptime_seconds: 2,
                store_queued: Some(3),
                log_lines_lost: 4,
                log_lines_suppressed: 5,
            })
        };
        let text = encode(samples()).expect("it fits in memory");
        let lines = |expected: String| text.lines().filter(|line| *line == expected).count();
        for Sample { name, kind, value, help } in samples() {
            let (suffix, kind) = match kind {
                Kind::Counter => ("_total", "counter"),
                Kind::Gauge => ("", "gauge"),
            };
            assert_eq!(lines(format!("# HELP rainbow_{name} {}", help.trim_end_matches('.'))), 1, "{name}");
            assert_eq!(lines(format!("# TYPE rainbow_{name} {kind}")), 1, "{name}");
            assert_eq!(lines(format!("rainbow_{name}{suffix} {value}")), 1, "{name}");
        }
        assert_eq!(text.lines().count(), 3 * samples().count() + 1);
    }
}
