//! Who may make a call: signed as in 2014 or by Standard Webhooks, with the admin token, or on an admin listener of
//! this machine.
//!
//! That a call comes from loopback says nothing by itself: a proxy on this machine passes on what comes from anywhere.
//!
//! Decided from the head alone where that is possible, so that no body is read for a call that may not be made.

use crate::base::client::trace_parent::TraceParent;
use crate::base::secret::Secret;
use crate::io::http::request_id::RequestId;
use crate::io::http::response::Response;
use crate::io::runtime::clock;
use crate::io::worker::rules::Rules;
use crate::io::worker::turn::Worker;
use crate::policy::api::{self, Access, Route, Signature, write_refusal};
use crate::policy::origin;
use crate::wire::http1::RequestHead;
use crate::wire::sign::{self, SignError, Signed2014, SignedWebhook};
use std::net::IpAddr;
use tracing::debug;

/// Whether a call may be made, as far as its head tells.
pub enum Pass {
    /// To anyone, or to an operator of this machine.
    Granted,
    /// By the admin token.
    Token,
    /// Signed in its query as in 2014.
    Signed,
    /// Signed by Standard Webhooks: the body decides.
    Webhook(WebhookHeaders),
    /// Signed in its query as in 2014: verified with the rest of the query, since the body is here already.
    Query,
    Refused(AccessRefusal),
}

/// What Standard Webhooks put into the head.
pub struct WebhookHeaders {
    /// Where it is signed too.
    target: Option<String>,
    id: String,
    timestamp: String,
    signatures: String,
}

impl WebhookHeaders {
    pub fn id(&self) -> &str {
        &self.id
    }

    fn signed(&self) -> SignedWebhook<'_> {
        let WebhookHeaders { target, id, timestamp, signatures } = self;
        SignedWebhook { target: target.as_deref(), id, timestamp, signatures }
    }
}

/// Why a call may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessRefusal {
    #[error("no token or secret is configured: calls are taken at admin_listen only, and from this machine")]
    Keyless,
    #[error("webhook signature missing")]
    NoWebhookSignature,
    #[error("calls from pages of other sites are refused")]
    CrossSite,
    #[error("{0}")]
    Signature(#[from] SignError),
}

/// Decided from the head alone, before the body is read; `is_whole`: the body is here already.
pub fn pass(worker: &Worker, route: Route, head: &RequestHead<'_>, arrival: Arrival, is_whole: bool) -> Pass {
    let rules = worker.rules();
    let text = |name: &str| head.headers.get_text(name);
    let is_cross_site = origin::is_cross_site(text("origin"), text("sec-fetch-site"), || text("host"));
    let has_token = has_admin_token(&rules.config().secrets.admin_token, head);
    let is_operator = arrival.is_admin_listener && is_of_this_machine(&rules, head, arrival.peer);
    match route.access() {
        Access::Anyone => return Pass::Granted,
        _ if is_cross_site => return Pass::Refused(AccessRefusal::CrossSite),
        _ if has_token => return Pass::Token,
        Access::Viewer if is_operator => return Pass::Granted,
        Access::Operator if is_operator && head.method == "POST" => return Pass::Granted,
        Access::Signed if is_operator && rules.is_keyless() => return Pass::Granted,
        _ => {}
    }
    let text = |name: &str| head.headers.get_text(name).map(String::from);
    if let (Some(id), Some(timestamp), Some(signatures)) =
        (text(sign::WEBHOOK_ID), text(sign::WEBHOOK_TIMESTAMP), text(sign::WEBHOOK_SIGNATURE))
    {
        let headers = WebhookHeaders { target: text(sign::WEBHOOK_TARGET), id, timestamp, signatures };
        return match check_webhook_head(worker, head, &headers, is_whole) {
            Ok(()) => Pass::Webhook(headers),
            Err(why) => Pass::Refused(why.into()),
        };
    }
    if !rules.accepts_2014() {
        let is_keyless = rules.is_keyless();
        return Pass::Refused(if is_keyless { AccessRefusal::Keyless } else { AccessRefusal::NoWebhookSignature });
    }
    if is_whole && matches!(route, Route::Send | Route::Broadcast) {
        return Pass::Query;
    }
    match verify(worker, &Signature::read(head.query)) {
        Ok(()) => Pass::Signed,
        Err(error) => Pass::Refused(error.into()),
    }
}

/// Whom a call is from, for the log.
pub struct Caller {
    /// What a trusted proxy says, or the peer.
    pub address: IpAddr,
    pub request_id: RequestId,
    /// The trace that the call belongs to.
    pub trace_parent: Option<TraceParent>,
    /// A script of a page makes it: browsers name the page's origin.
    pub is_page: bool,
}

/// Where a call has come to, and whom its connection is from.
#[derive(Clone, Copy)]
pub struct Arrival {
    pub peer: IpAddr,
    pub is_admin_listener: bool,
}

