//! The backend's answer to "may this client come in?".
//!
//! Reads status and body; the headers are `Actions`. Called by the worker when a connect request has been answered.

use super::grant::Granted;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// PROTOCOL.md section 2.
#[derive(Debug, PartialEq, Eq)]
pub enum ConnectAnswer {
    /// 101, and what the JSON grants.
    Accepted(Box<Granted>),
    /// JSON that does not say "success", or HTTP 401 or 403: 401, with the reason that the JSON gives.
    Refused(Option<Box<str>>),
    /// Another error status, or no JSON: 503.
    Failed,
}

impl ConnectAnswer {
    pub fn read(status: u16, body: &[u8]) -> ConnectAnswer {
        match status {
            200..=299 => ConnectAnswer::read_body(body),
            401 | 403 => ConnectAnswer::Refused(reason(body)),
            _ => ConnectAnswer::Failed,
        }
    }

    fn read_body(body: &[u8]) -> ConnectAnswer {
        // serde would also read the array `["success"]` as this struct; only an object has a status.
        let is_object = body.trim_ascii_start().first() == Some(&b'{');
        match serde_json::from_slice::<Granted>(body) {
            Ok(granted) if is_object && granted.is_success() => ConnectAnswer::Accepted(Box::new(granted)),
            Ok(_) => ConnectAnswer::Refused(reason(body)),
            Err(_) if serde_json::from_slice::<IgnoredAny>(body).is_ok() => ConnectAnswer::Refused(None),
            Err(_) => ConnectAnswer::Failed,
        }
    }
}

/// For the client: it fits into a close frame.
fn reason(body: &[u8]) -> Option<Box<str>> {
    let is_object = body.trim_ascii_start().first() == Some(&b'{');
    let Refusal { reason } = serde_json::from_slice(body).ok().filter(|_| is_object)?;
    let reason = reason.as_str().filter(|reason| !reason.is_empty())?;
    Some(reason[..reason.floor_char_boundary(REASON_MAX)].into())
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    reason: serde_json::Value,
}

/// Bytes.
const REASON_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &str) -> ConnectAnswer {
        ConnectAnswer::read(200, body.as_bytes())
    }

    fn is_accepted(answer: ConnectAnswer) -> bool {
        matches!(answer, ConnectAnswer::Accepted(_))
    }

    #[test]
    fn success_is_accepted() {
        assert!(is_accepted(read(r#"{"status": "success"}"#)));
        assert!(is_accepted(read("\r\n {\"more\":[1,{}],\"status\":\"success\",\"x\":null}\n")));
        assert!(is_accepted(read(r#"{"status": "succes\u0073"}"#)));
        assert!(is_accepted(ConnectAnswer::read(201, br#"{"status":"success"}"#)));
    }

    #[test]
    fn any_other_json_is_refused() {
        for body in
            [r#"{"status":"fail"}"#, r#"{"status":"Success"}"#, r#"{"status":1}"#, "{}", r#"["success"]"#, "null", "1"]
        {
            assert_eq!(read(body), ConnectAnswer::Refused(None), "{body}");
        }
    }

    #[test]
    fn a_refusal_has_the_reason_that_the_backend_gives() {
        let refused = |reason: &str| ConnectAnswer::Refused(Some(reason.into()));
        let body = r#"{"status": "no", "reason": "the trial is over"}"#;
        assert_eq!(read(body), refused("the trial is over"));
        for status in [401, 403] {
            assert_eq!(ConnectAnswer::read(status, body.as_bytes()), refused("the trial is over"));
            for without in ["", "<html>", "[]", r#"{"reason":1}"#, r#"{"reason":""}"#, r#"{"status":"success"}"#] {
                assert_eq!(ConnectAnswer::read(status, without.as_bytes()), ConnectAnswer::Refused(None), "{without}");
            }
        }
        let long = format!("{}é", "x".repeat(119));
        assert_eq!(read(&serde_json::json!({ "reason": long }).to_string()), refused(&long[..119]));
    }

    #[test]
    fn no_json_and_error_statuses_are_failures() {
        for body in ["", "success", "{", r#"{"status":"success"} trailing"#, "<html>", "{'status':'success'}"] {
            assert_eq!(read(body), ConnectAnswer::Failed, "{body}");
        }
        for status in [0, 100, 199, 301, 400, 402, 404, 500, 503] {
            assert_eq!(ConnectAnswer::read(status, br#"{"status":"success"}"#), ConnectAnswer::Failed, "{status}");
        }
        assert_eq!(read(&"[".repeat(100_000)), ConnectAnswer::Failed, "depth is bounded");
    }

    proptest! {
        #[test]
        fn nothing_but_success_lets_a_client_in(status: String, rest: u8) {
            let body = serde_json::json!({ "a": rest, "status": status, "z": [rest] }).to_string();
            prop_assert_eq!(is_accepted(read(&body)), status == "success");
        }

        #[test]
        fn no_bytes_panic(status: u16, body: Vec<u8>) {
            ConnectAnswer::read(status, &body);
        }
    }
}
