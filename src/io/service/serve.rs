//! Serves one HTTP connection: a client's upgrade, calls, pages. It ends when the peer or we say so, or when the socket
//! becomes a client's.

use crate::base::client::trace_parent::TraceParent;
use crate::io::api::access::{self, Arrival, Caller, Pass};
use crate::io::api::calls::{self, ApiRequest};
use crate::io::api::pages;
use crate::io::api::trace;
use crate::io::client::refusal::ConnectRefusal;
use crate::io::client::upgrade::{self, UpgradePlan};
use crate::io::cluster::secure::{self, LinkKind};
use crate::io::http::connection::{self, HttpConnection};
use crate::io::http::request_id::RequestId;
use crate::io::http::response::{Response, ResponseForm};
use crate::io::runtime::socket::Socket;
use crate::io::service::links;
use crate::io::spans::span::{Span, SpanKind};
use crate::io::worker::turn::Worker;
use crate::metrics::text::Format;
use crate::policy::admission::{NotAdmitted, Place};
use crate::policy::api::{Access, Route};
use crate::policy::headers::TRACE_PARENT;
use crate::policy::proxies::{ClientPath, client_path, is_trusted};
use crate::shard::Mode;
use crate::wire::http1::{BodyFraming, REQUEST_SLOTS, RequestHead};
use std::cell::Cell;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use tracing::debug;

/// Which listener the connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// All paths.
    Whole,
    /// `admin_listen` has taken the control API away: clients only.
    Public,
    /// `admin_listen`, or the operator's listener where no secret is set: everything but clients.
    Admin,
    /// `cluster_listen`: other nodes only, and they come to no other one.
    Cluster,
}

impl ListenerKind {
    fn is_for_clients(self) -> bool {
        matches!(self, ListenerKind::Whole | ListenerKind::Public)
    }
}

/// Serves the connection to its end. `peer` is its address; `place` is given back when it has become a client, when a
/// call of it was allowed, or at its end.
pub async fn run(worker: Rc<Worker>, socket: Socket, peer: IpAddr, side: ListenerKind, place: Place) {
    let connection = HttpConnection::new(worker, socket);
    ServedConnection { connection, place: Some(place), peer, side, spare: Vec::new() }.run().await;
}

struct ServedConnection {
    connection: HttpConnection,
    /// `None` once a call was allowed.
    place: Option<Place>,
    /// Whom the connection is from: a client or its last proxy.
    peer: IpAddr,
    side: ListenerKind,
    /// The body of the last response, for the next one.
    spare: Vec<u8>,
}

/// What a head asks for.
struct Plan {
    action: Action,
    form: ResponseForm,
}

enum Action {
    Upgrade(Box<UpgradePlan>),
    /// Another node dials.
    Link(LinkKind),
    Call(CallPlan),
    Respond(Response),
}

struct CallPlan {
    /// Of the answer to `GET /metrics`.
    format: Format,
    route: Route,
    /// Of the query, in the buffer.
    query: Range<usize>,
    framing: BodyFraming,
    expects_continue: bool,
    pass: Pass,
    caller: Caller,
    /// Taken when it ends.
    span: Cell<Option<Box<Span>>>,
}

impl ServedConnection {
    async fn run(mut self) {
        if self.side.is_for_clients() && self.worker().rules().config().proxy_protocol {
            match self.connection.read_proxy_header(self.peer).await {
                Some(source) => self.peer = source,
                None => return,
            }
            if let Err(why) = self.count_source() {
                return self.refuse(why).await;
            }
        }
        loop {
            let Some(head) = self.connection.read_head().await else { return };
            if !self.connection.begin_request().await {
                return;
            }
            let mut plan = self.plan(head);
            plan.form.keep_alive &= !self.worker().shared().is_draining();
            let form = &plan.form;
            // In place: what a call is about is large.
            match plan.action {
                Action::Upgrade(plan) => return self.upgrade(head, *plan).await,
                Action::Link(kind) => return self.link(head, kind).await,
                Action::Respond(response) => {
                    // Only a request without a body is answered from its head alone and followed by another.
                    self.connection.respond(&response, form).await;
                    if !form.keep_alive {
                        return self.connection.linger().await;
                    }
                    self.connection.consume(head);
                }
                Action::Call(ref call) => match self.call(head, call, form).await {
                    Some(request) if form.keep_alive => self.connection.consume(request),
                    _ => return self.connection.linger().await,
                },
            }
            self.connection.expect_next();
        }
    }

    /// The address that a proxy has named is known only now.
    fn count_source(&mut self) -> Result<(), NotAdmitted> {
        let rules = self.worker().rules();
        let max = rules.handshakes().per_address;
        match &mut self.place {
            Some(place) if !is_trusted(&rules.config().trusted_proxies, self.peer) => {
                place.count_address(self.peer, max)
            }
            _ => Ok(()),
        }
    }

    async fn refuse(mut self, why: NotAdmitted) {
        debug!(source = %self.peer, "too many connections from the address that a proxy has named");
        self.connection.respond(&ConnectRefusal::from(why).response(), &ResponseForm::LAST).await;
        self.connection.linger().await;
    }

