//! One message to many: small channels at once, large ones in slices, so that a million deliveries do not starve the
//! worker.
//!
//! A *run* goes once over a channel's members and delivers every message that was waiting for the channel when the run
//! began. Messages that come meanwhile wait for the next run: the busier a channel, the more frames share one write.
//! Channels take turns, a slice each, so that a room does not wait behind a broadcast to everybody. A message whose
//! call is over goes to nobody any more.

use super::delivery::{self, conn_of, deliver, kick, open_call};
use super::once::Once;
use crate::base::time::Tick;
use crate::shard::call::evictions::PendingEviction;
use crate::shard::call::query::{QueryRefusal, Reply, Terms, Who};
use crate::shard::call::waiting::CallRef;
use crate::shard::channel::members::ChannelIndex;
use crate::shard::command::{CommandNumber, UnixMs};
use crate::shard::connection::pending::MemberTerms;
use crate::shard::ids::{Member, MemberKind, QueryId};
use crate::shard::message::{Message, MessageRef};
use crate::shard::planted::Bug;
use crate::shard::session::channels::{leave_session, unsubscribe};
use crate::shard::session::scope::Scope;
use crate::wire::packet::QoS;
use crate::wire::ws::frame::CloseCode;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

pub struct Fanout {
    /// Those with a run or with messages that wait for one.
    channels: BTreeMap<Rc<str>, ChannelRuns>,
    /// Whose slice is next: each of these channels once.
    turns: VecDeque<Rc<str>>,
    /// Of all channels, in runs and waiting.
    jobs: usize,
    /// No waiting message has its deadline before this.
    earliest: Tick,
    spare_members: Vec<(Member, u32)>,
}

#[derive(Default)]
struct ChannelRuns {
    run: Option<Run>,
    /// For the next run.
    waiting: Vec<Job>,
}

struct Run {
    jobs: Vec<Job>,
    /// Members and their generations when the run began.
    members: Vec<(Member, u32)>,
    /// Sessions among them.
    sessions: usize,
    /// While members are still being gathered: nobody is served before.
    gathering: Option<ChannelIndex>,
    next: usize,
}

enum Job {
    Deliver(Delivery),
    Close { code: CloseCode, reason: Rc<str> },
    Evict(Eviction),
}

/// Everyone but one leaves the channel.
struct Eviction {
    query: QueryId,
    channel: Arc<str>,
    keep: Who,
    evicted: u32,
    refused: Option<QueryRefusal>,
    /// Sessions among them: the store has to know.
    has_sessions: bool,
    /// Sessions that the store had refused to let go before it began.
    refused_before: u64,
}

struct Delivery {
    message: MessageRef,
    query: QueryId,
    terms: Terms,
    expires: UnixMs,
    /// Once the run has begun; never at QoS 0.
    member_terms: Option<MemberTerms>,
    /// Of a message to several channels.
    once: Option<Once>,
    /// Those online it was sent to; counted at QoS 0 to several channels, which is replied to at the end.
    reached: usize,
}

impl Default for Fanout {
    fn default() -> Fanout {
        let (channels, turns, jobs, spare_members) = Default::default();
        Fanout { channels, turns, jobs, earliest: Tick::NEVER, spare_members }
    }
}

impl Fanout {
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// A message to all members of a channel.
    pub fn send(&mut self, scope: &mut Scope<'_>, query: QueryId, channel: &str, message: Message, terms: &Terms) {
        self.send_part(scope, query, (channel, None), message, terms);
    }

    /// A message to all members of several channels, once to each; a reply for each channel.
    pub fn broadcast(
        &mut self,
        scope: &mut Scope<'_>,
        query: QueryId,
        channels: &[Arc<str>],
        message: &Message,
        terms: &Terms,
    ) {
        let once = Once::default();
        for channel in channels {
            self.send_part(scope, query, (channel, Some(&once)), message.clone(), terms);
        }
    }

