//! One message to many: small channels at once, large ones in slices, so that a million deliveries do not starve the
//! core.
//!
//! A *run* goes once over a channel's members and delivers every message that was waiting for the channel when the run
//! began. Messages that come meanwhile wait for the next run: the busier a channel, the more frames share one write.

use super::channels::ChannelIndex;
use super::downlink::Delivery;
#[cfg(debug_assertions)]
use super::invariants::Holdings;
use super::messages::{Message, MessageRef};
use super::parts::QueryId;
use super::query::{DurableTally, Terms};
use super::storeline::SessionKey;
use super::{Output, Reply, Shard};
use crate::base::time::Tick;
use crate::wire::packet::{self, QoS};
use crate::wire::ws::frame::CloseCode;
use std::collections::VecDeque;
use std::rc::Rc;

/// Members of a large channel served before the rest of the core gets its turn: a sixth of a millisecond, which a
/// message of somebody else waits twice. A slice of a run of several messages has fewer.
pub const SLICE: usize = 32;

/// Channels of up to so many members are served in one go.
pub const AT_ONCE: usize = 64;

/// What a write costs, in frames: the frames behind the first come cheaper.
const WRITE_COST: usize = 4;

/// Messages that may wait for runs; more are refused.
pub const JOBS_MAX: usize = 4096;

/// The longest frame header and the header of a SEND: what a body of the largest allowed length may have before it.
const SEND_HEADERS_MAX: usize = 10 + packet::SEND_ID_AT + packet::ID_LEN;
const TOO_MANY_JOBS: &str = "too many messages at once";

#[derive(Default)]
pub struct Fanout {
    runs: VecDeque<Run>,
    jobs: usize,
    spare_members: Vec<(u32, u32)>,
}

struct Run {
    channel: Box<str>,
    jobs: Vec<Job>,
    /// Slot and generation of those who were members when the run began; `None` before.
    members: Option<Vec<(u32, u32)>>,
    next: usize,
}

enum Job {
    Deliver { message: MessageRef, ticket: QueryId, terms: Terms, delivery: Option<Delivery> },
    Close { code: CloseCode, reason: Rc<str> },
}

impl Fanout {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

impl Shard {
    /// A message to all members of a channel.
    pub(super) fn send(&mut self, ticket: QueryId, channel: &str, message: Message, terms: &Terms, now: Tick) {
        let sent = |connections: usize| {
            let reply =
                Reply::Sent { connections: connections as u32, data: Vec::new(), kept: DurableTally::default() };
            Output::Reply { ticket, reply }
        };
        let Some(channel_index) = self.channels.find(channel) else { return self.outputs.push_back(sent(0)) };
        if let Some(why) = self.too_large(&message) {
            return self.outputs.push_back(Output::Reply { ticket, reply: Reply::Refused(why) });
        }
        let members = self.channels.members(channel_index).len();
        if message.qos == QoS::AtMostOnce {
            let online = if self.sessions.is_empty() { members } else { self.online_members(channel) };
            self.outputs.push_back(sent(online));
        }
        if members > AT_ONCE || self.has_run(channel) {
            self.wait_for_run(ticket, channel, message, terms);
            return;
        }
        let message = self.messages.insert(message);
        if members == 1 {
            let index = self.channels.members(channel_index).next().expect("counted");
            let delivery = self.open_part(&message, ticket, 1, terms, now);
            self.deliver_one(index, &message, delivery.as_ref(), now);
        } else {
            self.send_now(ticket, channel_index, &message, terms, now);
        }
        self.messages.release(message);
    }

    fn send_now(&mut self, ticket: QueryId, channel: ChannelIndex, message: &MessageRef, terms: &Terms, now: Tick) {
        // A delivery may close its connection, which leaves the channel: so go over a copy.
        let mut members = std::mem::take(&mut self.member_scratch);
        members.clear();
        members.extend(self.channels.members(channel));
        let delivery = self.open_part(message, ticket, members.len(), terms, now);
        for &index in &members {
            self.deliver_one(index, message, delivery.as_ref(), now);
        }
        self.member_scratch = members;
    }

    /// `None` at QoS 0: nobody waits.
    pub(super) fn open_part(
        &mut self,
        message: &MessageRef,
        ticket: QueryId,
        members: usize,
        terms: &Terms,
        now: Tick,
    ) -> Option<Delivery> {
        let acknowledged = self.messages.get(message).qos != QoS::AtMostOnce;
        acknowledged.then(|| Delivery {
            part: self.parts.open(ticket, members as u32, terms.deadline),
            deadline: terms.deadline,
            expires: self.expires(terms, now),
            claim: terms.claim.clone(),
        })
    }

    fn deliver_one(&mut self, member: u32, message: &MessageRef, delivery: Option<&Delivery>, now: Tick) {
        match (Shard::session_member(member), delivery) {
            (Some(session), delivery) => self.deliver_to_session(session, message, delivery, now),
            (None, None) => self.deliver_qos0(member, message),
            (None, Some(delivery)) => self.deliver(member, message, delivery, now),
        }
    }

    /// Why no client can get it.
    pub(super) fn too_large(&self, message: &Message) -> Option<&'static str> {
        let fits = message.len() <= self.settings.outbox_bytes_max + SEND_HEADERS_MAX;
        (!fits).then_some("the message is larger than outbox_bytes_max")
    }

    /// Members that are there: all but the sessions that are absent.
    pub(super) fn online_members(&self, channel: &str) -> usize {
        let Some(channel) = self.channels.find(channel) else { return 0 };
        self.channels.members(channel).filter(|&member| self.member_conn(member).is_some()).count()
    }

