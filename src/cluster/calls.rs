//! What one node asks of another, and what comes back: the bodies of the frames `Call` and `Reply`.
//!
//! The receiver carries a call out as if one of its own callers had made it, on its own node only: a call takes one
//! hop between nodes, and its message a second one to the worker that has the client.
//!
//! Texts are preceded by their length (u16); a message's body is the rest.

mod fields;

use super::transfers::{self, TransferCall};
use crate::base::id::Identity;
use crate::shard::command::transfer::SessionPart;
use crate::shard::command::{Claim, StoreError, Token, UnixMs};
use crate::shard::{
    ChannelMember, NotSent, NotStored, QueryRefusal, Reply, SessionInfo, SessionOrder, SessionState, SessionSummary,
    Tally, Wait, WantedSessions, Who,
};
use crate::wire::packet::QoS;
use crate::wire::peer::cursor::Cursor;
use crate::wire::ws::frame::CloseCode;
use fields::{
    code_of, put_some_identity, put_text, put_times, put_traffic, put_who, reason, take_bool, take_identity,
    take_some_identity, take_text, take_times, take_traffic, take_who,
};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub enum Call<'a> {
    /// A message to everybody in one of these channels.
    Send(SendCall<'a>),
    Exists {
        who: Who,
    },
    Subscribe {
        who: Who,
        channel: &'a str,
    },
    Unsubscribe {
        who: Who,
        channel: &'a str,
    },
    /// Everyone but `keep` leaves the channel.
    Evict {
        channel: &'a str,
        keep: Who,
    },
    Kick {
        identity: Identity,
        code: CloseCode,
        reason: &'a str,
    },
    KickChannel {
        channel: &'a str,
        code: CloseCode,
        reason: &'a str,
    },
    Members {
        channel: &'a str,
        offset: u64,
        limit: u32,
        /// The channel is to be counted for a while.
        counts: bool,
    },
    /// The channels with the most members, of those whose names contain the text.
    Largest {
        most: u32,
        find: &'a str,
    },
    /// The node's durable sessions, in the order and number that are wanted.
    Sessions(Box<WantedSessions>),
    /// The figures of the node, as /info/ shows them.
    Info,
    /// A message to a durable session, named as if it were a channel.
    SendTo(SendCall<'a>),
    Session {
        name: &'a str,
    },
    DropSession {
        name: &'a str,
    },
    /// The session is to be passed on to this token, by who has it.
    Pass {
        name: &'a str,
        token: Token,
    },
    /// The session that was passed on is known to everybody at its new owner.
    Passed {
        name: &'a str,
    },
    /// Its owner stops: the session is to be the receiver's, which asks for it.
    Offer {
        name: &'a str,
    },
    /// Of a session that goes from one disk to another.
    Transfer(TransferCall<'a>),
}

/// Its deadline is the frame's.
#[derive(Clone, Debug, PartialEq)]
pub struct SendCall<'a> {
    pub channels: Vec<&'a str>,
    pub qos: QoS,
    pub message_type: u16,
    /// `None`: as the receiver is configured.
    pub ttl_ms: Option<u64>,
    pub wait: Wait,
    /// Of a call with a `message_id`: durable sessions have it once, whichever node they are on.
    pub claim: Option<SentClaim>,
    pub body: &'a [u8],
}

/// A claim on its way. Not until when it holds but how long: the receiver's clock may be another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentClaim {
    pub message_id: Arc<str>,
    pub left_ms: u64,
}

impl SentClaim {
    pub fn new(claim: &Claim, now: UnixMs) -> SentClaim {
        SentClaim { message_id: claim.message_id.clone(), left_ms: claim.until.0.saturating_sub(now.0) }
    }

    pub fn arrive(&self, now: UnixMs) -> Claim {
        Claim { message_id: self.message_id.clone(), until: UnixMs(now.0.saturating_add(self.left_ms)) }
    }
}

/// What a node replies.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Of(Reply),
    /// JSON.
    Text(Box<str>),
    /// Of a session that leaves.
    Part(Box<SessionPart>),
}

