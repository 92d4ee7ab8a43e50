//! What the operator decides about backends, in the units that the pool works with.
//!
//! Plain data, made from a checked configuration and the limits of the process. A worker makes it at the start and at
//! each reload; the dispatcher keeps it.

use super::hook::HookKind;
use crate::base::limits::Limits;
use crate::base::secret::Secret;
use crate::base::time::ms;
use crate::config::Config;
use crate::config::url::HttpUrl;
use crate::policy::backend::{Backoff, BreakerLimits};
use crate::wire::sign::WebhookKey;
use std::collections::HashSet;

/// All of it can be changed while the pool runs, see `Pool::reconfigure`. Times are milliseconds.
#[derive(Clone, Debug)]
pub struct Options {
    pub connect_urls: Vec<HttpUrl>,
    pub forward_urls: Vec<HttpUrl>,
    pub close_urls: Vec<HttpUrl>,
    pub receipt_urls: Vec<HttpUrl>,
    pub dead_letter_urls: Vec<HttpUrl>,
    /// For one connect request, its time in the queue included.
    pub connect_timeout_ms: u64,
    /// For one attempt of any other request.
    pub forward_timeout_ms: u64,
    /// Per host and port.
    pub connections_max: usize,
    /// Attempts of one message that end in an error of its own, 500 for example.
    pub forward_attempts_max: u32,
    pub idle_timeout_ms: u64,
    pub body_bytes_max: usize,
    pub retry: Backoff,
    pub breaker: BreakerLimits,
    /// Bodies, headers and queries of all requests that are accepted and not given back.
    pub queue_bytes_max: usize,
    /// Of the 2014 signature. Empty: requests are not signed that way.
    pub security_token: Secret,
    /// Signs requests by Standard Webhooks.
    pub webhook_key: Option<WebhookKey>,
    /// What no operator sets.
    pub limits: Limits,
}

impl Options {
    /// From a checked configuration. Panics when a URL or a secret in it does not parse. `connections_max`: per host
    /// and port, as far as the descriptors go.
    pub fn of(config: &Config, connections_max: usize, limits: &Limits) -> Options {
        let urls = |texts: &[String]| texts.iter().map(|text| HttpUrl::parse(text).expect("a checked URL")).collect();
        let backoff = |min_ms, max_ms: u64| Backoff { min_ms, max_ms: max_ms.max(min_ms) };
        let (retry_max_ms, cooldown_ms) = (ms(config.retry_backoff.max), ms(config.breaker.cooldown));
        Options {
            connect_urls: urls(&config.connect_url),
            forward_urls: urls(&config.forward_url),
            close_urls: urls(&config.close_url),
            receipt_urls: urls(&config.receipt_url),
            dead_letter_urls: urls(&config.dead_letter_url),
            connect_timeout_ms: ms(config.connect_timeout),
            forward_timeout_ms: ms(config.forward_timeout),
            connections_max: connections_max.max(1),
            forward_attempts_max: config.forward_attempts_max,
            idle_timeout_ms: ms(config.backend_idle_timeout),
            body_bytes_max: config.backend_body_max,
            retry: backoff(ms(config.retry_backoff.min), retry_max_ms),
            // A backend that is down is probed at least as often as one message is retried.
            breaker: BreakerLimits {
                failures: config.breaker.failures.max(1),
                cooldown: backoff(cooldown_ms, retry_max_ms),
            },
            queue_bytes_max: config.forward_queue_bytes,
            security_token: config.secrets.security_token.clone(),
            webhook_key: config.secrets.webhook_secrets.first().map(webhook_key),
            limits: limits.clone(),
        }
    }
}

/// How many hosts and ports a configuration names.
pub fn backends(config: &Config) -> usize {
    let Config { connect_url, forward_url, close_url, receipt_url, dead_letter_url, .. } = config;
    let texts = [connect_url, forward_url, close_url, receipt_url, dead_letter_url];
    let urls = texts.into_iter().flatten().map(|text| HttpUrl::parse(text).expect("a checked URL"));
    urls.map(|url| (url.host, url.port)).collect::<HashSet<(String, u16)>>().len()
}

/// Where the requests of a hook go.
pub fn urls(options: &Options, hook: HookKind) -> &[HttpUrl] {
    match hook {
        HookKind::Connect => &options.connect_urls,
        HookKind::Forward => &options.forward_urls,
        HookKind::Close => &options.close_urls,
        HookKind::Receipts => &options.receipt_urls,
        HookKind::DeadLetter => &options.dead_letter_urls,
    }
}

fn webhook_key(secret: &Secret) -> WebhookKey {
    WebhookKey::parse(secret.expose()).expect("a checked secret")
}

/// How long an attempt of that hook may take.
pub fn attempt_ms(options: &Options, hook: HookKind) -> u64 {
    match hook {
        HookKind::Connect => options.connect_timeout_ms,
        HookKind::Forward | HookKind::Close | HookKind::Receipts | HookKind::DeadLetter => options.forward_timeout_ms,
    }
}

impl Default for Options {
    fn default() -> Options {
        let config = Config::default();
        Options::of(&config, config.backend_connections, &Limits::DEFAULT)
    }
}
