//! Two sessions of one name become one, as `io::service::unite` has it.

use super::{HASH_KEY, Known, Purpose, Serving, Transfer};
use rainbow::base::id::{DiskId, Generation};
use rainbow::base::time::Tick;
use rainbow::cluster::calls::{Answer, Call};
use rainbow::cluster::ownership::claims::{SessionName, Token};
use rainbow::cluster::ownership::grantors::PeerDisk;
use rainbow::cluster::ownership::union::fetch::{Action, End, Fetch};
use rainbow::cluster::ownership::union::{Names, Sites, Unions, Verdict};
use rainbow::cluster::transfers::{Site, Standing, TransferCall};
use rainbow::io::cluster::calls::hash_of_session;
use rainbow::io::cluster::port::PeerEntry;
use rainbow::io::runtime::oneshot::ReturnAddress;
use rainbow::shard::command::transfer::{SessionPart, TransferAnswer, TransferCommand};
use rainbow::shard::{Attachment, Place, Reply};
use std::collections::{BTreeMap, VecDeque};

#[derive(Default)]
pub struct Rivals {
    unions: Unions,
    walk: Option<Walk>,
    fetches: BTreeMap<Token, Fetching>,
    /// A table was not complete.
    look_at: Option<Tick>,
}

/// Through the names that are here, one question at a time.
struct Walk {
    peer: Generation,
    names: VecDeque<SessionName>,
    left: Vec<SessionName>,
}

struct Fetching {
    name: SessionName,
    peer: Generation,
    fetch: Fetch,
    place: Option<Place>,
    /// The answer that is waited for is a part.
    reads: bool,
    is_united: bool,
}

fn disk_of(peer: &PeerEntry) -> Option<DiskId> {
    match peer.disk {
        PeerDisk::Met { disk, .. } => Some(disk),
        PeerDisk::Unknown | PeerDisk::Missing => None,
    }
}

impl Rivals {
    pub fn next_tick(&self) -> Tick {
        let walk = if self.walk.is_none() { self.unions.next_tick() } else { Tick::NEVER };
        walk.min(self.look_at.unwrap_or(Tick::NEVER))
    }

    pub(super) fn look_for(&mut self, name: &SessionName, now: Tick) {
        self.unions.look_for(name, now);
    }
}

impl Serving {
    pub(super) fn look_for_rivals(&mut self, now: Tick) {
        let there: Vec<_> =
            self.entries.iter().filter(|peer| peer.is_linked).map(|peer| peer.node.generation).collect();
        let linked = self.entries.iter().filter(|peer| peer.is_linked && disk_of(peer).is_some());
        let (complete, partial): (Vec<_>, Vec<_>) = linked.partition(|peer| peer.table.is_complete());
        let complete: Vec<Generation> = complete.into_iter().map(|peer| peer.node.generation).collect();
        self.rivals.look_at = (!partial.is_empty()).then_some(now + TABLE_MS);
        self.rivals.unions.on_linked(&there);
        self.rivals.unions.on_peers(&complete, now);
        while self.rivals.walk.is_none()
            && let Some((peer, names)) = self.rivals.unions.poll_walk(now)
        {
            let names = match names {
                Names::All => self.ownership.owned_after(None, usize::MAX),
                Names::These(names) => names,
            };
            self.rivals.walk = Some(Walk { peer, names: names.into(), left: Vec::new() });
            self.walk(now);
        }
    }

    /// To the next question, or to the end.
    fn walk(&mut self, now: Tick) {
        while let Some(walk) = &mut self.rivals.walk {
            let peer = walk.peer;
            let entry = self.entries.iter().find(|entry| entry.node.generation == peer && entry.is_linked);
            let disk = entry.and_then(disk_of);
            let next = walk.names.pop_front().zip(disk).zip(entry);
            let Some(((name, disk), entry)) = next else {
                let left = std::mem::take(&mut walk.left);
                self.rivals.walk = None;
                let left = if disk.is_some() { Names::These(left) } else { Names::All };
                return self.rivals.unions.on_walked(peer, left, now);
            };
            if self.rivals.unions.is_postponed(&name, peer, now) {
                walk.left.push(name);
                continue;
            }
            if !entry.table.may_have(hash_of_session(HASH_KEY, &name)) {
                continue;
            }
            let standing = self.standing(&name, now);
            if standing.is_none()
                && self.ownership.has(&name)
                && let Some(walk) = &mut self.rivals.walk
            {
                walk.left.push(name.clone());
            }
            if let Some(standing) = standing {
                let sites = (standing.site, Site { disk, node: peer });
                let purpose = Purpose::Rival(name.clone(), sites);
                return self.call(peer, &Call::Transfer(TransferCall::Rival { name: &name, standing }), purpose, now);
            }
        }
    }

    fn standing(&mut self, name: &str, now: Tick) -> Option<Standing> {
        self.ownership.owns(name).then_some(())?;
        let age_ms = match self.shard.union(now).attachment(name)? {
            Attachment::Online { age_ms } => Some(age_ms),
            Attachment::Absent => None,
        };
        Some(Standing { age_ms, site: Site { disk: self.disk, node: self.own } })
    }

