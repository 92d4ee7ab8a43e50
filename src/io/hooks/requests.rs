//! Hooks: our requests to the business server, which the backend pool carries out. What a request's outcome means for
//! the worker is in `service::completions`.
//!
//! A hook that finds too many requests waiting is refused here at once: a forward gives its body back, a connect says
//! so, a close waits for room, receipts are counted as dropped.

use super::closes::{Close, CloseNumber, Closes, Ended};
use super::receipts::Receipts;
use super::records::Records;
use super::spans::HookSpans;
use super::ticket::HookTicket;
use super::upstreams::{PublishedUpstreams, Publishing};
use crate::base::client::{ClientContext, ClientSite};
use crate::base::digits::hex_of;
use crate::base::id::{Identity, ShardId};
use crate::base::limits::Limits;
use crate::base::time::{Tick, ms};
use crate::config::{CloseEvents, Config, StoreKind};
use crate::io::backend::{
    Hook, HookOutcome, HookRequest, IdempotencyKey, Options, Pool, RequestTag, Retry, UpstreamState,
};
use crate::io::runtime::oneshot::OneshotId;
use crate::io::spans::recorder::SpanRecorder;
use crate::io::spans::span::Span;
use crate::io::store::queue::StoreQueue;
use crate::policy::sites::Sites;
use crate::shard::command::SessionId;
use crate::shard::{Ending, Forward, SessionEnd};
use crate::store::ConnectionRecord;
use crate::wire::packet::QoS;
use crate::wire::ws::frame::CloseCode;
use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::hash::RandomState;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// One worker's hooks.
pub struct Hooks {
    pool: Pool,
    spans: HookSpans,
    published: Publishing,
    receipts: Receipts,
    sites: RefCell<Sites<RandomState>>,
    limits: Limits,
    closes: Closes,
    records: Records,
    connect_timeout_ms: Cell<u64>,
    close_deadline_ms: Cell<u64>,
    has_close_url: Cell<bool>,
    has_receipt_url: Cell<bool>,
}

/// Header lines of a connect: what the client sent, and what we say of it.
pub struct ConnectHeaders {
    pub of_client: Rc<[u8]>,
    pub ours: Rc<[u8]>,
    /// What `ours` names as the hook's step of its trace.
    pub span: Option<Box<Span>>,
}

impl Hooks {
    /// `spans`: what is done on this worker for traces, of hooks and of others.
    pub fn new((pool, spans): (Pool, SpanRecorder), worker: ShardId, config: &Config, limits: Limits) -> Hooks {
        let hooks = Hooks {
            pool,
            spans: HookSpans::new(spans),
            published: Publishing::default(),
            receipts: Receipts::default(),
            sites: RefCell::new(Sites::new(limits.sites_max, RandomState::new())),
            closes: Closes::default(),
            records: Records::new(worker),
            connect_timeout_ms: Cell::new(ms(config.connect_timeout)),
            close_deadline_ms: Cell::new(ms(config.close_deadline)),
            limits,
            has_close_url: Cell::new(!config.close_url.is_empty()),
            has_receipt_url: Cell::new(!config.receipt_url.is_empty()),
        };
        hooks.records.set_on(keeps_records(config));
        hooks
    }

    pub fn spans(&self) -> &SpanRecorder {
        self.spans.recorder()
    }

    /// A span for the hook of a connect.
    pub fn connect_span(&self, of: &Span) -> Box<Span> {
        self.spans.begin_connect(of)
    }

    /// The pool has given a request back.
    pub fn ended(&self, tag: RequestTag, outcome: &HookOutcome<'_>) {
        self.spans.end(tag, outcome);
    }

    pub fn records(&self) -> &Records {
        &self.records
    }

    /// What hooks say of a client that has come here.
    pub fn client(&self, ip: IpAddr, site: impl Borrow<ClientSite> + Into<Arc<ClientSite>>) -> ClientContext {
        ClientContext::new(ip, self.sites.borrow_mut().share(site))
    }

