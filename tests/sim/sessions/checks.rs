//! What must be true when nothing goes wrong any more, and of what is on disk when a process starts.

use super::connection::Stage;
use super::world::{CHANNELS, World, channel_name};
use rainbow::shard::command::SessionId;
use rainbow::shard::{Query, Reply};

impl World {
    /// Everyone is back and has what is its, and nothing is under way.
    pub fn is_settled(&mut self) -> bool {
        if !self.is_serving() || !self.calls.all_replied() || !self.backend.is_idle() || !self.store.is_idle() {
            return false;
        }
        let back = self.clients.iter().all(|client| {
            client.outstanding.is_empty()
                && client.connection.is_some_and(|id| {
                    let connection = &self.connections[id];
                    connection.stage == Stage::Open
                        && connection.epoch == self.epoch
                        && connection.greeted
                        && !connection.awaits_pong
                        && connection.later.is_empty()
                })
        });
        back && self.shard().store_under_way() == 0 && !self.any_message_is_waiting() && !self.any_id_is_unreleased()
    }

    fn any_message_is_waiting(&mut self) -> bool {
        let sessions: Vec<SessionId> = self.known.values().copied().collect();
        sessions.into_iter().any(|session| self.store.waiting(session).0 > 0)
    }

    /// Ids that a client holds between SEND and REL, but for those that the server has given up.
    fn any_id_is_unreleased(&self) -> bool {
        let (calls, unix_ms) = (&self.calls, self.unix_ms());
        let unreleased = |client: &super::client::Client| {
            let mut tokens = client.received.values();
            tokens.any(|token| client.repeats_rec() || calls.is_promised(*token, unix_ms))
        };
        self.clients.iter().any(unreleased)
    }

    /// Why it is not settled, for the message.
    pub fn rest(&mut self) -> String {
        let mut rest = format!(
            "serving {}, calls {}, backend {}, store {}",
            self.is_serving(),
            self.calls.all_replied(),
            self.backend.is_idle(),
            self.store.is_idle()
        );
        for n in 0..self.clients.len() {
            let client = &self.clients[n];
            let connection = client.connection.map(|id| self.connections[id].stage);
            let tokens: Vec<u64> = client.outstanding.iter().map(|out| out.token).collect();
            let received = client.received.clone();
            let waiting = self.known.get(&n).map(|&session| self.store.waiting(session));
            rest += &format!(
                "\nclient {n}: {connection:?}, unanswered {tokens:?}, holds {received:?}, waiting {waiting:?}"
            );
        }
        rest
    }

    pub fn check_settled(&mut self) {
        self.check_promises();
        self.check_waiting();
        self.check_channels();
        self.check_members();
        for client in &self.clients {
            for token in client.answered.keys() {
                assert!(self.backend.answer_to(*token).is_some(), "{token} was answered and not done");
            }
        }
    }

    /// The store's thread lives and dies with the process.
    pub fn purge(&mut self) {
        if self.server.is_none() {
            return;
        }
        self.check_members();
        if self.store.is_idle() && self.shard().store_under_way() == 0 {
            self.check_waiting();
        }
        self.store.purge(self.now);
        self.report_soon();
    }

    /// The counts in memory are those on disk.
    pub fn check_waiting(&mut self) {
        if self.store.inexact || self.store.fell_back {
            return;
        }
        let known: Vec<(usize, SessionId)> = self.known.iter().map(|(&client, &session)| (client, session)).collect();
        for (client, session) in known {
            let info = self.session_info(client).expect("it is known");
            assert_eq!((info.waiting, info.waiting_bytes), self.store.waiting(session), "of {session:?}");
        }
    }

    /// Channels are as the last confirmed change left them.
    pub fn check_channels(&mut self) {
        if self.store.fell_back {
            return;
        }
        let known: Vec<(usize, SessionId)> = self.known.iter().map(|(&client, &session)| (client, session)).collect();
        for (client, session) in known {
            let info = self.session_info(client).expect("it is known");
            for channel in 0..CHANNELS {
                if let Some((_, Some(joined))) = self.channel_ops.get(&(session, channel)) {
                    let is = info.channels.iter().any(|name| name == channel_name(channel));
                    assert_eq!(is, *joined, "is {session:?} in {}?", channel_name(channel));
                }
            }
        }
    }

    /// As many members are counted as are named: those that are online.
    fn check_members(&mut self) {
        for channel in 0..CHANNELS {
            let query =
                Query::Members { channel: channel_name(channel).into(), offset: 0, limit: usize::MAX, counts: false };
            let Reply::Members { total, members, .. } = self.query(query) else { panic!("members were asked for") };
            assert_eq!(total, members.len(), "members of {}", channel_name(channel));
        }
    }

    pub fn channel_is_sure(&mut self, session: SessionId, channel: usize, by: u64, joins: bool) {
        if self.channel_ops.get(&(session, channel)).is_some_and(|(last, _)| *last == by) {
            self.channel_ops.insert((session, channel), (by, Some(joins)));
            self.seen.channels_sure += 1;
        }
    }

    pub fn tally(&mut self) {
        self.seen.torn = self.store.torn;
        self.seen.refusals = self.store.refusals;
        self.seen.known_claims = self.store.known;
        self.seen.expired_messages = self.store.expired;
    }
}