    fn send_part(
        &mut self,
        scope: &mut Scope<'_>,
        query: QueryId,
        (channel, once): (&str, Option<&Once>),
        message: Message,
        terms: &Terms,
    ) {
        let Some(index) = scope.channels.find(channel) else { return scope.cx.reply(query, Reply::sent(0)) };
        let members = scope.channels.members_len(index);
        let is_acknowledged = message.qos != QoS::AtMostOnce;
        if let Some(why) = delivery::too_large(&message, &scope.cx) {
            let targets = if is_acknowledged { members } else { scope.channels.online_len(index) };
            return scope.cx.reply(query, Reply::not_sent(targets, why));
        }
        let is_at_once =
            members <= scope.cx.settings.limits.fanout_at_once_members && !self.channels.contains_key(channel);
        if !is_at_once && self.jobs >= scope.cx.settings.limits.fanout_jobs_max {
            scope.cx.metrics.fanout_refused.increment();
            let targets = if is_acknowledged { members } else { scope.channels.online_len(index) };
            return scope.cx.reply(query, Reply::not_sent(targets, QueryRefusal::TooManyMessages));
        }
        if !is_acknowledged && once.is_none() {
            let online = scope.channels.online_len(index);
            scope.cx.reply(query, Reply::sent(online));
        }
        if !scope.cx.watches.is_idle() {
            scope.cx.watches.count(channel, scope.channels.online_len(index), scope.cx.now);
        }
        let message = scope.cx.messages.insert(message);
        let (expires, terms, once) = (delivery::expires(terms, &scope.cx), terms.clone(), once.cloned());
        let mut delivery = Delivery { message, query, terms, expires, member_terms: None, once, reached: 0 };
        if is_at_once {
            send_at_once(scope, index, &mut delivery);
            return delivery.end(scope);
        }
        if delivery.is_awaited() {
            self.earliest = self.earliest.min(delivery.terms.deadline);
        }
        self.add_job(channel, Job::Deliver(delivery));
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
        Reply::done(members as u32)
    }

    /// Everyone but `keep` leaves the channel. Replied to when all have been seen.
    pub fn evict(&mut self, scope: &mut Scope<'_>, query: QueryId, channel: &Arc<str>, keep: Who) {
        let Some(index) = scope.channels.find(channel) else { return scope.cx.reply(query, Reply::done(0)) };
        let (channel_name, refused_before) = (channel.clone(), scope.sessions.evictions.refused());
        let mut eviction = Eviction {
            query,
            channel: channel_name,
            keep,
            evicted: 0,
            refused: None,
            has_sessions: false,
            refused_before,
        };
        let is_small = scope.channels.members_len(index) <= scope.cx.settings.limits.fanout_at_once_members;
        if is_small && !self.channels.contains_key(&**channel) {
            let members: Vec<Member> = scope.channels.members(index).collect();
            members.into_iter().for_each(|member| eviction.serve(scope, member));
            return eviction.end(scope);
        }
        if self.jobs >= scope.cx.settings.limits.fanout_jobs_max {
            scope.cx.metrics.fanout_refused.increment();
            return scope.cx.reply(query, Reply::Refused(QueryRefusal::TooManyMessages));
        }
        self.add_job(channel, Job::Evict(eviction));
    }

    fn add_job(&mut self, channel: &str, job: Job) {
        self.jobs += 1;
        if let Some(known) = self.channels.get_mut(channel) {
            return known.waiting.push(job);
        }
        let name: Rc<str> = channel.into();
        self.channels.insert(name.clone(), ChannelRuns { run: None, waiting: vec![job] });
        self.turns.push_back(name);
    }

    /// When messages that wait have to be given up.
    pub fn next_tick(&self) -> Option<Tick> {
        (self.earliest != Tick::NEVER).then_some(self.earliest)
    }

