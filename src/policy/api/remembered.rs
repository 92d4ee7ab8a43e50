//! What is remembered of a call with a `message_id`: its answer, and a digest of what it was, so that another call
//! under the same id is not taken for a repeat.
//!
//! ```text
//! 32 hex digits · blank · the answer's JSON        (the JSON alone: written by a version without digests)
//! ```

use super::answer::{Sent, write_sent};
use super::call::Targets;
use crate::wire::packet::QoS;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Of receivers, quality, type and body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallDigest(u128);

/// What the store knows of a call's id.
#[derive(Debug, PartialEq, Eq)]
pub enum Remembered<'a> {
    /// The same call: its answer.
    Answer(&'a [u8]),
    /// The id was used for another call.
    OtherCall,
}

impl CallDigest {
    pub fn of(to: &Targets<'_>, qos: QoS, message_type: u16, body: &[u8]) -> CallDigest {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        match to {
            Targets::Session(session) => part(session.as_bytes()),
            channels => channels.channels().iter().for_each(|channel| part(channel.as_bytes())),
        }
        part(&[u8::from(matches!(to, Targets::Session(_))), qos as u8]);
        part(&message_type.to_be_bytes());
        part(body);
        CallDigest(u128::from_be_bytes(hash.finalize()[..16].try_into().expect("sixteen bytes")))
    }
}

/// What to remember of a call that was answered so. A client's reply of over `data_max` bytes is left out: it was for
/// the caller that waited, and its length is the client's choice.
pub fn remember(digest: CallDigest, sent: Sent<'_>, data_max: usize) -> Vec<u8> {
    let mut text = String::with_capacity(DIGEST_LEN + 1);
    write!(text, "{:032x} ", digest.0).expect("a String takes everything");
    let mut remembered = text.into_bytes();
    let data = if sent.data.len() > data_max { b"" } else { sent.data };
    write_sent(&mut remembered, Sent { data, ..sent });
    remembered
}

pub fn recall(remembered: &[u8], digest: CallDigest) -> Remembered<'_> {
    let Some((known, b' ')) =
        remembered.split_at_checked(DIGEST_LEN).and_then(|(known, rest)| Some((known, *rest.first()?)))
    else {
        return Remembered::Answer(remembered);
    };
    let is_same = std::str::from_utf8(known).is_ok_and(|known| u128::from_str_radix(known, 16) == Ok(digest.0));
    if is_same { Remembered::Answer(&remembered[DIGEST_LEN + 1..]) } else { Remembered::OtherCall }
}

const DIGEST_LEN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Tally;

    fn digest(to: Targets<'_>, body: &str) -> CallDigest {
        CallDigest::of(&to, QoS::AtLeastOnce, 1, body.as_bytes())
    }

    #[test]
    fn only_the_same_call_is_a_repeat() {
        let one = digest(Targets::One("a".into()), "x");
        assert_eq!(one, digest(Targets::Many(vec!["a".into()]), "x"), "one channel is one channel");
        let others = [
            digest(Targets::One("a".into()), "y"),
            digest(Targets::One("b".into()), "x"),
            digest(Targets::Session("a".into()), "x"),
            digest(Targets::Many(vec!["a".into(), "".into()]), "x"),
            CallDigest::of(&Targets::One("a".into()), QoS::ExactlyOnce, 1, b"x"),
            CallDigest::of(&Targets::One("a".into()), QoS::AtLeastOnce, 2, b"x"),
        ];
        let tally = Tally { targets: 1, connections: 1, ..Tally::default() };
        let remembered = remember(one, Sent { tally, data: b"yes", to_session: false }, 10);
        let answer = br#"{"status":0,"connections":1,"targets":1,"data":"yes"}"#;
        assert_eq!(recall(&remembered, one), Remembered::Answer(answer));
        assert!(others.into_iter().all(|other| recall(&remembered, other) == Remembered::OtherCall));
        assert_eq!(recall(answer, one), Remembered::Answer(answer), "of an earlier version");
    }

    #[test]
    fn a_long_reply_is_not_remembered() {
        let (one, tally) = (digest(Targets::One("a".into()), "x"), Tally::default());
        let remembered = remember(one, Sent { tally, data: &[b'x'; 11], to_session: false }, 10);
        let Remembered::Answer(answer) = recall(&remembered, one) else { panic!("it is the same call") };
        assert!(answer.ends_with(br#""data":""}"#), "{}", String::from_utf8_lossy(answer));
    }
}
