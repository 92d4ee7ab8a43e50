//! Commands on their way through the store. They go out numbered and are completed in the same order; for each one that
//! is not completed this keeps what follows it (`Then`).

use crate::shard::call::query::Reply;
use crate::shard::call::waiting::CallRef;
use crate::shard::command::{Command, CommandNumber, Mutation, Offset, Operation, Received, SessionId};
use crate::shard::context::Context;
use crate::shard::ids::{QueryId, SessionKey};
use crate::shard::output::Output;
use crate::shard::planted::Bug;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What follows a command.
#[derive(Debug)]
pub enum Then {
    Nothing,
    /// The row of a session that is being attached; refused, the connection is.
    AttachRow {
        session: SessionKey,
        attachment: u32,
    },
    /// A channel that the session joins or leaves with that.
    AttachChannel {
        session: SessionKey,
        attachment: u32,
        channel: Arc<str>,
        joins: bool,
    },
    /// The first page of a session that is being attached.
    AttachPage {
        session: SessionKey,
        attachment: u32,
    },
    /// A further page.
    NextPage {
        session: SessionKey,
        attachment: u32,
    },
    /// A session's message is stored; `call` when the message is not in memory.
    MessageStored {
        session: SessionKey,
        offset: Offset,
        bytes: u64,
        call: Option<CallRef>,
    },
    /// The store knows that the client has the message, or that its time is over: REL may go out. `bytes` of it counted
    /// as waiting.
    Released {
        session: SessionKey,
        offset: Offset,
        bytes: u64,
        expired: bool,
    },
    /// The client has the message, or its time is over, and the store has forgotten it. `bytes` as above.
    MessageRemoved {
        session: SessionKey,
        bytes: u64,
        expired: bool,
    },
    /// What is left of a QoS 2 message, its REL, is stored.
    ReleaseStored {
        session: SessionKey,
        offset: Offset,
    },
    /// ACK or REC may go out, unless a change after number `since` has been refused. `then`: what is to be stored
    /// before it goes out, and not before those changes are known to be.
    AnswerStored {
        session: SessionKey,
        sequence: u64,
        since: CommandNumber,
        then: Option<Received>,
    },
    /// A change that came with an answer of the backend's.
    Changed(SessionKey),
    /// The mark of the client's numbering is stored: the forward queue may go on.
    MarkStored(SessionKey),
    /// Offsets below `upto` may be used.
    Reserved {
        session: SessionKey,
        upto: Offset,
    },
    /// A channel was joined or left by a call, or by an answer of the backend's.
    ChannelChanged {
        session: SessionKey,
        channel: Arc<str>,
        joins: bool,
        query: Option<(QueryId, Reply)>,
    },
    /// Replied to unless a change after number `since` has been refused.
    Settled {
        session: SessionKey,
        since: CommandNumber,
        query: (QueryId, Reply),
    },
    /// The last row of a session that is passed on.
    Flushed(SessionKey),
    /// A session is gone; `query` asked for that.
    Dropped {
        session: SessionId,
        query: Option<(QueryId, Reply)>,
    },
}

impl Then {
    #[cfg(debug_assertions)]
    fn attaches(&self) -> bool {
        matches!(self, Then::AttachRow { .. } | Then::AttachChannel { .. } | Then::AttachPage { .. })
    }

    /// The command brings something new into the store.
    #[cfg(debug_assertions)]
    fn adds(&self) -> bool {
        matches!(self, Then::MessageStored { .. } | Then::ChannelChanged { joins: true, .. } | Then::Changed(_))
    }
}

#[derive(Default)]
pub struct Commands {
    completed: CommandNumber,
    unfinished: VecDeque<Unfinished>,
    /// What all of them cost.
    bytes: usize,
}

struct Unfinished {
    then: Then,
    /// Of the command, wherever it waits, and of this.
    cost: u32,
}

impl Commands {
    /// Commands that the store has not completed.
    pub fn len(&self) -> usize {
        self.unfinished.len()
    }

    pub fn is_empty(&self) -> bool {
        self.unfinished.is_empty()
    }

    /// The number of the last command given out.
    pub fn last(&self) -> CommandNumber {
        CommandNumber(self.completed.0 + self.unfinished.len() as u64)
    }

    /// All commands up to this number are completed. While `Then` is carried out: the number of its command.
    pub fn completed(&self) -> CommandNumber {
        self.completed
    }