    /// Messages whose time was over before their run began go to nobody.
    pub fn expire(&mut self, scope: &mut Scope<'_>) {
        if scope.cx.now < self.earliest || scope.cx.is_planted(Bug::SendsAfterItsTime) {
            return;
        }
        let now = scope.cx.now;
        self.earliest = Tick::NEVER;
        for (name, channel) in &mut self.channels {
            let members = scope.channels.find(name).map_or(0, |index| scope.channels.members_len(index));
            let late = channel.waiting.extract_if(.., |job| match job {
                Job::Deliver(delivery) if delivery.is_awaited() => {
                    let deadline = delivery.terms.deadline;
                    self.earliest = if deadline > now { self.earliest.min(deadline) } else { self.earliest };
                    deadline <= now
                }
                Job::Deliver(_) | Job::Close { .. } | Job::Evict(_) => false,
            });
            for job in late.collect::<Vec<_>>() {
                self.jobs -= 1;
                scope.cx.metrics.fanout_late.increment();
                let Job::Deliver(Delivery { message, query, .. }) = job else { continue };
                scope.cx.reply(query, Reply::not_sent(members, QueryRefusal::TooManyMessages));
                scope.cx.messages.release(message);
            }
        }
        let (channels, turns) = (&mut self.channels, &mut self.turns);
        turns.retain(|name| {
            let has_work = channels[name].run.is_some() || !channels[name].waiting.is_empty();
            if !has_work {
                channels.remove(name);
            }
            has_work
        });
    }

    /// One slice for the channel whose turn it is. True when there is more to do.
    pub fn poll(&mut self, scope: &mut Scope<'_>) -> bool {
        let limits = &scope.cx.settings.limits;
        // The completions bring the next turn.
        if scope.sessions.commands.len() >= limits.commands_behind {
            return false;
        }
        // What comes behind the first frame of a write is cheaper: a slice of a run of several messages has fewer
        // members.
        let slice_cost = limits.fanout_slice_members * (1 + WRITE_COST);
        let Some(name) = self.turns.pop_front() else { return false };
        let channel = self.channels.get_mut(&name).expect("a channel has a turn while it has something to do");
        let mut run = match channel.run.take() {
            Some(run) => run,
            None => {
                let jobs = std::mem::take(&mut channel.waiting);
                let spare_members = std::mem::take(&mut self.spare_members);
                Run::begin(scope, &name, jobs, spare_members)
            }
        };
        if !scope.cx.is_planted(Bug::SendsAfterItsTime) {
            self.jobs -= run.give_up_late(scope);
        }
        run.gather(scope, &name);
        if run.gathering.is_some() {
            self.channels.get_mut(&name).expect("it is there still").run = Some(run);
            self.turns.push_back(name);
            return true;
        }
        let most = (slice_cost / (run.jobs.len() + WRITE_COST)).max(1);
        let end = if run.jobs.is_empty() { run.members.len() } else { run.members.len().min(run.next + most) };
        let skipped = usize::from(scope.cx.is_planted(Bug::LosesItsPlace) && run.next > 0);
        for &(member, generation) in &run.members[(run.next + skipped).min(end)..end] {
            serve(scope, &mut run.jobs, member, generation);
        }
        run.next = end;
        let channel = self.channels.get_mut(&name).expect("it is there still");
        if run.next < run.members.len() && !scope.cx.is_planted(Bug::EndsWithTheFirstSlice) {
            channel.run = Some(run);
        } else {
            self.jobs -= run.jobs.len();
            self.spare_members = run.end(scope);
            if channel.waiting.is_empty() {
                self.channels.remove(&name);
                return !self.is_empty();
            }
        }
        self.turns.push_back(name);
        true
    }

    /// The messages of runs, and the calls that wait for members not reached yet, for invariants.
    #[cfg(debug_assertions)]
    pub fn check(&self) -> (usize, Vec<CallRef>) {
        let (mut jobs, mut message_uses, mut calls) = (0, 0, Vec::new());
        assert_eq!(self.turns.len(), self.channels.len());
        for channel in self.channels.values() {
            let left = channel.run.as_ref().map_or(&[][..], |run| &run.members[run.next..]);
            let running = channel.run.iter().flat_map(|run| &run.jobs);
            for job in running.chain(&channel.waiting) {
                jobs += 1;
                let Job::Deliver(Delivery { member_terms, .. }) = job else { continue };
                message_uses += 1;
                let references =
                    member_terms.iter().flat_map(|terms| left.iter().map(|(member, _)| call_of(*member, terms)));
                calls.extend(references);
            }
            assert!(channel.run.is_some() || !channel.waiting.is_empty(), "it has something to do");
        }
        assert_eq!(self.jobs, jobs);
        (message_uses, calls)
    }
}