impl<'a> Call<'a> {
    /// The frame's `method`.
    pub fn method(&self) -> u8 {
        match self {
            Call::Send(_) => SEND,
            Call::Exists { .. } => EXISTS,
            Call::Subscribe { .. } => SUBSCRIBE,
            Call::Unsubscribe { .. } => UNSUBSCRIBE,
            Call::Evict { .. } => EVICT,
            Call::Kick { .. } => KICK,
            Call::KickChannel { .. } => KICK_CHANNEL,
            Call::Members { .. } => MEMBERS,
            Call::Largest { .. } => LARGEST,
            Call::Info => INFO,
            Call::SendTo(_) => SEND_TO,
            Call::Session { .. } => SESSION_OF,
            Call::DropSession { .. } => DROP_SESSION,
            Call::Pass { .. } => PASS,
            Call::Passed { .. } => PASSED,
            Call::Offer { .. } => OFFER,
            Call::Sessions(_) => SESSIONS,
            Call::Transfer(_) => TRANSFER,
        }
    }

    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Call::Send(send) | Call::SendTo(send) => send.encode_into(out),
            Call::Exists { who } => put_who(out, who),
            Call::Subscribe { who, channel } | Call::Unsubscribe { who, channel } => {
                put_who(out, who);
                put_text(out, channel);
            }
            Call::Evict { channel, keep } => {
                put_who(out, keep);
                put_text(out, channel);
            }
            Call::Kick { identity, code, reason } => {
                out.extend_from_slice(&identity.0);
                out.extend_from_slice(&code.0.to_be_bytes());
                put_text(out, reason);
            }
            Call::KickChannel { channel, code, reason } => {
                put_text(out, channel);
                out.extend_from_slice(&code.0.to_be_bytes());
                put_text(out, reason);
            }
            Call::Members { channel, offset, limit, counts } => {
                put_text(out, channel);
                out.extend_from_slice(&offset.to_be_bytes());
                out.extend_from_slice(&limit.to_be_bytes());
                out.push(u8::from(*counts));
            }
            Call::Largest { most, find } => {
                out.extend_from_slice(&most.to_be_bytes());
                put_text(out, find);
            }
            Call::Info => {}
            Call::Session { name } | Call::DropSession { name } => put_text(out, name),
            Call::Passed { name } | Call::Offer { name } => put_text(out, name),
            Call::Sessions(wanted) => put_wanted(out, wanted),
            Call::Transfer(call) => call.encode_into(out),
            Call::Pass { name, token } => {
                put_text(out, name);
                out.extend_from_slice(&token.0.to_be_bytes());
            }
        }
    }

    /// `None` for what no node of this version sends.
    pub fn decode(method: u8, body: &'a [u8]) -> Option<Call<'a>> {
        let mut cursor = Cursor::new(body);
        let call = match method {
            SEND => return SendCall::decode(&mut cursor).map(Call::Send),
            EXISTS => Call::Exists { who: take_who(&mut cursor)? },
            SUBSCRIBE => Call::Subscribe { who: take_who(&mut cursor)?, channel: take_text(&mut cursor)? },
            UNSUBSCRIBE => Call::Unsubscribe { who: take_who(&mut cursor)?, channel: take_text(&mut cursor)? },
            EVICT => Call::Evict { keep: take_who(&mut cursor)?, channel: take_text(&mut cursor)? },
            KICK => Call::Kick {
                identity: take_identity(&mut cursor)?,
                code: CloseCode(cursor.u16()?),
                reason: take_text(&mut cursor)?,
            },
            KICK_CHANNEL => Call::KickChannel {
                channel: take_text(&mut cursor)?,
                code: CloseCode(cursor.u16()?),
                reason: take_text(&mut cursor)?,
            },
            MEMBERS => Call::Members {
                channel: take_text(&mut cursor)?,
                offset: cursor.u64()?,
                limit: cursor.u32()?,
                counts: take_bool(&mut cursor)?,
            },
            LARGEST => Call::Largest { most: cursor.u32()?, find: take_text(&mut cursor)? },
            INFO => Call::Info,
            TRANSFER => return TransferCall::decode(body).map(Call::Transfer),
            SEND_TO => return SendCall::decode(&mut cursor).map(Call::SendTo),
            SESSION_OF => Call::Session { name: take_text(&mut cursor)? },
            DROP_SESSION => Call::DropSession { name: take_text(&mut cursor)? },
            PASS => Call::Pass { name: take_text(&mut cursor)?, token: Token(cursor.u64()?) },
            PASSED => Call::Passed { name: take_text(&mut cursor)? },
            OFFER => Call::Offer { name: take_text(&mut cursor)? },
            SESSIONS => Call::Sessions(Box::new(take_wanted(&mut cursor)?)),
            _ => return None,
        };
        cursor.end().map(|()| call)
    }
}

