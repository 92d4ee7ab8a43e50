//! With SQLite: two nodes that had not met, or not seen each other, may each have made a session of the same name. When
//! they meet, each walks through its own names and asks the other for those that it may have. The two agree which of
//! the sessions stays, without a clock: the one whose client is there; of two such the one with the younger connection;
//! else the one on the lower disk. The other one is passed on as to a client's node, and becomes part of it.
//!
//! ```text
//! peer: linked, table complete ─► walk ─ question ─► Yield: fetch it, unite
//!          ▲ all again: NEW_MS later │              ─► Keep: it will be asked for
//!          └ what was busy: soon ────┘              ─► Busy: later     Absent: nothing to do
//! ```
//! Creations that were granted before the nodes had met may end a little later: so there is a second walk. A session
//! that comes here from another disk, or was to leave and stays, was in no walk meanwhile: its name is looked for by
//! itself.

pub mod fetch;

use super::super::transfers::{Site, Standing};
use super::claims::SessionName;
use super::grantors::NEW_MS;
use crate::base::id::Generation;
use crate::base::time::Tick;
use std::collections::{BTreeMap, BTreeSet};

/// What a node says of its session of the name that it is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has none.
    Absent,
    /// Its own stays.
    Keep,
    /// The other one stays: it is to be fetched.
    Yield,
    /// It is on its way, or becomes one with a third.
    Busy,
}

impl Verdict {
    pub fn code(self) -> u32 {
        match self {
            Verdict::Absent => 0,
            Verdict::Keep => 1,
            Verdict::Yield => 2,
            Verdict::Busy => 3,
        }
    }

    pub fn from_code(code: u32) -> Option<Verdict> {
        [Verdict::Absent, Verdict::Keep, Verdict::Yield, Verdict::Busy].into_iter().find(|it| it.code() == code)
    }
}

/// A peer whose sessions may have names that sessions here have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Walk {
    /// Through all names; `Tick::NEVER`: there is no need.
    all_at: Tick,
    /// When the last creation that was granted before the two had met is over, and seen.
    last: Tick,
    /// Through these.
    names_at: Tick,
    names: BTreeSet<SessionName>,
    /// Walks in a row that have left something for later.
    unsettled: u32,
}

/// Which names a walk is through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    All,
    These(Vec<SessionName>),
}

/// Of one worker.
#[derive(Default)]
pub struct Unions {
    walks: BTreeMap<Generation, Walk>,
    /// Sessions that are being fetched, to become one with those here, and from where.
    fetching: BTreeMap<SessionName, Generation>,
    /// Sessions that have been given up to others, which will ask for them, and until when.
    yielded: BTreeMap<SessionName, (Generation, Tick)>,
    /// Sessions that could not be fetched, or not be taken in.
    failed: BTreeMap<SessionName, Failure>,
}

/// Each attempt costs the other session's client its connection: they come less and less often.
#[derive(Clone, Copy)]
struct Failure {
    peer: Generation,
    attempts: u32,
    until: Tick,
}

impl Unions {
    /// The peers that are there, whose disks and names are known.
    pub fn on_peers(&mut self, peers: &[Generation], now: Tick) {
        self.walks.retain(|peer, _| peers.contains(peer));
        for peer in peers {
            self.walks.entry(*peer).or_insert_with(|| Walk::new(now));
        }
    }

    /// The session has come to be here, after others were looked for.
    pub fn look_for(&mut self, name: &SessionName, now: Tick) {
        self.walks.values_mut().for_each(|walk| walk.look_for(name, now));
    }

    /// Who is not there any more asks for nothing: a later life of it begins anew.
    pub fn on_linked(&mut self, linked: &[Generation]) {
        self.yielded.retain(|_, (to, _)| linked.contains(to));
        self.failed.retain(|_, failure| linked.contains(&failure.peer));
    }

    /// Through which names to walk now, and whose; `on_walked` must follow.
    pub fn poll_walk(&mut self, now: Tick) -> Option<(Generation, Names)> {
        let (peer, walk) = self.walks.iter_mut().find(|(_, walk)| walk.next_tick() <= now)?;
        Some((*peer, walk.begin(now)))
    }

    /// What was found has been dealt with, but for these. `Names::All`: it ended too early.
    pub fn on_walked(&mut self, peer: Generation, left: Names, now: Tick) {
        if let Some(walk) = self.walks.get_mut(&peer) {
            walk.end(left, now);
        }
    }

    /// When the next walk is due.
    pub fn next_tick(&self) -> Tick {
        self.walks.values().map(Walk::next_tick).min().unwrap_or(Tick::NEVER)
    }