impl Run {
    fn begin(scope: &mut Scope<'_>, channel: &str, jobs: Vec<Job>, mut members: Vec<(Member, u32)>) -> Run {
        members.clear();
        let gathering = scope.channels.find(channel);
        match gathering {
            Some(channel) => scope.channels.begin_walk(channel),
            None => jobs.iter().for_each(|job| job.reach_nobody(scope)),
        }
        Run { jobs, members, sessions: 0, gathering, next: 0 }
    }

    /// A slice of the members. Once all are known, the calls that wait for them are opened.
    fn gather(&mut self, scope: &mut Scope<'_>, name: &str) {
        let Some(channel) = self.gathering else { return };
        // A channel that everybody has left may have come back, in another slot.
        let is_there = scope.channels.find(name) == Some(channel);
        let most = scope.cx.settings.limits.gathered_members;
        if let Some(positions) = is_there.then(|| scope.channels.walk(channel, most)).flatten() {
            let has_sessions = !scope.sessions.table.is_empty();
            for position in positions {
                let member = scope.channels.member(channel, position);
                self.sessions += usize::from(has_sessions && is_session(member));
                self.members.push((member, delivery::generation(scope, member)));
            }
            if scope.channels.is_walked(channel) {
                return;
            }
        }
        self.gathering = None;
        for job in &mut self.jobs {
            if self.members.is_empty() {
                job.reach_nobody(scope);
                continue;
            }
            let Job::Deliver(Delivery { message, query, terms, expires, member_terms, .. }) = job else { continue };
            *member_terms = open_call(scope, *query, message, (self.members.len(), self.sessions), terms, *expires);
        }
    }
    /// Messages whose calls are over go to nobody any more. Returns how many there were.
    fn give_up_late(&mut self, scope: &mut Scope<'_>) -> usize {
        let now = scope.cx.now;
        let is_gathering = self.gathering.is_some();
        let walked = self.gathering.filter(|channel| scope.channels.is_walked(*channel));
        let members = walked.map_or(self.members.len(), |channel| scope.channels.members_len(channel));
        let is_late = |job: &Job| match job {
            Job::Deliver(delivery) => {
                let is_open = delivery.member_terms.is_some() || is_gathering && delivery.is_awaited();
                is_open && delivery.terms.deadline <= now
            }
            Job::Close { .. } | Job::Evict(_) => false,
        };
        if !self.jobs.iter().any(is_late) {
            return 0;
        }
        let (late, rest): (Vec<Job>, Vec<Job>) = std::mem::take(&mut self.jobs).into_iter().partition(is_late);
        self.jobs = rest;
        scope.cx.metrics.fanout_late.add(late.len() as u64);
        let count = late.len();
        for job in late {
            let Job::Deliver(Delivery { message, query, member_terms, .. }) = job else { continue };
            match member_terms {
                Some(member_terms) => scope.cx.call_over(member_terms.call),
                None => scope.cx.reply(query, Reply::not_sent(members, QueryRefusal::TooManyMessages)),
            }
            scope.cx.messages.release(message);
        }
        count
    }

    /// Gives back the list of members, for the next run.
    fn end(self, scope: &mut Scope<'_>) -> Vec<(Member, u32)> {
        for job in self.jobs {
            match job {
                Job::Deliver(delivery) => delivery.end(scope),
                Job::Evict(eviction) => eviction.end(scope),
                Job::Close { .. } => {}
            }
        }
        self.members
    }
}

impl Job {
    /// There are no members.
    fn reach_nobody(&self, scope: &mut Scope<'_>) {
        if let Job::Deliver(delivery) = self
            && is_acknowledged(&delivery.message)
        {
            scope.cx.reply(delivery.query, Reply::sent(0));
        }
    }
}

impl Delivery {
    /// The reply waits for the run, and has a deadline.
    fn is_awaited(&self) -> bool {
        self.once.is_some() || is_acknowledged(&self.message)
    }

    #[inline(always)]
    fn serve(&mut self, scope: &mut Scope<'_>, member: Member, generation: u32) {
        let is_first = |once: &Once| once.is_first(member, generation) || scope.cx.is_planted(Bug::SendsTwice);
        if !self.once.as_ref().is_none_or(is_first) {
            return self.miss(scope, member);
        }
        if self.once.is_some() && self.member_terms.is_none() {
            self.reached += usize::from(conn_of(scope, member).is_some());
        }
        deliver(scope, member, &self.message, self.member_terms.as_ref());
    }