    /// Too much is unfinished: whatever asks for more of the store is refused. What ends (a message, a session, an
    /// attachment) is not: there is one end for each thing that was let in.
    pub fn is_busy(&self, cx: &Context<'_>) -> bool {
        let limits = &cx.settings.limits;
        let is_full = self.len() >= limits.commands_max || self.bytes >= limits.commands_bytes_max;
        is_full && !cx.is_planted(Bug::TakesCommandsWithoutLimit)
    }

    pub fn mutate(&mut self, mutation: Mutation, then: Then, cx: &mut Context<'_>) {
        let cost = mutation.cost();
        self.give_out(Operation::Mutate(mutation), (then, cost), cx);
    }

    pub fn load(&mut self, session: SessionId, after: Option<Offset>, then: Then, cx: &mut Context<'_>) {
        let limits = &cx.settings.limits;
        let most = (2 * cx.settings.inflight_window).clamp(limits.page_messages_min, limits.page_messages_max);
        self.give_out(Operation::Load { session, after, most }, (then, size_of::<Command>()), cx);
    }

    fn give_out(&mut self, operation: Operation, (then, cost): (Then, usize), cx: &mut Context<'_>) {
        let cost = cost + size_of::<Unfinished>();
        self.bytes += cost;
        self.unfinished.push_back(Unfinished { then, cost: cost as u32 });
        cx.output(Output::Store(Command { number: self.last(), operation }));
    }

    /// The next command that is completed up to `upto`, with its number and what follows it.
    pub fn complete_next(&mut self, upto: CommandNumber) -> Option<(CommandNumber, Then)> {
        if self.completed >= upto {
            return None;
        }
        let Some(Unfinished { then, cost }) = self.unfinished.pop_front() else {
            debug_assert!(false, "a command is completed that was not given out");
            return None;
        };
        self.bytes -= cost as usize;
        if self.unfinished.is_empty() && self.unfinished.capacity() > SPARE_MAX {
            self.unfinished = VecDeque::new();
        }
        self.completed.0 += 1;
        Some((self.completed, then))
    }

    /// What asks for more of the store keeps to the limit. An attachment is let in as a whole.
    #[cfg(debug_assertions)]
    pub fn check(&self, settings: &crate::shard::Settings) {
        let costs = self.unfinished.iter().map(|unfinished| unfinished.cost as usize);
        assert_eq!(self.bytes, costs.sum::<usize>());
        let adding = self.unfinished.iter().filter(|unfinished| unfinished.then.adds()).count();
        let attaches = self.unfinished.iter().filter(|unfinished| unfinished.then.attaches()).count();
        let limits = &settings.limits;
        assert!(adding <= limits.commands_max, "{adding} commands add something");
        let each = settings.channels_per_connection + 2;
        assert!(attaches <= limits.commands_max + each, "{attaches} commands attach");
    }

    /// The calls whose messages are on their way to the store, for invariants.
    #[cfg(debug_assertions)]
    pub fn calls(&self) -> impl Iterator<Item = CallRef> + '_ {
        self.unfinished.iter().filter_map(|unfinished| match unfinished.then {
            Then::MessageStored { call, .. } => call,
            _ => None,
        })
    }
}

/// Places kept when nothing is under way; what an outage took is given back.
const SPARE_MAX: usize = 4096;

/// Changes of memberships of channels among the unfinished commands. Memory is where the last of a channel takes it;
/// what the store refuses in between has not happened.
#[derive(Default)]
pub struct ChannelChanges(BTreeMap<(SessionKey, Arc<str>), UnderWay>);

struct UnderWay {
    changes: u32,
    /// Is the session a member by what the store has completed?
    stored: bool,
}

impl ChannelChanges {
    #[cfg(debug_assertions)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A change goes to the store. `was_joined`: in memory, before it.
    pub fn begin(&mut self, session: SessionKey, channel: Arc<str>, was_joined: bool) {
        self.0.entry((session, channel)).or_insert(UnderWay { changes: 0, stored: was_joined }).changes += 1;
    }

    pub fn is_under_way(&self, session: SessionKey, channel: &Arc<str>) -> bool {
        self.0.contains_key(&(session, channel.clone()))
    }

    /// A change is completed: `Some(joins)` when it was stored, `None` when it was refused. Returns whether the store
    /// has the session as a member, once no change of this channel is under way.
    pub fn complete(&mut self, session: SessionKey, channel: &Arc<str>, change: Option<bool>) -> Option<bool> {
        let Entry::Occupied(mut entry) = self.0.entry((session, channel.clone())) else {
            unreachable!("it was counted when it began");
        };
        let under_way = entry.get_mut();
        under_way.stored = change.unwrap_or(under_way.stored);
        under_way.changes -= 1;
        (under_way.changes == 0).then(|| entry.remove().stored)
    }
}