    /// The last attempt with this peer's session of the name has failed a moment ago.
    pub fn is_postponed(&self, name: &str, peer: Generation, now: Tick) -> bool {
        self.failed.get(name).is_some_and(|failure| failure.peer == peer && failure.until > now)
    }

    /// A peer asks about a session that is here, as `own` says.
    pub fn on_query(&mut self, name: &SessionName, from: Generation, (own, theirs): Standings, now: Tick) -> Verdict {
        self.forget_old(now);
        match (self.fetching.get(name), self.yielded.get(name)) {
            (Some(of), _) => return if *of == from { Verdict::Keep } else { Verdict::Busy },
            (None, Some((to, _))) => return if *to == from { Verdict::Yield } else { Verdict::Busy },
            (None, None) if own.stays_against(&theirs) => {
                // The own walk may have been over before this one was here.
                self.walks.entry(from).and_modify(|walk| walk.look_for(name, now));
                return Verdict::Keep;
            }
            (None, None) if self.yielded.len() >= YIELDED_MAX => return Verdict::Busy,
            (None, None) => {}
        }
        self.yielded.insert(name.clone(), (from, now + YIELDED_MS));
        Verdict::Yield
    }

    /// A peer has answered. True: its session is to be fetched; `on_fetched` must follow.
    pub fn on_verdict(&mut self, name: &SessionName, (own, theirs): Sites, verdict: Verdict, now: Tick) -> bool {
        self.forget_old(now);
        match verdict {
            // Who keeps its own asks for this one.
            Verdict::Absent | Verdict::Busy | Verdict::Keep => false,
            Verdict::Yield => {
                // Each has given up its own at the same moment.
                let loses = self.yielded.contains_key(name) && own > theirs;
                if loses || self.fetching.len() >= FETCHING_MAX || self.fetching.contains_key(name) {
                    return false;
                }
                self.yielded.remove(name);
                self.fetching.insert(name.clone(), theirs.node);
                true
            }
        }
    }

    /// The session has become part of the one here, or does not.
    pub fn on_fetched(&mut self, name: &SessionName, is_united: bool, now: Tick) {
        let Some(peer) = self.fetching.remove(name) else { return };
        let before = self.failed.remove(name).filter(|failure| failure.peer == peer);
        if !is_united && self.failed.len() < FAILED_MAX {
            let attempts = before.map_or(0, |failure| failure.attempts + 1);
            let until = now + (RETRY_MS << attempts.min(16)).min(RETRY_MS_MAX);
            self.failed.insert(name.clone(), Failure { peer, attempts, until });
        }
    }

    fn forget_old(&mut self, now: Tick) {
        self.yielded.retain(|_, (_, until)| *until > now);
    }
}

impl Walk {
    fn new(now: Tick) -> Walk {
        let last = now + NEW_MS + SEEN_MS;
        Walk { all_at: now, last, names_at: Tick::NEVER, names: BTreeSet::new(), unsettled: 0 }
    }

    fn next_tick(&self) -> Tick {
        self.all_at.min(self.names_at)
    }

    fn look_for(&mut self, name: &SessionName, at: Tick) {
        self.names.insert(name.clone());
        self.names_at = self.names_at.min(at);
        if self.names.len() > NAMES_MAX {
            (self.all_at, self.names_at) = (self.all_at.min(at), Tick::NEVER);
            self.names.clear();
        }
    }

    fn begin(&mut self, now: Tick) -> Names {
        self.names_at = Tick::NEVER;
        let names = std::mem::take(&mut self.names);
        if self.all_at > now {
            return Names::These(names.into_iter().collect());
        }
        self.all_at = if now < self.last { self.last } else { Tick::NEVER };
        Names::All
    }

    fn end(&mut self, left: Names, now: Tick) {
        let pause = RETRY_MS << self.unsettled.min(16);
        self.unsettled += 1;
        match left {
            Names::These(names) if names.is_empty() => self.unsettled = 0,
            Names::These(names) if names.len() <= NAMES_MAX => {
                names.iter().for_each(|name| self.look_for(name, now + pause.min(NAMES_PAUSE_MS_MAX)));
            }
            // A million names take a while.
            Names::These(_) | Names::All => self.all_at = self.all_at.min(now + pause.min(WALK_MS_MAX)),
        }
    }
}

/// This node's session, and the other's.
pub type Standings = (Standing, Standing);

pub type Sites = (Site, Site);

