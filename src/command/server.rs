//! Which server a subcommand calls, and what it shows that server: from `--server`, the configuration file and the
//! environment, as the server itself reads them.

use super::exit::CommandError;
use super::options::{Defaults, ServerOptions};
use super::request::{Query, Request};
use crate::config::{self, Config, HttpUrl, SignatureRequire, process_env};
use crate::wire::sign::{
    WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TARGET, WEBHOOK_TIMESTAMP, WebhookKey, sign_2014, sign_webhook_call,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A server and the proofs that it takes from us.
pub struct Server {
    url: HttpUrl,
    config: Config,
}

/// Where a server of this configuration answers operators of its own machine.
fn address(config: &Config) -> SocketAddr {
    if let Some(admin) = config.admin_listen {
        return SocketAddr::new(reachable(admin.ip()), admin.port());
    }
    if config.secrets.are_unset() {
        return SocketAddr::from((Ipv4Addr::LOCALHOST, Config::ADMIN_PORT));
    }
    let port = config.http_port.filter(|port| *port != 0).unwrap_or(*Config::AUTO_PORTS.start());
    SocketAddr::new(reachable(config.listen), port)
}

fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

impl Server {
    pub fn find(options: &ServerOptions, defaults: &Defaults) -> Result<Server, CommandError> {
        let file: Option<&Path> = options.file.as_deref().or(defaults.file.as_deref());
        let loaded = config::load(file, process_env(), defaults.port);
        let config = loaded.map_err(|errors| CommandError::Config(errors.to_string()))?.config;
        let text = options.server.clone().unwrap_or_else(|| format!("http://{}", address(&config)));
        let url = HttpUrl::parse(&text).map_err(|error| CommandError::Server { url: text, error })?;
        Ok(Server { url, config })
    }

    pub fn host_and_port(&self) -> (&str, u16) {
        (&self.url.host, self.url.port)
    }

    pub fn name(&self) -> String {
        format!("http://{}", self.url.host_header())
    }

    /// How long the answer may take: what the server waits for clients, and then some.
    pub fn answer_timeout(&self, request: &Request) -> Duration {
        request.server_timeout.unwrap_or(self.config.send_timeout).saturating_add(GRACE)
    }

    /// The head of a request, with whatever proves that we may make it: the admin token, else a signature.
    pub fn head(&self, request: &Request) -> String {
        let Request { method, target, body, .. } = request;
        let base = self.url.path_and_query.trim_end_matches('/');
        let mut target = format!("{base}{target}");
        let mut proof = String::new();
        let secrets = &self.config.secrets;
        if !secrets.admin_token.is_empty() {
            proof = format!("Authorization: Bearer {}\r\n", secrets.admin_token.expose());
        } else if self.prefers_webhook() {
            proof = self.webhook_headers(&format!("{method} {target}"), body);
        } else if !secrets.security_token.is_empty() {
            target = signed(&target, secrets.security_token.expose());
        }
        let (host, len) = (self.url.host_header(), body.len());
        format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             User-Agent: rainbow-server/{VERSION}\r\n{proof}Content-Length: {len}\r\n\r\n"
        )
    }

    /// A URL that curl can call for as long as the signature's window lasts.
    pub fn signed_url(&self, path: &str) -> Result<String, CommandError> {
        if !path.starts_with('/') {
            return Err(CommandError::NoPath { path: path.into() });
        }
        let url = format!("{}{}{path}", self.name(), self.url.path_and_query.trim_end_matches('/'));
        HttpUrl::parse(&url).map_err(|error| CommandError::Path { path: path.into(), error })?;
        if self.config.signature_require == SignatureRequire::Webhook {
            return Err(CommandError::OnlyWebhook);
        }
        match self.config.secrets.security_token.expose() {
            "" => Err(CommandError::NoToken),
            token => Ok(signed(&url, token)),
        }
    }

    fn prefers_webhook(&self) -> bool {
        let is_only_choice = self.config.signature_require == SignatureRequire::Webhook;
        let secrets = &self.config.secrets;
        !secrets.webhook_secrets.is_empty() && (is_only_choice || secrets.security_token.is_empty())
    }

    fn webhook_headers(&self, target: &str, body: &[u8]) -> String {
        let keys: Vec<WebhookKey> = self
            .config
            .secrets
            .webhook_secrets
            .iter()
            .filter_map(|s| WebhookKey::parse(s.expose()).ok())
            .take(1)
            .collect();
        let now = now();
        let (timestamp, id) = (now.as_secs(), format!("cli_{}_{}", std::process::id(), now.as_nanos()));
        let signature = sign_webhook_call(&keys, target, &id, timestamp, body);
        format!(
            "{WEBHOOK_TARGET}: {target}\r\n{WEBHOOK_ID}: {id}\r\n{WEBHOOK_TIMESTAMP}: {timestamp}\r\n\
             {WEBHOOK_SIGNATURE}: {signature}\r\n"
        )
    }
}

/// The 2014 signature behind a URL or target.
fn signed(target: &str, token: &str) -> String {
    let now = now();
    let (timestamp, nonce) = (now.as_secs().to_string(), now.subsec_nanos().to_string());
    let signature = sign_2014(token, &timestamp, &nonce).escape_ascii().to_string();
    Query(target.into()).with("timestamp", &timestamp).with("nonce", &nonce).with("signature", &signature).0
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Beyond what the server waits for its clients: its workers, its store, the network.
const GRACE: Duration = Duration::from_secs(10);
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secrets;

    #[test]
    fn the_address_is_where_an_operator_gets_an_answer() {
        let of = |change: fn(&mut Config)| {
            let mut config = Config::default();
            config.secrets.security_token = "t".into();
            change(&mut config);
            address(&config).to_string()
        };
        assert_eq!(of(|_| ()), "127.0.0.1:1984");
        assert_eq!(of(|config| config.http_port = Some(0)), "127.0.0.1:1984");
        assert_eq!(of(|config| config.http_port = Some(80)), "127.0.0.1:80");
        assert_eq!(of(|config| config.listen = Ipv6Addr::UNSPECIFIED.into()), "[::1]:1984");
        assert_eq!(of(|config| config.listen = Ipv4Addr::new(10, 0, 0, 7).into()), "10.0.0.7:1984");
        assert_eq!(of(|config| config.admin_listen = "0.0.0.0:1985".parse().ok()), "127.0.0.1:1985");
        assert_eq!(
            of(|config| config.secrets = Secrets::default()),
            "127.0.0.1:1983",
            "nobody else is asked for a token"
        );
    }

    #[test]
    fn a_signature_goes_behind_any_query() {
        let url = "http://127.0.0.1:1984".to_owned();
        let found = Server {
            url: HttpUrl::parse(&url).expect("a URL"),
            config: Config {
                secrets: Secrets { security_token: "t".into(), ..Secrets::default() },
                ..Config::default()
            },
        };
        let signed = found.signed_url("/send/?channel=a").expect("signed");
        assert!(signed.starts_with("http://127.0.0.1:1984/send/?channel=a&timestamp="), "{signed}");
        assert!(found.signed_url("/info/").expect("signed").starts_with("http://127.0.0.1:1984/info/?timestamp="));
        assert!(found.signed_url("send").is_err() && found.signed_url("/send/?channel=a b").is_err());
    }
}
