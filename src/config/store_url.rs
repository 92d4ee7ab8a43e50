//! `store.url`, taken apart once: one Redis server, sentinels that name the master, or the seeds of a Redis cluster.
//! What the store could not connect to is refused here, when the configuration is read. No name is resolved here.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use thiserror::Error;

/// Not `Debug`: it holds a password.
#[derive(Clone)]
pub enum StoreUrl {
    /// `redis://[user:password@]host[:port][/db]`, `valkey://…`, `unix:/path`; `rediss://…`, `valkeys://…` with TLS
    Single(Box<ConnectionInfo>),
    /// `redis-sentinel://[user:password@]host[:port],…/master-name`, also `redis+sentinel://`; `rediss-sentinel://`
    /// with TLS to both. The password is Redis's own; `account` has it.
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, account: Box<ConnectionInfo> },
    /// `redis-cluster://[user:password@]host[:port],…`, also `redis+cluster://`; `rediss-cluster://` with TLS
    Cluster { seeds: Vec<ConnectionInfo> },
}

/// Why a text is no such URL. The texts do not repeat the URL, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreUrlError {
    #[error("it begins with none of the schemes that are known")]
    Scheme,
    #[error("it names no host")]
    NoHost,
    #[error("it names no master")]
    NoMaster,
    #[error("its host is not in ASCII")]
    NotAscii,
    #[error("{0}")]
    Unreadable(String),
}

impl StoreUrlError {
    /// What to do about it, as a sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            StoreUrlError::Scheme => {
                "Write redis://, valkey://, unix:, redis-sentinel:// or redis-cluster://; rediss… is the same with TLS."
            }
            StoreUrlError::NoHost | StoreUrlError::Unreadable(_) => "Write it like redis://user:password@host:6379/0.",
            StoreUrlError::NotAscii => "Write the host in Punycode, like redis://xn--bcher-kva.example.",
            StoreUrlError::NoMaster => "Write it like redis-sentinel://host:26379,host:26379/master-name.",
        }
    }
}

impl StoreUrl {
    pub fn parse(url: &str) -> Result<StoreUrl, StoreUrlError> {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        match scheme {
            "redis" | "rediss" | "valkey" | "valkeys" | "unix" => Ok(StoreUrl::Single(Box::new(parse_one(url)?))),
            "redis-sentinel" | "redis+sentinel" | "rediss-sentinel" | "rediss+sentinel" => {
                let (hosts, master) = rest.trim_start_matches('/').rsplit_once('/').ok_or(StoreUrlError::NoMaster)?;
                if master.is_empty() {
                    return Err(StoreUrlError::NoMaster);
                }
                let with_account = parse_hosts(scheme, hosts, 26379)?;
                let account = Box::new(with_account[0].clone());
                // A sentinel has no databases, and rarely a password; the URL names those of Redis.
                let bare = |info: &ConnectionInfo| info.addr().clone().into_connection_info();
                let sentinels = with_account.iter().map(bare).collect::<Result<_, _>>().map_err(unreadable)?;
                Ok(StoreUrl::Sentinel { sentinels, master: master.into(), account })
            }
            "redis-cluster" | "redis+cluster" | "rediss-cluster" | "rediss+cluster" => {
                Ok(StoreUrl::Cluster { seeds: parse_hosts(scheme, rest, 6379)? })
            }
            _ => Err(StoreUrlError::Scheme),
        }
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self, StoreUrl::Cluster { .. })
    }
}

/// `//user:password@a:1,b:2/…` → one each, all with the same account. At least one.
fn parse_hosts(scheme: &str, rest: &str, port: u16) -> Result<Vec<ConnectionInfo>, StoreUrlError> {
    let rest = rest.trim_start_matches('/').trim_end_matches('/');
    let (account, hosts) = rest.rsplit_once('@').map_or(("", rest), |(account, hosts)| (account, hosts));
    let each = if scheme.starts_with("rediss") { "rediss" } else { "redis" };
    let sign = if account.is_empty() { "" } else { "@" };
    let one = |host: &str| {
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let port = if has_port { String::new() } else { format!(":{port}") };
        parse_one(&format!("{each}://{account}{sign}{host}{port}"))
    };
    let hosts: Vec<&str> = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
    if hosts.is_empty() {
        return Err(StoreUrlError::NoHost);
    }
    hosts.into_iter().map(one).collect()
}

fn parse_one(url: &str) -> Result<ConnectionInfo, StoreUrlError> {
    let info = url.into_connection_info().map_err(unreadable)?;
    match info.addr() {
        // A name in other letters, which `url` leaves as %C3%BC…: no resolver knows that.
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } if host.contains('%') => {
            Err(StoreUrlError::NotAscii)
        }
        _ => Ok(info),
    }
}

fn unreadable(error: redis::RedisError) -> StoreUrlError {
    StoreUrlError::Unreadable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(url: &str) -> &'static str {
        match StoreUrl::parse(url) {
            Ok(StoreUrl::Single(_)) => "single",
            Ok(StoreUrl::Sentinel { sentinels, master, .. }) if sentinels.len() == 2 && master == "m" => "sentinels",
            Ok(StoreUrl::Cluster { seeds }) if seeds.len() == 2 => "cluster",
            Ok(_) => "another number of hosts",
            Err(StoreUrlError::Scheme) => "scheme",
            Err(StoreUrlError::NoHost) => "no host",
            Err(StoreUrlError::NoMaster) => "no master",
            Err(StoreUrlError::NotAscii) => "not ASCII",
            Err(StoreUrlError::Unreadable(_)) => "unreadable",
        }
    }

    #[test]
    fn each_spelling_works_or_is_refused() {
        for url in [
            "rediss://h",
            "valkeys://u:p@h:1",
            "redis://h",
            "redis://u:p%40@h:6379/3",
            "redis://xn--bcher-kva.example",
            "redis://u:pässword@h",
            "valkey://[::1]:7000",
            "unix:/run/redis.sock",
        ] {
            assert_eq!(shape(url), "single", "{url}");
        }
        for scheme in ["redis-sentinel", "redis+sentinel", "rediss-sentinel", "rediss+sentinel"] {
            assert_eq!(shape(&format!("{scheme}://u:p@a,b:1/m")), "sentinels", "{scheme}");
            assert_eq!(shape(&format!("{scheme}://a,b/")), "no master", "{scheme}");
            assert_eq!(shape(&format!("{scheme}://a,b")), "no master", "{scheme}");
            assert_eq!(shape(&format!("{scheme}:///m")), "no master", "{scheme}");
        }
        for scheme in ["redis-cluster", "redis+cluster", "rediss-cluster", "rediss+cluster"] {
            assert_eq!(shape(&format!("{scheme}://u:p@a,b:1")), "cluster", "{scheme}");
            assert_eq!(shape(&format!("{scheme}://,")), "no host", "{scheme}");
        }
        for url in ["", "h:6379", "http://h", "REDIS://h", "redis"] {
            assert_eq!(shape(url), "scheme", "{url}");
        }
        for url in ["redis://", "redis://h:x", "redis://h/first", "redis-cluster://a b"] {
            assert_eq!(shape(url), "unreadable", "{url}");
        }
        for url in ["redis://bücher.example", "redis-cluster://a,bücher.example"] {
            assert_eq!(shape(url), "not ASCII", "{url}");
        }
    }
}
