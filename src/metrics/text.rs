//! The text of /metrics: the classic one of Prometheus (0.0.4), or OpenMetrics where the scraper asks for it.
//!
//! They differ in a counter's family, which OpenMetrics names without `_total`, in the kind `info`, in units, in what
//! is escaped, and in the end.

use super::export::{Family, FamilyKind, Point, PointValue};
use super::histogram::DurationsTotal;
use std::fmt::Write;

/// Which text a scraper gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Classic,
    OpenMetrics,
}

impl Format {
    /// By the `Accept` headers (RFC 9110 section 12.5.1). OpenMetrics must be named, in its version 1.0.0 or in none,
    /// and not be liked less than the classic text.
    pub fn accepted<'a>(accept: impl Iterator<Item = &'a str>) -> Format {
        let (mut classic, mut open_metrics) = (0, 0);
        for range in accept.flat_map(|ranges| ranges.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let parameter = |name: &str| {
                let found = parameters.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.trim().trim_matches('"'))
            };
            let weight = parameter("q").map_or(WEIGHT_MAX, weight);
            match &*kind {
                "application/openmetrics-text" if matches!(parameter("version"), None | Some("1.0.0")) => {
                    open_metrics = weight.max(open_metrics);
                }
                "text/plain" => classic = weight.max(classic),
                _ => {}
            }
        }
        if open_metrics > 0 && open_metrics >= classic { Format::OpenMetrics } else { Format::Classic }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Each family with its HELP and its TYPE.
    pub fn encode(self, families: &[Family]) -> String {
        let mut text = String::new();
        for family in families {
            self.describe(&mut text, family);
            family.points.iter().for_each(|point| write_point(&mut text, family, point));
        }
        if self == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    fn describe(self, text: &mut String, family: &Family) {
        // Prometheus writes a HELP text without a full stop.
        let help = family.help.trim_end_matches('.').replace('\\', "\\\\").replace('\n', "\\n");
        let (suffix, help) = match self {
            Format::Classic => (suffix(family.kind), help),
            Format::OpenMetrics => ("", help.replace('"', "\\\"")),
        };
        let kind = match (family.kind, self) {
            (FamilyKind::Counter, _) => "counter",
            (FamilyKind::Histogram, _) => "histogram",
            (FamilyKind::Info, Format::OpenMetrics) => "info",
            (FamilyKind::Gauge, _) | (FamilyKind::Info, Format::Classic) => "gauge",
        };
        let name = &family.name;
        write!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n").expect(MEMORY);
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")));
        if let (Format::OpenMetrics, Some(unit)) = (self, unit) {
            writeln!(text, "# UNIT {name} {unit}").expect(MEMORY);
        }
    }
}

/// Thousandths, as many as a weight may have; 0 for what is none.
fn weight(text: &str) -> u32 {
    let weight = text.parse::<f32>().unwrap_or(0.0);
    (weight.clamp(0.0, 1.0) * WEIGHT_MAX as f32) as u32
}

fn suffix(kind: FamilyKind) -> &'static str {
    match kind {
        FamilyKind::Counter => "_total",
        FamilyKind::Info => "_info",
        FamilyKind::Gauge | FamilyKind::Histogram => "",
    }
}

fn write_point(text: &mut String, family: &Family, point: &Point) {
    let sample = |text: &mut String, suffix: &str, le: Option<&str>, value: &str| {
        text.push_str(&family.name);
        text.push_str(suffix);
        write_labels(text, &point.labels, le);
        writeln!(text, " {value}").expect(MEMORY);
    };
    match &point.value {
        PointValue::Number(number) => sample(text, suffix(family.kind), None, &number.to_string()),
        PointValue::Microseconds(us) => sample(text, suffix(family.kind), None, &seconds(*us)),
        PointValue::Durations(total) => write_histogram(text, total, sample),
    }
}

fn write_histogram(text: &mut String, total: &DurationsTotal, sample: impl Fn(&mut String, &str, Option<&str>, &str)) {
    for (bound_us, count) in total.cumulative() {
        sample(text, "_bucket", Some(&bound(bound_us)), &count.to_string());
    }
    let count = total.count().to_string();
    sample(text, "_bucket", Some("+Inf"), &count);
    sample(text, "_sum", None, &seconds(total.sum_us()));
    sample(text, "_count", None, &count);
}

