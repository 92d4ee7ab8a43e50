//! Prints an answer: as JSON for programs, as text for people. What strangers have named (channels, identities,
//! replies) is printed without its control characters: a terminal would obey them.

use super::client::Answer;
use super::exit::Exit;
use super::options::ServerOptions;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
}

impl Format {
    pub fn of(options: &ServerOptions) -> Format {
        let is_text = !options.json && (options.text || io::stdout().is_terminal());
        if is_text { Format::Text } else { Format::Json }
    }
}

/// What an answer holds.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Sent,
    Kicked,
    Done,
    Channels,
    Members,
    Sessions,
    Session,
    Info,
    /// Of /info/, the nodes.
    Cluster,
    /// Not JSON.
    Plain,
}

pub struct Output {
    format: Format,
    shape: Shape,
}

impl Output {
    pub fn new(format: Format, shape: Shape) -> Output {
        Output { format, shape }
    }

    /// Prints the answer to stdout, and a refusal's reason to stderr too.
    pub fn print(&self, answer: &Answer) -> Exit {
        let (value, is_json) = self.value(answer);
        let is_done = (200..300).contains(&answer.status) && value["status"].as_i64().unwrap_or(0) == 0;
        if !is_done {
            // The server's own words may have several lines.
            let mut why = value["msg"].as_str().unwrap_or("").lines().map(clean).collect::<Vec<_>>().join("\n");
            if matches!(answer.status, 401 | 403) || SIGNATURE_REFUSALS.iter().any(|refusal| why.contains(refusal)) {
                why += KEY_HINT;
            }
            let _ = writeln!(io::stderr(), "rainbow-server: the server refused: {why}");
        }
        if let Some(ignored) = value["ignored"].as_array().filter(|ignored| !ignored.is_empty()) {
            let names: Vec<String> = ignored.iter().map(text).collect();
            let _ = writeln!(io::stderr(), "rainbow-server: this server does not know {}", names.join(", "));
        }
        let printed = match self.format {
            Format::Json if is_json => String::from_utf8_lossy(&answer.body).into_owned(),
            Format::Json => value.to_string(),
            Format::Text => self.describe(&value, is_done),
        };
        if !printed.is_empty() {
            let _ = writeln!(io::stdout(), "{}", printed.trim_end());
        }
        if is_done { Exit::Done } else { Exit::Refused }
    }

    /// A body that is no JSON object is the reason itself: a proxy's page, the words of /readyz.
    fn value(&self, answer: &Answer) -> (Value, bool) {
        if let Some(value) = serde_json::from_slice(&answer.body).ok().filter(Value::is_object) {
            return (value, true);
        }
        let is_expected = matches!(self.shape, Shape::Plain);
        let is_done = is_expected && (200..300).contains(&answer.status);
        let words: String = String::from_utf8_lossy(&answer.body).trim().chars().take(WORDS_MAX).collect();
        let msg = if is_expected { words } else { format!("HTTP {}: {words}", answer.status) };
        (serde_json::json!({ "status": u8::from(!is_done), "msg": msg }), false)
    }

    fn describe(&self, value: &Value, is_done: bool) -> String {
        match self.shape {
            Shape::Sent if value["targets"].is_number() => sent(value),
            Shape::Channels if value["channels"].is_array() => channels(value),
            // Anything else about a refusal has been said.
            _ if !is_done => String::new(),
            Shape::Sent => "sent".into(),
            Shape::Kicked => format!("closed {}", counted(&value["connections"], "connection")),
            Shape::Done | Shape::Plain => value["msg"].as_str().map_or("done".into(), clean),
            Shape::Channels => String::new(),
            Shape::Members => members(value),
            Shape::Sessions => sessions(value),
            Shape::Session => session(value),
            Shape::Info => info(value),
            Shape::Cluster => cluster(value),
        }
    }
}

fn sent(value: &Value) -> String {
    let mut out = format!("{} of {} acknowledged", text(&value["connections"]), text(&value["targets"]));
    for part in ["stored", "refused", "undecided", "unreachable"] {
        if value[part].as_u64().is_some_and(|count| count > 0) {
            out += &format!(", {} {part}", text(&value[part]));
        }
    }
    if let Some(reply) = value["data"].as_str().filter(|reply| !reply.is_empty()) {
        out += &format!("\none replied: {}", clean(reply));
    }
    out
}

fn channels(value: &Value) -> String {
    let mut rows = vec![["CHANNEL".to_owned(), "CONNECTIONS".to_owned()]];
    let channels = value["channels"].as_array().into_iter().flatten();
    rows.extend(channels.map(|one| [text(&one["channel"]), text(&one["connections"])]));
    table(&rows)
}

