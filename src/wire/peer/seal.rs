//! A sealed datagram: XChaCha20-Poly1305 under the cluster's key, with the cluster's name as associated data.
//!
//! ```text
//! 0         1         2               10                    26            34                       n-16
//! magic 'R' version   time (s, u64)   sender (16)           count (u64)   ciphertext ……………………………… tag (16)
//!                                     └─ nonce: generation (u32), salt (12), count ─┘
//! ```
//!
//! The salt is drawn at the sender's start and the count never repeats, so no nonce does. A receiver takes each count
//! of a sender once, and none whose time differs by more than a minute from the clock here; clocks that differ by more
//! are corrected once a link, which cannot be replayed, has told the difference (`learn_clock`). A length beyond a
//! packet, another magic or version, and what does not authenticate is refused before anything in it is decoded.

use crate::base::id::Generation;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use std::collections::BTreeMap;
use thiserror::Error;

/// Of a whole datagram: below the MTU of any network that is not a relic, so that it is not fragmented.
pub const DATAGRAM_BYTES_MAX: usize = 1400;

/// Of what is sealed in one.
pub const PLAIN_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEAD_BYTES - TAG_BYTES;

/// Why a datagram was not opened; each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    #[error("longer than {DATAGRAM_BYTES_MAX} bytes")]
    TooLong,
    #[error("no datagram of Rainbow")]
    Foreign,
    #[error("version {0}, which this node does not know")]
    Version(u8),
    /// Another cluster's, another key's, or damaged: these cannot be told apart.
    #[error("not of this cluster")]
    Forged,
    /// It is authentic. `by_s` is how far its sender's clock is behind ours.
    #[error("{by_s} s old, by the sender's clock")]
    Stale { sender: Generation, by_s: i64 },
    #[error("received before")]
    Replayed,
    /// A broadcast comes back to its sender.
    #[error("our own")]
    Own,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    pub sender: Generation,
    pub plain: Vec<u8>,
}

/// Seals what one node sends.
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    cluster_name: String,
    sender: Sender,
    count: u64,
}

impl Sealer {
    /// `salt` is drawn at random; no two processes may have the same.
    pub fn new(key: &[u8; 32], cluster_name: &str, generation: Generation, salt: [u8; 12]) -> Sealer {
        let cluster_name = cluster_name.to_owned();
        Sealer {
            cipher: XChaCha20Poly1305::new(key.into()),
            cluster_name,
            sender: Sender { generation, salt },
            count: 0,
        }
    }

    /// `None` if `plain` is longer than `PLAIN_BYTES_MAX`.
    pub fn seal(&mut self, plain: &[u8], now_unix_s: u64) -> Option<Vec<u8>> {
        if plain.len() > PLAIN_BYTES_MAX {
            return None;
        }
        self.count += 1;
        let head = Head { time_s: now_unix_s, sender: self.sender, count: self.count }.encode();
        let payload = Payload { msg: plain, aad: &associated(&head, &self.cluster_name) };
        let sealed = self.cipher.encrypt(&nonce(&head), payload).ok()?;
        Some([&head[..], &sealed].concat())
    }
}

/// Opens what others send, each datagram once.
pub struct Opener {
    cipher: XChaCha20Poly1305,
    cluster_name: String,
    own: Generation,
    windows: BTreeMap<Sender, Window>,
    /// Per node, how far its clock is ahead of ours.
    ahead_s: BTreeMap<Generation, i64>,
}

impl Opener {
    pub fn new(key: &[u8; 32], cluster_name: &str, own: Generation) -> Opener {
        Opener {
            cipher: XChaCha20Poly1305::new(key.into()),
            cluster_name: cluster_name.to_owned(),
            own,
            windows: BTreeMap::new(),
            ahead_s: BTreeMap::new(),
        }
    }

