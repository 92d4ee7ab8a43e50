//! `store.url`, parsed: one Redis server, sentinels that name the master, or the seeds of a Redis cluster.

use crate::store::redis::fault::Fault;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// Not `Debug`: it holds a password.
#[derive(Clone)]
pub enum StoreUrl {
    /// `redis://[user:password@]host[:port][/db]`, `unix:/path`
    Single(Box<ConnectionInfo>),
    /// `redis-sentinel://[user:password@]host[:port],…/master-name`. The password is Redis's own; `account` has it.
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, account: Box<ConnectionInfo> },
    /// `redis-cluster://[user:password@]host[:port],…`
    Cluster { seeds: Vec<ConnectionInfo> },
}

impl StoreUrl {
    pub fn parse(url: &str) -> Result<StoreUrl, Fault> {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        match scheme {
            "redis" | "valkey" | "unix" => Ok(StoreUrl::Single(Box::new(parse_one(url)?))),
            "redis-sentinel" => {
                let (hosts, master) = rest.rsplit_once('/').unwrap_or_default();
                if master.is_empty() || hosts.trim_start_matches('/').is_empty() {
                    return Err(invalid("write it as redis-sentinel://HOST:PORT,HOST:PORT/MASTER-NAME"));
                }
                let with_account = parse_hosts(hosts, 26379)?;
                let account = Box::new(with_account[0].clone());
                // A sentinel has no databases, and rarely a password; the URL names those of Redis.
                let bare = |info: &ConnectionInfo| info.addr().clone().into_connection_info();
                let sentinels = with_account.iter().map(bare).collect::<Result<_, _>>().map_err(unreadable)?;
                Ok(StoreUrl::Sentinel { sentinels, master: master.into(), account })
            }
            "redis-cluster" => Ok(StoreUrl::Cluster { seeds: parse_hosts(rest, 6379)? }),
            "rediss" | "valkeys" => Err(invalid("TLS to Redis is not built in; use redis:// through a tunnel")),
            _ => Err(invalid("it begins with redis://, redis-sentinel:// or redis-cluster://")),
        }
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self, StoreUrl::Cluster { .. })
    }
}

/// The same account on another address.
pub fn with_address(account: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    account.clone().set_addr(ConnectionAddr::Tcp(host.into(), port))
}

/// `//user:password@a:1,b:2/…` → one each, all with the same account.
fn parse_hosts(rest: &str, port: u16) -> Result<Vec<ConnectionInfo>, Fault> {
    let rest = rest.trim_start_matches('/').trim_end_matches('/');
    let (account, hosts) = rest.rsplit_once('@').map_or(("", rest), |(account, hosts)| (account, hosts));
    let sign = if account.is_empty() { "" } else { "@" };
    let one = |host: &str| {
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let port = if has_port { String::new() } else { format!(":{port}") };
        parse_one(&format!("redis://{account}{sign}{host}{port}"))
    };
    let hosts: Vec<&str> = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
    if hosts.is_empty() {
        return Err(invalid("it names no host"));
    }
    hosts.into_iter().map(one).collect()
}

fn parse_one(url: &str) -> Result<ConnectionInfo, Fault> {
    url.into_connection_info().map_err(unreadable)
}

fn unreadable(error: redis::RedisError) -> Fault {
    invalid(&error.to_string())
}

/// The text does not repeat the URL, which may contain a password.
fn invalid(problem: &str) -> Fault {
    Fault::broken(format!("store.url: {problem}"))
}