fn members(value: &Value) -> String {
    let member = |identity: &Value| match identity.as_str().and_then(|identity| value["users"].get(identity)) {
        Some(user) if value["user"].is_null() => format!("{} {}", text(identity), text(user)),
        _ => text(identity),
    };
    let identities: Vec<String> = value["identities"].as_array().into_iter().flatten().map(member).collect();
    let online = counted(&value["connections"], "connection");
    let first = value["offset"].as_u64().unwrap_or(0);
    let mut out = match &value["user"] {
        Value::Null => format!("{online} in {}", text(&value["channel"])),
        user => format!("{online} of {}", text(user)),
    };
    if !identities.is_empty() {
        let last = first + identities.len() as u64;
        out += &format!(", {} to {last}:\n{}", first + 1, identities.join("\n"));
    }
    out
}

fn sessions(value: &Value) -> String {
    let mut rows = vec![["SESSION", "USER", "ONLINE", "WAITING", "BYTES", "OLDEST", "ENDS IN"].map(String::from)];
    let seconds = |value: &Value| value.as_u64().map_or("-".into(), |seconds| format!("{seconds} s"));
    for one in value["sessions"].as_array().into_iter().flatten() {
        let online = if one["online"] == Value::Bool(true) { "yes" } else { "no" };
        let (name, user) = (text(&one["session"]), text(&one["user"]));
        let (waiting, bytes) = (text(&one["waiting"]), text(&one["waiting_bytes"]));
        rows.push([name, user, online.into(), waiting, bytes, seconds(&one["oldest_s"]), seconds(&one["expires_s"])]);
    }
    let shown = rows.len() as u64 - 1;
    let (total, first) = (value["total"].as_u64().unwrap_or(shown), value["offset"].as_u64().unwrap_or(0));
    match shown {
        0 => counted(&total.into(), "session"),
        _ => format!("{}{}, {} to {}", table(&rows), counted(&total.into(), "session"), first + 1, first + shown),
    }
}

fn session(value: &Value) -> String {
    let channels: Vec<String> = value["channels"].as_array().into_iter().flatten().map(text).collect();
    let seconds = |name: &str| value[name].as_u64().map_or("-".into(), |seconds| format!("{seconds} s"));
    let online = if value["online"] == Value::Bool(true) { "yes, " } else { "no" };
    let waiting = format!("{}, {} bytes", counted(&value["waiting"], "message"), text(&value["waiting_bytes"]));
    table(&[
        ["session".into(), text(&value["session"])],
        ["user".into(), value["user"].as_str().map_or("-".into(), clean)],
        ["online".into(), format!("{online}{}", value["identity"].as_str().map(clean).unwrap_or_default())],
        ["channels".into(), channels.join(" ")],
        ["waiting".into(), waiting],
        ["oldest".into(), seconds("oldest_s")],
        ["expires in".into(), seconds("expires_s")],
    ])
}

fn info(value: &Value) -> String {
    let store = match &value["store"] {
        Value::Null => "none".into(),
        store => {
            format!("{}, {}, {}", text(&store["kind"]), text(&store["state"]), counted(&store["messages"], "message"))
        }
    };
    let backends: Vec<String> = value["backend"].as_array().into_iter().flatten().map(backend).collect();
    let memory = value["memory_bytes"].as_u64().map_or("-".into(), |bytes| format!("{} MiB", bytes >> 20));
    let workers = value["workers"].as_array().map_or(0, Vec::len);
    let mut rows = vec![
        ["version".to_owned(), text(&value["version"])],
        ["listens on".into(), text(&value["listen"])],
        ["up for".into(), format!("{} s", text(&value["uptime_s"]))],
        ["connections".into(), text(&value["connections"])],
        ["channels".into(), text(&value["channels"])],
        ["sessions".into(), text(&value["sessions"])],
        ["messages".into(), format!("{} in, {} out", text(&value["messages_in"]), text(&value["messages_out"]))],
        ["memory".into(), memory],
        ["CPU".into(), format!("{} % over its life, {workers} workers", text(&value["cpu_percent"]))],
        ["store".into(), store],
    ];
    rows.extend(backends.into_iter().map(|backend| ["backend".into(), backend]));
    table(&rows)
}

