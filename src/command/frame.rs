//! What `top` shows: rows of text out of the answers of /info/, none of them wider than the terminal.

use super::output::clean;
use serde_json::Value;
use std::time::Duration;

#[derive(Clone, Copy)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// What has happened between two answers, per second.
pub struct Rates {
    messages_in: f64,
    messages_out: f64,
    failures: f64,
    /// Percent of one CPU.
    cpu: f64,
    /// In and out, by worker.
    workers: Vec<(u64, f64, f64)>,
}

impl Rates {
    /// `None` when the server was restarted in between.
    pub fn between(before: &Value, now: &Value, time: Duration) -> Option<Rates> {
        let seconds = time.as_secs_f64();
        if before["pid"] != now["pid"] || before["node"] != now["node"] || seconds <= 0.0 {
            return None;
        }
        let rate = |one: &Value, other: &Value| {
            let (one, other) = (one.as_f64().unwrap_or(0.0), other.as_f64().unwrap_or(0.0));
            (other - one).max(0.0) / seconds
        };
        let of = |name: &str| rate(&before[name], &now[name]);
        let list = |info: &Value| info["workers"].as_array().cloned().unwrap_or_default();
        let of_worker = |worker: &Value| {
            let was = list(before).into_iter().find(|was| was["id"] == worker["id"])?;
            let of = |name: &str| rate(&was[name], &worker[name]);
            Some((worker["id"].as_u64()?, of("messages_in"), of("messages_out")))
        };
        Some(Rates {
            messages_in: of("messages_in"),
            messages_out: of("messages_out"),
            failures: rate(&before["backend"][0]["failures"], &now["backend"][0]["failures"]),
            cpu: of("cpu_us") / 1e4,
            workers: list(now).iter().filter_map(of_worker).collect(),
        })
    }
}

/// `whole` is the last answer that had everything; `trouble`: why the figures are old.
pub fn draw(info: &Value, whole: &Value, rates: Option<&Rates>, trouble: Option<&str>, size: Size) -> Vec<String> {
    let mut rows = head(info, rates);
    rows.extend(trouble.map(|why| format!("OLD FIGURES: {}", clean(why))));
    rows.push(String::new());
    rows.extend(backends(info, rates));
    rows.push(String::new());
    rows.extend(workers(info, rates));
    rows.push(String::new());
    rows.extend(channels(whole));
    let fits = |row: String| row.chars().take(size.columns).collect::<String>().trim_end().to_owned();
    rows.into_iter().take(size.rows).map(fits).collect()
}

fn head(info: &Value, rates: Option<&Rates>) -> Vec<String> {
    let rate = |of: fn(&Rates) -> f64| rates.map_or("-".into(), |rates| per_second(of(rates)));
    let workers = info["workers"].as_array().map_or(0, Vec::len);
    let cpu = rates.map_or("-".into(), |rates| format!("{:.0} %", rates.cpu));
    let figure = |name: &str| count(&info[name]);
    vec![
        format!(
            "Rainbow {}  {}  up {}  {}  node {}",
            text(&info["version"]),
            text(&info["listen"]),
            duration(info["uptime_s"].as_u64()),
            text(&info["cluster_name"]),
            text(&info["node"])
        ),
        format!(
            "connections {:>10}   in  {:>8}/s   cpu    {:>6} of {} %",
            figure("connections"),
            rate(|rates| rates.messages_in),
            cpu,
            100 * workers
        ),
        format!(
            "channels    {:>10}   out {:>8}/s   memory {:>10}",
            figure("channels"),
            rate(|rates| rates.messages_out),
            bytes(&info["memory_bytes"])
        ),
        store(info),
    ]
}

fn store(info: &Value) -> String {
    let store = &info["store"];
    if store.is_null() {
        return "store       none".into();
    }
    let state = if store["state"] == "ready" { "ready".into() } else { format!("REFUSES: {}", text(&store["why"])) };
    let commit = micros(&store["commit_us_mean"]);
    format!(
        "sessions    {:>10}   store {} {state}, {} kept ({}), {} queued, commit {commit}",
        count(&info["sessions"]),
        text(&store["kind"]),
        count(&store["messages"]),
        bytes(&store["bytes"]),
        count(&store["queued"])
    )
}

