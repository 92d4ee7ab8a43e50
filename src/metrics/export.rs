//! What /metrics shows: every figure under its name there, in families, with the labels that tell its values apart.
//!
//! A gauge of a worker has the worker's number; counters of workers are added up. No label is chosen by a client. What
//! cannot be read is absent, never 0. README.md's table of metrics is made here too.

use super::counter::Kind;
use super::figure::{Exported, Figure, Figures};
use super::histogram::{DurationsByLabel, DurationsTotal};
use super::process::{ClusterReadings, Metrics, ProcessReadings, Readings};
use std::fmt::Write;
use std::sync::Arc;

/// The values of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Without the suffix of its kind.
    pub name: String,
    pub help: &'static str,
    pub kind: FamilyKind,
    pub points: Vec<Point>,
    /// The names of its counters in /info/, for README.md.
    info_names: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    Counter,
    Gauge,
    Histogram,
    /// Its labels say something, its value is 1.
    Info,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Names and values.
    pub labels: Vec<(&'static str, String)>,
    pub value: PointValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PointValue {
    Number(u64),
    /// Shown in seconds.
    Microseconds(u64),
    /// The same.
    Durations(Box<DurationsTotal>),
}

/// Whose figures are added up, and whose stand apart.
enum Owners<'a, Owner> {
    Workers(&'a [Arc<Owner>]),
    One(&'a Owner),
}

/// Every family of the process.
pub fn families(metrics: &Metrics, readings: &Readings) -> Vec<Family> {
    let mut page = Page::default();
    page.figures(Owners::Workers(metrics.shards()));
    page.figures(Owners::Workers(metrics.workers()));
    page.figures(Owners::One(&**metrics.admission()));
    page.figures(Owners::Workers(metrics.backends()));
    if let Some(store) = metrics.store() {
        page.figures(Owners::One(&**store));
    }
    page.figures(Owners::One(&**metrics.spans()));
    page.process_wide(metrics, readings);
    page.durations(metrics);
    if let Some(cluster) = &readings.cluster {
        page.cluster(cluster);
    }
    page.process(&readings.process);
    page.families
}

#[derive(Default)]
struct Page {
    families: Vec<Family>,
}

impl Page {
    fn figures<Owner: Figures>(&mut self, owners: Owners<'_, Owner>) {
        for figure in Owner::FIGURES {
            // A channel may have members on several workers: the process has a count of its own.
            if figure.exported.family != CHANNELS {
                self.figure(figure, &owners);
            }
        }
    }

    fn figure<Owner>(&mut self, figure: &Figure<Owner>, owners: &Owners<'_, Owner>) {
        let Exported { family, label } = figure.exported;
        let labels: Vec<_> = label.map(|(name, value)| (name, value.to_owned())).into_iter().collect();
        let point = |labels, value| Point { labels, value: PointValue::Number(value) };
        let points = match (owners, figure.kind) {
            (Owners::One(owner), _) => vec![point(labels, (figure.read)(owner))],
            (Owners::Workers(owners), Kind::Counter) => {
                vec![point(labels, owners.iter().map(|owner| (figure.read)(owner)).sum())]
            }
            (Owners::Workers(owners), Kind::Gauge) => {
                let of_worker = |(number, owner): (usize, &Arc<Owner>)| {
                    point(vec![("worker", number.to_string())], (figure.read)(owner))
                };
                owners.iter().enumerate().map(of_worker).collect()
            }
        };
        let kind = match figure.kind {
            Kind::Counter => FamilyKind::Counter,
            Kind::Gauge => FamilyKind::Gauge,
        };
        let name = format!("{PREFIX}{family}");
        if let Some(known) = self.families.iter_mut().find(|known| known.name == name) {
            assert_eq!(known.kind, kind, "{name} is two kinds");
            known.points.extend(points);
            known.info_names.push(figure.name);
            return;
        }
        let info_names = if kind == FamilyKind::Counter { vec![figure.name] } else { Vec::new() };
        let help = match label {
            None => figure.help,
            Some(_) => HELP.iter().find(|(known, _)| *known == family).expect("a family has its help").1,
        };
        self.families.push(Family { name, help, kind, points, info_names });
    }

    fn push(&mut self, name: &str, help: &'static str, kind: FamilyKind, points: Vec<Point>) {
        self.families.push(Family { name: name.to_owned(), help, kind, points, info_names: Vec::new() });
    }

    /// A family of one value without labels, when that could be read.
    fn single(&mut self, name: &str, help: &'static str, kind: FamilyKind, value: Option<PointValue>) {
        if let Some(value) = value {
            self.push(name, help, kind, vec![Point { labels: Vec::new(), value }]);
        }
    }

    fn process_wide(&mut self, metrics: &Metrics, readings: &Readings) {
        use FamilyKind::{Counter, Gauge, Info};
        let number = |value| Some(PointValue::Number(value));
        let channels = number(readings.channels);
        self.single("rainbow_channels", "Channels with members, each once.", Gauge, channels);
        self.single("rainbow_workers", "Worker threads.", Gauge, number(metrics.workers().len() as u64));
        let lost = number(readings.log_lines_lost);
        self.single("rainbow_log_lines_lost", "Lines of the log that stderr did not take.", Counter, lost);
        let suppressed = number(readings.log_lines_suppressed);
        self.single("rainbow_log_lines_suppressed", "Lines of the log over the limit per second.", Counter, suppressed);
        let queued = readings.store_queued.map(PointValue::Number);
        self.single("rainbow_store_queued", "Requests that wait for the store's thread.", Gauge, queued);
        let longest = metrics.store().map(|store| PointValue::Microseconds(store.commit_us_max.get()));
        self.single("rainbow_store_commit_longest_seconds", "The store's longest commit.", Gauge, longest);
        let mut labels = vec![("version", readings.build.version.to_owned())];
        labels.extend(readings.build.commit.map(|commit| ("commit", commit.to_owned())));
        let build = vec![Point { labels, value: PointValue::Number(1) }];
        self.push("rainbow_build", "What was built, and from which commit.", Info, build);
    }

    fn durations(&mut self, metrics: &Metrics) {
        let single = |total| vec![Point { labels: Vec::new(), value: PointValue::Durations(Box::new(total)) }];
        let turns = single(DurationsTotal::of(metrics.workers().iter().map(|worker| &worker.turns)));
        self.push("rainbow_turn_duration_seconds", TURNS, FamilyKind::Histogram, turns);
        let calls = by_label(metrics.workers().iter().map(|worker| &worker.calls_by_path));
        let calls = calls.into_iter().map(|(path, total)| point_of(vec![("path", path)], total)).collect();
        self.push("rainbow_call_duration_seconds", CALLS, FamilyKind::Histogram, calls);
        let mut backend = Vec::new();
        for hook in 0..metrics.backends()[0].latencies().len() {
            let name = metrics.backends()[0].latencies()[hook].0;
            let upstreams = by_label(metrics.backends().iter().map(|backend| backend.latencies()[hook].1));
            backend.extend(
                upstreams
                    .into_iter()
                    .map(|(upstream, total)| point_of(vec![("hook", name.to_owned()), ("upstream", upstream)], total)),
            );
        }
        self.push("rainbow_backend_request_duration_seconds", BACKEND, FamilyKind::Histogram, backend);
        if let Some(store) = metrics.store() {
            let commits = single(DurationsTotal::of([&store.commit]));
            self.push("rainbow_store_commit_duration_seconds", COMMITS, FamilyKind::Histogram, commits);
        }
    }

    fn cluster(&mut self, cluster: &ClusterReadings) {
        use FamilyKind::{Counter, Gauge};
        let ClusterReadings { nodes, rejected, announcements_timed_out, resyncs, rejoins, directory_bytes } = *cluster;
        let by = |label: &'static str, figures: &[(&'static str, u64)]| {
            let point = |(value, count): &(&'static str, u64)| Point {
                labels: vec![(label, (*value).to_owned())],
                value: PointValue::Number(*count),
            };
            figures.iter().map(point).collect()
        };
        self.push("rainbow_cluster_nodes", "Other nodes of the cluster, by state.", Gauge, by("state", &nodes));
        let help = "Datagrams and links of others that were not taken, by reason.";
        self.push("rainbow_cluster_rejected", help, Counter, by("reason", &rejected));
        let number = |value| Some(PointValue::Number(value));
        let help = "Clients let in, and calls answered, before every node knew of their channels.";
        self.single("rainbow_cluster_announcements_timed_out", help, Counter, number(announcements_timed_out));
        let help = "Times that what is known of a node's channels was lost, and asked for anew.";
        self.single("rainbow_cluster_resyncs", help, Counter, number(resyncs));
        let help = "Times that the others held this node for down, and it came back.";
        self.single("rainbow_cluster_rejoins", help, Counter, number(rejoins));
        let help = "Memory of what is known of the other nodes' channels.";
        self.single("rainbow_cluster_directory_bytes", help, Gauge, number(directory_bytes));
    }

    /// The names, and nearly the sentences, of Prometheus' own clients.
    fn process(&mut self, process: &ProcessReadings) {
        use FamilyKind::{Counter, Gauge};
        let ProcessReadings { cpu_us, resident_bytes, virtual_bytes, open_fds, max_fds, start_us } = *process;
        let [cpu, start] = [cpu_us, start_us].map(|us| us.map(PointValue::Microseconds));
        let [resident, mapped, open, max] =
            [resident_bytes, virtual_bytes, open_fds, max_fds].map(|number| number.map(PointValue::Number));
        self.single("process_cpu_seconds", "User and system CPU time spent.", Counter, cpu);
        self.single("process_resident_memory_bytes", "Resident memory.", Gauge, resident);
        self.single("process_virtual_memory_bytes", "Virtual memory.", Gauge, mapped);
        self.single("process_open_fds", OPEN_FDS, Gauge, open);
        self.single("process_max_fds", "Descriptors that one table of the process may have.", Gauge, max);
        self.single("process_start_time_seconds", "Start of the process, in Unix time.", Gauge, start);
    }
}