    /// `connections_max`: to one backend.
    pub fn reconfigure(&self, config: &Config, connections_max: usize) {
        self.pool.reconfigure(Options::of(config, connections_max, &self.limits));
        self.spans.recorder().set_ratio(config.traces.otlp_ratio);
        self.has_close_url.set(!config.close_url.is_empty());
        self.connect_timeout_ms.set(ms(config.connect_timeout));
        self.close_deadline_ms.set(ms(config.close_deadline));
        self.has_receipt_url.set(!config.receipt_url.is_empty());
        self.records.set_on(keeps_records(config));
    }

    /// A client's message. The body comes back when too many requests wait (counted by the pool); the client's repeat
    /// tries again.
    pub fn forward(&self, forward: Forward) -> Result<(), Vec<u8>> {
        let Forward { key, session, message_type, qos, sequence, deadline, identity, client, body } = forward;
        let identity = identity.to_hex();
        let (hook, tag) = (Hook::Forward { message_type }, RequestTag(HookTicket::Forward(key).pack()));
        let client = self.spans.begin(hook, tag, &identity, client);
        let request = HookRequest {
            hook,
            tag,
            retry: if qos == QoS::AtMostOnce { Retry::Never } else { Retry::Until(deadline) },
            identity,
            client,
            idempotency_key: (qos != QoS::AtMostOnce).then(|| match session {
                Some(SessionId(id)) => IdempotencyKey::of_message(&hex_of::<16, 32>(id.to_be_bytes()), sequence),
                None => IdempotencyKey::of_message(&identity, sequence),
            }),
            query: None,
            client_headers: None,
            headers: None,
            body,
        };
        self.submit(request).map_err(|request| request.body)
    }

    /// May this client come in? False when too many requests wait: there will be no outcome.
    pub fn connect(&self, oneshot: OneshotId, identity: Identity, query: Rc<str>, headers: ConnectHeaders) -> bool {
        let ConnectHeaders { of_client, ours, span } = headers;
        let request = HookRequest {
            query: Some(query),
            client_headers: Some(of_client),
            headers: Some(ours),
            ..new_request(Hook::Connect, HookTicket::Connect(oneshot), Retry::Never, identity.to_hex())
        };
        if let Some(span) = span {
            self.spans.insert(Hook::Connect, request.tag, &request.identity, span);
        }
        self.submit(request).is_ok()
    }

    /// A request that the pool has no room for comes back.
    #[expect(clippy::result_large_err, reason = "the request is moved either way")]
    fn submit(&self, request: HookRequest) -> Result<(), HookRequest> {
        self.pool.submit(request).inspect_err(|request| self.spans.refuse(request.tag))
    }

    /// A connection that the business server has let in, or may have, has ended.
    pub fn close(&self, identity: Identity, client: ClientContext, ending: Ending, now: Tick) {
        self.report(Ended::Connection { identity, ending }, client, now);
    }

    /// The business server has let the connection in, and the client was refused all the same: its session cannot be
    /// had now.
    pub fn close_refused(&self, identity: Identity, client: ClientContext, now: Tick) {
        self.close(identity, client, Ending { code: CloseCode::BACKEND_UNREACHABLE, ..Ending::default() }, now);
    }

    /// The connect hook's answer did not come: the business server may have let the connection in. The close goes out
    /// when that server has had its time for the connect, lest it handles the two in the wrong order.
    pub fn close_after_unknown_connect(&self, identity: Identity, client: ClientContext, now: Tick) {
        if !self.has_close_url.get() {
            return;
        }
        let due = now + self.connect_timeout_ms.get();
        let deadline = due + self.close_deadline_ms.get();
        let ending = Ending { code: CloseCode::BACKEND_UNREACHABLE, ..Ending::default() };
        let close = Close { ended: Ended::Connection { identity, ending }, client, deadline };
        self.closes.push_delayed(close, due, self.limits.closes_bytes_max);
    }

