//! `rainbow-server tail`: follows a connection, a session, a channel or a user, and prints each entry as it comes.

use super::client::{Answer, stream};
use super::exit::{CommandError, Exit};
use super::options::TailOptions;
use super::output::{Format, Output, Shape, clean};
use super::request::Request;
use super::server::Server;
use serde_json::Value;
use std::io::{self, Write};
use std::time::Duration;

pub fn tail(options: &TailOptions, format: Format, server: &Server) -> Result<Exit, CommandError> {
    let (request, within) = (Request::trace(options), Duration::from_secs(options.seconds) + GRACE);
    let mut pending = Vec::new();
    let mut is_refused = false;
    let answer = stream(server, &request, within, |status, bytes| {
        is_refused = status != 200;
        pending.extend_from_slice(bytes);
        // A refusal is one object without an entry's end.
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n').filter(|_| !is_refused) {
            let entry: Vec<u8> = pending.drain(..=end).collect();
            print(&entry[..end], format)?;
        }
        Ok(())
    });
    let status = match answer {
        Ok(status) => status,
        // Whoever reads our entries has gone.
        Err(CommandError::Unanswered { error, .. }) if error.kind() == io::ErrorKind::BrokenPipe => {
            return Ok(Exit::Done);
        }
        Err(error) => return Err(error),
    };
    if pending.is_empty() && !is_refused {
        return Ok(Exit::Done);
    }
    Ok(Output::new(format, Shape::Done).print(&Answer { status, body: pending }))
}

fn print(entry: &[u8], format: Format) -> io::Result<()> {
    // A sign of life.
    if entry.is_empty() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    match (format, serde_json::from_slice::<Value>(entry)) {
        (Format::Text, Ok(value)) => writeln!(stdout, "{}", described(&value))?,
        _ => {
            stdout.write_all(entry)?;
            stdout.write_all(b"\n")?;
        }
    }
    stdout.flush()
}

/// One entry for people.
fn described(value: &Value) -> String {
    let text = |name: &str| value[name].as_str().map(clean);
    let mut out = format!("{}  {:<12}", time(value["at_ms"].as_u64().unwrap_or(0)), text("what").unwrap_or_default());
    if let Some(who) = text("session").or_else(|| text("identity").map(|identity| identity.chars().take(10).collect()))
    {
        out += &format!("  {who}");
    }
    if let Some(user) = text("user") {
        out += &format!(" ({user})");
    }
    for (name, shown) in [("type", "type"), ("qos", "qos"), ("id", "id"), ("bytes", "bytes")] {
        if let Some(number) = value[name].as_u64() {
            out += &format!("  {shown} {number}");
        }
    }
    if value["dup"] == true {
        out += "  again";
    }
    if let Some(body) = text("body") {
        out += &format!("  {body}");
    }
    if let Some(lost) = value["lost"].as_u64().filter(|lost| *lost > 0) {
        out += &format!("  [{lost} entries lost]");
    }
    out.trim_end().into()
}

/// UTC.
fn time(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1_000 % 86_400, unix_ms % 1_000);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// Beyond the trace's own time.
const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_says_who_sent_what() {
        let entry = json!({"at_ms": 86_400_000_u64 + 3_723_004, "what": "from_client", "session": "ann\u{7}",
            "user": "u", "type": 7, "qos": 1, "id": 3, "dup": true, "bytes": 5, "body": "hel\u{1b}[2Jlo", "lost": 2});
        let expected = "01:02:03.004  from_client   ann\u{fffd} (u)  type 7  qos 1  id 3  bytes 5  again  ";
        assert_eq!(described(&entry), format!("{expected}hel\u{fffd}[2Jlo  [2 entries lost]"));
        assert_eq!(described(&json!({"at_ms": 0, "what": "end", "lost": 0})), "00:00:00.000  end");
    }
}