impl<'a> SendCall<'a> {
    fn encode_into(&self, out: &mut Vec<u8>) {
        let wait = if self.wait == Wait::Stored { UNTIL_STORED } else { 0 };
        out.push(self.qos as u8 | wait | if self.claim.is_some() { CLAIMED } else { 0 });
        out.extend_from_slice(&self.message_type.to_be_bytes());
        out.extend_from_slice(&self.ttl_ms.unwrap_or(NO_TTL).to_be_bytes());
        out.extend_from_slice(&(self.channels.len() as u16).to_be_bytes());
        self.channels.iter().for_each(|channel| put_text(out, channel));
        if let Some(claim) = &self.claim {
            put_text(out, &claim.message_id);
            out.extend_from_slice(&claim.left_ms.to_be_bytes());
        }
        out.extend_from_slice(self.body);
    }

    fn decode(cursor: &mut Cursor<'a>) -> Option<SendCall<'a>> {
        let flags = cursor.u8()?;
        let qos = QoS::from_u8(flags & !(UNTIL_STORED | CLAIMED))?;
        let wait = if flags & UNTIL_STORED == 0 { Wait::Answered } else { Wait::Stored };
        let (message_type, ttl) = (cursor.u16()?, cursor.u64()?);
        let count = cursor.u16()?;
        let mut channels = Vec::new();
        for _ in 0..count {
            channels.push(take_text(cursor)?);
        }
        let claim = match flags & CLAIMED {
            0 => None,
            _ => Some(SentClaim { message_id: take_text(cursor)?.into(), left_ms: cursor.u64()? }),
        };
        let ttl_ms = (ttl != NO_TTL).then_some(ttl);
        let is_for_somebody = !channels.is_empty();
        is_for_somebody.then_some(SendCall { channels, qos, message_type, ttl_ms, wait, claim, body: cursor.rest() })
    }
}

impl Answer {
    /// The frame's `outcome`.
    pub fn outcome(&self) -> u8 {
        match self {
            Answer::Of(Reply::Sent { .. }) => SENT,
            Answer::Of(Reply::Done { .. }) => DONE,
            Answer::Of(Reply::Members { .. }) => MEMBERS_ARE,
            Answer::Of(Reply::Channels(_)) => CHANNELS_ARE,
            Answer::Of(Reply::Session(_)) => SESSION_IS,
            Answer::Of(Reply::Sessions { .. }) => SESSIONS_ARE,
            Answer::Of(Reply::Refused(_)) => REFUSED,
            Answer::Text(_) => TEXT,
            Answer::Part(_) => PART,
        }
    }

    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Answer::Of(Reply::Sent { tally, data }) => {
                put_tally(out, tally);
                out.extend_from_slice(data);
            }
            Answer::Of(Reply::Done { connections, refused }) => {
                out.extend_from_slice(&connections.to_be_bytes());
                out.push(code_of(REFUSALS, refused.as_ref()));
            }
            Answer::Of(Reply::Members { total, members, traffic }) => {
                out.extend_from_slice(&(*total as u64).to_be_bytes());
                put_traffic(out, *traffic);
                for ChannelMember { identity, user } in members {
                    out.extend_from_slice(&identity.0);
                    // Nobody's name is empty.
                    put_text(out, user.as_deref().unwrap_or_default());
                }
            }
            Answer::Of(Reply::Channels(channels)) => channels.iter().for_each(|(name, members)| {
                put_text(out, name);
                out.extend_from_slice(&(*members as u64).to_be_bytes());
            }),
            Answer::Of(Reply::Refused(why)) => out.push(code_of(REFUSALS, Some(why))),
            Answer::Of(Reply::Sessions { total, sessions }) => {
                out.extend_from_slice(&(*total as u64).to_be_bytes());
                sessions.iter().for_each(|session| put_summary(out, session));
            }
            Answer::Of(Reply::Session(None)) => {}
            Answer::Of(Reply::Session(Some(info))) => put_session(out, info),
            Answer::Part(part) => transfers::encode_part(out, part),
            Answer::Text(text) => out.extend_from_slice(text.as_bytes()),
        }
    }

    pub fn decode(outcome: u8, body: &[u8]) -> Option<Answer> {
        let mut cursor = Cursor::new(body);
        let reply = match outcome {
            SENT => {
                let tally = take_tally(&mut cursor)?;
                return Some(Answer::Of(Reply::Sent { tally, data: cursor.rest().to_vec() }));
            }
            DONE => Reply::Done { connections: cursor.u32()?, refused: reason(REFUSALS, cursor.u8()?)? },
            MEMBERS_ARE => {
                let (total, traffic) = (usize::try_from(cursor.u64()?).ok()?, take_traffic(&mut cursor)?);
                let mut members = Vec::new();
                while cursor.end().is_none() {
                    let (identity, user) = (take_identity(&mut cursor)?, take_text(&mut cursor)?);
                    members.push(ChannelMember { identity, user: (!user.is_empty()).then(|| user.into()) });
                }
                Reply::Members { total, members, traffic }
            }
            CHANNELS_ARE => {
                let mut channels = Vec::new();
                while cursor.end().is_none() {
                    channels.push((take_text(&mut cursor)?.into(), usize::try_from(cursor.u64()?).ok()?));
                }
                Reply::Channels(channels)
            }
            SESSIONS_ARE => {
                let total = usize::try_from(cursor.u64()?).ok()?;
                let mut sessions = Vec::new();
                while cursor.end().is_none() {
                    sessions.push(take_summary(&mut cursor)?);
                }
                Reply::Sessions { total, sessions }
            }
            REFUSED => Reply::Refused(reason(REFUSALS, cursor.u8()?)??),
            SESSION_IS if body.is_empty() => Reply::Session(None),
            SESSION_IS => Reply::Session(Some(Box::new(take_session(&mut cursor)?))),
            PART => return transfers::decode_part(body).map(|part| Answer::Part(Box::new(part))),
            TEXT => return std::str::from_utf8(body).ok().map(|text| Answer::Text(text.into())),
            _ => return None,
        };
        cursor.end().map(|()| Answer::Of(reply))
    }
}

