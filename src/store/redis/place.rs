//! Where the store is (`store.url`), and which buckets its keys are in.

use super::Fault;
use crate::shard::command::{SessionId, StoreError};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// `store.url`, understood.
#[derive(Clone, Debug)]
pub enum Place {
    /// `redis://[user:password@]host[:port][/db]`, `unix:/path`
    One(Box<ConnectionInfo>),
    /// `redis-sentinel://[user:password@]host[:port],…/master-name`; the password is Redis's own.
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, like: Box<ConnectionInfo> },
    /// `redis-cluster://[user:password@]host[:port],…`
    Cluster { seeds: Vec<ConnectionInfo> },
}

impl Place {
    pub fn parse(url: &str) -> Result<Place, Fault> {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        match scheme {
            "redis" | "valkey" | "unix" => Ok(Place::One(Box::new(info(url)?))),
            "redis-sentinel" => {
                let (hosts, master) = rest.rsplit_once('/').unwrap_or_default();
                if master.is_empty() || hosts.trim_start_matches('/').is_empty() {
                    return Err(misnamed("write it as redis-sentinel://HOST:PORT,HOST:PORT/MASTER-NAME"));
                }
                let with_secret = hosts_of(hosts, 26379)?;
                let like = Box::new(with_secret[0].clone());
                // A sentinel has no databases, and rarely a password; what the URL names is Redis's.
                let bare = |info: &ConnectionInfo| info.addr().clone().into_connection_info();
                let sentinels = with_secret.iter().map(bare).collect::<Result<_, _>>().map_err(unreadable)?;
                Ok(Place::Sentinel { sentinels, master: master.into(), like })
            }
            "redis-cluster" => Ok(Place::Cluster { seeds: hosts_of(rest, 6379)? }),
            "rediss" | "valkeys" => Err(misnamed("TLS to Redis is not built in; use redis:// through a tunnel")),
            _ => Err(misnamed("it begins with redis://, redis-sentinel:// or redis-cluster://")),
        }
    }

    /// Into how many parts the keys fall; each part may lie on another node.
    pub fn buckets(&self) -> u16 {
        match self {
            Place::One(_) | Place::Sentinel { .. } => 1,
            Place::Cluster { .. } => CLUSTER_BUCKETS,
        }
    }
}

/// The same account on another address.
pub fn at(like: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    like.clone().set_addr(ConnectionAddr::Tcp(host.into(), port))
}

/// `//user:password@a:1,b:2/…` → one each, all with the same account.
fn hosts_of(rest: &str, port: u16) -> Result<Vec<ConnectionInfo>, Fault> {
    let rest = rest.trim_start_matches('/').trim_end_matches('/');
    let (account, hosts) = rest.rsplit_once('@').map_or(("", rest), |(account, hosts)| (account, hosts));
    let sign = if account.is_empty() { "" } else { "@" };
    let one = |host: &str| {
        let named = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let port = if named { String::new() } else { format!(":{port}") };
        info(&format!("redis://{account}{sign}{host}{port}"))
    };
    let hosts: Vec<&str> = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
    if hosts.is_empty() {
        return Err(misnamed("it names no host"));
    }
    hosts.into_iter().map(one).collect()
}

fn info(url: &str) -> Result<ConnectionInfo, Fault> {
    url.into_connection_info().map_err(unreadable)
}

fn unreadable(error: redis::RedisError) -> Fault {
    misnamed(&error.to_string())
}

/// The URL itself is not repeated: it may hold a password.
fn misnamed(problem: &str) -> Fault {
    Fault::Refuse { reason: StoreError::Broken, detail: format!("store.url: {problem}") }
}

/// The names of all keys. In front of each stands `rainbow:CLUSTER:{BUCKET}:`; what is in braces decides, in a Redis
/// cluster, on which node a key lies, so that all keys of a session, and those of its bucket, lie together.
pub struct Names {
    cluster: String,
    buckets: u16,
}

impl Names {
    pub fn new(cluster: &str, buckets: u16) -> Names {
        Names { cluster: cluster.into(), buckets }
    }

    pub fn bucket_of(&self, session: SessionId) -> u16 {
        (session.0 % u128::from(self.buckets)) as u16
    }

    /// FNV-1a: the same in every version, as what lies in Redis is found by it.
    pub fn bucket_of_claim(&self, message_id: &str) -> u16 {
        let hash = message_id
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        (hash % u64::from(self.buckets)) as u16
    }

    fn key(&self, bucket: u16, kind: &str, ends: [&[u8]; 2]) -> Vec<u8> {
        let mut key = format!("rainbow:{}:{{{bucket}}}:{kind}", self.cluster).into_bytes();
        key.extend(ends.concat());
        key
    }

    pub fn writer(&self, bucket: u16) -> Vec<u8> {
        self.key(bucket, "writer", [b"", b""])
    }

    pub fn sessions(&self, bucket: u16) -> Vec<u8> {
        self.key(bucket, "sessions", [b"", b""])
    }

    pub fn due(&self, bucket: u16) -> Vec<u8> {
        self.key(bucket, "due", [b"", b""])
    }

    pub fn claim(&self, message_id: &str) -> Vec<u8> {
        self.key(self.bucket_of_claim(message_id), "m:", [message_id.as_bytes(), b""])
    }

    pub fn row(&self, session: SessionId) -> Vec<u8> {
        self.of_session(session, "s:")
    }

    pub fn queue(&self, session: SessionId) -> Vec<u8> {
        self.of_session(session, "q:")
    }

    pub fn channels(&self, session: SessionId) -> Vec<u8> {
        self.of_session(session, "c:")
    }

    pub fn received(&self, session: SessionId) -> Vec<u8> {
        self.of_session(session, "r:")
    }

    pub fn guard(&self, session: SessionId, message_id: &str) -> Vec<u8> {
        self.key(self.bucket_of(session), "g:", [&session.0.to_be_bytes(), message_id.as_bytes()])
    }

    fn of_session(&self, session: SessionId, kind: &str) -> Vec<u8> {
        self.key(self.bucket_of(session), kind, [&session.0.to_be_bytes(), b""])
    }
}

/// The slot of a bucket's keys: CRC-16/XMODEM of what stands in the braces, of 16,384 (the cluster specification).
pub fn slot_of(bucket: u16) -> u16 {
    let crc = bucket.to_string().bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 })
    });
    crc % 16384
}

/// Enough to spread over a dozen nodes; few enough that a batch does not touch more of them than it has steps. What
/// lies in a cluster is found by it: it never changes.
const CLUSTER_BUCKETS: u16 = 64;