/// A new session is announced at once.
const SEEN_MS: u64 = 2_000;
const RETRY_MS: u64 = 1_000;
const WALK_MS_MAX: u64 = 60_000;
const NAMES_PAUSE_MS_MAX: u64 = 4_000;
/// Of one peer that are looked for by themselves; where there are more, all are.
pub const NAMES_MAX: usize = 1_024;
const RETRY_MS_MAX: u64 = 300_000;
const FAILED_MAX: usize = 1_024;
/// What is beyond is found by a later walk.
const FETCHING_MAX: usize = 8;
const YIELDED_MAX: usize = 1_024;
/// A peer that does not ask for it has changed its mind, or is gone.
const YIELDED_MS: u64 = 15_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::DiskId;

    const ONE: Generation = Generation(1);
    const OTHER: Generation = Generation(2);
    const THIRD: Generation = Generation(3);

    fn site(disk: u32) -> Site {
        Site { disk: DiskId(disk), node: Generation(disk) }
    }

    fn absent(disk: u32) -> Standing {
        Standing { age_ms: None, site: site(disk) }
    }

    fn online(disk: u32, age_ms: u64) -> Standing {
        Standing { age_ms: Some(age_ms), site: site(disk) }
    }

    fn name() -> SessionName {
        "ann".into()
    }

    #[test]
    fn the_two_sides_agree_which_one_stays() {
        let copy = Standing { site: Site { node: Generation(9), ..site(4) }, ..absent(4) };
        let by_rank = [online(7, 5), online(8, 5), online(1, 6), absent(3), absent(4), copy];
        for (n, one) in by_rank.iter().enumerate() {
            for other in &by_rank[n + 1..] {
                assert!(one.stays_against(other) && !other.stays_against(one), "{one:?}, {other:?}");
            }
        }
    }

    #[test]
    fn whose_session_stays_fetches_the_other() {
        let (mut one, mut other) = (Unions::default(), Unions::default());
        let (here, there, now) = (online(1, 50), absent(2), Tick(0));
        let verdict = other.on_query(&name(), ONE, (there, here), now);
        assert_eq!(verdict, Verdict::Yield);
        let sites = (site(1), site(2));
        assert!(one.on_verdict(&name(), sites, verdict, now));
        assert!(!one.on_verdict(&name(), sites, verdict, now), "it is on its way");
        // The other one's own walk finds it too.
        assert_eq!(one.on_query(&name(), OTHER, (here, there), now), Verdict::Keep);
        assert!(!other.on_verdict(&name(), (sites.1, sites.0), Verdict::Keep, now));
        // A third has one more.
        assert_eq!(one.on_query(&name(), THIRD, (here, absent(3)), now), Verdict::Busy);
        assert_eq!(other.on_query(&name(), THIRD, (there, absent(3)), now), Verdict::Busy);
        one.on_fetched(&name(), true, now);
        assert!(!one.is_postponed("ann", OTHER, now));
        assert_eq!(one.on_query(&name(), THIRD, (here, absent(3)), now), Verdict::Keep);
        other.on_linked(&[THIRD]);
        assert_eq!(other.on_query(&name(), THIRD, (there, absent(1)), now), Verdict::Yield, "it is away");
        let later = now + YIELDED_MS;
        assert_eq!(other.on_query(&name(), ONE, (there, absent(1)), later), Verdict::Yield, "nobody came for it");
    }

    /// A connection has come or gone between the two questions.
    #[test]
    fn of_two_that_give_up_at_once_one_fetches() {
        let mut nodes = [Unions::default(), Unions::default()];
        let now = Tick(0);
        assert_eq!(nodes[0].on_query(&name(), OTHER, (absent(1), online(2, 9)), now), Verdict::Yield);
        assert_eq!(nodes[1].on_query(&name(), ONE, (absent(2), online(1, 9)), now), Verdict::Yield);
        let sites = (site(1), site(2));
        let fetches = [
            nodes[0].on_verdict(&name(), sites, Verdict::Yield, now),
            nodes[1].on_verdict(&name(), (site(2), site(1)), Verdict::Yield, now),
        ];
        assert_eq!(fetches, [true, false]);
    }

    fn these(names: &[&str]) -> Names {
        Names::These(names.iter().map(|name| (*name).into()).collect())
    }

    #[test]
    fn a_peer_is_walked_when_it_comes_and_once_more_and_what_was_busy_soon() {
        let mut unions = Unions::default();
        unions.on_peers(&[OTHER], Tick(100));
        assert_eq!(unions.poll_walk(Tick(100)), Some((OTHER, Names::All)));
        assert_eq!(unions.poll_walk(Tick(100)), None, "it is under way");
        unions.on_walked(OTHER, these(&["ann"]), Tick(200));
        unions.on_peers(&[OTHER], Tick(300));
        assert_eq!((unions.poll_walk(Tick(1_199)), unions.next_tick()), (None, Tick(1_200)));
        assert_eq!(unions.poll_walk(Tick(1_200)), Some((OTHER, these(&["ann"]))));
        unions.on_walked(OTHER, these(&["ann"]), Tick(1_200));
        assert_eq!(unions.next_tick(), Tick(3_200), "later each time");
        for at in [3_200, 7_200] {
            assert_eq!(unions.poll_walk(Tick(at)), Some((OTHER, these(&["ann"]))));
            unions.on_walked(OTHER, these(&["ann"]), Tick(at));
            assert_eq!(unions.next_tick(), Tick(at + NAMES_PAUSE_MS_MAX));
        }
        let last = Tick(100 + NEW_MS + SEEN_MS);
        assert_eq!(unions.poll_walk(last), Some((OTHER, Names::All)));
        unions.on_walked(OTHER, these(&[]), last);
        assert_eq!(unions.next_tick(), Tick::NEVER);
        assert_eq!(unions.on_query(&name(), OTHER, (absent(1), absent(2)), last), Verdict::Keep);
        assert_eq!(unions.poll_walk(last), Some((OTHER, these(&["ann"]))), "it asks for what was found there");
        unions.on_walked(OTHER, Names::All, last);
        assert_eq!(unions.poll_walk(last + RETRY_MS), Some((OTHER, Names::All)), "it ended too early");
        unions.on_peers(&[], last);
        unions.on_peers(&[OTHER], last);
        assert_eq!(unions.poll_walk(last), Some((OTHER, Names::All)), "it was away");
    }

    #[test]
    fn a_session_that_comes_here_later_is_looked_for_at_every_peer() {
        let (mut unions, now) = (Unions::default(), Tick(0));
        unions.on_peers(&[OTHER, THIRD], now);
        let last = now + NEW_MS + SEEN_MS;
        for at in [now, last] {
            while let Some((peer, _)) = unions.poll_walk(at) {
                unions.on_walked(peer, these(&[]), at);
            }
        }
        assert_eq!(unions.next_tick(), Tick::NEVER);
        unions.look_for(&name(), last);
        assert_eq!(unions.poll_walk(last), Some((OTHER, these(&["ann"]))));
        assert_eq!(unions.poll_walk(last), Some((THIRD, these(&["ann"]))));
        unions.look_for(&"bob".into(), last);
        unions.on_walked(OTHER, these(&[]), last);
        assert_eq!(unions.poll_walk(last), Some((OTHER, these(&["bob"]))), "it came meanwhile");
    }

    #[test]
    fn attempts_that_fail_come_less_and_less_often() {
        let (mut unions, mut now) = (Unions::default(), Tick(0));
        let sites = (site(1), site(2));
        for pause in [1_000, 2_000, 4_000, 8_000] {
            assert!(unions.on_verdict(&name(), sites, Verdict::Yield, now));
            unions.on_fetched(&name(), false, now);
            assert!(unions.is_postponed("ann", OTHER, now + (pause - 1)));
            assert!(!unions.is_postponed("ann", THIRD, now), "another's session");
            now = now + pause;
            assert!(!unions.is_postponed("ann", OTHER, now), "{pause}");
        }
        assert!(unions.on_verdict(&name(), sites, Verdict::Yield, now));
        unions.on_fetched(&name(), false, now);
        unions.on_linked(&[THIRD]);
        assert!(!unions.is_postponed("ann", OTHER, now), "it begins anew when it comes back");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut unions = Unions::default();
        for n in 0..YIELDED_MAX as u32 + 5 {
            let name: SessionName = format!("user {n}").into();
            let verdict = unions.on_query(&name, OTHER, (absent(2), absent(1)), Tick(0));
            assert_eq!(verdict, if (n as usize) < YIELDED_MAX { Verdict::Yield } else { Verdict::Busy });
        }
        let sites = (site(1), site(2));
        let fetches = |unions: &mut Unions, n: usize| {
            unions.on_verdict(&format!("other {n}").into(), sites, Verdict::Yield, Tick(0))
        };
        assert_eq!((0..20).filter(|n| fetches(&mut unions, *n)).count(), FETCHING_MAX);
        let mut unions = Unions::default();
        unions.on_peers(&[OTHER], Tick(0));
        assert_eq!(unions.poll_walk(Tick(0)), Some((OTHER, Names::All)));
        (0..=NAMES_MAX).for_each(|n| unions.look_for(&format!("user {n}").into(), Tick(9)));
        assert_eq!(unions.poll_walk(Tick(9)), Some((OTHER, Names::All)), "so many are all");
    }

    #[test]
    fn every_verdict_has_a_number() {
        assert!((0..4).all(|code| Verdict::from_code(code).is_some_and(|verdict| verdict.code() == code)));
        assert_eq!(Verdict::from_code(4), None);
    }
}
