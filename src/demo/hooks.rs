//! What the demo's business server answers: the chat page, and Rainbow's three hooks (connect, message, close).
//!
//! The cookie that Rainbow stores for each client says who the client is, so a restarted demo recognises all clients
//! and none notices. A hook answers at once; messages to a room go into the queue of `caller`.
//!
//! Where Rainbow has a store, every device gets a durable session of its name. (A client that knows a session's name
//! gets its messages: a real business server names sessions after users who have logged in.) Chat lines are sent at
//! QoS 2 and wait for clients that are away; who comes and goes is sent at QoS 0 and does not wait.
//!
//! Messages of clients: 1 a chat line, 2 "let me in here", 3 a new name, 4 "I am here". Messages to clients: 1 a chat
//! line (or any text of another caller of Rainbow), 2 who is here, 3 "who is here?", 4 what was said in another house.
//! Called by `http`, from several
//! threads.

use super::caller::{Call, CallSender, QueueFull, Receiver};
use super::config::DemoConfig;
use super::http::{Request, Response};
use super::rooms::{ChatLine, Person, Presence, RoomInfo, Rooms, Seen, person_name};
use crate::base::secret::Secret;
use crate::wire::http1::query_get;
use crate::wire::sign::{Signed2014, verify_2014};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

/// Asks for the end of this business server, and for another one in its place.
pub type Restarter = Box<dyn Fn() + Send + Sync>;

/// The business of the demo.
pub struct Hooks {
    rooms: Mutex<Rooms>,
    calls: CallSender,
    restart: Restarter,
    /// Tells one life of the business server from the next.
    born_ms: u64,
    /// Empty: anyone may call the hooks.
    token: Secret,
    sessions: bool,
    page: String,
    /// Of several business servers each knows the people of its own node: a page unites their lists.
    house: u16,
}

/// A client's chat line.
#[derive(Deserialize)]
struct PostLine {
    key: String,
    text: String,
}

#[derive(Deserialize)]
struct Join {
    room: String,
}

#[derive(Deserialize)]
struct Rename {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Here {
    /// Devices that have come to the room in another house.
    newcomers: Vec<String>,
}

#[derive(Serialize)]
struct Announcement<'a> {
    house: u16,
    #[serde(flatten)]
    presence: &'a Presence,
}

#[derive(Serialize)]
struct Joined<'a> {
    status: &'static str,
    house: u16,
    room: &'a str,
    history: Vec<&'a ChatLine>,
    people: Vec<Seen>,
    rooms: Vec<RoomInfo>,
}

impl Hooks {
    pub fn new(config: &DemoConfig, calls: CallSender, restart: Restarter) -> Hooks {
        let page = CHAT_PAGE.replace("{{RAINBOW_PORT}}", &config.rainbow_port.to_string());
        let page = page.replace("{{CALL_PORT}}", &config.call_port.to_string());
        let DemoConfig { token, sessions, rainbow_port: house, .. } = config.clone();
        Hooks { rooms: Mutex::new(Rooms::new()), calls, restart, born_ms: now_ms(), token, sessions, page, house }
    }

    pub fn answer(&self, request: &Request) -> Response {
        let path = request.path.trim_end_matches('/');
        match path {
            "" => self.page(),
            "/rainbow.js" => Response::new(200, "text/javascript; charset=utf-8", CLIENT_SCRIPT.as_bytes()),
            "/chat.css" => Response::new(200, "text/css; charset=utf-8", STYLE.as_bytes()),
            "/born" => Response::new(200, "text/plain", self.born_ms.to_string().into_bytes()),
            "/restart" => self.restart(request),
            _ if path.starts_with("/rainbow/") && !self.is_signed(request) => {
                let refusal = json_response(&json!({"status": "error", "msg": "bad signature"}));
                Response { headers: vec![("RAINBOWREQUESTINVALID", "60001".into())], ..refusal }
            }
            "/rainbow/connect" => self.connect(request),
            "/rainbow/close" => self.close(request),
            _ => match path.strip_prefix("/rainbow/message/") {
                Some(message_type) => self.message(message_type, request),
                None => Response::new(404, "text/plain", &b"nothing here"[..]),
            },
        }
    }

    fn page(&self) -> Response {
        let page = Response::new(200, "text/html; charset=utf-8", self.page.clone().into_bytes());
        Response { headers: vec![("Cache-Control", "no-store".into())], ..page }
    }

    /// By the page's own button: another site's page must not press it.
    fn restart(&self, request: &Request) -> Response {
        if request.method != "POST" {
            return Response::new(405, "text/plain", &b"POST it"[..]);
        }
        if !matches!(request.header("Sec-Fetch-Site"), None | Some("same-origin" | "none")) {
            return Response::new(403, "text/plain", &b"not from another site"[..]);
        }
        (self.restart)();
        Response::new(202, "text/plain", &b"away for a moment"[..])
    }