fn point_of(labels: Vec<(&'static str, String)>, total: DurationsTotal) -> Point {
    Point { labels, value: PointValue::Durations(Box::new(total)) }
}

/// The workers' durations of each label, added up.
pub fn by_label<'a>(workers: impl Iterator<Item = &'a DurationsByLabel>) -> Vec<(String, DurationsTotal)> {
    let mut totals: Vec<(String, DurationsTotal)> = Vec::new();
    for (label, durations) in workers.flat_map(DurationsByLabel::iter) {
        match totals.iter_mut().find(|(known, _)| known == label) {
            Some((_, total)) => total.add(durations),
            None => totals.push((label.to_owned(), DurationsTotal::of([durations]))),
        }
    }
    totals
}

/// README.md's table: every family, with its labels and the names that its figures have in /info/.
pub fn markdown_table(families: &[Family]) -> String {
    let mut table = "| metric | labels | what it says | in /info/ |\n|---|---|---|---|\n".to_owned();
    for family in families {
        let Family { name, kind, points, .. } = family;
        let suffix = match kind {
            FamilyKind::Counter => "_total",
            FamilyKind::Info => "_info",
            FamilyKind::Gauge | FamilyKind::Histogram => "",
        };
        let mut labels: Vec<&str> = Vec::new();
        points.iter().flat_map(|point| &point.labels).for_each(|(label, _)| match labels.contains(label) {
            true => {}
            false => labels.push(label),
        });
        let labels: Vec<_> = labels.iter().map(|label| label_cell(label, family)).collect();
        let names: Vec<_> = family.info_names.iter().map(|name| format!("`{name}`")).collect();
        let what = if *kind == FamilyKind::Histogram { "Histogram. " } else { "" };
        let (labels, names, help) = (labels.join(", "), names.join(", "), family.help);
        writeln!(table, "| `{name}{suffix}` | {labels} | {what}{help} | {names} |").expect("it is memory");
    }
    table
}