    fn worker(&self) -> &Rc<Worker> {
        self.connection.worker()
    }

    fn plan(&self, head: usize) -> Plan {
        let buffer = self.connection.buffer();
        let mut slots = REQUEST_SLOTS;
        let parsed = match RequestHead::parse(&buffer[..head], &mut slots) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.worker().count(|counters| &counters.http_refused);
                let response = Response::plain(error.status(), &error.to_string());
                return Plan { action: Action::Respond(response), form: ResponseForm::LAST };
            }
        };
        let is_whole = match parsed.framing {
            BodyFraming::None => true,
            BodyFraming::Length(len) => len <= (buffer.len() - head) as u64,
            BodyFraming::Chunked | BodyFraming::UntilClose => false,
        };
        let request_id = RequestId::of(&parsed);
        let action = self.route(&parsed, is_whole, request_id.clone());
        let is_followed = parsed.framing == BodyFraming::None || matches!(action, Action::Call(_));
        let form = ResponseForm {
            keep_alive: parsed.keep_alive() && is_followed,
            is_http_1_0: parsed.version_minor == 0,
            is_head: parsed.method == "HEAD",
            request_id: Some(request_id),
        };
        Plan { action, form }
    }

    /// `is_whole`: the body is in the buffer too.
    fn route(&self, head: &RequestHead<'_>, is_whole: bool, request_id: RequestId) -> Action {
        let is_echo = self.worker().rules().mode() == Mode::Echo;
        if let Some(kind) = LinkKind::of_path(head.path).filter(|_| self.takes_links()) {
            let is_link = head.headers.get_text("upgrade") == Some(secure::UPGRADE) && head.method == "GET";
            let refusal =
                || Response::plain(426, "for other nodes of the cluster").with_header("Upgrade", secure::UPGRADE);
            return if is_link { Action::Link(kind) } else { Action::Respond(refusal()) };
        }
        let route = if is_echo { Some(Route::Connect) } else { Route::find(head.path) };
        let route = route.filter(|route| match self.side {
            ListenerKind::Whole => true,
            ListenerKind::Public => route.is_public(),
            ListenerKind::Admin => *route != Route::Connect,
            ListenerKind::Cluster => false,
        });
        let is_look = matches!(head.method, "GET" | "HEAD");
        let has_pages = matches!(self.side, ListenerKind::Whole | ListenerKind::Admin);
        if head.path == "/" && is_look && !is_echo && has_pages {
            return Action::Respond(pages::to_server_info());
        }
        let Some(route) = route else { return Action::Respond(Response::plain(404, "no such path")) };
        if route == Route::Connect {
            return self.plan_upgrade(head);
        }
        let method_fits = match route.is_post() {
            true => head.method == "POST",
            false => matches!(head.method, "GET" | "HEAD" | "POST"),
        };
        if !method_fits {
            let allowed = if route.is_post() { "POST" } else { "GET" };
            return Action::Respond(
                Response::plain(405, "this path takes another method").with_header("Allow", allowed),
            );
        }
        // Where the query lies in the buffer: so that the head need not be parsed again.
        let query = match head.query {
            "" => 0..0,
            query => {
                let start = query.as_ptr() as usize - self.connection.buffer().as_ptr() as usize;
                start..start + query.len()
            }
        };
        let format = match route {
            Route::Metrics => Format::accepted(head.headers.all_text("accept")),
            _ => Format::Classic,
        };
        let arrival = Arrival { peer: self.peer, is_admin_listener: self.side == ListenerKind::Admin };
        let trace_parent = head.headers.get(TRACE_PARENT).and_then(TraceParent::read);
        let span = self.begin_span(head, route, trace_parent.as_ref());
        Action::Call(CallPlan {
            format,
            route,
            query,
            framing: head.framing,
            expects_continue: head.expects_continue(),
            pass: access::pass(self.worker(), route, head, arrival, is_whole),
            caller: Caller {
                address: self.path_of(head).client,
                request_id,
                trace_parent: span.as_ref().map(|span| span.context.clone()).or(trace_parent),
                is_page: head.headers.get("origin").is_some(),
            },
            span: Cell::new(span),
        })
    }

    /// What is only looked at begins no trace: probes and pages come all day long.
    fn begin_span(&self, head: &RequestHead<'_>, route: Route, parent: Option<&TraceParent>) -> Option<Box<Span>> {
        let spans = self.worker().hooks().spans();
        if !spans.is_on() || parent.is_none() && !route.changes() || route == Route::Trace {
            return None;
        }
        let mut span = spans.begin(parent, SpanKind::Server, format!("{} {}", head.method, route.path()))?;
        span.attributes.push(("http.request.method", head.method.to_owned().into()));
        span.attributes.push(("http.route", route.path().into()));
        span.attributes.push(("client.address", self.path_of(head).client.to_string().into()));
        Some(span)
    }

    /// A request whose span this is has been answered with this status.
    fn end_span(worker: &Worker, span: Option<Box<Span>>, status: u16) {
        let Some(mut span) = span else { return };
        span.attributes.push(("http.response.status_code", status.into()));
        worker.hooks().spans().end(span, (status >= 500).then(|| status.to_string()));
    }

    fn takes_links(&self) -> bool {
        let is_own = self.side == ListenerKind::Cluster;
        self.worker().cluster().port().is_some_and(|port| port.listen().is_some() == is_own)
    }

    fn plan_upgrade(&self, head: &RequestHead<'_>) -> Action {
        match upgrade::plan(self.worker(), head, &self.path_of(head)) {
            Ok(plan) => Action::Upgrade(Box::new(plan)),
            Err(why) => {
                if matches!(why.status(), 400 | 405 | 426) {
                    self.worker().count(|counters| &counters.http_refused);
                }
                Action::Respond(why.response())
            }
        }
    }

    /// The way of the request to us, as far as trusted proxies say.
    fn path_of(&self, head: &RequestHead<'_>) -> ClientPath {
        let rules = self.worker().rules();
        client_path(&rules.config().trusted_proxies, self.peer, head.headers.all_text("x-forwarded-for"))
    }

    /// The place is given back at the end of this: when the connection is a client, or has been refused.
    async fn upgrade(self, head: usize, mut plan: UpgradePlan) {
        self.connection.stop_watch();
        if !self.connection.written().await {
            return;
        }
        let (worker, socket, early) = self.connection.into_socket(head);
        let (accepted, span) = (plan.accepted(), plan.take_span());
        let refused = upgrade::connect(worker.clone(), socket, plan, early).await;
        let status = refused.as_ref().map_or_else(|(_, why)| why.status(), |()| 101);
        ServedConnection::end_span(&worker, span, status);
        let Err((socket, why)) = refused else { return };
        connection::refuse(worker, socket, |out| why.write(out, accepted)).await;
    }

    async fn link(self, head: usize, kind: LinkKind) {
        self.connection.stop_watch();
        if self.connection.written().await {
            let (worker, socket, early) = self.connection.into_socket(head);
            links::serve(worker, socket, early, kind, self.place).await;
        }
    }

    /// A response without an end yet: after it the connection is of no more use.
    async fn trace(&mut self, (head, request): (usize, usize), call: &CallPlan, form: &ResponseForm) -> Option<usize> {
        let worker = self.worker().clone();
        let (query, body) = (query_of(&self.connection, call), self.connection.body(head, request));
        let begun = calls::begin_trace(&worker, &call.pass, query, body).await;
        self.connection.end_body();
        let refused = match begun {
            Ok(Ok(trace)) => {
                self.place = None;
                trace::stream(&worker, &mut self.connection, trace, form).await;
                return None;
            }
            Ok(Err(response)) => response,
            Err(why) => access::refused(&worker, call.route, &call.caller, why),
        };
        self.connection.respond(&refused, form).await;
        Some(request)
    }

    /// Reads the body and carries the call out. Returns how much of the buffer was the request; `None` when the
    /// connection has to end.
    async fn call(&mut self, head: usize, call: &CallPlan, form: &ResponseForm) -> Option<usize> {
        if let Pass::Refused(why) = &call.pass {
            let response = access::refused(self.worker(), call.route, &call.caller, *why);
            ServedConnection::end_span(self.worker(), call.span.take(), response.status());
            let keep_alive = form.keep_alive && call.framing == BodyFraming::None;
            let form = ResponseForm { keep_alive, ..form.clone() };
            self.connection.respond(&response, &form).await;
            return keep_alive.then_some(head);
        }
        let request_len = self.connection.read_body(head, call.framing, call.expects_continue).await?;
        self.connection.stop_watch();
        if call.route == Route::Trace {
            // Boxed: an ordinary call's task must not carry the room that it needs.
            return Box::pin(self.trace((head, request_len), call, form)).await;
        }
        let began_us = self.connection.worker().now_us();
        let request = ApiRequest {
            route: call.route,
            format: call.format,
            pass: &call.pass,
            caller: &call.caller,
            query: query_of(&self.connection, call),
            body: self.connection.body(head, request_len),
            spare: std::mem::take(&mut self.spare),
        };
        let response = match calls::run(self.connection.worker(), request).await {
            Ok(response) => {
                self.connection.worker().call_ended(call.route.path(), began_us);
                if call.route.access() != Access::Anyone {
                    self.place = None;
                }
                response
            }
            Err(why) => access::refused(self.worker(), call.route, &call.caller, why),
        };
        ServedConnection::end_span(self.worker(), call.span.take(), response.status());
        self.connection.end_body();
        self.connection.respond(&response, form).await;
        if let Some(mut body) = response.into_buffer() {
            body.shrink_to(SPARE_BYTES_MAX);
            self.spare = body;
        }
        Some(request_len)
    }
}

/// The query is text: the head was.
fn query_of<'a>(connection: &'a HttpConnection, call: &CallPlan) -> &'a str {
    std::str::from_utf8(&connection.buffer()[call.query.clone()]).expect("the head was text")
}

const SPARE_BYTES_MAX: usize = 64 << 10;