fn backends(info: &Value, rates: Option<&Rates>) -> Vec<String> {
    let all = info["backend"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(first) = all.first() else { return vec!["BACKEND: none is configured".into()] };
    let failures = rates.map_or("-".into(), |rates| per_second(rates.failures));
    let together = format!(
        "p50 {}, p99 {} since the start, {} waiting, {failures} failures/s",
        micros(&first["latency_p50_us"]),
        micros(&first["latency_p99_us"]),
        count(&first["waiting"])
    );
    let mut rows = vec![format!("{:<URL$} {:<8} {:>11} {:>9}", "BACKEND", "STATE", "CONNECTIONS", "UNDER WAY")];
    rows.extend(all.iter().map(|one| {
        let (url, state): (String, _) = (text(&one["url"]).chars().take(URL).collect(), text(&one["state"]));
        let state = if state == "down" { "DOWN".into() } else { state };
        format!("{url:<URL$} {state:<8} {:>11} {:>9}", count(&one["connections"]), count(&one["outstanding"]))
    }));
    rows.push(together);
    rows
}

fn workers(info: &Value, rates: Option<&Rates>) -> Vec<String> {
    let titles = ["WORKER", "CORE", "STATE", "CONNECTIONS", "IN/S", "OUT/S", "CALLS", "MAILBOX", "TURN P99", "LAG"];
    let row = |cells: [String; 10]| {
        let [worker, core, state, connections, into, out, calls, mailbox, turn, lag] = cells;
        let place = format!("{worker:<6} {core:>4} {state:<5} {connections:>11}");
        format!("{place} {into:>7} {out:>7} {calls:>6} {mailbox:>7} {turn:>9} {lag:>7}")
    };
    let mut rows = vec![row(titles.map(String::from))];
    for one in info["workers"].as_array().into_iter().flatten() {
        let of = rates.and_then(|rates| rates.workers.iter().find(|(id, ..)| one["id"] == *id));
        let (into, out) = of.map_or(("-".into(), "-".into()), |(_, into, out)| (per_second(*into), per_second(*out)));
        let is_stuck = one["stuck"] == true;
        rows.push(row([
            text(&one["id"]),
            one["core"].as_u64().map_or("any".into(), |core| core.to_string()),
            if is_stuck { "STUCK".into() } else { "turns".into() },
            count(&one["connections"]),
            into,
            out,
            count(&one["calls"]),
            count(&one["mailbox"]),
            micros(&one["turn_p99_us"]),
            format!("{} ms", text(&one["silent_ms"])),
        ]));
    }
    rows
}

fn channels(whole: &Value) -> Vec<String> {
    let mut rows = vec![format!("{:<67} {:>11}", "LARGEST CHANNELS", "ONLINE")];
    for one in whole["largest_channels"].as_array().into_iter().flatten() {
        let name: String = text(&one["name"]).chars().take(67).collect();
        rows.push(format!("{name:<67} {:>11}", count(&one["members"])));
    }
    rows
}

fn per_second(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.2}M", rate / 1e6),
        rate if rate >= 1e5 => format!("{:.0}k", rate / 1e3),
        rate if rate >= 1e4 => format!("{:.1}k", rate / 1e3),
        rate if rate >= 10.0 || rate == 0.0 => format!("{rate:.0}"),
        rate => format!("{rate:.1}"),
    }
}

fn micros(value: &Value) -> String {
    match value.as_u64() {
        None | Some(0) => "-".into(),
        Some(us) if us < 1_000 => format!("{us} us"),
        Some(us) if us < 1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        Some(us) => format!("{:.1} s", us as f64 / 1e6),
    }
}

fn bytes(value: &Value) -> String {
    let Some(bytes) = value.as_f64() else { return "-".into() };
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (0..units.len() - 1).find(|power| bytes < 1024_f64.powi(*power as i32 + 1)).unwrap_or(units.len() - 1);
    format!("{:.*} {}", usize::from(power > 0), bytes / 1024_f64.powi(power as i32), units[power])
}