    pub fn session_ended(&self, name: Arc<str>, cookie: Option<Rc<[u8]>>, why: SessionEnd, now: Tick) {
        let client = ClientContext::of_absent(cookie, None);
        self.report(Ended::Session { name, why }, client, now);
    }

    /// Connections of former processes, and of nodes that have died: each is reported, at a pace.
    pub fn close_former(&self, records: &[ConnectionRecord], now: Tick) {
        if records.is_empty() {
            return;
        }
        self.records.set_used();
        self.closes.push_former(records, now);
    }

    /// Removes the records of connections of which nothing is owed any more. Returns how many the store was too busy
    /// for.
    pub fn remove_records(&self, store: &StoreQueue) -> u64 {
        let mut missed = 0;
        for request in self.closes.take_settled().into_iter().filter_map(|identity| self.records.remove(identity)) {
            match store.len() < self.limits.records_waiting_max {
                true => store.push(request),
                false => missed += 1,
            }
        }
        missed
    }

    fn report(&self, ended: Ended, client: ClientContext, now: Tick) {
        if !self.has_close_url.get() {
            if let Ended::Connection { identity, .. } = ended {
                self.closes.settle(identity);
            }
            return;
        }
        let close = Close { ended, client, deadline: now + self.close_deadline_ms.get() };
        if self.closes.push(close, self.limits.closes_bytes_max) {
            self.send_closes();
        }
    }

    /// Hands the pool as many closes as it may have.
    fn send_closes(&self) {
        while let Some((number, close)) = self.closes.take(self.limits.closes_in_flight_max) {
            let mut request = close_request(&close, number);
            request.client = self.spans.begin(request.hook, request.tag, &request.identity, request.client);
            // The pool has no room: its next outcome makes some.
            if let Err(request) = self.pool.submit(request) {
                self.spans.forget(request.tag);
                return self.closes.put_back(number, close);
            }
        }
    }

    /// The pool has given a close back.
    pub fn close_ended(&self, number: CloseNumber, is_confirmed: bool) {
        self.closes.ended(number, is_confirmed);
        self.send_closes();
    }

    /// Ends that the business server has not confirmed.
    pub fn closes_left(&self) -> usize {
        self.closes.len()
    }

    /// How many closes were given up since the last time.
    pub fn take_closes_given_up(&self, now: Tick) -> u64 {
        self.closes.expire(now);
        self.closes.take_given_up(now, self.limits.closes_log_interval_ms)
    }

    /// Adds a receipt to the batch. Returns how many receipts had to be dropped.
    pub fn receipt(&self, session: &str, message_id: Option<&str>, delivered_at_ms: u64, now: Tick) -> u32 {
        if !self.has_receipt_url.get() {
            return 0;
        }
        let count = self.receipts.push(session, message_id, delivered_at_ms);
        if count as usize >= self.limits.receipts_per_batch {
            return self.send_receipts(now);
        }
        if count == 1 {
            self.receipts.set_due(now + self.limits.receipts_gather_ms);
        }
        0
    }

    /// When the batch of receipts has to be sent.
    pub fn receipts_due(&self) -> Tick {
        self.receipts.due()
    }

    /// Sends the batch. Returns how many receipts had to be dropped.
    pub fn send_receipts(&self, now: Tick) -> u32 {
        let Some((body, count)) = self.receipts.take() else { return 0 };
        if self.receipts.in_flight() >= self.limits.receipt_batches_max {
            return count;
        }
        let retry = Retry::Until(now + self.limits.receipts_deadline_ms);
        let request =
            HookRequest { body, ..new_request(Hook::Receipts, HookTicket::Receipts { count }, retry, NO_IDENTITY) };
        match self.pool.submit(request) {
            Ok(()) => {
                self.receipts.batch_sent();
                0
            }
            Err(_) => count,
        }
    }

    /// A batch has come back from the pool.
    pub fn receipts_ended(&self) {
        self.receipts.batch_ended();
    }

