//! Writes requests into a pipeline as calls of scripts: which keys and arguments each script takes.

use super::encoding;
use super::fencing::BatchId;
use super::keys::Keys;
use super::pipeline::Pipeline;
use super::script::Script;
use crate::shard::command::{Claim, Mutation, Offset, Operation, SessionId, StoredMessage, UnixMs};
use crate::store::request::Request;

/// What a call of a script needs beside the request itself.
pub struct Encoder<'a> {
    keys: &'a Keys,
    batch: BatchId,
    now: UnixMs,
}

impl Encoder<'_> {
    pub fn new(keys: &Keys, batch: BatchId, now: UnixMs) -> Encoder<'_> {
        Encoder { keys, batch, now }
    }

    /// `position`: of the request in its batch.
    pub fn encode(&self, pipeline: &mut Pipeline, request: &Request, position: usize) {
        match request {
            Request::Shard { command, .. } => match &command.operation {
                Operation::Mutate(mutation) => self.mutation(pipeline, mutation),
                Operation::Load { session, after, most } => self.load(pipeline, *session, *after, *most),
            },
            Request::Claim { claim, .. } => self.claim(pipeline, claim, position),
            Request::Settle { message_id, answer } => {
                let bucket = self.keys.bucket_of_claim(message_id);
                let key = self.keys.claim(message_id);
                pipeline.write(bucket, Script::SettleCall, &[&key], (&answer[..], self.now.0));
            }
        }
    }

    fn mutation(&self, pipeline: &mut Pipeline, mutation: &Mutation) {
        let (keys, token) = (self.keys, self.batch.token);
        match mutation {
            Mutation::PutSession(row) => {
                let bucket = keys.bucket_of_session(row.session);
                let (id, online) = (row.session.0.to_be_bytes(), if row.ends.is_none() { "1" } else { "0" });
                let names = [&keys.row(row.session)[..], &keys.sessions(bucket)];
                let args = (token, online, &id[..], encoding::encode_row(row));
                pipeline.write(bucket, Script::PutSession, &names, args);
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
            Mutation::PutMessage(message) => self.put_message(pipeline, message),
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
            Mutation::DropSession { session } => self.drop_session(pipeline, *session),
        }
    }

    fn put_message(&self, pipeline: &mut Pipeline, message: &StoredMessage) {
        let (keys, token, session) = (self.keys, self.batch.token, message.session);
        let bucket = keys.bucket_of_session(session);
        let (row, queue, due) = (keys.row(session), keys.queue(session), keys.due(bucket));
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

    fn load(&self, pipeline: &mut Pipeline, session: SessionId, after: Option<Offset>, most: usize) {
        let keys = self.keys;
        let names = [&keys.row(session)[..], &keys.queue(session), &keys.received(session)];
        let after = after.map_or(Vec::new(), |offset| offset.0.to_be_bytes().to_vec());
        let args = (self.batch.token, after, most.max(1), PAGE_BYTES_MAX);
        pipeline.read(keys.bucket_of_session(session), Script::LoadPage, &names, args);
    }

    fn claim(&self, pipeline: &mut Pipeline, claim: &Claim, position: usize) {
        let request = self.batch.request_id(position);
        let key = self.keys.claim(&claim.message_id);
        let args = (&request[..], &claim.until.0.to_be_bytes()[..], life_ms(claim.until, self.now), self.now.0);
        pipeline.write(self.keys.bucket_of_claim(&claim.message_id), Script::ClaimCall, &[&key], args);
    }

    pub fn drop_session(&self, pipeline: &mut Pipeline, session: SessionId) {
        let keys = self.keys;
        let bucket = keys.bucket_of_session(session);
        let names = [
            &keys.row(session)[..],
            &keys.queue(session),
            &keys.channels(session),
            &keys.received(session),
            &keys.sessions(bucket),
            &keys.due(bucket),
        ];
        let id = session.0.to_be_bytes();
        pipeline.write(bucket, Script::DropSession, &names, (self.batch.token, &id[..]));
    }
}

/// After so long Redis removes the key by itself. Its clock need not be ours: only the distance is sent.
fn life_ms(until: UnixMs, now: UnixMs) -> u64 {
    until.0.saturating_sub(now.0).max(1)
}

/// Of one page, which has at least one message.
const PAGE_BYTES_MAX: usize = 1 << 20;