    pub(super) fn on_rival(&mut self, name: &SessionName, sites: Sites, answer: Option<Answer>, now: Tick) {
        let code = match answer {
            Some(Answer::Of(Reply::Done { connections, refused: None })) => Some(connections),
            _ => None,
        };
        let verdict = code.and_then(Verdict::from_code);
        if verdict.is_some_and(|verdict| self.rivals.unions.on_verdict(name, sites, verdict, now))
            && let Some(token) = self.ownership.expect()
        {
            let (name, fetch) = (name.clone(), Fetch::new(name.clone(), token, now));
            let fetching = Fetching { name, peer: sites.1.node, fetch, place: None, reads: false, is_united: false };
            self.rivals.fetches.insert(token, fetching);
            self.carry_out_action(token, Action::Pass, now);
        }
        if let Some(walk) = &mut self.rivals.walk
            && !matches!(verdict, Some(Verdict::Absent | Verdict::Keep))
        {
            walk.left.push(name.clone());
        }
        self.walk(now);
    }

    /// A peer asks.
    pub(super) fn compare(&mut self, name: &SessionName, of: (Generation, Standing), to: ReturnAddress, now: Tick) {
        let verdict = match self.standing(name, now) {
            Some(own) => self.rivals.unions.on_query(name, of.0, (own, of.1), now),
            None if self.ownership.has(name) => Verdict::Busy,
            None => Verdict::Absent,
        };
        self.ownership.answer(to, verdict.code());
    }

    pub(super) fn note_sent(&mut self, name: SessionName, to: ReturnAddress, now: Tick) {
        match self.shard.union(now).launched(&name) {
            Some(below) => self.transfer(TransferCommand::NoteSent { name, below }, Transfer::NoteSent(to)),
            None => self.ownership.answer(to, 0),
        }
    }

    fn carry_out_action(&mut self, token: Token, mut step: Action, now: Tick) {
        loop {
            let fetching = self.rivals.fetches.get_mut(&token).expect("it is under way");
            let (name, peer) = (fetching.name.clone(), fetching.peer);
            fetching.reads = matches!(step, Action::Read(_));
            step = match step {
                Action::Pass => return self.call(peer, &Call::Pass { name: &name, token }, Purpose::Unite(token), now),
                Action::NoteSent => {
                    let note = Call::Transfer(TransferCall::NoteSent { name: &name });
                    return self.call(peer, &note, Purpose::Unite(token), now);
                }
                Action::Read(from) => {
                    let read = Call::Transfer(TransferCall::Read { name: &name, token, from });
                    return self.call(peer, &read, Purpose::Unite(token), now);
                }
                Action::Store(command) => return self.transfer(command, Transfer::Unite(token)),
                Action::Begin { backlog, channels } => {
                    let place = self.shard.union(now).begin(&name, backlog, channels);
                    self.carry_out(now);
                    let fetching = self.rivals.fetches.get_mut(&token).expect("it is under way");
                    let room = place.as_ref().map(|place| place.room.clone());
                    fetching.place = place;
                    fetching.fetch.on_place(room)
                }
                Action::End { taken } => {
                    let place = fetching.place.take().expect("they were to become one there");
                    self.shard.union(now).end(place, taken);
                    self.carry_out(now);
                    self.rivals.fetches.get_mut(&token).expect("it is under way").fetch.on_ended()
                }
                Action::Over(end) => {
                    fetching.is_united = matches!(end, End::United(_));
                    return self.await_known(Known::United(token));
                }
            };
        }
    }

    pub(super) fn on_union_reply(&mut self, token: Token, answer: Option<Answer>, now: Tick) {
        let Some(fetching) = self.rivals.fetches.get_mut(&token) else { return };
        let step = match answer {
            Some(Answer::Part(part)) if fetching.reads => fetching.fetch.on_part(Some(arrived(part, now)), now),
            _ if fetching.reads => fetching.fetch.on_part(None, now),
            answer => {
                let is_done = matches!(answer, Some(Answer::Of(Reply::Done { connections: 1.., .. })));
                fetching.fetch.on_replied(is_done)
            }
        };
        self.carry_out_action(token, step, now);
    }

    pub(super) fn on_union_stored(&mut self, token: Token, answer: TransferAnswer, now: Tick) {
        if let Some(fetching) = self.rivals.fetches.get_mut(&token) {
            let step = fetching.fetch.on_stored(answer);
            self.carry_out_action(token, step, now);
        }
    }

    pub(super) fn on_union_known(&mut self, token: Token, now: Tick) {
        let Some(Fetching { name, peer, is_united, .. }) = self.rivals.fetches.remove(&token) else { return };
        self.ownership.on_united(token);
        self.call(peer, &Call::Passed { name: &name }, Purpose::Passed, now);
        self.rivals.unions.on_fetched(&name, is_united, now);
    }
}

/// By this node's clock.
pub fn arrived(mut part: Box<SessionPart>, now: Tick) -> Box<SessionPart> {
    part.set_clock(super::unix_ms(now));
    part
}

const TABLE_MS: u64 = 200;