    /// The open connection of a channel's member.
    pub(super) fn member_conn(&self, member: u32) -> Option<u32> {
        match Shard::session_member(member) {
            Some(session) => self.online_conn(session),
            None => Some(member),
        }
    }

    /// Closes all members of a channel; replies how many there are.
    pub(super) fn close_channel(&mut self, channel: &str, code: CloseCode, reason: &str) -> Reply {
        let members = self.channels.find(channel).map_or(0, |channel| self.channels.members(channel).len());
        if members > 0 {
            if self.fanout.jobs >= JOBS_MAX {
                self.stats.fanout_refused += 1;
                return Reply::Refused(TOO_MANY_JOBS);
            }
            self.add_job(channel, Job::Close { code, reason: reason.into() });
        }
        Reply::Done { connections: members as u32 }
    }

    fn has_run(&self, channel: &str) -> bool {
        self.fanout.runs.iter().any(|run| &*run.channel == channel)
    }

    fn wait_for_run(&mut self, ticket: QueryId, channel: &str, message: Message, terms: &Terms) {
        if self.fanout.jobs >= JOBS_MAX {
            self.stats.fanout_refused += 1;
            if message.qos != QoS::AtMostOnce {
                self.outputs.push_back(Output::Reply { ticket, reply: Reply::Refused(TOO_MANY_JOBS) });
            }
            return;
        }
        let message = self.messages.insert(message);
        self.add_job(channel, Job::Deliver { message, ticket, terms: terms.clone(), delivery: None });
    }

    fn add_job(&mut self, channel: &str, job: Job) {
        self.fanout.jobs += 1;
        let waiting = self.fanout.runs.iter_mut().find(|run| run.members.is_none() && &*run.channel == channel);
        match waiting {
            Some(run) => run.jobs.push(job),
            None => {
                self.fanout.runs.push_back(Run { channel: channel.into(), jobs: vec![job], members: None, next: 0 })
            }
        }
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_fanout(&self, all: &mut Holdings) {
        let mut jobs = 0;
        for run in &self.fanout.runs {
            let left = run.members.as_ref().map_or(0, |members| members.len() - run.next);
            for job in &run.jobs {
                let Job::Deliver { delivery, .. } = job else { continue };
                all.message_uses += 1;
                all.parts.extend(delivery.iter().flat_map(|delivery| std::iter::repeat_n(delivery.part, left)));
            }
            jobs += run.jobs.len();
        }
        assert_eq!(self.fanout.jobs, jobs);
    }

    /// One slice of the first run. True when there is more to do.
    pub fn poll_fanout(&mut self, now: Tick) -> bool {
        // Told work brings the next turn.
        if self.store_is_behind() {
            return false;
        }
        let Some(mut run) = self.fanout.runs.pop_front() else { return false };
        if run.members.is_none() {
            self.start_run(&mut run, now);
        }
        let members = run.members.take().expect("started");
        let most = (SLICE * (1 + WRITE_COST) / (run.jobs.len() + WRITE_COST)).max(1);
        let slice = &members[run.next..members.len().min(run.next + most)];
        for &(index, generation) in slice {
            self.serve(&run.jobs, index, generation, now);
        }
        run.next += slice.len();
        if run.next < members.len() {
            run.members = Some(members);
            self.fanout.runs.push_front(run);
            return true;
        }
        self.fanout.jobs -= run.jobs.len();
        for job in run.jobs {
            if let Job::Deliver { message, .. } = job {
                self.messages.release(message);
            }
        }
        self.fanout.spare_members = members;
        !self.fanout.is_empty()
    }

    fn start_run(&mut self, run: &mut Run, now: Tick) {
        let mut members = std::mem::take(&mut self.fanout.spare_members);
        members.clear();
        if let Some(channel) = self.channels.find(&run.channel) {
            let generation = |member: u32| match Shard::session_member(member) {
                Some(session) => self.sessions.at(session).generation,
                None => u32::from(self.conns[member as usize].generation),
            };
            members.extend(self.channels.members(channel).map(|member| (member, generation(member))));
        }
        for job in &mut run.jobs {
            let Job::Deliver { message, ticket, terms, delivery } = job else { continue };
            if self.messages.get(message).qos == QoS::AtMostOnce {
                continue;
            }
            if members.is_empty() {
                let reply = Reply::Sent { connections: 0, data: Vec::new(), kept: DurableTally::default() };
                self.outputs.push_back(Output::Reply { ticket: *ticket, reply });
            } else {
                *delivery = self.open_part(message, *ticket, members.len(), terms, now);
            }
        }
        run.members = Some(members);
    }

    /// All of the run's messages to one member: one write will carry them.
    fn serve(&mut self, jobs: &[Job], member: u32, generation: u32, now: Tick) {
        let present = match Shard::session_member(member) {
            Some(index) => self.sessions.get(SessionKey { index, generation }).is_some(),
            None => self.conns.get(member as usize).is_some_and(|conn| u32::from(conn.generation) == generation),
        };
        for job in jobs {
            match job {
                Job::Deliver { message, delivery, .. } if present => {
                    self.deliver_one(member, message, delivery.as_ref(), now);
                }
                Job::Deliver { delivery: Some(delivery), .. } => self.part_gone(Some(delivery.part)),
                Job::Deliver { delivery: None, .. } => {}
                Job::Close { code, reason } if present => {
                    if let Some(index) = self.member_conn(member) {
                        self.kick(index, *code, reason, now);
                    }
                }
                Job::Close { .. } => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