    /// Lets every client in, into the room that the query names. The query's `in` names the room that the client was in
    /// before: its session may still be subscribed to it, which Rainbow knows when a restarted demo does not.
    fn connect(&self, request: &Request) -> Response {
        let Some(identity) = request.header(IDENTITY) else { return identity_required() };
        let get = |name: &str| query_get(&request.query, name).unwrap_or_default().into_owned();
        let mut rooms = self.rooms();
        let device = request.header("X-DEVICEID").unwrap_or_default().chars().take(DEVICE_MAX).collect();
        let person = Person { name: person_name(&get("name")), device, room: rooms.room_name(&get("room")) };
        let was_in = get("in");
        let was_in = (!was_in.is_empty()).then(|| rooms.room_name(&was_in)).filter(|room| *room != person.room);
        let announcements = rooms.enter(identity, person.clone(), now_ms());
        drop(rooms);
        self.announce(announcements);
        let mut headers = vec![("RAINBOWCLIENTCHANNEL", channel_of(&person.room)), cookie_of(&person)];
        headers.extend(was_in.map(|room| ("RAINBOWCLIENTCHANNELUNSUB", channel_of(&room))));
        if self.sessions && is_session_name(&person.device) {
            headers.push(("RAINBOWCLIENTSESSION", person.device));
            headers.push(("RAINBOWCLIENTSESSIONEXPIRY", SESSION_EXPIRY_S.to_string()));
        }
        Response { headers, ..json_response(&json!({"status": "success"})) }
    }

    fn close(&self, request: &Request) -> Response {
        // The session that ends has had no connection for long; there is nothing to announce.
        if request.header(SESSION_ENDED).is_some() {
            return json_response(&json!({"status": "success"}));
        }
        let Some(identity) = request.header(IDENTITY) else { return identity_required() };
        let mut rooms = self.rooms();
        self.recognize(&mut rooms, identity, request);
        let left = rooms.leave(identity, now_ms());
        drop(rooms);
        self.announce(left);
        json_response(&json!({"status": "success"}))
    }

    fn message(&self, message_type: &str, request: &Request) -> Response {
        let Some(identity) = request.header(IDENTITY) else { return identity_required() };
        let mut rooms = self.rooms();
        if !self.recognize(&mut rooms, identity, request) {
            return failure("nobody knows you");
        }
        match message_type {
            "1" => self.post_line(rooms, identity, &request.body),
            "2" => self.join(rooms, identity, &request.body),
            "3" => self.rename(rooms, identity, &request.body),
            "4" => self.present(rooms, identity, &request.body),
            _ => failure("no such message type"),
        }
    }

    fn post_line(&self, mut rooms: MutexGuard<Rooms>, identity: &str, body: &[u8]) -> Response {
        let Ok(PostLine { key, text }) = serde_json::from_slice(body) else { return failure("not a line") };
        if text.trim().is_empty() || text.len() > TEXT_BYTES_MAX || key.len() > KEY_BYTES_MAX {
            return failure("empty or too long");
        }
        let Some(line) = rooms.add_line(identity, &key, &text, now_ms()) else { return failure("nobody knows you") };
        drop(rooms);
        let body = serde_json::to_string(&line).expect("a line is JSON");
        match self.calls.push(Call { to: in_room(&line.room), message_type: 1, qos: 2, body }) {
            Ok(()) => json_response(&json!({"status": "success", "line": line})),
            // Rainbow calls the hook again; by the line's key the repeat is recognised.
            Err(QueueFull) => Response::new(503, "text/plain", &b"too much to tell"[..]),
        }
    }

    /// Moves a client to a room and answers with the room's history. Clients send this after each reconnection, too.
    fn join(&self, mut rooms: MutexGuard<Rooms>, identity: &str, body: &[u8]) -> Response {
        let Ok(Join { room }) = serde_json::from_slice(body) else { return failure("which room?") };
        let Some(person) = rooms.person(identity).cloned() else { return failure("nobody knows you") };
        let was_in = person.room;
        let person = Person { room: rooms.room_name(&room), ..person };
        let announcements = rooms.enter(identity, person.clone(), now_ms());
        let joined = json_response(&Joined {
            status: "success",
            house: self.house,
            room: &person.room,
            history: rooms.history(&person.room),
            people: rooms.people_in(&person.room),
            rooms: rooms.list(),
        });
        drop(rooms);
        self.announce(announcements);
        let mut headers = vec![("RAINBOWCLIENTCHANNEL", channel_of(&person.room)), cookie_of(&person)];
        if was_in != person.room {
            headers.push(("RAINBOWCLIENTCHANNELUNSUB", channel_of(&was_in)));
        }
        Response { headers, ..joined }
    }

    fn rename(&self, mut rooms: MutexGuard<Rooms>, identity: &str, body: &[u8]) -> Response {
        let Ok(Rename { name }) = serde_json::from_slice(body) else { return failure("which name?") };
        let name = person_name(&name);
        let renamed = rooms.rename(identity, &name, now_ms());
        let Some(person) = rooms.person(identity).cloned() else { return failure("nobody knows you") };
        drop(rooms);
        self.announce(renamed);
        Response { headers: vec![cookie_of(&person)], ..json_response(&json!({"status": "success", "name": name})) }
    }