    /// The member is gone, or has had it.
    fn miss(&mut self, scope: &mut Scope<'_>, member: Member) {
        scope.cx.call_left(self.member_terms.as_ref().map(|member_terms| call_of(member, member_terms)));
    }

    /// All members were served.
    fn end(self, scope: &mut Scope<'_>) {
        if self.once.is_some() && !is_acknowledged(&self.message) {
            scope.cx.reply(self.query, Reply::sent(self.reached));
        }
        scope.cx.messages.release(self.message);
    }
}

impl Eviction {
    fn serve(&mut self, scope: &mut Scope<'_>, member: Member) {
        if delivery::is_who(scope, member, &self.keep) {
            return;
        }
        match member.kind() {
            MemberKind::Session(_) if scope.sessions.commands.is_busy(&scope.cx) => {
                scope.cx.metrics.stores_refused.increment();
                self.refused = Some(QueryRefusal::TooBusy);
                return;
            }
            MemberKind::Session(index) => {
                self.has_sessions = true;
                leave_session(scope, index, &self.channel, None);
            }
            MemberKind::Connection(conn) => unsubscribe(scope, conn, &self.channel, None),
        }
        self.evicted += 1;
    }

    fn end(self, scope: &mut Scope<'_>) {
        let Eviction { query, evicted, refused, refused_before, .. } = self;
        let under_way = if self.has_sessions { scope.sessions.commands.last() } else { CommandNumber(0) };
        let eviction = PendingEviction { query, evicted, why: refused, refused_before, upto: under_way };
        if under_way <= scope.sessions.commands.completed() {
            return scope.cx.reply(query, eviction.reply(scope.sessions.evictions.refused()));
        }
        scope.sessions.evictions.push(eviction);
    }
}

fn is_acknowledged(message: &MessageRef) -> bool {
    message.qos() != QoS::AtMostOnce
}

fn is_session(member: Member) -> bool {
    matches!(member.kind(), MemberKind::Session(_))
}

/// As the member holds it.
fn call_of(member: Member, member_terms: &MemberTerms) -> CallRef {
    if is_session(member) { member_terms.call.of_session() } else { member_terms.call }
}

/// A delivery may close its connection; the connection leaves the channel only when its event is handled, so the
/// members stay as they are meanwhile.
fn send_at_once(scope: &mut Scope<'_>, channel: ChannelIndex, delivery: &mut Delivery) {
    let members = scope.channels.members_len(channel);
    let has_sessions = !scope.sessions.table.is_empty();
    let sessions = if has_sessions { scope.channels.members(channel).filter(|m| is_session(*m)).count() } else { 0 };
    let Delivery { message, query, terms, expires, .. } = &*delivery;
    delivery.member_terms = open_call(scope, *query, message, (members, sessions), terms, *expires);
    for position in 0..members {
        let member = scope.channels.member(channel, position);
        if delivery.once.is_some() {
            let generation = delivery::generation(scope, member);
            delivery.serve(scope, member, generation);
        } else {
            deliver(scope, member, &delivery.message, delivery.member_terms.as_ref());
        }
    }
}

/// All of the run's jobs for one member: one write will carry them.
fn serve(scope: &mut Scope<'_>, jobs: &mut [Job], member: Member, generation: u32) {
    let present = delivery::is_present(scope, member, generation);
    for job in jobs {
        match job {
            Job::Deliver(delivery) if present => delivery.serve(scope, member, generation),
            Job::Deliver(delivery) => delivery.miss(scope, member),
            Job::Close { code, reason } if present => {
                if let Some(conn) = conn_of(scope, member) {
                    kick(scope, conn, *code, reason);
                }
            }
            Job::Evict(eviction) if present => eviction.serve(scope, member),
            Job::Close { .. } | Job::Evict(_) => {}
        }
    }
}

/// What a write costs, in frames: the frames behind the first come cheaper.
const WRITE_COST: usize = 4;

#[cfg(test)]
mod tests;
