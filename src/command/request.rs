//! A subcommand as an HTTP request: method, path, query and body. Nothing is signed here.

use super::exit::CommandError;
use super::options::{
    BroadcastOptions, ChannelsOptions, HealthOptions, KickOptions, MembersOptions, MembershipOptions, MessageOptions,
    NameOption, NodeOption, SendOptions, SessionsOptions, SubOptions, TailOptions,
};
use crate::wire::http1::percent_encode_into;
use serde_json::{Value, json};
use std::time::Duration;

/// One call, without its proof.
#[derive(Debug)]
pub struct Request {
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    pub body: Vec<u8>,
    /// How long the server itself may wait for clients; `None`: as configured.
    pub server_timeout: Option<Duration>,
}

impl Request {
    pub fn get(path: &str) -> Request {
        Request { method: "GET", target: path.into(), body: Vec::new(), server_timeout: None }
    }

    pub fn send(options: &SendOptions) -> Result<Request, CommandError> {
        let name = match (options.session, options.user) {
            (true, _) => "session",
            (_, true) => "user",
            _ => "channel",
        };
        Request::message("/send/", (name, &options.to), &options.message)
    }

    pub fn broadcast(options: &BroadcastOptions) -> Result<Request, CommandError> {
        Request::message("/broadcast/", ("channels", &options.channels.join(";;")), &options.message)
    }

    fn message(path: &str, to: (&str, &str), options: &MessageOptions) -> Result<Request, CommandError> {
        let query = Query::new(path)
            .with(to.0, to.1)
            .with_some("msgtype", options.message_type)
            .with_some("qos", options.qos)
            .with_some("timeout", options.timeout)
            .with_some("ttl", options.ttl)
            .with_some("message_id", options.message_id.as_ref())
            .with_some("wait", options.wait_stored.then_some("stored"));
        let server_timeout = options.timeout.map(Duration::from_secs);
        Ok(Request { method: "POST", target: query.0, body: options.body()?, server_timeout })
    }

    pub fn kick(options: &KickOptions) -> Request {
        let key = match (options.channel, options.user) {
            (true, _) => "channel",
            (_, true) => "user",
            _ => "identity",
        };
        let mut body = json!({ key: options.target });
        if let Some(code) = options.code {
            body["code"] = code.into();
        }
        if let Some(reason) = &options.reason {
            body["reason"] = reason.as_str().into();
        }
        Request::post("/kick/", &body)
    }

    pub fn subscribe(options: &SubOptions) -> Request {
        let mut body = membership(&options.membership);
        body["occupy"] = u8::from(options.occupy).into();
        Request::post("/sub/", &body)
    }

    pub fn unsubscribe(options: &MembershipOptions) -> Request {
        Request::post("/unsub/", &membership(options))
    }

    pub fn channels(options: &ChannelsOptions) -> Request {
        Request::get(&Query::new("/channel/").with("limit", &options.limit.to_string()).0)
    }

    pub fn members(options: &MembersOptions) -> Request {
        let name = if options.user { "user" } else { "channel" };
        let page = Query::new("/channel/").with(name, &options.channel);
        let page = page.with("offset", &options.offset.to_string()).with("limit", &options.limit.to_string());
        Request::get(&page.0)
    }

    pub fn sessions(options: &SessionsOptions) -> Request {
        let page = Query::new("/sessions/").with("order", &options.order);
        let page = page.with_some("state", options.state.as_ref()).with_some("find", options.find.as_ref());
        let page = page.with("offset", &options.offset.to_string()).with("limit", &options.limit.to_string());
        Request::get(&page.0)
    }

    pub fn session(options: &NameOption) -> Request {
        Request::get(&Query::new("/session/").with("session", &options.name).0)
    }

    pub fn drop_session(options: &NameOption) -> Request {
        let target = Query::new("/session/drop/").with("session", &options.name).0;
        Request { method: "POST", ..Request::get(&target) }
    }

    pub fn forget_node(options: &NodeOption) -> Request {
        let target = Query::new("/cluster/forget/").with("node", &options.node).0;
        Request { method: "POST", ..Request::get(&target) }
    }

    pub fn reload() -> Request {
        Request { method: "POST", ..Request::get("/updateconfig/") }
    }

    pub fn trace(options: &TailOptions) -> Request {
        let of = &options.whom;
        let whom = [("identity", &of.identity), ("session", &of.session), ("channel", &of.channel), ("user", &of.user)];
        let query = Query::new("/trace/").with("seconds", &options.seconds.to_string());
        let query = whom.into_iter().fold(query, |query, (name, value)| query.with_some(name, value.as_ref()));
        Request::get(&query.0)
    }

    pub fn drain() -> Request {
        Request { method: "POST", ..Request::get("/drain/") }
    }

    pub fn health(options: &HealthOptions) -> Request {
        Request::get(if options.live { "/livez" } else { "/readyz" })
    }

    fn post(path: &str, body: &Value) -> Request {
        Request { method: "POST", target: path.into(), body: body.to_string().into_bytes(), server_timeout: None }
    }
}

fn membership(options: &MembershipOptions) -> Value {
    let key = if options.session { "session" } else { "identity" };
    json!({ key: options.who, "channel": options.channel })
}

/// A path that grows a query.
pub struct Query(pub String);

impl Query {
    pub fn new(path: &str) -> Query {
        Query(path.into())
    }

    pub fn with(mut self, name: &str, value: &str) -> Query {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0 += name;
        self.0.push('=');
        let mut encoded = Vec::new();
        percent_encode_into(&mut encoded, value);
        self.0 += std::str::from_utf8(&encoded).expect("percent-encoded text is ASCII");
        self
    }

    fn with_some(self, name: &str, value: Option<impl ToString>) -> Query {
        match value {
            Some(value) => self.with(name, &value.to_string()),
            None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_whatever_they_hold() {
        let query = Query::new("/channel/").with("channel", "a&b=c ;#?/ä%").with("limit", "1");
        assert_eq!(query.0, "/channel/?channel=a%26b%3Dc%20%3B%23%3F%2F%C3%A4%25&limit=1");
        let kick =
            KickOptions { target: "say \"a\"".into(), channel: true, user: false, code: Some(4501), reason: None };
        let request = Request::kick(&kick);
        assert_eq!(request.target, "/kick/");
        assert_eq!(request.body, br#"{"channel":"say \"a\"","code":4501}"#);
    }
}
