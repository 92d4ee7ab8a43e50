//! Writes requests into a pipeline as calls of scripts: which keys and arguments each script takes.

use super::encoding;
use super::fencing::BatchId;
use super::keys::{Keys, text_of};
use super::owned::Owned;
use super::pipeline::Pipeline;
use super::script::Script;
use crate::base::id::{Generation, Identity};
use crate::shard::command::Token;
use crate::shard::command::{Claim, Mutation, Offset, Operation, SessionId, SessionRow, StoredMessage, UnixMs};
use crate::store::opening::Sharing;
use crate::store::request::ConnectionRecord;
use redis::cmd;
use std::sync::Arc;

/// What a call of a script needs beside the request itself.
pub struct Encoder<'a> {
    pub keys: &'a Keys,
    pub node: Generation,
    pub owned: &'a Owned,
    pub batch: BatchId,
    pub now: UnixMs,
}

/// Another server has the session.
pub struct NotOwned;

impl Encoder<'_> {
    /// Of what belongs to no session. `position`: of the request in its batch.
    pub fn claim_call(&self, pipeline: &mut Pipeline, claim: &Claim, position: usize) {
        let request = self.batch.request_id(position);
        let key = self.keys.claim(&claim.message_id);
        let args = (&request[..], &claim.until.0.to_be_bytes()[..], life_ms(claim.until, self.now), self.now.0);
        pipeline.write(self.keys.bucket_of_name(&claim.message_id), Script::ClaimCall, &[&key], args);
    }

    pub fn settle_call(&self, pipeline: &mut Pipeline, message_id: &str, answer: &[u8]) {
        let (bucket, key) = (self.keys.bucket_of_name(message_id), self.keys.claim(message_id));
        pipeline.write(bucket, Script::SettleCall, &[&key], (answer, self.now.0));
    }

    pub fn put_connection(&self, pipeline: &mut Pipeline, record: &ConnectionRecord) {
        let bucket = self.keys.bucket_of_connection(&record.identity);
        let names = [&self.keys.nodes(bucket)[..], &self.keys.connections(bucket, self.node)];
        let args = (&text_of(self.node)[..], &record.identity.0[..], encoding::encode_connection(record));
        pipeline.write(bucket, Script::PutConnection, &names, args);
    }

    pub fn remove_connection(&self, pipeline: &mut Pipeline, identity: &Identity) {
        let bucket = self.keys.bucket_of_connection(identity);
        let key = self.keys.connections(bucket, self.node);
        pipeline.write_command(bucket, cmd("HDEL").arg(key).arg(&identity.0[..]));
    }

    /// Of a shard.
    pub fn operation(&self, pipeline: &mut Pipeline, operation: &Operation) -> Result<(), NotOwned> {
        match operation {
            Operation::Mutate(mutation) => {
                let token = self.owned.token(mutation.session()).ok_or(NotOwned)?;
                self.mutation(pipeline, mutation, token);
            }
            Operation::Load { session, after, most } => {
                let token = self.owned.token(*session).ok_or(NotOwned)?;
                self.load(pipeline, token, *session, *after, *most);
            }
        }
        Ok(())
    }

    fn mutation(&self, pipeline: &mut Pipeline, mutation: &Mutation, token: Token) {
        let keys = self.keys;
        match mutation {
            Mutation::PutSession(row) => {
                let bucket = keys.bucket_of_session(row.session);
                let id = row.session.0.to_be_bytes();
                let may_be_new = if self.owned.sharing() == Sharing::Alone { "1" } else { "0" };
                let mut names = vec![keys.row(row.session), keys.sessions(bucket), keys.owned(bucket, self.node)];
                names.extend(keys.name_beside(&row.name, row.session));
                let args = (token, may_be_new, &id[..], encoding::encode_row(row));
                pipeline.write(bucket, Script::PutSession, &slices(&names), args);
            }
            Mutation::JoinChannel { session, channel } => {
                let names = [&keys.row(*session)[..], &keys.channels(*session)];
                let bucket = keys.bucket_of_session(*session);
                pipeline.write(bucket, Script::JoinChannel, &names, (token, channel.as_bytes()));
            }
            Mutation::LeaveChannel { session, channel } => {
                let names = [&keys.row(*session)[..], &keys.channels(*session)];
                let bucket = keys.bucket_of_session(*session);
                pipeline.write(bucket, Script::LeaveChannel, &names, (token, channel.as_bytes()));
            }
            Mutation::PutMessage(message) => self.put_message(pipeline, message, token),
            Mutation::ReleaseMessage { session, offset } => {
                let names = [&keys.row(*session)[..], &keys.queue(*session)];
                let args = (token, &offset.0.to_be_bytes()[..]);
                pipeline.write(keys.bucket_of_session(*session), Script::ReleaseMessage, &names, args);
            }
            Mutation::RemoveMessage { session, offset } => {
                let names = [&keys.row(*session)[..], &keys.queue(*session)];
                let args = (token, &offset.0.to_be_bytes()[..]);
                pipeline.write(keys.bucket_of_session(*session), Script::RemoveMessage, &names, args);
            }
            Mutation::PutReceived { session, received } => {
                let names = [&keys.row(*session)[..], &keys.received(*session)];
                let args = (token, &received.id.0.to_be_bytes()[..], encoding::encode_received(received));
                pipeline.write(keys.bucket_of_session(*session), Script::PutReceived, &names, args);
            }
            Mutation::RemoveReceived { session, id } => {
                let names = [&keys.row(*session)[..], &keys.received(*session)];
                let args = (token, &id.0.to_be_bytes()[..]);
                pipeline.write(keys.bucket_of_session(*session), Script::RemoveReceived, &names, args);
            }
            Mutation::DropSession { session } => self.drop_session(pipeline, *session, token),
        }
    }

    fn put_message(&self, pipeline: &mut Pipeline, message: &StoredMessage, token: Token) {
        let (keys, session) = (self.keys, message.session);
        let bucket = keys.bucket_of_session(session);
        let (row, queue, due) = (keys.row(session), keys.queue(session), keys.due_of(bucket, self.node));
        let id = session.0.to_be_bytes();
        let (entry, now) = (encoding::encode_message(message), self.now.0);
        match &message.claim {
            None => pipeline.write(bucket, Script::PutMessage, &[&row, &queue, &due], (token, &id[..], entry, now)),
            Some(claim) => {
                let guard = keys.guard(session, &claim.message_id);
                let value = [claim.until.0.to_be_bytes(), message.offset.0.to_be_bytes()].concat();
                let args = (token, &id[..], entry, now, value, life_ms(claim.until, self.now));
                pipeline.write(bucket, Script::PutMessage, &[&row, &queue, &due, &guard], args);
            }
        }
    }

    fn load(&self, pipeline: &mut Pipeline, token: Token, session: SessionId, after: Option<Offset>, most: usize) {
        let keys = self.keys;
        let names = [&keys.row(session)[..], &keys.queue(session), &keys.received(session)];
        let after = after.map_or(Vec::new(), |offset| offset.0.to_be_bytes().to_vec());
        let args = (token, after, most.max(1), PAGE_BYTES_MAX);
        pipeline.read(keys.bucket_of_session(session), Script::LoadPage, &names, args);
    }

    pub fn drop_session(&self, pipeline: &mut Pipeline, session: SessionId, token: Token) {
        let keys = self.keys;
        let bucket = keys.bucket_of_session(session);
        let mut names = vec![
            keys.row(session),
            keys.queue(session),
            keys.channels(session),
            keys.received(session),
            keys.sessions(bucket),
            keys.owned(bucket, self.node),
            keys.due_of(bucket, self.node),
        ];
        names.extend(self.owned.name_key(keys, session));
        pipeline.write(bucket, Script::DropSession, &slices(&names), (token, &session.0.to_be_bytes()[..]));
    }

    /// `session`: of this name, or new.
    pub fn claim_session(
        &self,
        pipeline: &mut Pipeline,
        (name, session): (&Arc<str>, SessionId),
        expected: Option<Token>,
        token: Token,
    ) {
        let keys = self.keys;
        let bucket = keys.bucket_of_session(session);
        let before = expected.and_then(Token::owner).unwrap_or(self.node);
        let names = [
            keys.row(session),
            keys.queue(session),
            keys.channels(session),
            keys.sessions(bucket),
            keys.name(name),
            keys.nodes(bucket),
            keys.lease(bucket, self.node),
            keys.owned(bucket, self.node),
            keys.due_of(bucket, self.node),
            keys.owned(bucket, before),
            keys.due_of(bucket, before),
        ];
        let new = encoding::encode_row(&SessionRow::unused(session, name.clone()));
        let (expected, id) = (expected.unwrap_or(Token(0)), session.0.to_be_bytes());
        let args = (token, expected, &id[..], new, &text_of(self.node)[..]);
        pipeline.write(bucket, Script::ClaimSession, &slices(&names), args);
    }

    pub fn pass_session(&self, pipeline: &mut Pipeline, session: SessionId, token: Token, to: Token) {
        let keys = self.keys;
        let bucket = keys.bucket_of_session(session);
        let next = to.owner().unwrap_or(self.node);
        let names = [
            keys.row(session),
            keys.owned(bucket, self.node),
            keys.due_of(bucket, self.node),
            keys.owned(bucket, next),
            keys.due_of(bucket, next),
            keys.nodes(bucket),
        ];
        let args = (token, to, &session.0.to_be_bytes()[..], &text_of(next)[..]);
        pipeline.write(bucket, Script::PassSession, &slices(&names), args);
    }

    pub fn verify_session(&self, pipeline: &mut Pipeline, session: SessionId, token: Token) {
        let bucket = self.keys.bucket_of_session(session);
        pipeline.read(bucket, Script::VerifySession, &[&self.keys.row(session)], token);
    }
}

fn slices(names: &[Vec<u8>]) -> Vec<&[u8]> {
    names.iter().map(Vec::as_slice).collect()
}

/// After so long Redis removes the key by itself. Its clock need not be ours: only the distance is sent.
fn life_ms(until: UnixMs, now: UnixMs) -> u64 {
    until.0.saturating_sub(now.0).max(1)
}

/// Of one page, which has at least one message.
const PAGE_BYTES_MAX: usize = 1 << 20;