/// The nodes that answer, and those that the one that was called knows of and that do not.
fn cluster(value: &Value) -> String {
    let list = |name: &str| value[name].as_array().map(Vec::as_slice).unwrap_or_default();
    if value["nodes"].is_null() {
        return "this node stays alone (cluster = \"off\", or its log says why)".into();
    }
    let mut rows = vec![["NODE", "ADDRESS", "STATE", "CONNECTIONS", "CHANNELS", "SINCE"].map(String::from)];
    for node in list("nodes") {
        let peer = list("peers").iter().find(|peer| peer["node"] == node["node"]).unwrap_or(&Value::Null);
        let (address, state) = match node["node"] == value["node"] {
            true => (text(&node["listen"]), "this node".into()),
            false => (text(&peer["address"]), text(&peer["state"])),
        };
        let since = format!("{} s", text(&node["uptime_s"]));
        rows.push([text(&node["node"]), address, state, text(&node["connections"]), text(&node["channels"]), since]);
    }
    let answers = |peer: &&Value| list("nodes").iter().any(|node| node["node"] == peer["node"]);
    for peer in list("peers").iter().filter(|peer| !answers(peer)) {
        let state = format!("{} ({})", text(&peer["state"]), text(&peer["reason"]));
        let since = format!("{} s", text(&peer["since_s"]));
        rows.push([text(&peer["node"]), text(&peer["address"]), state, "-".into(), "-".into(), since]);
    }
    table(&rows)
}

fn backend(value: &Value) -> String {
    format!("{}, {}", text(&value["url"]), text(&value["state"]))
}

/// Columns, each but the last as wide as its widest.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| if column + 1 < COLUMNS { width(column) } else { 0 });
    let row = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    rows.iter().map(row).collect()
}

fn counted(count: &Value, noun: &str) -> String {
    format!("{} {noun}{}", text(count), if count.as_u64() == Some(1) { "" } else { "s" })
}

/// A value as a person reads it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => clean(text),
        other => other.to_string(),
    }
}

/// Without control characters.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Refusals that come with HTTP 200, as in 2014, when the signature is not as it must be.
const SIGNATURE_REFUSALS: [&str; 5] =
    ["is missing", "signature does not match", "no key for this scheme", "no token or secret", "signature missing"];
const KEY_HINT: &str =
    " (name the server's configuration with -f, or set RAINBOW_ADMIN_TOKEN or RAINBOW_SECURITY_TOKEN)";
/// Of an answer that is not JSON.
const WORDS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn described(shape: Shape, value: Value) -> String {
        let is_done = value["status"] == 0;
        Output::new(Format::Text, shape).describe(&value, is_done)
    }

    #[test]
    fn a_terminal_does_not_obey_what_strangers_named() {
        let value =
            json!({"status": 0, "channel": "a", "connections": 1, "offset": 0, "identities": ["\u{1b}[2Jx\r\n"]});
        assert_eq!(described(Shape::Members, value), "1 connection in a, 1 to 1:\n\u{fffd}[2Jx\u{fffd}\u{fffd}");
    }

    #[test]
    fn what_was_done_in_part_is_shown_with_its_figures() {
        let value = json!({"status": 1, "msg": "the disk is full", "connections": 1, "targets": 7, "stored": 3,
            "refused": 2, "undecided": 1, "data": "of one"});
        let expected = "1 of 7 acknowledged, 3 stored, 2 refused, 1 undecided\none replied: of one";
        assert_eq!(described(Shape::Sent, value), expected);
        assert_eq!(described(Shape::Sent, json!({"status": 0})), "sent");
        assert_eq!(described(Shape::Sent, json!({"status": 1, "msg": "no channel"})), "");
    }

    #[test]
    fn nodes_that_do_not_answer_are_shown_too() {
        let node = |node: &str, connections: u32| {
            let listen = "0.0.0.0:1984";
            json!({"node": node, "listen": listen, "connections": connections, "channels": 1, "uptime_s": 9})
        };
        let peer = |node: &str, state: &str| {
            let (address, reason) = ("10.0.0.2:1984", "LinkEnded");
            json!({"node": node, "address": address, "state": state, "reason": reason, "since_s": 3})
        };
        let value = json!({
            "status": 0, "node": "a", "nodes": [node("a", 2), node("b", 30)],
            "peers": [peer("b", "live"), peer("c", "down")],
        });
        let expected = [
            "NODE  ADDRESS        STATE             CONNECTIONS  CHANNELS  SINCE\n",
            "a     0.0.0.0:1984   this node         2            1         9 s\n",
            "b     10.0.0.2:1984  live              30           1         9 s\n",
            "c     10.0.0.2:1984  down (LinkEnded)  -            -         3 s\n",
        ];
        assert_eq!(described(Shape::Cluster, value), expected.concat());
        assert!(described(Shape::Cluster, json!({"status": 0})).starts_with("this node stays alone"));
    }

    #[test]
    fn columns_are_as_wide_as_the_widest() {
        let value = json!({"status": 0, "channels": [{"channel": "a", "connections": 12}]});
        assert_eq!(described(Shape::Channels, value), "CHANNEL  CONNECTIONS\na        12\n");
    }
}