    /// A client answers "who is here?". Its cookie has said who it is; the others get the longer list. Who is new in
    /// another house gets what was said here, too.
    fn present(&self, mut rooms: MutexGuard<Rooms>, identity: &str, body: &[u8]) -> Response {
        let Here { newcomers } = serde_json::from_slice(body).unwrap_or_default();
        let present = rooms.present(identity, now_ms());
        let room = rooms.person(identity).map(|person| person.room.clone()).unwrap_or_default();
        let lines = rooms.history(&room);
        let history = (!lines.is_empty()).then(|| json!({"room": room, "lines": lines}).to_string());
        drop(rooms);
        self.announce(present);
        let newcomers = newcomers.into_iter().filter(|device| is_session_name(device)).take(NEWCOMERS_MAX);
        for (device, body) in newcomers.zip(history.iter().cycle()) {
            self.send_if_room(Call { to: Receiver::Session(device), message_type: 4, qos: 0, body: body.clone() });
        }
        json_response(&json!({"status": "success"}))
    }

    /// Whether `identity` is known, from before or by a cookie that an earlier process of the demo has set.
    fn recognize(&self, rooms: &mut Rooms, identity: &str, request: &Request) -> bool {
        if rooms.person(identity).is_some() {
            return true;
        }
        let cookie = request.header(COOKIE).and_then(|cookie| STANDARD.decode(cookie).ok());
        let Some(person) = cookie.and_then(|json| serde_json::from_slice::<Person>(&json).ok()) else { return false };
        let to = in_room(&person.room);
        if rooms.recognize(identity, person) {
            // Others in that room are connected too, and only their own answers show who they are.
            self.send_if_room(Call { to, message_type: 3, qos: 0, body: "{}".into() });
        }
        true
    }

    fn announce(&self, announcements: impl IntoIterator<Item = Presence>) {
        for presence in announcements {
            let announcement = Announcement { house: self.house, presence: &presence };
            let body = serde_json::to_string(&announcement).expect("presence is JSON");
            self.send_if_room(Call { to: in_room(&presence.room), message_type: 2, qos: 0, body });
        }
    }

    /// Drops the call when the queue is full: the next announcement has the whole list again.
    fn send_if_room(&self, call: Call) {
        if self.calls.push(call).is_err() {
            tracing::debug!("the demo's queue is full; an announcement was dropped");
        }
    }

    fn is_signed(&self, request: &Request) -> bool {
        let get = |name: &str| query_get(&request.query, name).unwrap_or_default();
        let (timestamp, nonce, signature) = (get("timestamp"), get("nonce"), get("signature"));
        let signed = Signed2014 { timestamp: &timestamp, nonce: &nonce, signature: &signature };
        self.token.is_empty() || verify_2014(self.token.expose(), signed, now_ms() / 1000, SIGNATURE_WINDOW_S).is_ok()
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        // The rooms are usable after a panic in a request, too.
        self.rooms.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn in_room(room: &str) -> Receiver {
    Receiver::Channel(channel_of(room))
}

fn channel_of(room: &str) -> String {
    format!("room:{room}")
}

fn is_session_name(device: &str) -> bool {
    !device.is_empty() && device.bytes().all(|byte| byte.is_ascii_graphic())
}

fn cookie_of(person: &Person) -> (&'static str, String) {
    (COOKIE, STANDARD.encode(serde_json::to_vec(person).expect("a person is JSON")))
}

fn json_response(value: &impl Serialize) -> Response {
    Response::new(200, "application/json", serde_json::to_vec(value).expect("answers are JSON"))
}

fn failure(reason: &str) -> Response {
    json_response(&json!({"status": "error", "msg": reason}))
}

fn identity_required() -> Response {
    Response { headers: vec![("RAINBOWREQUESTINVALID", "60002".into())], ..failure("identity required") }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}

const CHAT_PAGE: &str = include_str!("chat.html");
const STYLE: &str = include_str!("chat.css");
const CLIENT_SCRIPT: &str = include_str!("../../clients/js/rainbow.js");
const IDENTITY: &str = "RAINBOWCLIENTIDENTITY";
const COOKIE: &str = "RAINBOWCLIENTCOOKIE";
const SESSION_ENDED: &str = "RAINBOWSESSIONENDED";
/// A day.
const SESSION_EXPIRY_S: u32 = 24 * 3600;
const TEXT_BYTES_MAX: usize = 4000;
const KEY_BYTES_MAX: usize = 64;
const NEWCOMERS_MAX: usize = 8;
/// Characters of a device's name.
const DEVICE_MAX: usize = 64;
const SIGNATURE_WINDOW_S: u64 = 10;

#[cfg(test)]
mod tests;
