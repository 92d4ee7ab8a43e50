//! What the operator decides about backends, in the units the pool works with.

use std::time::Duration;

use crate::base::time::Tick;
use crate::config::Config;
use crate::config::url::HttpUrl;
use crate::policy::backend::{Backoff, BreakerLimits};
use crate::wire::sign::WebhookKey;

use super::hook::HookKind;

/// All of it can be changed while the pool runs, see `Pool::reconfigure`. Times are milliseconds.
#[derive(Clone, Debug)]
pub struct Options {
    pub connect_urls: Vec<HttpUrl>,
    pub forward_urls: Vec<HttpUrl>,
    pub close_urls: Vec<HttpUrl>,
    pub receipt_urls: Vec<HttpUrl>,
    /// For one connect request, waiting in line included.
    pub connect_timeout_ms: u64,
    /// For one attempt of any other.
    pub forward_timeout_ms: u64,
    /// Per host and port.
    pub connections_max: usize,
    pub idle_timeout_ms: u64,
    pub body_bytes_max: usize,
    pub retry: Backoff,
    pub breaker: BreakerLimits,
    /// Accepted and not given back.
    pub jobs_max: usize,
    /// The same in bytes of bodies, queries and headers.
    pub job_bytes_max: usize,
    /// Of the 2014 signature; empty: not signed that way.
    pub security_token: String,
    /// Signs by Standard Webhooks.
    pub webhook_key: Option<WebhookKey>,
}

impl Options {
    /// What a checked configuration says. Panics when it holds a URL or a secret that it must not hold.
    pub fn of(config: &Config) -> Options {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let urls = |texts: &[String]| texts.iter().map(|text| HttpUrl::parse(text).expect("a checked URL")).collect();
        let backoff = |min_ms, max_ms: u64| Backoff { min_ms, max_ms: max_ms.max(min_ms) };
        let (retry_max_ms, cooldown_ms) = (ms(config.retry_backoff_max), ms(config.breaker_cooldown));
        Options {
            connect_urls: urls(&config.connect_url),
            forward_urls: urls(&config.forward_url),
            close_urls: urls(&config.close_url),
            receipt_urls: urls(&config.receipt_url),
            connect_timeout_ms: ms(config.connect_timeout),
            forward_timeout_ms: ms(config.forward_timeout),
            connections_max: config.backend_connections.max(1),
            idle_timeout_ms: ms(config.backend_idle_timeout),
            body_bytes_max: config.backend_body_max,
            retry: backoff(ms(config.retry_backoff_min), retry_max_ms),
            // While a backend is down its probes come as seldom as anybody's retries, and no seldomer.
            breaker: BreakerLimits {
                failures: config.breaker_failures.max(1),
                cooldown: backoff(cooldown_ms, retry_max_ms),
            },
            jobs_max: JOBS_MAX,
            job_bytes_max: config.forward_queue_bytes,
            security_token: config.security_token.clone(),
            webhook_key: config.webhook_secrets.first().map(|s| WebhookKey::parse(s).expect("a checked secret")),
        }
    }

    pub fn urls(&self, hook: HookKind) -> &[HttpUrl] {
        match hook {
            HookKind::Connect => &self.connect_urls,
            HookKind::Forward => &self.forward_urls,
            HookKind::Close => &self.close_urls,
            HookKind::Receipts => &self.receipt_urls,
        }
    }

    /// By when an attempt that begins now must be answered.
    pub fn attempt_deadline(&self, hook: HookKind, now: Tick) -> Tick {
        match hook {
            HookKind::Connect => now + self.connect_timeout_ms,
            HookKind::Forward | HookKind::Close | HookKind::Receipts => now + self.forward_timeout_ms,
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options::of(&Config::default())
    }
}

/// A job of a forwarded message is some 400 bytes beside its body: 26 MB when the line is full of small ones.
const JOBS_MAX: usize = 65_536;