/// What a proxy on this machine passes on does not come from this machine, and neither does what was sent to another
/// name: that is a page which has rebound its own name to here.
fn is_of_this_machine(rules: &Rules, head: &RequestHead<'_>, peer: IpAddr) -> bool {
    let is_proxied = PROXIED.into_iter().any(|name| head.headers.get(name).is_some());
    let names_us = || origin::names_this_machine(&rules.config().admin_hosts, head.headers.get_text("host"));
    peer.to_canonical().is_loopback() && !is_proxied && names_us()
}

/// The signature of 2014.
pub fn verify(worker: &Worker, signature: &Signature<'_>) -> Result<(), SignError> {
    let missing = |field| SignError::Missing { field };
    let signed = Signed2014 {
        timestamp: signature.timestamp.as_deref().ok_or(missing("timestamp"))?,
        nonce: signature.nonce.as_deref().ok_or(missing("nonce"))?,
        signature: signature.signature.as_deref().ok_or(missing("signature"))?,
    };
    let rules = worker.rules();
    let window_s = rules.config().signature_window.as_secs();
    sign::verify_2014(rules.config().secrets.security_token.expose(), signed, worker.unix_s(), window_s)?;
    // A backend may have shown a client what we signed for a hook.
    if rules.nonce_tag().made(signed.nonce, signed.timestamp) { Err(SignError::OwnNonce) } else { Ok(()) }
}

fn has_admin_token(token: &Secret, head: &RequestHead<'_>) -> bool {
    // Not from the query: an address is logged by proxies, and kept by browsers.
    let shown = head.headers.get_text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    shown.is_some_and(|shown| token.is_known_by(shown.as_bytes()))
}

/// The response to a call that may not be made.
pub fn refused(worker: &Worker, route: Route, caller: &Caller, why: AccessRefusal) -> Response {
    let Caller { address, request_id, .. } = caller;
    let trace_id = caller.trace_parent.as_ref().map(TraceParent::trace_id);
    debug!(from = %address, %request_id, trace_id, ?route, "a call is refused: {why}");
    worker.count(|counters| &counters.signatures_refused);
    let strict = if why == AccessRefusal::CrossSite { 403 } else { 401 };
    // 2014's way for signed calls: HTTP 200, and the status in the body.
    let is_as_in_2014 = strict == 401 && route.access() == Access::Signed;
    strictly(worker, refusal(if is_as_in_2014 { 200 } else { strict }, &why.to_string()), strict)
}

/// A refusal, with this status and as a problem where `strict_status` is on.
pub fn strictly(worker: &Worker, mut response: Response, status: u16) -> Response {
    if !worker.rules().config().strict_status || !api::is_refusal(response.body()) {
        return response;
    }
    api::write_problem(response.body_mut(), status);
    response.into_problem(status)
}

/// Headers that proxies add.
const PROXIED: [&str; 5] = ["x-forwarded-for", "x-forwarded-host", "x-real-ip", "forwarded", "via"];

/// Why a call would be refused whatever its body is. Such a body is not waited for, nor kept; one that is here already
/// costs nothing more.
fn check_webhook_head(
    worker: &Worker,
    head: &RequestHead<'_>,
    headers: &WebhookHeaders,
    is_whole: bool,
) -> Result<(), SignError> {
    let (rules, signed) = (worker.rules(), headers.signed());
    match signed.target {
        Some(target) if target.split_once(' ') != Some((head.method, head.target)) => {
            return Err(SignError::OtherTarget);
        }
        None if rules.requires_webhook() => return Err(SignError::Missing { field: sign::WEBHOOK_TARGET }),
        _ if is_whole => return Ok(()),
        _ => {}
    }
    let window_s = rules.config().signature_window.as_secs();
    sign::check_webhook_head(rules.webhook_keys(), signed, clock::unix_s(), window_s)?;
    let was_used = worker.shared().replays().was_used(signed.id, signed.timestamp);
    if was_used { Err(SignError::Replayed) } else { Ok(()) }
}

/// The signature of Standard Webhooks, which covers the body; each is taken once.
pub fn verify_webhook(worker: &Worker, headers: &WebhookHeaders, body: &[u8]) -> Result<(), SignError> {
    let (rules, signed) = (worker.rules(), headers.signed());
    let window_s = rules.config().signature_window.as_secs();
    let now_s = clock::unix_s();
    sign::verify_webhook(rules.webhook_keys(), signed, body, now_s, window_s)?;
    let (is_first, forgotten) = {
        let mut replays = worker.shared().replays();
        (replays.is_first(signed.id, signed.timestamp, now_s, window_s), replays.take_forgotten_early())
    };
    worker.count_many(|counters| &counters.replays_forgotten, forgotten);
    if is_first { Ok(()) } else { Err(SignError::Replayed) }
}

/// A refusal as a JSON body.
pub fn refusal(status: u16, why: &str) -> Response {
    let mut body = Vec::with_capacity(64);
    write_refusal(&mut body, why);
    Response::new(status, "application/json", body)
}
