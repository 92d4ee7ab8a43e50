//! The hooks as Rainbow calls them: with a client that stores its cookie as Rainbow does, and a queue that no thread
//! empties.

use super::*;
use crate::wire::sign::sign_2014;
use std::sync::mpsc::{self, sync_channel};

/// Hooks without a Rainbow: their calls arrive at the receiver.
fn hooks(token: &str) -> (Hooks, mpsc::Receiver<Call>) {
    hooks_of(token, false)
}

fn hooks_of(token: &str, sessions: bool) -> (Hooks, mpsc::Receiver<Call>) {
    let (queue, calls) = sync_channel(16);
    let address = ([127, 0, 0, 1], 0).into();
    let config = DemoConfig { rainbow_port: 1984, call_port: 1984, token: token.into(), address, sessions };
    (Hooks::new(&config, CallSender(queue), Box::new(|| ())), calls)
}

struct Client {
    identity: &'static str,
    cookie: Option<String>,
}

impl Client {
    fn new(identity: &'static str) -> Client {
        Client { identity, cookie: None }
    }

    /// Calls a hook as Rainbow would, and stores the cookie as it would.
    fn call(&mut self, hooks: &Hooks, path: &str, query: &str, body: &str) -> Response {
        let mut headers =
            vec![(IDENTITY.into(), self.identity.into()), ("X-DEVICEID".into(), format!("d{}", self.identity))];
        headers.extend(self.cookie.clone().map(|cookie| (COOKIE.into(), cookie)));
        let request =
            Request { method: "POST".into(), path: path.into(), query: query.into(), headers, body: body.into() };
        let response = hooks.answer(&request);
        if let Some(cookie) = header(&response, COOKIE) {
            self.cookie = Some(cookie.into());
        }
        response
    }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
}

fn json_of(response: &Response) -> serde_json::Value {
    assert_eq!(response.status, 200);
    serde_json::from_slice(&response.body).unwrap()
}

fn sent(calls: &mpsc::Receiver<Call>) -> Vec<(String, u16, serde_json::Value)> {
    let name = |to| match to {
        Receiver::Channel(name) => name,
        Receiver::Session(name) => format!("session {name}"),
    };
    let calls = calls.try_iter();
    calls.map(|call| (name(call.to), call.message_type, serde_json::from_str(&call.body).unwrap())).collect()
}

#[test]
fn connecting_subscribes_to_the_room_and_is_announced() {
    let (hooks, calls) = hooks("");
    let answer = Client::new("1").call(&hooks, "/rainbow/connect/", "name=Ann+%C3%84&room=Garden", "");
    assert_eq!(json_of(&answer)["status"], "success");
    assert_eq!(header(&answer, "RAINBOWCLIENTCHANNEL"), Some("room:garden"));
    assert_eq!(header(&answer, "RAINBOWCLIENTSESSION"), None);
    let sent = sent(&calls);
    assert_eq!((sent.len(), sent[0].0.as_str(), sent[0].1), (1, "room:garden", 2));
    assert_eq!((&sent[0].2["event"], &sent[0].2["name"]), (&json!("joined"), &json!("Ann Ä")));
}