    /// The resolver may have found what was looked for.
    pub fn poll_resolver(&self, now: Tick) {
        self.pool.poll_resolver(now);
    }

    pub fn poll_timers(&self, now: Tick) {
        self.pool.poll_timers(now);
        self.closes.release(now);
        while let Some(record) = self.closes.take_former(now, self.limits.closes_bytes_max) {
            let client = ClientContext::of_absent(record.cookie.map(Rc::from), record.user.map(Rc::from));
            let ending = Ending { reason: "the server has died".into(), ..Ending::default() };
            self.report(Ended::Connection { identity: record.identity, ending }, client, now);
        }
        self.send_closes();
    }

    /// When `poll_timers`, `take_closes_given_up` or `send_receipts` has to be called next.
    pub fn next_deadline(&self) -> Tick {
        self.pool
            .next_deadline()
            .min(self.receipts.due())
            .min(self.closes.next_deadline())
            .min(self.records.next_deadline())
    }

    /// The worker is about to end: nothing is delayed any more.
    pub fn release_closes(&self) {
        self.closes.release(Tick::NEVER);
        self.send_closes();
    }

    /// No request is under way or waits.
    pub fn is_idle(&self) -> bool {
        self.pool.is_idle() && self.closes.is_empty()
    }

    pub fn upstreams(&self) -> Vec<UpstreamState> {
        self.pool.upstreams()
    }

    /// The same for other workers' pages, from time to time.
    pub fn publish_upstreams(&self, to: &PublishedUpstreams, now: Tick) {
        self.published.publish(to, now, || self.upstreams());
    }
}

/// Whether connections get a record in the store.
fn keeps_records(config: &Config) -> bool {
    let is_durable = config.close_events == CloseEvents::Durable && config.store.kind != StoreKind::None;
    is_durable && !config.close_url.is_empty()
}

fn close_request(close: &Close, number: CloseNumber) -> HookRequest {
    let retry = Retry::Until(close.deadline);
    let client = close.client.clone();
    match &close.ended {
        Ended::Connection { identity, ending } => HookRequest {
            client,
            headers: Some(ending_headers(ending).into_bytes().into()),
            idempotency_key: IdempotencyKey::format(format_args!("{identity}-close")),
            ..new_request(Hook::Close, HookTicket::Close(number), retry, identity.to_hex())
        },
        Ended::Session { name, why } => {
            let why = match why {
                SessionEnd::Expired => "expired",
                SessionEnd::Dropped => "dropped",
            };
            let headers = format!("RAINBOWCLIENTSESSION: {name}\r\nRAINBOWSESSIONENDED: {why}\r\n");
            HookRequest {
                client,
                headers: Some(headers.into_bytes().into()),
                ..new_request(Hook::SessionEnded, HookTicket::Close(number), retry, NO_IDENTITY)
            }
        }
    }
}

/// How it ended, as header lines.
fn ending_headers(Ending { code, reason, session }: &Ending) -> String {
    // The reason is somebody's text: a client's, or that of a caller's kick.
    let reason = reason.replace(|c: char| c.is_control(), " ");
    let mut headers = format!("RAINBOWCLOSECODE: {}\r\nRAINBOWCLOSEREASON: {}\r\n", code.0, reason.trim());
    if let Some(name) = session {
        headers.extend(["RAINBOWCLIENTSESSION: ", name, "\r\n"]);
    }
    headers
}

fn new_request(hook: Hook, ticket: HookTicket, retry: Retry, identity: [u8; 64]) -> HookRequest {
    let tag = RequestTag(ticket.pack());
    let (client, idempotency_key, query, client_headers, headers, body) = Default::default();
    HookRequest { hook, tag, retry, identity, client, idempotency_key, query, client_headers, headers, body }
}

/// Of a hook that is about no connection: it is not sent.
const NO_IDENTITY: [u8; 64] = [b'0'; 64];
