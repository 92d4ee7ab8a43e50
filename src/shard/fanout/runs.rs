//! One message to many: small channels at once, large ones in slices, so that a million deliveries do not starve the
//! worker.
//!
//! A *run* goes once over a channel's members and delivers every message that was waiting for the channel when the run
//! began. Messages that come meanwhile wait for the next run: the busier a channel, the more frames share one write.

use super::delivery::{self, conn_of, deliver, kick, online_members, open_call};
use crate::shard::call::query::{QueryRefusal, Reply, Terms};
use crate::shard::channel::members::ChannelIndex;
use crate::shard::connection::pending::MemberTerms;
use crate::shard::ids::{Member, QueryId};
use crate::shard::message::{Message, MessageRef};
use crate::shard::session::scope::Scope;
use crate::wire::packet::QoS;
use crate::wire::ws::frame::CloseCode;
use std::collections::VecDeque;
use std::rc::Rc;

#[derive(Default)]
pub struct Fanout {
    runs: VecDeque<Run>,
    jobs: usize,
    spare_members: Vec<(Member, u32)>,
}

struct Run {
    channel: Box<str>,
    jobs: Vec<Job>,
    /// Members and their generations when the run began; `None` before.
    members: Option<Vec<(Member, u32)>>,
    next: usize,
}

enum Job {
    Deliver { message: MessageRef, query: QueryId, terms: Terms, member_terms: Option<MemberTerms> },
    Close { code: CloseCode, reason: Rc<str> },
}

impl Fanout {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// A message to all members of a channel.
    pub fn send(&mut self, scope: &mut Scope<'_>, query: QueryId, channel: &str, message: Message, terms: &Terms) {
        let Some(index) = scope.channels.find(channel) else { return scope.cx.reply(query, Reply::sent(0)) };
        if let Some(why) = delivery::too_large(&message, &scope.cx) {
            return scope.cx.reply(query, Reply::Refused(why));
        }
        if message.qos == QoS::AtMostOnce {
            let online = online_members(scope, index);
            scope.cx.reply(query, Reply::sent(online));
        }
        let at_once = scope.channels.members_len(index) <= scope.cx.settings.limits.fanout_at_once_members;
        if !at_once || self.has_run(channel) {
            return self.wait_for_run(scope, query, channel, message, terms);
        }
        let message = scope.cx.messages.insert(message);
        send_at_once(scope, query, index, &message, terms);
        scope.cx.messages.release(message);
    }

    /// Closes all members of a channel; replies how many there are.
    pub fn close_channel(&mut self, scope: &Scope<'_>, channel: &str, code: CloseCode, reason: &str) -> Reply {
        let members = scope.channels.find(channel).map_or(0, |channel| scope.channels.members_len(channel));
        if members > 0 {
            if self.jobs >= scope.cx.settings.limits.fanout_jobs_max {
                scope.cx.metrics.fanout_refused.increment();
                return Reply::Refused(QueryRefusal::TooManyMessages);
            }
            self.add_job(channel, Job::Close { code, reason: reason.into() });
        }
        Reply::Done { connections: members as u32 }
    }

    fn has_run(&self, channel: &str) -> bool {
        self.runs.iter().any(|run| &*run.channel == channel)
    }

    fn wait_for_run(&mut self, scope: &mut Scope<'_>, query: QueryId, channel: &str, message: Message, terms: &Terms) {
        if self.jobs >= scope.cx.settings.limits.fanout_jobs_max {
            scope.cx.metrics.fanout_refused.increment();
            if message.qos != QoS::AtMostOnce {
                scope.cx.reply(query, Reply::Refused(QueryRefusal::TooManyMessages));
            }
            return;
        }
        let message = scope.cx.messages.insert(message);
        self.add_job(channel, Job::Deliver { message, query, terms: terms.clone(), member_terms: None });
    }

    fn add_job(&mut self, channel: &str, job: Job) {
        self.jobs += 1;
        let waiting = self.runs.iter_mut().find(|run| run.members.is_none() && &*run.channel == channel);
        match waiting {
            Some(run) => run.jobs.push(job),
            None => self.runs.push_back(Run { channel: channel.into(), jobs: vec![job], members: None, next: 0 }),
        }
    }