fn put_tally(out: &mut Vec<u8>, tally: &Tally) {
    let Tally { targets, connections, stored, refused, undecided, unreachable, why } = tally;
    for figure in [targets, connections, stored, refused, undecided, unreachable] {
        out.extend_from_slice(&figure.to_be_bytes());
    }
    out.push(code_of(REASONS, why.as_ref()));
}

fn take_tally(cursor: &mut Cursor<'_>) -> Option<Tally> {
    Some(Tally {
        targets: cursor.u32()?,
        connections: cursor.u32()?,
        stored: cursor.u32()?,
        refused: cursor.u32()?,
        undecided: cursor.u32()?,
        unreachable: cursor.u32()?,
        why: reason(REASONS, cursor.u8()?)?,
    })
}

fn put_session(out: &mut Vec<u8>, info: &SessionInfo) {
    let SessionInfo { name, identity, channels, waiting, waiting_bytes, oldest_ms, left_ms } = info;
    put_text(out, name);
    put_some_identity(out, identity.as_ref());
    out.extend_from_slice(&waiting.to_be_bytes());
    out.extend_from_slice(&waiting_bytes.to_be_bytes());
    put_times(out, [*oldest_ms, *left_ms]);
    channels.iter().for_each(|channel| put_text(out, channel));
}