fn write_labels(text: &mut String, labels: &[(&'static str, String)], le: Option<&str>) {
    let labels = labels.iter().map(|(name, value)| (*name, value.as_str())).chain(le.map(|bound| ("le", bound)));
    let mut before = '{';
    for (name, value) in labels {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        write!(text, "{before}{name}=\"{value}\"").expect(MEMORY);
        before = ',';
    }
    if before == ',' {
        text.push('}');
    }
}

/// Exactly, without a detour over a binary fraction.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// As OpenMetrics writes a bound: at least one digit after the point, and no zeros that say nothing.
fn bound(us: u64) -> String {
    let seconds = seconds(us);
    let short = seconds.trim_end_matches('0');
    if short.ends_with('.') { format!("{short}0") } else { short.to_owned() }
}

const WEIGHT_MAX: u32 = 1000;
const MEMORY: &str = "a string takes all that memory holds";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ShardId;
    use crate::metrics::export::{families, markdown_table};
    use crate::metrics::process::{Build, ClusterReadings, Metrics, ProcessReadings, Readings};
    use std::collections::HashSet;
    use std::path::Path;

    const READINGS: Readings = Readings {
        channels: 6,
        store_queued: Some(3),
        log_lines_lost: 4,
        log_lines_suppressed: 5,
        build: Build { version: "0.1.0", commit: Some("abc\"d") },
        process: ProcessReadings {
            cpu_us: Some(1_250_000),
            resident_bytes: Some(4096),
            virtual_bytes: Some(8192),
            open_fds: Some(12),
            max_fds: Some(1024),
            start_us: Some(1_700_000_000_500_000),
        },
        cluster: Some(ClusterReadings {
            nodes: [("live", 2), ("joining", 0), ("suspected", 0), ("link_down", 0), ("down", 1)],
            rejected: [("foreign", 1), ("forged", 2), ("stale", 3), ("replayed", 4), ("violation", 5)],
            announcements_timed_out: 6,
            resyncs: 7,
            rejoins: 8,
            directory_bytes: 9,
        }),
    };

    fn metrics() -> Metrics {
        let metrics = Metrics::new(2, true);
        for n in 0..2 {
            metrics.worker(ShardId(n)).calls_by_path.named("/send/").record(300);
            for (_, by_upstream) in metrics.backend(ShardId(n)).latencies() {
                by_upstream.named("127.0.0.1:80").record(2_000_000);
            }
        }
        metrics.shard(ShardId(1)).connections.set(7);
        metrics.shard(ShardId(0)).messages_in.add(2);
        metrics.shard(ShardId(1)).messages_in.add(3);
        metrics.admission().refused_full.increment();
        metrics.store().expect("a store").commit_us_max.raise_to(90);
        metrics
    }

    fn text(format: Format) -> String {
        format.encode(&families(&metrics(), &READINGS))
    }

    #[test]
    fn both_texts_have_names_kinds_labels_and_values() {
        let both = [
            "rainbow_messages_in_total 5",
            "rainbow_connections{worker=\"0\"} 0",
            "rainbow_connections{worker=\"1\"} 7",
            "rainbow_channels 6",
            "rainbow_connections_refused_total{reason=\"full\"} 1",
            "rainbow_connections_refused_total{reason=\"origin\"} 0",
            "rainbow_store_commit_longest_seconds 0.000090",
            "rainbow_build_info{version=\"0.1.0\",commit=\"abc\\\"d\"} 1",
            "# TYPE rainbow_call_duration_seconds histogram",
            "rainbow_call_duration_seconds_bucket{path=\"/send/\",le=\"0.00025\"} 0",
            "rainbow_call_duration_seconds_bucket{path=\"/send/\",le=\"0.0005\"} 2",
            "rainbow_call_duration_seconds_bucket{path=\"/send/\",le=\"+Inf\"} 2",
            "rainbow_call_duration_seconds_sum{path=\"/send/\"} 0.000600",
            "rainbow_call_duration_seconds_count{path=\"/send/\"} 2",
            "rainbow_backend_request_duration_seconds_bucket{hook=\"close\",upstream=\"127.0.0.1:80\",le=\"1.0\"} 0",
            "rainbow_backend_request_duration_seconds_bucket{hook=\"close\",upstream=\"127.0.0.1:80\",le=\"2.5\"} 2",
            "process_cpu_seconds_total 1.250000",
            "process_start_time_seconds 1700000000.500000",
        ];
        let classic = ["# TYPE rainbow_pings_total counter", "# TYPE rainbow_build_info gauge"];
        let open_metrics = [
            "# TYPE rainbow_pings counter",
            "# TYPE rainbow_build info",
            "# UNIT process_resident_memory_bytes bytes",
            "# EOF",
        ];
        for (format, own) in [(Format::Classic, &classic[..]), (Format::OpenMetrics, &open_metrics)] {
            let text = text(format);
            for expected in both.iter().chain(own) {
                assert_eq!(text.lines().filter(|line| line == expected).count(), 1, "{expected} in {text}");
            }
        }
        assert!(!text(Format::Classic).contains("# EOF"));
        assert!(text(Format::OpenMetrics).ends_with("# EOF\n"));
    }

    #[test]
    fn a_name_is_one_family_and_labels_name_one_value_of_it() {
        let families = families(&metrics(), &READINGS);
        let mut names = HashSet::new();
        for family in &families {
            let name = &family.name;
            assert!(names.insert(name), "{name} is described twice");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
            assert!(family.help.ends_with('.') && family.help.trim() == family.help, "{name}: {:?}", family.help);
            let labels: HashSet<_> = family.points.iter().map(|point| &point.labels).collect();
            assert_eq!(labels.len(), family.points.len(), "{name}");
            for unit in ["_us", "_ms", "_total", "_info"] {
                assert!(!name.ends_with(unit), "{name}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        let readings = Readings {
            process: ProcessReadings::default(),
            store_queued: None,
            cluster: None,
            build: Build { version: "1", commit: None },
            ..READINGS
        };
        let text = Format::Classic.encode(&families(&Metrics::new(1, false), &readings));
        for absent in ["process_", "store_", "commit=", "cluster_"] {
            assert!(!text.contains(absent), "{absent} in {text}");
        }
    }

    #[test]
    fn open_metrics_must_be_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.2";
        for open in [prometheus, "Application/OpenMetrics-Text", "application/openmetrics-text; version=\"1.0.0\""] {
            assert_eq!(Format::accepted([open].into_iter()), Format::OpenMetrics, "{open}");
        }
        for classic in [
            "",
            "*/*",
            "text/plain",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0.2, text/plain;q=0.3",
            "application/openmetrics-text;q=lots",
        ] {
            assert_eq!(Format::accepted([classic].into_iter()), Format::Classic, "{classic}");
        }
    }

    #[test]
    fn the_readme_has_this_table() {
        let readme =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics/README.md")).unwrap();
        let (_, rest) = readme.split_once("<!-- metrics -->").expect("the README has the table");
        let (table, _) = rest.split_once("<!-- /metrics -->").expect("<!-- metrics --> is closed");
        let expected = markdown_table(&families(&metrics(), &READINGS));
        assert_eq!(table.trim(), expected.trim(), "what `metrics::export::markdown_table()` gives belongs there");
    }

    /// What a name or a label's value is made of.
    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
    }

    #[test]
    fn dashboards_and_alerts_ask_for_metrics_that_exist() {
        let exported = text(Format::Classic);
        let known: HashSet<&str> = words(&exported).collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/monitoring");
        for file in ["rainbow-alerts.yml", "rainbow-dashboard.json", "rainbow-alerts.test.yml"] {
            let named = std::fs::read_to_string(folder.join(file)).expect("it is in the repository");
            // A label of Prometheus itself.
            let named = named.replace("alertstate", "");
            let names: HashSet<&str> = words(&named)
                .filter(|word| word.starts_with("rainbow_") || word.starts_with("process_") && !word.ends_with('_'))
                .collect();
            assert!(names.len() > 5, "{file}: {names:?}");
            let unknown: Vec<&&str> = names.iter().filter(|name| !known.contains(**name)).collect();
            assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
            for label in ["reason", "state", "direction", "status"] {
                let before = format!("{label}=");
                let selectors = named.split(&before).skip(1).filter_map(|rest| rest.split('"').nth(1));
                let values = selectors.flat_map(|values| values.split('|'));
                let unknown: Vec<&str> = values.filter(|value| !known.contains(value)).collect();
                assert!(unknown.is_empty(), "{file}: no {label} is {unknown:?}");
            }
        }
    }
}
