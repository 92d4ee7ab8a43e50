//! Scenarios of everything together: mixed, churn, two-workers. They have no floor.

use super::{Bench, Case};
use crate::row::Row;
use crate::target::Kind;
use crate::work::Pace;
use crate::work::chat::{CALLS, Chat, channel};

/// The chat; `churn` is the share of clients that reconnect each second.
pub fn chat(bench: &Bench, clients: usize, pace: Pace, churn: f64) -> Result<Vec<Row>, String> {
    let (scenario, rate) = if churn > 0.0 { ("churn", churn * clients as f64) } else { ("mixed", 0.0) };
    let kind = Kind::rainbow(bench.server_core());
    let name = format!("{clients} clients, {}", pace.name());
    bench.compare(scenario, vec![case(bench, kind, clients, pace, rate).named(&name)], 0)
}

/// The chat at a fixed rate on one worker and on two: what crossing between workers costs. ksoftirqd is counted on the
/// first core only: on the second it works for the generator too.
///
/// The rate that counts keeps one worker busy for half of its time. At a tenth of that there is no must: each message is a
/// wake-up of each worker then, and the second one, which shares its core with the generator, sleeps and wakes the most.
pub fn two_workers(bench: &Bench, clients: usize, rate: f64, must: Option<f64>) -> Result<Vec<Row>, String> {
    let (first, second) = (bench.server_core(), bench.plan.generator_core);
    let one = |cores: Vec<usize>| {
        let name = format!("{clients} clients, {} on cores {cores:?}, {rate}/s", cores.len());
        let kind = Kind::Rainbow { workers: cores.len(), cores, config: String::new() };
        case(bench, kind, clients, Pace::Open(rate), 0.0).named(&name)
    };
    let cases = vec![one(vec![first]), one(vec![first, second]).must(must)];
    let mut rows = bench.compare("two-workers", cases, 0)?;
    if let [single, double] = &mut rows[..] {
        *double = std::mem::take(double).against(&single.rounds, must);
    }
    Ok(rows)
}

fn case(bench: &Bench, kind: Kind, clients: usize, pace: Pace, churn_per_second: f64) -> Case {
    let work = Chat::new(clients as u32, pace, bench.size, churn_per_second);
    Case::new(kind, clients, channel, CALLS, work)
}