fn take_session(cursor: &mut Cursor<'_>) -> Option<SessionInfo> {
    let name = take_text(cursor)?.into();
    let identity = take_some_identity(cursor)?;
    let (waiting, waiting_bytes) = (cursor.u32()?, cursor.u64()?);
    let [oldest_ms, left_ms] = take_times(cursor)?;
    let mut channels = Vec::new();
    while cursor.end().is_none() {
        channels.push(take_text(cursor)?.into());
    }
    Some(SessionInfo { name, identity, channels, waiting, waiting_bytes, oldest_ms, left_ms })
}

fn put_summary(out: &mut Vec<u8>, session: &SessionSummary) {
    let SessionSummary { name, identity, user, waiting, waiting_bytes, oldest_ms, left_ms } = session;
    put_text(out, name);
    put_some_identity(out, identity.as_ref());
    // Nobody's name is empty.
    put_text(out, user.as_deref().unwrap_or_default());
    out.extend_from_slice(&waiting.to_be_bytes());
    out.extend_from_slice(&waiting_bytes.to_be_bytes());
    put_times(out, [*oldest_ms, *left_ms]);
}

fn take_summary(cursor: &mut Cursor<'_>) -> Option<SessionSummary> {
    let (name, identity, user) = (take_text(cursor)?.into(), take_some_identity(cursor)?, take_text(cursor)?);
    let user = (!user.is_empty()).then(|| user.into());
    let (waiting, waiting_bytes) = (cursor.u32()?, cursor.u64()?);
    let [oldest_ms, left_ms] = take_times(cursor)?;
    Some(SessionSummary { name, identity, user, waiting, waiting_bytes, oldest_ms, left_ms })
}

fn put_wanted(out: &mut Vec<u8>, wanted: &WantedSessions) {
    let WantedSessions { state, order, find, most } = wanted;
    out.push(code_of(&SessionState::ALL, Some(state)));
    out.push(code_of(&SessionOrder::ALL, Some(order)));
    out.extend_from_slice(&(*most as u32).to_be_bytes());
    put_text(out, find);
}

fn take_wanted(cursor: &mut Cursor<'_>) -> Option<WantedSessions> {
    let (state, order) = (reason(&SessionState::ALL, cursor.u8()?)??, reason(&SessionOrder::ALL, cursor.u8()?)??);
    Some(WantedSessions { state, order, most: cursor.u32()? as usize, find: take_text(cursor)?.into() })
}

/// In the order of their numbers: new ones are appended.
const REFUSALS: &[QueryRefusal] = &[
    QueryRefusal::TooBusy,
    QueryRefusal::TooManyMessages,
    QueryRefusal::MessageTooLarge,
    QueryRefusal::BadChannelName,
    QueryRefusal::TooManyChannels,
    QueryRefusal::NoSuchConnection,
    QueryRefusal::NoSuchSession,
    QueryRefusal::NotStored,
    QueryRefusal::Unreachable,
];