/// A label of the process's own choice comes with its values, in the order of the names in /info/.
fn label_cell(label: &str, family: &Family) -> String {
    if !matches!(label, "reason" | "status" | "direction") {
        return label.to_owned();
    }
    let values = family.points.iter().flat_map(|point| &point.labels).filter(|(name, _)| *name == label);
    let values: Vec<_> = values.map(|(_, value)| format!("`{value}`")).collect();
    format!("{label}: {}", values.join(" "))
}

const PREFIX: &str = "rainbow_";
const CHANNELS: &str = "channels";

/// Of families with several figures: each of those says in its own words what it counts.
const HELP: &[(&str, &str)] = &[
    ("backend_error_answers", "Answers of the backend that are errors, by status."),
    ("backend_failures", "Attempts to ask the backend that failed without an answer, by reason."),
    ("calls_refused", "Calls refused, by reason: what they ask, their signature, too much memory in bodies."),
    ("connections_closed", "Connections closed by the server, by reason."),
    ("connections_refused", "Connections that did not become clients, by reason."),
    ("http_requests_refused", "HTTP requests that could not be read, or did not come in time."),
    (
        "messages_dropped_qos0",
        "QoS 0 messages dropped: in, the backend did not take them; out, a client does not read.",
    ),
    ("spans_dropped", "Spans that did not get to the collector, by reason."),
];
const TURNS: &str = "Length of a worker's turn, from the first thing that it handles to the end of what it writes.";
const CALLS: &str = "Time from a call's last byte to its response, by path.";
const BACKEND: &str = "Time from the start of an attempt to the backend's whole answer, by hook and upstream.";
const COMMITS: &str = "Length of a commit of the store, from the first request taken to the answers.";
const OPEN_FDS: &str = "Open descriptors in the fullest table of the process; a worker may have a table of its own.";
