//! The keys of a cluster: HKDF (RFC 5869) of its secret, for its name.
//!
//! Nodes with the same secret and the same name have the same keys and nobody else has. One key per purpose, so that
//! what one of them leaks opens nothing of another. Called once at the start, and when the secret is reloaded.

use crate::base::keyed_hash::HashKey;
use hkdf::Hkdf;
use sha2::Sha256;

/// With whom a node may be one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// There is a secret: any node that has it.
    Everywhere,
    /// There is none: nodes of this machine only.
    Loopback,
}

/// All that is derived from the secret; printing it shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKeys {
    pub reach: Reach,
    /// Seals datagrams (`wire::peer::seal`).
    pub datagrams: [u8; 32],
    /// The pre-shared key of the links' Noise handshake.
    pub links: [u8; 32],
    /// Hashes names of channels: the same on every node, so that a hash means the same channel to all of them.
    pub channels: HashKey,
    /// Hashes names of sessions, apart from channels of the same name.
    pub sessions: HashKey,
}

impl ClusterKeys {
    /// `secret` is `cluster_secret`, or else the `security_token`; an empty one is none. `machine` is what all
    /// processes of this machine know, and nobody outside: it stands in for the secret.
    pub fn derive(secret: &[u8], machine: &[u8], cluster_name: &str) -> ClusterKeys {
        let reach = if secret.is_empty() { Reach::Loopback } else { Reach::Everywhere };
        // A secret that happens to be what stands in for one must not open loopback clusters: the salts differ.
        let (salt, secret) = match reach {
            Reach::Everywhere => (SALT, secret),
            Reach::Loopback => (SALT_WITHOUT_SECRET, machine),
        };
        let hkdf = Hkdf::<Sha256>::new(Some(salt), secret);
        let names = expand::<32>(&hkdf, "names", cluster_name);
        let word = |n: usize| u64::from_be_bytes(names[n * 8..n * 8 + 8].try_into().expect("eight bytes"));
        ClusterKeys {
            reach,
            datagrams: expand(&hkdf, "datagrams", cluster_name),
            links: expand(&hkdf, "links", cluster_name),
            channels: HashKey::new(word(0), word(1)),
            sessions: HashKey::new(word(2), word(3)),
        }
    }
}

impl std::fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClusterKeys({:?})", self.reach)
    }
}

/// The purpose ends with a zero byte, which no purpose has in it: no purpose and name run into another pair.
fn expand<const N: usize>(hkdf: &Hkdf<Sha256>, purpose: &str, cluster_name: &str) -> [u8; N] {
    let mut key = [0; N];
    let info = [purpose.as_bytes(), &[0], cluster_name.as_bytes()];
    hkdf.expand_multi_info(&info, &mut key).expect("a few dozen bytes are within HKDF's limit");
    key
}

const SALT: &[u8] = b"rainbow cluster 1";
const SALT_WITHOUT_SECRET: &[u8] = b"rainbow cluster 1, loopback";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_one_secret_and_one_name_have_the_same_keys() {
        let one = ClusterKeys::derive(b"token", b"machine 1", "demo");
        assert_eq!(one, ClusterKeys::derive(b"token", b"machine 2", "demo"));
    }

    #[test]
    fn another_secret_or_name_or_none_has_no_key_in_common() {
        let all = [
            ClusterKeys::derive(b"token", b"machine", "demo"),
            ClusterKeys::derive(b"token2", b"machine", "demo"),
            ClusterKeys::derive(b"token", b"machine", "demo2"),
            ClusterKeys::derive(b"", b"machine", "demo"),
            ClusterKeys::derive(b"", b"machine 2", "demo"),
            ClusterKeys::derive(b"machine", b"machine", "demo"),
        ];
        for (index, one) in all.iter().enumerate() {
            let keys = |of: &ClusterKeys| [of.datagrams, of.links];
            assert_ne!(one.datagrams, one.links);
            assert_ne!(one.channels.hash("a"), one.sessions.hash("a"));
            for other in &all[..index] {
                assert!(keys(one).iter().all(|key| !keys(other).contains(key)));
                assert_ne!(one.channels.hash("a"), other.channels.hash("a"));
            }
        }
    }

    #[test]
    fn without_a_secret_the_cluster_is_of_this_machine() {
        assert_eq!(ClusterKeys::derive(b"", b"machine", "demo").reach, Reach::Loopback);
        assert_eq!(ClusterKeys::derive(b"token", b"machine", "demo").reach, Reach::Everywhere);
    }

    #[test]
    fn keys_are_not_printed() {
        assert_eq!(format!("{:?}", ClusterKeys::derive(b"token", b"", "demo")), "ClusterKeys(Everywhere)");
    }
}
