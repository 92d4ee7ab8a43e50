//! Which servers have the data: the one of the URL, the master that the sentinels name, or the masters of a Redis
//! cluster with the slots that they have.

use crate::config::store_url::StoreUrl;
use crate::store::redis::fault::Fault;
use crate::store::redis::keys::Bucket;
use redis::{Client, Cmd, ConnectionAddr, ConnectionInfo, Value, cmd};
use std::time::Duration;

/// The servers to connect to, and which bucket is on which of them.
pub struct Layout {
    pub masters: Vec<ConnectionInfo>,
    /// Per bucket, the position of its master.
    pub master_of_bucket: Vec<usize>,
}

pub fn discover(url: &StoreUrl, buckets: impl Iterator<Item = Bucket>) -> Result<Layout, Fault> {
    match url {
        StoreUrl::Single(info) => Ok(Layout::single((**info).clone())),
        StoreUrl::Sentinel { sentinels, master, account } => {
            master_by_sentinels(sentinels, master, account).map(Layout::single)
        }
        StoreUrl::Cluster { seeds } => masters_of_cluster(seeds, &buckets.collect::<Vec<_>>()),
    }
}

impl Layout {
    fn single(master: ConnectionInfo) -> Layout {
        Layout { masters: vec![master], master_of_bucket: vec![0] }
    }
}

/// The master's address by the first sentinel that knows it. Whether that server is a master still is checked when the
/// connection is opened.
fn master_by_sentinels(
    sentinels: &[ConnectionInfo],
    master: &str,
    account: &ConnectionInfo,
) -> Result<ConnectionInfo, Fault> {
    let command = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).to_owned();
    let mut errors = Vec::new();
    for sentinel in sentinels {
        match query_once(sentinel, &command) {
            Ok(Value::Nil) => errors.push(format!("{}: no master is named {master}", sentinel.addr())),
            Ok(value) => match redis::from_redis_value::<(String, u16)>(value) {
                Ok((host, port)) => return Ok(with_address(account, &host, port)),
                Err(error) => errors.push(format!("{}: {error}", sentinel.addr())),
            },
            Err(error) => errors.push(error),
        }
    }
    Err(Fault::Unanswered(format!("no sentinel names the master {master} ({})", errors.join("; "))))
}

/// The masters by the first seed that knows all of them.
fn masters_of_cluster(seeds: &[ConnectionInfo], buckets: &[Bucket]) -> Result<Layout, Fault> {
    let mut errors = Vec::new();
    for seed in seeds {
        match query_once(seed, cmd("CLUSTER").arg("SLOTS")) {
            Ok(Value::ServerError(error)) => return Err(Fault::broken(format!("{}: {error}", seed.addr()))),
            Ok(value) => match parse_slots(&value, seed, buckets) {
                Some(layout) => return Ok(layout),
                None => errors.push(format!("{}: not all slots have a master", seed.addr())),
            },
            Err(error) => errors.push(error),
        }
    }
    Err(Fault::Unanswered(format!("the cluster does not say where its slots are ({})", errors.join("; "))))
}

/// `value`: rows of first slot, last slot, master (host, port, …), replicas. An empty host means the seed itself.
fn parse_slots(value: &Value, seed: &ConnectionInfo, buckets: &[Bucket]) -> Option<Layout> {
    let Value::Array(rows) = value else { return None };
    let mut ranges = Vec::new();
    for row in rows {
        let Value::Array(row) = row else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &row[..] else { return None };
        let [host, Value::Int(port), ..] = &master[..] else { return None };
        let host = match host {
            Value::BulkString(host) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
            _ => host_of(seed)?,
        };
        ranges.push((*first..=*last, (host, u16::try_from(*port).ok()?)));
    }
    let (mut masters, mut master_of_bucket) = (Vec::new(), Vec::new());
    for bucket in buckets {
        let slot = i64::from(bucket.slot());
        let (_, master) = ranges.iter().find(|(range, _)| range.contains(&slot))?;
        let position = masters.iter().position(|known| known == master).unwrap_or(masters.len());
        if position == masters.len() {
            masters.push(master.clone());
        }
        master_of_bucket.push(position);
    }
    let masters = masters.into_iter().map(|(host, port)| with_address(seed, &host, port)).collect();
    Some(Layout { masters, master_of_bucket })
}

fn host_of(info: &ConnectionInfo) -> Option<String> {
    match info.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host.clone()),
        _ => None,
    }
}

/// The same account on another address.
fn with_address(account: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.into();
    account.clone().set_addr(match account.addr() {
        ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        _ => ConnectionAddr::Tcp(host, port),
    })
}

/// One command on a connection of its own.
fn query_once(info: &ConnectionInfo, command: &Cmd) -> Result<Value, String> {
    let query = || {
        let mut connection = Client::open(info.clone())?.get_connection_with_timeout(QUERY_TIMEOUT)?;
        connection.set_read_timeout(Some(QUERY_TIMEOUT))?;
        connection.send_packed_command(&command.get_packed_command())?;
        connection.recv_response()
    };
    query().map_err(|error: redis::RedisError| format!("{}: {error}", info.addr()))
}

const QUERY_TIMEOUT: Duration = Duration::from_secs(1);