const REASONS: &[NotSent] = &[
    NotSent::Refused(QueryRefusal::TooBusy),
    NotSent::Refused(QueryRefusal::TooManyMessages),
    NotSent::Refused(QueryRefusal::MessageTooLarge),
    NotSent::Refused(QueryRefusal::BadChannelName),
    NotSent::Refused(QueryRefusal::TooManyChannels),
    NotSent::Refused(QueryRefusal::NoSuchConnection),
    NotSent::Refused(QueryRefusal::NoSuchSession),
    NotSent::Refused(QueryRefusal::NotStored),
    NotSent::Refused(QueryRefusal::Unreachable),
    NotSent::NotStored(NotStored::TooMany),
    NotSent::NotStored(NotStored::TooLarge),
    NotSent::NotStored(NotStored::Ending),
    NotSent::NotStored(NotStored::Expired),
    NotSent::NotStored(NotStored::Store(StoreError::DiskFull)),
    NotSent::NotStored(NotStored::Store(StoreError::StoreFull)),
    NotSent::NotStored(NotStored::Store(StoreError::ReadOnly)),
    NotSent::NotStored(NotStored::Store(StoreError::Broken)),
    NotSent::NotStored(NotStored::Store(StoreError::Unreachable)),
    NotSent::NotStored(NotStored::Store(StoreError::Damaged)),
    NotSent::NotStored(NotStored::Store(StoreError::Fenced)),
    NotSent::NotStored(NotStored::Store(StoreError::NameTaken)),
    NotSent::NotStored(NotStored::Store(StoreError::TooBusy)),
    NotSent::TimeOver,
    NotSent::Silent,
    NotSent::Unreachable,
    NotSent::NotStored(NotStored::Moving),
];

const SEND: u8 = 1;
const EXISTS: u8 = 2;
const SUBSCRIBE: u8 = 3;
const UNSUBSCRIBE: u8 = 4;
const EVICT: u8 = 5;
const KICK: u8 = 6;
const KICK_CHANNEL: u8 = 7;
const MEMBERS: u8 = 8;
const LARGEST: u8 = 9;
const INFO: u8 = 10;
const SEND_TO: u8 = 11;
const SESSION_OF: u8 = 12;
const DROP_SESSION: u8 = 13;
const PASS: u8 = 14;
const PASSED: u8 = 15;
const OFFER: u8 = 16;
const SESSIONS: u8 = 17;
const TRANSFER: u8 = 18;

const SENT: u8 = 1;
const DONE: u8 = 2;
const MEMBERS_ARE: u8 = 3;
const CHANNELS_ARE: u8 = 4;
const REFUSED: u8 = 5;
const TEXT: u8 = 6;
const SESSION_IS: u8 = 7;
const SESSIONS_ARE: u8 = 8;
const PART: u8 = 9;

