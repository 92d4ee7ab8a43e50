//! Calls of the business server as values: what is to be done, for whom, with which limits.

use crate::base::id::Identity;
use crate::shard::{Wait, Who};
use crate::wire::packet::QoS;
use crate::wire::ws::frame::CloseCode;
use std::borrow::Cow;
use std::time::Duration;

/// A call of the business server.
#[derive(Debug, PartialEq)]
pub enum Call<'a> {
    /// One body to one channel, to one durable session, or with /broadcast/ to several channels.
    Send {
        to: Targets<'a>,
        message_type: u16,
        qos: QoS,
        timeout: Duration,
        /// How long the message waits for absent sessions; `None`: as configured.
        ttl_ms: Option<u64>,
        /// The caller's own id: a repeat of the call gets the first answer and sends nothing.
        message_id: Option<Cow<'a, str>>,
        wait: Wait,
    },
    Subscribe {
        who: Who,
        channel: String,
        occupy: bool,
    },
    /// `who` is `None` when the identity cannot be one of ours: there is nothing to do.
    Unsubscribe {
        who: Option<Who>,
        channel: String,
    },
    Kick {
        target: KickTarget,
        code: CloseCode,
        reason: String,
    },
    DropSession {
        session: String,
    },
}

/// The receivers of a send: nearly always one channel, for which nothing is allocated.
#[derive(Debug, PartialEq)]
pub enum Targets<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
    Session(Cow<'a, str>),
}

impl<'a> Targets<'a> {
    /// Empty when the send is for a session.
    pub fn channels(&self) -> &[Cow<'a, str>] {
        match self {
            Targets::One(channel) => std::slice::from_ref(channel),
            Targets::Many(channels) => channels,
            Targets::Session(_) => &[],
        }
    }
}

#[derive(Debug, PartialEq)]
pub enum KickTarget {
    Identity(Identity),
    Channel(String),
    User(String),
}

/// How long a send may wait for its receivers' answers, as configured.
#[derive(Clone, Copy)]
pub struct Timeouts {
    pub default: Duration,
    pub max: Duration,
}
