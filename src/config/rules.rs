//! Relations between keys: what each value alone cannot show. A broken relation blames a key that was set rather than
//! one that has its default. Reload relies on this: the keys of one rule are either all reloadable, or none of them is.

use std::net::SocketAddr;

use super::fault::Problem;
use super::keys::{Key, keys};
use super::show::shown_value;
use super::values::{Config, SignatureRequire, StoreKind};

/// A relation that must hold.
pub struct Rule {
    /// The keys that it relates, the likely culprit first.
    pub keys: &'static [&'static str],
    pub holds: fn(&Config) -> bool,
    broken: Broken,
}

/// How a broken rule is reported.
enum Broken {
    /// The first key must not exceed the second.
    AtMost,
    Other(fn(&Config) -> Problem),
}

impl Rule {
    const fn at_most(keys: &'static [&'static str; 2], holds: fn(&Config) -> bool) -> Rule {
        Rule { keys, holds, broken: Broken::AtMost }
    }

    /// What is wrong, as seen from `blamed`, one of `keys`.
    pub fn problem(&self, config: &Config, blamed: &str) -> Problem {
        let value = |path: &str| shown_value(key(path), config);
        match self.broken {
            Broken::Other(problem) => problem(config),
            Broken::AtMost => {
                let [small, large] = [self.keys[0], self.keys[1]];
                match blamed == small {
                    true => Problem::AboveOther { value: value(small), other: large, other_value: value(large) },
                    false => Problem::BelowOther { value: value(large), other: small, other_value: value(small) },
                }
            }
        }
    }
}

/// When one is broken, the configuration is refused.
pub static RULES: &[Rule] = &[
    // A message that does not fit into the outbox can never be sent, nor come back as a reply.
    Rule::at_most(&["message_bytes_max", "outbox_bytes_max"], |c| c.message_bytes_max <= c.outbox_bytes_max),
    Rule::at_most(&["outbox_bytes_max", "clients_memory_max"], |c| c.outbox_bytes_max <= c.clients_memory_max),
    Rule::at_most(&["message_bytes_max", "forward_queue_bytes"], |c| c.message_bytes_max <= c.forward_queue_bytes),
    Rule::at_most(&["retry_backoff_min", "retry_backoff_max"], |c| c.retry_backoff.min <= c.retry_backoff.max),
    Rule::at_most(&["send_timeout", "send_timeout_max"], |c| c.send_timeout <= c.send_timeout_max),
    // The next ping would go out before the last one's deadline, and move it: a dead client would never be noticed.
    Rule::at_most(&["pong_timeout", "ping_interval"], |c| c.pong_timeout <= c.ping_interval),
    Rule {
        keys: &["signature_require", "webhook_secrets"],
        holds: |c| c.signature_require != SignatureRequire::Webhook || !c.secrets.webhook_secrets.is_empty(),
        broken: Broken::Other(|_| Problem::RequireWithoutSecrets),
    },
    Rule {
        keys: &["proxy_protocol", "trusted_proxies"],
        holds: |c| !c.proxy_protocol || !c.trusted_proxies.is_empty(),
        broken: Broken::Other(|_| Problem::ProxyProtocolWithoutProxies),
    },
    Rule::at_most(&["store.session_expiry", "store.session_expiry_max"], |c| {
        c.store.session_expiry <= c.store.session_expiry_max
    }),
    Rule::at_most(&["store.session_bytes_max", "store.bytes_max"], |c| c.store.session_bytes_max <= c.store.bytes_max),
    Rule {
        keys: &["store.kind", "store.url"],
        holds: |c| c.store.kind != StoreKind::Redis || !c.store.url.is_empty(),
        broken: Broken::Other(|_| Problem::RedisWithoutUrl),
    },
    // All listeners share their port (SO_REUSEPORT): two of them on one address would steal each other's clients.
    Rule {
        keys: &["admin_listen", "http_port", "listen"],
        holds: |c| c.admin_listen.is_none_or(|admin| !may_share_port(c, admin)),
        broken: Broken::Other(|c| same_port("admin_listen", c.admin_listen, "http_port")),
    },
    Rule {
        keys: &["cluster_listen", "http_port", "listen"],
        holds: |c| c.cluster.listen.is_none_or(|cluster| !may_share_port(c, cluster)),
        broken: Broken::Other(|c| same_port("cluster_listen", c.cluster.listen, "http_port")),
    },
    Rule {
        keys: &["cluster_listen", "admin_listen"],
        holds: |c| !c.cluster.listen.zip(c.admin_listen).is_some_and(|(cluster, admin)| is_shared(cluster, admin)),
        broken: Broken::Other(|c| same_port("cluster_listen", c.cluster.listen, "admin_listen")),
    },
    Rule {
        keys: &["otlp_endpoint"],
        holds: |c| c.traces.otlp_endpoint.is_empty() || cfg!(feature = "otlp"),
        broken: Broken::Other(|_| Problem::Text {
            what: "this server was built without OpenTelemetry",
            hint: "Take one of the packages, or build it with `cargo build --release --features otlp`.",
        }),
    },
];