    pub fn open(&mut self, datagram: &[u8], now_unix_s: u64) -> Result<Opened, Rejected> {
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return Err(Rejected::TooLong);
        }
        let (head_bytes, sealed) = datagram.split_first_chunk::<HEAD_BYTES>().ok_or(Rejected::Foreign)?;
        if head_bytes[0] != MAGIC || sealed.len() < TAG_BYTES {
            return Err(Rejected::Foreign);
        }
        if head_bytes[1] != VERSION {
            return Err(Rejected::Version(head_bytes[1]));
        }
        let head = Head::decode(head_bytes);
        let payload = Payload { msg: sealed, aad: &associated(head_bytes, &self.cluster_name) };
        let plain = self.cipher.decrypt(&nonce(head_bytes), payload).map_err(|_| Rejected::Forged)?;
        let sender = head.sender.generation;
        if sender == self.own {
            return Err(Rejected::Own);
        }
        let ahead_s = self.ahead_s.get(&sender).copied().unwrap_or(0);
        let by_s = (now_unix_s as i64).saturating_sub(head.time_s as i64).saturating_add(ahead_s);
        if by_s.saturating_abs() > AGE_S_MAX {
            return Err(Rejected::Stale { sender, by_s });
        }
        if !self.window(head.sender, now_unix_s).take(head.count) {
            return Err(Rejected::Replayed);
        }
        Ok(Opened { sender, plain })
    }

    /// A link's handshake has shown the clock of a node.
    pub fn learn_clock(&mut self, node: Generation, its_unix_s: u64, now_unix_s: u64) {
        if self.ahead_s.len() >= SENDERS_MAX && !self.ahead_s.contains_key(&node) {
            self.ahead_s.pop_first();
        }
        self.ahead_s.insert(node, (its_unix_s as i64).saturating_sub(now_unix_s as i64));
    }

    /// The window of a sender. The one that was not heard for longest makes room: what it sent is soon too old.
    fn window(&mut self, sender: Sender, now_unix_s: u64) -> &mut Window {
        if self.windows.len() >= SENDERS_MAX && !self.windows.contains_key(&sender) {
            let oldest = self.windows.iter().min_by_key(|(_, window)| window.heard_s).map(|(sender, _)| *sender);
            oldest.and_then(|oldest| self.windows.remove(&oldest));
        }
        let window = self.windows.entry(sender).or_default();
        window.heard_s = now_unix_s;
        window
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sender {
    generation: Generation,
    salt: [u8; 12],
}

struct Head {
    time_s: u64,
    sender: Sender,
    count: u64,
}

impl Head {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[0] = MAGIC;
        head[1] = VERSION;
        head[2..10].copy_from_slice(&self.time_s.to_be_bytes());
        head[10..14].copy_from_slice(&self.sender.generation.0.to_be_bytes());
        head[14..26].copy_from_slice(&self.sender.salt);
        head[26..].copy_from_slice(&self.count.to_be_bytes());
        head
    }

    fn decode(head: &[u8; HEAD_BYTES]) -> Head {
        let u64_at = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let generation = Generation(u32::from_be_bytes(head[10..14].try_into().expect("four bytes")));
        let salt = head[14..26].try_into().expect("twelve bytes");
        Head { time_s: u64_at(2), sender: Sender { generation, salt }, count: u64_at(26) }
    }
}

fn nonce(head: &[u8; HEAD_BYTES]) -> XNonce {
    let nonce: [u8; 24] = head[10..].try_into().expect("24 bytes");
    nonce.into()
}

/// The head is authenticated, too: its time is not in the nonce.
fn associated(head: &[u8; HEAD_BYTES], cluster_name: &str) -> Vec<u8> {
    [head, cluster_name.as_bytes()].concat()
}

/// Which counts of a sender were received: the highest, and the 64 below it, since datagrams overtake each other.
#[derive(Default)]
struct Window {
    highest: u64,
    /// Bit n: `highest - n` was received.
    received: u64,
    heard_s: u64,
}

impl Window {
    /// False for a count that was taken before, or lies too far behind to know.
    fn take(&mut self, count: u64) -> bool {
        if count > self.highest {
            let shift = u32::try_from(count - self.highest).unwrap_or(u32::MAX);
            self.received = self.received.checked_shl(shift).unwrap_or(0) | 1;
            self.highest = count;
            return true;
        }
        let bit = u32::try_from(self.highest - count).ok().and_then(|behind| 1_u64.checked_shl(behind));
        let is_new = bit.is_some_and(|bit| self.received & bit == 0);
        self.received |= bit.unwrap_or(0);
        is_new
    }
}

const MAGIC: u8 = b'R';
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 34;
const TAG_BYTES: usize = 16;
const AGE_S_MAX: i64 = 60;
/// Four lives of each of 64 nodes.
const SENDERS_MAX: usize = 256;

#[cfg(test)]
mod tests;
