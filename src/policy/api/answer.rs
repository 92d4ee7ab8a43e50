//! Writes the answers to calls: JSON with HTTP 200, `{"status":0,…}` or `{"status":1,"msg":…}`.

use crate::shard::Tally;
use crate::wire::http1::push_number;
use serde_json::Value;

/// The outcome of a send.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    pub tally: Tally,
    pub data: &'a [u8],
    /// The send was for a session: the answer has `stored` even when it is 0.
    pub to_session: bool,
}

/// Appends `{"status":0,"connections":n,"targets":n,"data":"…"}`, with `"stored":n` where durable sessions are
/// concerned. Where some targets did not get the message, or it is not known, it is a refusal with all figures.
pub fn write_sent(out: &mut Vec<u8>, sent: Sent<'_>) {
    let Sent { tally, data, to_session } = sent;
    if tally.is_success() {
        out.extend_from_slice(b"{\"status\":0");
    } else {
        out.extend_from_slice(b"{\"status\":1,\"msg\":");
        let reason = tally.why.map_or_else(|| "not sent".into(), |reason| reason.to_string());
        let _ = serde_json::to_writer(&mut *out, &reason);
    }
    push_field(out, b",\"connections\":", tally.connections);
    push_field(out, b",\"targets\":", tally.targets);
    if tally.stored > 0 || to_session || !tally.is_success() {
        push_field(out, b",\"stored\":", tally.stored);
    }
    if !tally.is_success() {
        push_field(out, b",\"refused\":", tally.refused);
        push_field(out, b",\"undecided\":", tally.undecided);
        push_field(out, b",\"unreachable\":", tally.unreachable);
    }
    out.extend_from_slice(b",\"data\":");
    if data.is_empty() {
        out.extend_from_slice(b"\"\"}");
        return;
    }
    let _ = serde_json::to_writer(&mut *out, &String::from_utf8_lossy(data));
    out.push(b'}');
}

#[inline]
fn push_field(out: &mut Vec<u8>, name: &[u8], number: u32) {
    out.extend_from_slice(name);
    push_number(out, number as usize);
}

/// Appends `{"status":1,"msg":"…"}`.
pub fn write_refusal(out: &mut Vec<u8>, reason: &str) {
    out.extend_from_slice(b"{\"status\":1,\"msg\":");
    let _ = serde_json::to_writer(&mut *out, reason);
    out.push(b'}');
}

/// Adds `"ignored":["qso"]`, the parameters that the call does not have, to an answer.
pub fn write_ignored(answer: &mut Vec<u8>, ignored: &[String]) {
    if ignored.is_empty() || answer.pop_if(|last| *last == b'}').is_none() {
        return;
    }
    answer.extend_from_slice(b",\"ignored\":");
    let _ = serde_json::to_writer(&mut *answer, ignored);
    answer.push(b'}');
}

/// Whether an answer says that the call, or a part of it, was refused.
pub fn is_refusal(answer: &[u8]) -> bool {
    answer.starts_with(b"{\"status\":1,")
}

/// Makes a refusal a problem of RFC 9457: `status` is the HTTP status then, `detail` the reason; what else the answer
/// says stays.
pub fn write_problem(answer: &mut Vec<u8>, status: u16) {
    let Ok(Value::Object(mut problem)) = serde_json::from_slice(answer) else { return };
    problem.insert("type".into(), "about:blank".into());
    problem.insert("status".into(), status.into());
    problem.insert("detail".into(), problem.get("msg").cloned().unwrap_or_default());
    answer.clear();
    let _ = serde_json::to_writer(&mut *answer, &problem);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::StoreError;
    use crate::shard::{NotSent, NotStored};

    fn written(sent: Sent<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        write_sent(&mut out, sent);
        serde_json::from_slice(&out).expect("valid JSON")
    }

    #[test]
    fn data_is_json_text_whatever_the_client_sent() {
        let tally = Tally { targets: 3, connections: 2, ..Tally::default() };
        let sent = Sent { tally, data: b"say \"hi\"\n\xFF", to_session: false };
        let data = "say \"hi\"\n\u{FFFD}";
        assert_eq!(written(sent), serde_json::json!({"status": 0, "connections": 2, "targets": 3, "data": data}));
    }

    #[test]
    fn an_answer_names_what_it_ignores_and_a_problem_keeps_the_figures() {
        let mut answer = Vec::new();
        write_refusal(&mut answer, "no channel");
        write_ignored(&mut answer, &["q\"so".into()]);
        assert!(is_refusal(&answer));
        write_problem(&mut answer, 400);
        let expected = serde_json::json!({
            "type": "about:blank", "status": 400, "detail": "no channel", "msg": "no channel", "ignored": ["q\"so"],
        });
        assert_eq!(serde_json::from_slice::<Value>(&answer).expect("valid JSON"), expected);
        let mut answer = b"{\"status\":0}".to_vec();
        write_ignored(&mut answer, &[]);
        assert!(!is_refusal(&answer));
        assert_eq!(answer, b"{\"status\":0}");
    }

    #[test]
    fn what_is_stored_is_counted_where_sessions_come_in() {
        let sent = |stored, to_session| Sent {
            tally: Tally { targets: stored, stored, ..Tally::default() },
            data: b"",
            to_session,
        };
        let plain = serde_json::json!({"status": 0, "connections": 0, "targets": 0, "data": ""});
        assert_eq!(written(sent(0, false)), plain);
        assert_eq!(written(sent(2, false))["stored"], 2);
        assert_eq!(written(sent(0, true))["stored"], 0);
    }

    #[test]
    fn a_message_that_some_will_not_get_is_refused_with_the_figures() {
        let why = Some(NotSent::NotStored(NotStored::Store(StoreError::DiskFull)));
        let tally = Tally { targets: 7, connections: 1, stored: 3, refused: 2, undecided: 1, unreachable: 1, why };
        let expected = serde_json::json!({
            "status": 1, "msg": "the disk is full", "connections": 1, "targets": 7, "stored": 3, "refused": 2,
            "undecided": 1, "unreachable": 1, "data": "of one",
        });
        assert_eq!(written(Sent { tally, data: b"of one", to_session: false }), expected);
    }
}