fn duration(seconds: Option<u64>) -> String {
    let Some(seconds) = seconds else { return "-".into() };
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// With a comma before each three digits.
fn count(value: &Value) -> String {
    let Some(number) = value.as_u64() else { return "-".into() };
    let digits = number.to_string();
    let comma = |at: usize| if at > 0 && (digits.len() - at).is_multiple_of(3) { "," } else { "" };
    digits.char_indices().map(|(at, digit)| format!("{}{digit}", comma(at))).collect()
}

/// Strangers have named channels: a terminal would obey what they put in.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => clean(text),
        other => other.to_string(),
    }
}

/// Columns of an upstream's address.
const URL: usize = 44;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn info(messages: u64, failures: u64) -> Value {
        let worker = |id: u64, core: Value| {
            json!({"id": id, "core": core, "connections": 1_234_567, "messages_in": messages,
                "messages_out": 0, "calls": 1, "mailbox": 2, "turn_p99_us": 1_500, "silent_ms": 12, "stuck": id == 1})
        };
        let upstream = |state: &str| {
            json!({"url": format!("http://{}:8000", "long.name.".repeat(9)), "state": state,
                "latency_p50_us": 900, "latency_p99_us": 2_500_000, "waiting": 3,
                "failures": failures, "connections": 4, "outstanding": 5})
        };
        let store = json!({"kind": "sqlite", "state": "refusing", "why": "the disk is full",
            "messages": 12, "bytes": 4_096, "queued": 1, "commit_us_mean": 1_200});
        json!({
            "status": 0, "version": "0.2.0", "pid": 7, "node": "0a1b2c3d", "cluster_name": "rainbow",
            "uptime_s": 93_784, "listen": "0.0.0.0:1984", "connections": 2_469_134, "channels": 9,
            "memory_bytes": 3_221_225_472_u64,
            "cpu_us": messages * 1_000, "messages_in": messages, "messages_out": messages * 20_000, "sessions": 3,
            "store": store, "backend": [upstream("down"), upstream("up")],
            "workers": [worker(0, json!(0)), worker(1, Value::Null)],
            "largest_channels": [{"name": "a\u{1b}[2Jb".repeat(30), "members": 1_000}],
        })
    }

    fn drawn(size: Size) -> Vec<String> {
        let (before, now) = (info(100, 1), info(150, 3));
        let rates = Rates::between(&before, &now, Duration::from_millis(500));
        draw(&now, &now, rates.as_ref(), Some("no answer\u{1b}[2J"), size)
    }

    #[test]
    fn a_frame_fits_80_columns_and_says_what_goes_on() {
        let rows = drawn(Size { columns: 80, rows: usize::MAX });
        assert!(rows.iter().all(|row| row.chars().count() <= 80 && !row.contains('\u{1b}')), "{rows:#?}");
        let all = rows.join("\n");
        let expected = [
            "up 1 d 2 h",
            "connections  2,469,134   in       100/s",
            "out    2.00M/s",
            "3.0 GiB",
            "REFUSES: the disk is full",
            "DOWN",
            "4.0 failures/s",
            "p50 900 us, p99 2.5 s",
            "any STUCK",
            "1,000",
            "OLD FIGURES: no answer",
        ];
        expected.into_iter().for_each(|part| assert!(all.contains(part), "{part}: {all}"));
        assert!(rows[1].ends_with("cpu      10 % of 200 %"), "{}", rows[1]);
    }

    #[test]
    fn a_frame_is_no_larger_than_a_small_terminal() {
        let rows = drawn(Size { columns: 20, rows: 5 });
        assert_eq!(rows.len(), 5);
        assert!(rows.iter().all(|row| row.chars().count() <= 20), "{rows:?}");
    }

    #[test]
    fn a_restart_has_no_rates() {
        let (before, mut now) = (info(1, 0), info(2, 0));
        now["pid"] = 8.into();
        assert!(Rates::between(&before, &now, Duration::from_secs(1)).is_none());
        let all = draw(&now, &now, None, None, Size { columns: 80, rows: 99 }).join("\n");
        assert!(all.contains("in         -/s"), "{all}");
    }
}
