//! The configuration in the types of its users: converted once per reload, read on every use. The limits that no
//! operator sets come with it, and stay over reloads.

use crate::base::id::Generation;
use crate::base::keyed_hash::HashKey;
use crate::base::limits::Limits;
use crate::base::time::ms;
use crate::config::{Config, SignatureRequire};
use crate::io::runtime::clock;
use crate::policy::admission::AdmissionLimits;
use crate::policy::api::Timeouts;
use crate::shard::{Mode, SessionSettings, Settings};
use crate::wire::sign::{NonceTag, WebhookKey};
use std::sync::Arc;

pub struct Rules {
    config: Arc<Config>,
    webhook_keys: Vec<WebhookKey>,
    nonce_tag: NonceTag,
    admission: AdmissionLimits,
    handshakes: AdmissionLimits,
    timeouts: Timeouts,
    mode: Mode,
    limits: Limits,
}

impl Rules {
    pub fn new(config: Arc<Config>, mode: Mode, limits: Limits) -> Rules {
        let keys = config
            .secrets
            .webhook_secrets
            .iter()
            .filter_map(|secret| WebhookKey::parse(secret.expose()).ok())
            .collect();
        Rules {
            webhook_keys: keys,
            nonce_tag: NonceTag::new(config.secrets.security_token.expose()),
            admission: AdmissionLimits {
                connections_max: config.connections_max,
                per_address: config.connections_per_address,
            },
            handshakes: AdmissionLimits {
                connections_max: config.handshakes.max,
                per_address: config.handshakes.per_address,
            },
            timeouts: Timeouts { default: config.send_timeout, max: config.send_timeout_max },
            mode,
            limits,
            config,
        }
    }

    /// The rules of a new configuration; what cannot change while the worker runs stays.
    pub fn reloaded(&self, config: Arc<Config>) -> Rules {
        Rules::new(config, self.mode, self.limits.clone())
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub fn webhook_keys(&self) -> &[WebhookKey] {
        &self.webhook_keys
    }

    /// Of clients.
    pub fn admission(&self) -> AdmissionLimits {
        self.admission
    }

    /// Of connections that are neither clients nor have made a call that was allowed.
    pub fn handshakes(&self) -> AdmissionLimits {
        self.handshakes
    }

    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The 2014 signature is accepted.
    pub fn accepts_2014(&self) -> bool {
        self.config.signature_require == SignatureRequire::Any && !self.config.secrets.security_token.is_empty()
    }

    /// Only Standard Webhooks are accepted.
    pub fn requires_webhook(&self) -> bool {
        self.config.signature_require == SignatureRequire::Webhook
    }

    /// Knows the nonces of our own signatures.
    pub fn nonce_tag(&self) -> &NonceTag {
        &self.nonce_tag
    }

    /// Nothing is configured to sign with.
    pub fn is_keyless(&self) -> bool {
        self.config.secrets.security_token.is_empty() && self.webhook_keys.is_empty()
    }

    pub fn settings(&self, hash_key: HashKey, node: Generation) -> Settings {
        let config = &self.config;
        Settings {
            ping_interval_ms: ms(config.ping_interval),
            pong_timeout_ms: ms(config.pong_timeout),
            idle_timeout_ms: ms(config.idle_timeout),
            close_timeout_ms: ms(config.close_timeout),
            ack_timeout_ms: ms(config.ack_timeout),
            ack_backoff: config.ack_backoff,
            forward_deadline_ms: ms(config.forward_deadline),
            forward_queue: config.forward_queue,
            forward_queue_bytes: config.forward_queue_bytes,
            forward_ahead_bytes: config.forward_ahead_bytes,
            forwards: !config.forward_url.is_empty(),
            inflight_window: config.inflight_window,
            received_max: config.received_max,
            answers_bytes_max: config.answers_bytes_max,
            message_bytes_max: config.message_bytes_max,
            outbox_bytes_max: config.outbox_bytes_max,
            clients_memory_max: config.clients_memory_max,
            messages_per_second: config.messages_per_second,
            channels_per_connection: config.channels_per_connection,
            sessions: SessionSettings {
                unix_ms_at_zero: clock::unix_ms_at_zero(),
                store_after_ms: ms(config.store.patience),
                messages_max: config.store.session_messages_max,
                bytes_max: config.store.session_bytes_max,
                expiry_s: config.store.session_expiry.as_secs(),
                expiry_max_s: config.store.session_expiry_max.as_secs(),
                message_ttl_ms: ms(config.store.message_ttl),
            },
            hash_key,
            node,
            limits: self.limits.clone(),
            mode: self.mode,
        }
    }
}
