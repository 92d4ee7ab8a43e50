//! Results: one row per target and case, as a line of JSON and in the table.

use serde_json::{Value, json};

use crate::round::{Losses, Outcome, latency_histogram};
use crate::swarm::Faults;

/// One figure and what stands beside it.
#[derive(Default)]
pub struct Row {
    pub scenario: &'static str,
    pub case: String,
    pub target: String,
    /// Of `value`, `low` and `high`.
    pub unit: &'static str,
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// To the floor, and what it must not exceed. Without a ratio the must is for `value`.
    pub ratio: Option<f64>,
    pub must: Option<f64>,
    pub per_second: Option<f64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub rounds: Vec<f64>,
    pub ops: u64,
    pub softirq_share: f64,
    pub server_busy: f64,
    pub generator_busy: f64,
    pub generator_was_the_limit: bool,
    pub losses: Losses,
    pub faults: Faults,
    /// More figures, by name; in the JSON line, and in the table's last column.
    pub extra: Vec<(&'static str, f64)>,
}

impl Row {
    pub fn of(scenario: &'static str, case: &str, outcome: Outcome) -> Row {
        let rounds: Vec<f64> = outcome.rounds.iter().map(|round| round.us_per_op()).collect();
        let mut latency = latency_histogram();
        outcome.rounds.iter().for_each(|round| latency.add(&round.latency).expect("the same bounds"));
        let sum = |field: fn(&crate::round::Round) -> f64| outcome.rounds.iter().map(field).sum::<f64>();
        let wall_s = sum(|round| round.used.wall_ns as f64) / 1e9;
        let cpu_ns = sum(|round| round.used.cpu_ns as f64);
        let ops: u64 = outcome.rounds.iter().map(|round| round.ops).sum();
        let count = rounds.len().max(1) as f64;
        let limited = outcome.rounds.iter().filter(|round| round.used.generator_was_the_limit()).count();
        let quantile = |at: f64| (!latency.is_empty()).then(|| latency.value_at_quantile(at) as f64 / 1e3);
        Row {
            scenario,
            case: case.into(),
            target: outcome.target,
            unit: "µs/op",
            value: median(&rounds),
            low: rounds.iter().copied().fold(f64::INFINITY, f64::min),
            high: rounds.iter().copied().fold(0.0, f64::max),
            per_second: (wall_s > 0.0).then_some(ops as f64 / wall_s),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            ops,
            softirq_share: if cpu_ns > 0.0 { sum(|round| round.used.softirq_ns as f64) / cpu_ns } else { 0.0 },
            server_busy: sum(|round| round.used.server_busy()) / count,
            generator_busy: sum(|round| round.used.generator_busy) / count,
            generator_was_the_limit: limited * 2 > outcome.rounds.len(),
            rounds,
            losses: outcome.losses,
            faults: outcome.faults,
            ..Row::default()
        }
    }

    /// The rounds' ratios to the floor's rounds of the same number, their median. Compared in pairs, because what the
    /// machine does to one it does to the other.
    pub fn against(mut self, floor: &[f64], must: Option<f64>) -> Row {
        let ratios: Vec<f64> = self.rounds.iter().zip(floor).map(|(own, floor)| own / floor).collect();
        self.ratio = (!ratios.is_empty()).then(|| median(&ratios));
        self.must = must.filter(|_| self.ratio.is_some());
        self
    }

    /// Nothing was lost, repeated or wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.count == 0 && self.losses == Losses::default()
    }

    pub fn holds(&self) -> Option<bool> {
        self.must.map(|must| self.ratio.unwrap_or(self.value) <= must)
    }

    pub fn json(&self) -> Value {
        let mut line = json!({
            "scenario": self.scenario, "case": self.case, "target": self.target, "unit": self.unit,
            "value": round3(self.value), "low": round3(self.low), "high": round3(self.high),
            "rounds": self.rounds.iter().copied().map(round3).collect::<Vec<_>>(),
            "ratio": self.ratio.map(round3), "must": self.must, "holds": self.holds(),
            "ops": self.ops, "ops_per_s": self.per_second.map(f64::round),
            "p50_us": self.p50_us.map(round3), "p99_us": self.p99_us.map(round3),
            "ksoftirqd_share": round3(self.softirq_share), "server_busy": round3(self.server_busy),
            "generator_busy": round3(self.generator_busy), "generator_was_the_limit": self.generator_was_the_limit,
            "lost": self.losses.lost, "repeats": self.losses.repeats, "errors": self.faults.count,
        });
        for (name, figure) in &self.extra {
            line[*name] = json!(round3(*figure));
        }
        line
    }

    fn remarks(&self) -> String {
        let mut remarks: Vec<String> = Vec::new();
        if !self.is_sound() {
            let Losses { lost, repeats } = self.losses;
            remarks.push(format!("LOST {lost}, REPEATED {repeats}, ERRORS {}", self.faults.count));
        }
        if self.generator_was_the_limit {
            remarks.push("the generator was the limit".into());
        }
        remarks.extend(self.extra.iter().map(|(name, figure)| format!("{name} {}", short(*figure))));
        remarks.join("; ")
    }
}

/// The readable table, with every fault in words below it.
pub fn table(rows: &[Row]) -> String {
    let mut lines: Vec<[String; 9]> = vec![HEAD.map(String::from)];
    for row in rows {
        let must = match (row.must, row.holds()) {
            (Some(must), Some(true)) => format!("≤ {} ok", short(must)),
            (Some(must), _) => format!("≤ {} MISSED", short(must)),
            (None, _) => String::new(),
        };
        let some = |figure: Option<f64>| figure.map_or(String::new(), short);
        let latency = match (row.p50_us, row.p99_us) {
            (Some(p50), Some(p99)) => format!("{} / {}", short(p50), short(p99)),
            _ => String::new(),
        };
        let spread =
            if row.rounds.len() > 1 { format!("{}–{}", short(row.low), short(row.high)) } else { String::new() };
        let figure = if row.value.is_finite() && row.ops > 0 { short(row.value) } else { "–".into() };
        let unit = if row.unit == "µs/op" { String::new() } else { format!(" {}", row.unit) };
        lines.push([
            format!("{} {}", row.scenario, row.case),
            row.target.clone(),
            figure + &unit,
            spread,
            row.ratio.map_or(String::new(), |ratio| format!("{ratio:.2} ×")),
            must,
            some(row.per_second),
            latency,
            row.remarks(),
        ]);
    }
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                let pad = " ".repeat(width - cell.chars().count());
                if !(2..=7).contains(&column) { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
            })
            .collect();
        text += cells.join("  ").trim_end();
        text += "\n";
    }
    for row in rows {
        for what in &row.faults.words {
            text += &format!("{} {}, {}: {what}\n", row.scenario, row.case, row.target);
        }
    }
    text
}

const HEAD: [&str; 9] =
    ["scenario", "target", "µs CPU/op", "min–max", "to floor", "must", "ops/s", "p50 / p99 µs", "remarks"];

/// Three digits that matter.
fn short(figure: f64) -> String {
    match figure.abs() {
        0.0..10.0 => format!("{figure:.2}"),
        10.0..100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

fn round3(figure: f64) -> f64 {
    // Plus zero: of a negative zero it makes a zero.
    (figure * 1e3).round() / 1e3 + 0.0
}

/// The middle one, or the mean of the two; 0 of nothing.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
    }
}