#[test]
fn a_line_is_answered_stored_and_sent_to_the_room() {
    let (hooks, calls) = hooks("");
    let mut ann = Client::new("1");
    ann.call(&hooks, "/rainbow/connect", "name=Ann&room=lobby", "");
    sent(&calls);
    let answer = ann.call(&hooks, "/rainbow/message/1/", "", r#"{"key":"k1","text":"hello"}"#);
    assert_eq!(json_of(&answer)["line"]["text"], "hello");
    let sent = sent(&calls);
    assert_eq!((sent.len(), sent[0].0.as_str(), sent[0].1, &sent[0].2["key"]), (1, "room:lobby", 1, &json!("k1")));
    let joined = json_of(&ann.call(&hooks, "/rainbow/message/2/", "", r#"{"room":"lobby"}"#));
    assert_eq!((&joined["history"][0]["key"], &joined["people"][0]["name"]), (&json!("k1"), &json!("Ann")));
}

#[test]
fn who_is_new_in_another_house_gets_what_was_said_here() {
    let (hooks, calls) = hooks_of("", true);
    let mut ann = Client::new("1");
    ann.call(&hooks, "/rainbow/connect", "name=Ann&room=lobby", "");
    ann.call(&hooks, "/rainbow/message/4/", "", r#"{"newcomers":["early"]}"#);
    assert!(sent(&calls).iter().all(|(_, kind, _)| *kind == 2), "nothing was said");
    ann.call(&hooks, "/rainbow/message/1/", "", r#"{"key":"k1","text":"hello"}"#);
    sent(&calls);
    ann.call(&hooks, "/rainbow/message/4/", "", r#"{"newcomers":["bobs", "no\nname"]}"#);
    let sent = sent(&calls);
    assert_eq!((sent.len(), sent[0].1, sent[0].2["house"].clone()), (2, 2, json!(1984)));
    assert_eq!((sent[1].0.as_str(), sent[1].1), ("session bobs", 4));
    assert_eq!((&sent[1].2["room"], &sent[1].2["lines"][0]["text"]), (&json!("lobby"), &json!("hello")));
}

#[test]
fn changing_rooms_changes_channels_and_cookie() {
    let (hooks, calls) = hooks("");
    let mut ann = Client::new("1");
    ann.call(&hooks, "/rainbow/connect/", "name=Ann&room=lobby", "");
    let answer = ann.call(&hooks, "/rainbow/message/2/", "", r#"{"room":"kitchen"}"#);
    assert_eq!(header(&answer, "RAINBOWCLIENTCHANNEL"), Some("room:kitchen"));
    assert_eq!(header(&answer, "RAINBOWCLIENTCHANNELUNSUB"), Some("room:lobby"));
    sent(&calls);
    ann.call(&hooks, "/rainbow/message/3/", "", r#"{"name":"Anna"}"#);
    let sent = sent(&calls);
    assert_eq!(
        (sent[0].0.as_str(), &sent[0].2["was"], &sent[0].2["name"]),
        ("room:kitchen", &json!("Ann"), &json!("Anna"))
    );
    let stored: Person = serde_json::from_slice(&STANDARD.decode(ann.cookie.unwrap()).unwrap()).unwrap();
    assert_eq!(stored, Person { name: "Anna".into(), device: "d1".into(), room: "kitchen".into() });
}

#[test]
fn with_a_store_every_device_gets_a_session_and_leaves_the_room_it_was_in() {
    let (hooks, calls) = hooks_of("", true);
    let mut ann = Client::new("1");
    let answer = ann.call(&hooks, "/rainbow/connect/", "name=Ann&room=lobby&in=garden", "");
    assert_eq!(header(&answer, "RAINBOWCLIENTSESSION"), Some("d1"));
    assert_eq!(header(&answer, "RAINBOWCLIENTSESSIONEXPIRY"), Some("86400"));
    assert_eq!(header(&answer, "RAINBOWCLIENTCHANNELUNSUB"), Some("room:garden"));
    let answer = ann.call(&hooks, "/rainbow/connect/", "name=Ann&room=lobby&in=lobby", "");
    assert_eq!(header(&answer, "RAINBOWCLIENTCHANNELUNSUB"), None);
    // A device whose name is no session's is let in without one.
    let answer = Client::new("ä 1").call(&hooks, "/rainbow/connect/", "name=Bob&room=lobby", "");
    assert_eq!((answer.status, header(&answer, "RAINBOWCLIENTSESSION")), (200, None));
    // Lines wait for whoever is away; who comes and goes does not.
    ann.call(&hooks, "/rainbow/message/1/", "", r#"{"key":"k1","text":"hello"}"#);
    let qualities = |call: Call| (call.message_type, call.qos);
    assert_eq!(calls.try_iter().map(qualities).collect::<Vec<_>>(), [(2, 0), (2, 0), (1, 2)]);
}

#[test]
fn the_end_of_a_session_is_no_news() {
    let (hooks, calls) = hooks_of("", true);
    let headers = vec![(SESSION_ENDED.into(), "expired".into()), ("RAINBOWCLIENTSESSION".into(), "d1".into())];
    let request = Request { path: "/rainbow/close/".into(), headers, ..Request::default() };
    assert_eq!(json_of(&hooks.answer(&request))["status"], "success");
    assert_eq!(sent(&calls), []);
}

#[test]
fn after_a_restart_the_cookie_tells_who_someone_is() {
    let (before, _calls) = hooks("");
    let (mut ann, mut bob) = (Client::new("1"), Client::new("2"));
    ann.call(&before, "/rainbow/connect/", "name=Ann&room=lobby", "");
    bob.call(&before, "/rainbow/connect/", "name=Bob&room=lobby", "");
    let (after, calls) = hooks("");
    let answer = ann.call(&after, "/rainbow/message/1/", "", r#"{"key":"k1","text":"still here"}"#);
    assert_eq!(json_of(&answer)["line"]["name"], "Ann");
    // The first one known in a room makes the demo ask who else is there.
    assert_eq!(sent(&calls).iter().map(|(_, message_type, _)| *message_type).collect::<Vec<_>>(), [3, 1]);
    bob.call(&after, "/rainbow/message/4/", "", "{}");
    let sent = sent(&calls);
    assert_eq!((sent.len(), sent[0].1, sent[0].2["people"].as_array().map(Vec::len)), (1, 2, Some(2)));
}

#[test]
fn strangers_and_rubbish_are_answered_as_failures() {
    let (hooks, calls) = hooks("");
    let mut stranger = Client::new("9");
    assert_eq!(
        json_of(&stranger.call(&hooks, "/rainbow/message/1/", "", r#"{"key":"k","text":"x"}"#))["status"],
        "error"
    );
    stranger.cookie = Some("rubbish".into());
    assert_eq!(json_of(&stranger.call(&hooks, "/rainbow/message/4/", "", ""))["status"], "error");
    let mut ann = Client::new("1");
    ann.call(&hooks, "/rainbow/connect/", "", "");
    sent(&calls);
    for (path, body) in [("1", "{"), ("1", r#"{"key":"k","text":" "}"#), ("2", "[]"), ("3", "{}"), ("77", "")] {
        assert_eq!(
            json_of(&ann.call(&hooks, &format!("/rainbow/message/{path}/"), "", body))["status"],
            "error",
            "{path} {body}"
        );
    }
    assert_eq!(sent(&calls), []);
    let nameless = hooks.answer(&Request { path: "/rainbow/connect/".into(), ..Request::default() });
    assert_eq!(header(&nameless, "RAINBOWREQUESTINVALID"), Some("60002"));
    assert_eq!(hooks.answer(&Request { path: "/etc/passwd".into(), ..Request::default() }).status, 404);
}

#[test]
fn a_full_queue_makes_rainbow_repeat_the_hook_and_the_line_is_stored_once() {
    let (hooks, calls) = hooks("");
    let mut ann = Client::new("1");
    ann.call(&hooks, "/rainbow/connect/", "room=lobby", "");
    let mut say =
        |key: &str| ann.call(&hooks, "/rainbow/message/1/", "", &format!(r#"{{"key":"{key}","text":"x"}}"#)).status;
    let refused = (0..20).map(|number| number.to_string()).find(|key| say(key) == 503).expect("the queue is bounded");
    sent(&calls);
    assert_eq!(say(&refused), 200);
    assert_eq!(sent(&calls).iter().filter(|(_, _, line)| line["key"] == refused.as_str()).count(), 1);
    let rooms = hooks.rooms();
    assert_eq!(rooms.history("lobby").iter().filter(|line| line.key == refused).count(), 1);
}

#[test]
fn hooks_want_rainbows_signature() {
    let (hooks, _calls) = hooks("secret");
    let timestamp = (now_ms() / 1000).to_string();
    let signed = |token: &str| {
        let signature = sign_2014(token, &timestamp, "7");
        format!("name=Ann&timestamp={timestamp}&nonce=7&signature={}", signature.escape_ascii())
    };
    let refused = Client::new("1").call(&hooks, "/rainbow/connect/", &signed("wrong"), "");
    assert_eq!(
        (json_of(&refused)["status"].as_str(), header(&refused, "RAINBOWREQUESTINVALID")),
        (Some("error"), Some("60001"))
    );
    assert_eq!(
        json_of(&Client::new("1").call(&hooks, "/rainbow/connect/", &signed("secret"), ""))["status"],
        "success"
    );
}

#[test]
fn the_page_knows_rainbows_port_and_brings_the_client_script() {
    let (hooks, _calls) = hooks("secret");
    let get = |path: &str| hooks.answer(&Request { path: path.into(), ..Request::default() });
    let page = String::from_utf8(get("/").body.into_owned()).unwrap();
    assert!(page.contains("1984") && !page.contains("{{"));
    assert!(get("/rainbow.js").body.starts_with(b"/**"));
}