/// When one is broken, a notice is printed and the configuration is used: what is larger is refused later, one by one.
pub static ADVICE: &[Rule] = &[
    Rule::at_most(&["api_body_max", "outbox_bytes_max"], |c| c.api_body_max <= c.outbox_bytes_max),
    Rule::at_most(&["backend_body_max", "outbox_bytes_max"], |c| c.backend_body_max <= c.outbox_bytes_max),
    Rule::at_most(&["backend_body_max", "answers_bytes_max"], |c| c.backend_body_max <= c.answers_bytes_max),
];

fn may_share_port(config: &Config, own: SocketAddr) -> bool {
    let ports = config.http_port.map_or(Config::AUTO_PORTS, |port| port..=port);
    ports.contains(&own.port()) && is_shared(own, SocketAddr::new(config.listen, own.port()))
}

/// Port 0 never clashes: the system chooses a free one.
fn is_shared(one: SocketAddr, other: SocketAddr) -> bool {
    let same_address = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    same_address && one.port() == other.port() && one.port() != 0
}

fn same_port(key: &'static str, address: Option<SocketAddr>, other: &'static str) -> Problem {
    Problem::SamePort { port: address.map_or(0, |address| address.port()), key, other }
}

fn key(path: &str) -> &'static Key {
    keys().find(|key| key.path == path).expect("rules name known keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_all_rules_and_advice() {
        let config = Config::default();
        for rule in RULES.iter().chain(ADVICE) {
            assert!((rule.holds)(&config), "{:?}", rule.keys);
        }
    }

    #[test]
    fn no_rule_relates_a_reloadable_key_to_another() {
        for rule in RULES {
            assert!(rule.keys.iter().all(|path| key(path).reloads == key(rule.keys[0]).reloads), "{:?}", rule.keys);
        }
    }

    #[test]
    fn the_listeners_of_the_cluster_and_of_the_operator_cannot_share_a_port() {
        let shared = |one: &str, other: &str| is_shared(one.parse().unwrap(), other.parse().unwrap());
        assert!(shared("10.0.0.1:1985", "10.0.0.1:1985") && shared("0.0.0.0:1985", "127.0.0.1:1985"));
        assert!(!shared("10.0.0.1:1985", "127.0.0.1:1985") && !shared("10.0.0.1:1985", "10.0.0.1:1986"));
        assert!(!shared("127.0.0.1:0", "127.0.0.1:0"));
    }

    #[test]
    fn admin_and_clients_cannot_share_a_port() {
        let shares = |listen: &str, port, admin: &str| {
            let config = Config { listen: listen.parse().unwrap(), http_port: port, ..Config::default() };
            may_share_port(&config, admin.parse().unwrap())
        };
        assert!(shares("0.0.0.0", Some(80), "127.0.0.1:80"));
        assert!(shares("127.0.0.1", Some(80), "0.0.0.0:80"));
        assert!(shares("0.0.0.0", None, "127.0.0.1:2003"));
        assert!(!shares("0.0.0.0", None, "127.0.0.1:2004"));
        assert!(!shares("127.0.0.1", Some(80), "127.0.0.2:80"));
        assert!(!shares("0.0.0.0", Some(0), "127.0.0.1:0"));
    }
}
