//! Writes the answers to calls: JSON with HTTP 200, `{"status":0,…}` or `{"status":1,"msg":…}`.

use crate::shard::DurableTally;
use crate::wire::http1::push_number;

/// The outcome of a send.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    pub connections: u32,
    pub data: &'a [u8],
    pub durable: DurableTally,
    /// The send was for a session: the answer has `stored` even when it is 0.
    pub to_session: bool,
}

/// Appends `{"status":0,"connections":n,"data":"…"}`, with `"stored":n` where durable sessions are concerned; a refusal
/// with the same figures when some of them will not get the message.
pub fn write_sent(out: &mut Vec<u8>, sent: Sent<'_>) {
    let Sent { connections, data, durable, to_session } = sent;
    if durable.refused > 0 {
        out.extend_from_slice(b"{\"status\":1,\"msg\":");
        let reason = durable.why.map_or_else(|| "not stored".into(), |reason| reason.to_string());
        let _ = serde_json::to_writer(&mut *out, &reason);
        for (name, count) in [("connections", connections), ("stored", durable.stored), ("refused", durable.refused)] {
            push_field(out, name, count);
        }
        return out.push(b'}');
    }
    out.extend_from_slice(b"{\"status\":0");
    push_field(out, "connections", connections);
    if durable.stored > 0 || to_session {
        push_field(out, "stored", durable.stored);
    }
    out.extend_from_slice(b",\"data\":");
    if data.is_empty() {
        out.extend_from_slice(b"\"\"}");
        return;
    }
    let _ = serde_json::to_writer(&mut *out, &String::from_utf8_lossy(data));
    out.push(b'}');
}

fn push_field(out: &mut Vec<u8>, name: &str, number: u32) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    push_number(out, number as usize);
}

/// Appends `{"status":1,"msg":"…"}`.
pub fn write_refusal(out: &mut Vec<u8>, reason: &str) {
    out.extend_from_slice(b"{\"status\":1,\"msg\":");
    let _ = serde_json::to_writer(&mut *out, reason);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::NotStored;
    use crate::shard::command::StoreError;

    fn written(sent: Sent<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        write_sent(&mut out, sent);
        serde_json::from_slice(&out).expect("valid JSON")
    }

    #[test]
    fn data_is_json_text_whatever_the_client_sent() {
        let sent =
            Sent { connections: 2, data: b"say \"hi\"\n\xFF", durable: DurableTally::default(), to_session: false };
        let expected = serde_json::json!({"status": 0, "connections": 2, "data": "say \"hi\"\n\u{FFFD}"});
        assert_eq!(written(sent), expected);
    }

    #[test]
    fn what_is_stored_is_counted_where_sessions_come_in() {
        let sent = |stored, to_session| Sent {
            connections: 0,
            data: b"",
            durable: DurableTally { stored, ..DurableTally::default() },
            to_session,
        };
        let plain = serde_json::json!({"status": 0, "connections": 0, "data": ""});
        assert_eq!(written(sent(0, false)), plain);
        assert_eq!(written(sent(2, false))["stored"], 2);
        assert_eq!(written(sent(0, true))["stored"], 0);
    }

    #[test]
    fn a_message_that_some_will_not_get_is_refused_with_the_figures() {
        let durable = DurableTally { stored: 3, refused: 2, why: Some(NotStored::Store(StoreError::DiskFull)) };
        let sent = Sent { connections: 1, data: b"of one", durable, to_session: false };
        let expected = serde_json::json!(
            {"status": 1, "msg": "the disk is full", "connections": 1, "stored": 3, "refused": 2}
        );
        assert_eq!(written(sent), expected);
    }
}