const UNTIL_STORED: u8 = 0x80;
const CLAIMED: u8 = 0x40;
const NO_TTL: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::channel::traffic::Traffic;
    use proptest::prelude::*;

    fn who() -> impl Strategy<Value = Who> {
        prop_oneof![
            any::<[u8; 32]>().prop_map(|bytes| Who::Connection(Identity(bytes))),
            "[a-z]{1,20}".prop_map(|name| Who::Session(name.as_str().into())),
        ]
    }

    fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }

    proptest! {
        #[test]
        fn calls_survive_the_way(
            names in prop::collection::vec(".{0,20}", 1..5),
            (who, number) in (who(), any::<u64>()),
            (qos, message_type, stored) in (0_u8..3, any::<u16>(), any::<bool>()),
            body: Vec<u8>,
        ) {
            let (qos, code) = (QoS::from_u8(qos).expect("below 3"), CloseCode(message_type));
            let (channel, reason) = (names[0].as_str(), names[names.len() - 1].as_str());
            let wait = if stored { Wait::Stored } else { Wait::Answered };
            let ttl_ms = (number % 2 == 0).then_some(number);
            let channels = names.iter().map(String::as_str).collect();
            let claim = (number % 3 == 0).then(|| SentClaim { message_id: reason.into(), left_ms: number });
            let calls = [
                Call::Send(SendCall { channels, qos, message_type, ttl_ms, wait, claim, body: &body }),
                Call::Exists { who: who.clone() },
                Call::Subscribe { who: who.clone(), channel },
                Call::Unsubscribe { who: who.clone(), channel },
                Call::Evict { channel, keep: who },
                Call::Kick { identity: Identity([9; 32]), code, reason },
                Call::KickChannel { channel, code, reason },
                Call::Members { channel, offset: number, limit: number as u32, counts: stored },
                Call::Largest { most: number as u32, find: reason },
                Call::Info,
                Call::Session { name: channel },
                Call::DropSession { name: channel },
                Call::Pass { name: channel, token: Token(number) },
                Call::Passed { name: channel },
                Call::Offer { name: channel },
                Call::Sessions(Box::new(WantedSessions {
                    state: SessionState::ALL[number as usize % 4],
                    order: SessionOrder::ALL[number as usize % 2],
                    find: reason.into(),
                    most: number as u32 as usize,
                })),
                Call::Transfer(TransferCall::Has { name: channel }),
            ];
            for call in calls {
                let bytes = encoded(|out| call.encode_into(out));
                prop_assert_eq!(Call::decode(call.method(), &bytes), Some(call.clone()));
                let cut = (0..bytes.len()).filter_map(|len| Call::decode(call.method(), &bytes[..len]));
                prop_assert!(matches!(call, Call::Send(_)) || cut.count() == 0, "cut short");
            }
        }

        #[test]
        fn answers_survive_the_way(figures: [u32; 6], why in 0..=REASONS.len(), data: Vec<u8>, name in ".{0,9}") {
            let [targets, connections, stored, refused, undecided, unreachable] = figures;
            let why = REASONS.get(why).copied();
            let tally = Tally { targets, connections, stored, refused, undecided, unreachable, why };
            let refusal = REFUSALS.get(targets as usize % 12).copied();
            let answers = [
                Answer::Of(Reply::Sent { tally, data }),
                Answer::Of(Reply::Done { connections, refused: refusal }),
                Answer::Of(Reply::Members {
                    total: 70_000,
                    members: vec![
                        ChannelMember { identity: Identity([3; 32]), user: None },
                        ChannelMember { identity: Identity([4; 32]), user: Some("ann".into()) },
                    ],
                    traffic: (targets % 2 == 0).then_some(Traffic { messages: 5, deliveries: u64::from(stored) }),
                }),
                Answer::Of(Reply::Channels(vec![(name.clone(), 5), ("b".into(), 1)])),
                Answer::Of(Reply::Refused(refusal.unwrap_or(QueryRefusal::TooBusy))),
                Answer::Text(name.as_str().into()),
                Answer::Of(Reply::Session(None)),
                Answer::Of(Reply::Sessions {
                    total: targets as usize,
                    sessions: vec![SessionSummary {
                        name: name.as_str().into(),
                        identity: (targets % 2 == 0).then_some(Identity([7; 32])),
                        user: (targets % 3 == 0).then(|| "ann".into()),
                        waiting: stored,
                        waiting_bytes: u64::from(refused),
                        oldest_ms: (stored > 0).then_some(5),
                        left_ms: None,
                    }],
                }),
                Answer::Of(Reply::Session(Some(Box::new(SessionInfo {
                    name: name.as_str().into(),
                    identity: (targets % 2 == 0).then_some(Identity([7; 32])),
                    channels: vec![name.clone(), "c".into()],
                    waiting: stored,
                    waiting_bytes: u64::from(refused),
                    oldest_ms: (stored > 0).then_some(5),
                    left_ms: None,
                })))),
            ];
            for answer in answers {
                let bytes = encoded(|out| answer.encode_into(out));
                prop_assert_eq!(Answer::decode(answer.outcome(), &bytes), Some(answer));
            }
        }

        #[test]
        fn nonsense_is_refused_and_nothing_panics(kind: u8, bytes: Vec<u8>) {
            if let Some(call) = Call::decode(kind, &bytes) {
                prop_assert_eq!(encoded(|out| call.encode_into(out)).len(), bytes.len());
            }
            if let Some(answer) = Answer::decode(kind, &bytes) {
                prop_assert_eq!(encoded(|out| answer.encode_into(out)).len(), bytes.len());
            }
        }
    }

    #[test]
    fn every_reason_has_a_number() {
        let errors = [StoreError::DiskFull, StoreError::TooBusy].map(NotStored::Store).map(NotSent::NotStored);
        let some = [NotSent::TimeOver, NotSent::Silent, NotSent::Unreachable].into_iter().chain(errors);
        assert!(some.into_iter().all(|why| REASONS.contains(&why)));
    }
}