    /// One slice of the first run. True when there is more to do.
    pub fn poll(&mut self, scope: &mut Scope<'_>) -> bool {
        let limits = &scope.cx.settings.limits;
        // The completions bring the next turn.
        if scope.sessions.commands.len() >= limits.commands_behind {
            return false;
        }
        // What comes behind the first frame of a write is cheaper: a slice of a run of several messages has fewer
        // members.
        let slice_cost = limits.fanout_slice_members * (1 + WRITE_COST);
        let Some(mut run) = self.runs.pop_front() else { return false };
        let members = match run.members.take() {
            Some(members) => members,
            None => self.start(scope, &mut run),
        };
        let most = (slice_cost / (run.jobs.len() + WRITE_COST)).max(1);
        let slice = &members[run.next..members.len().min(run.next + most)];
        for &(member, generation) in slice {
            serve(scope, &run.jobs, member, generation);
        }
        run.next += slice.len();
        if run.next < members.len() {
            run.members = Some(members);
            self.runs.push_front(run);
            return true;
        }
        self.jobs -= run.jobs.len();
        for job in run.jobs {
            if let Job::Deliver { message, .. } = job {
                scope.cx.messages.release(message);
            }
        }
        self.spare_members = members;
        !self.is_empty()
    }

    /// The run's members, and the calls that wait for them.
    fn start(&mut self, scope: &mut Scope<'_>, run: &mut Run) -> Vec<(Member, u32)> {
        let mut members = std::mem::take(&mut self.spare_members);
        members.clear();
        if let Some(channel) = scope.channels.find(&run.channel) {
            let with_generation = |member| (member, delivery::generation(scope, member));
            members.extend(scope.channels.members(channel).map(with_generation));
        }
        for job in &mut run.jobs {
            let Job::Deliver { message, query, terms, member_terms } = job else { continue };
            if scope.cx.messages.get(message).qos == QoS::AtMostOnce {
                continue;
            }
            if members.is_empty() {
                scope.cx.reply(*query, Reply::sent(0));
            } else {
                *member_terms = open_call(scope, *query, message, members.len(), terms);
            }
        }
        members
    }

    /// The messages of runs, and the calls that wait for members not reached yet, for invariants.
    #[cfg(debug_assertions)]
    pub fn check(&self) -> (usize, Vec<crate::shard::call::waiting::CallRef>) {
        let (mut jobs, mut message_uses, mut calls) = (0, 0, Vec::new());
        for run in &self.runs {
            let left = run.members.as_ref().map_or(0, |members| members.len() - run.next);
            for job in &run.jobs {
                let Job::Deliver { member_terms, .. } = job else { continue };
                message_uses += 1;
                calls.extend(member_terms.iter().flat_map(|member_terms| std::iter::repeat_n(member_terms.call, left)));
            }
            jobs += run.jobs.len();
        }
        assert_eq!(self.jobs, jobs);
        (message_uses, calls)
    }
}

/// A delivery may close its connection; the connection leaves the channel only when its event is handled, so the
/// members stay as they are meanwhile.
fn send_at_once(scope: &mut Scope<'_>, query: QueryId, channel: ChannelIndex, message: &MessageRef, terms: &Terms) {
    let members = scope.channels.members_len(channel);
    let member_terms = open_call(scope, query, message, members, terms);
    for position in 0..members {
        let member = scope.channels.member(channel, position);
        deliver(scope, member, message, member_terms.as_ref());
    }
}

/// All of the run's jobs for one member: one write will carry them.
fn serve(scope: &mut Scope<'_>, jobs: &[Job], member: Member, generation: u32) {
    let present = delivery::is_present(scope, member, generation);
    for job in jobs {
        match job {
            Job::Deliver { message, member_terms, .. } if present => {
                deliver(scope, member, message, member_terms.as_ref())
            }
            Job::Deliver { member_terms, .. } => {
                scope.cx.call_gone(member_terms.as_ref().map(|member_terms| member_terms.call))
            }
            Job::Close { code, reason } if present => {
                if let Some(conn) = conn_of(scope, member) {
                    kick(scope, conn, *code, reason);
                }
            }
            Job::Close { .. } => {}
        }
    }
}

/// What a write costs, in frames: the frames behind the first come cheaper.
const WRITE_COST: usize = 4;

#[cfg(test)]
mod tests;
