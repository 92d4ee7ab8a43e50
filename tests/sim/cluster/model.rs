//! What must be true of all that the nodes do, kept apart from how they do it.

use rainbow::base::id::{Generation, Identity};
use rainbow::cluster::ownership::claims::{SessionName, Token};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Model {
    /// Channels that all peers with a link have acknowledged, per life.
    pub open: BTreeSet<(Generation, u64)>,
    /// Lives that crashed or hung, with the channels that were open, and who must still know of them.
    pub left: BTreeMap<Generation, Left>,
    /// A node, and a dead life of which it knew all channels.
    pub known_dead: BTreeSet<(Generation, Generation)>,
    /// Per session its last claim, in the history that the store has.
    claims: BTreeMap<SessionName, (Generation, Token)>,
    /// Per connection its life, and the key under which its close was reported.
    connections: BTreeMap<Identity, Connection>,
    /// Taken while the owner stood still for the whole second.
    pub forced: BTreeSet<(SessionName, Generation, Token)>,
}

#[derive(Default)]
pub struct Left {
    pub channels: BTreeSet<u64>,
    pub witnesses: BTreeSet<Generation>,
}

struct Connection {
    life: Generation,
    /// Its process ended, or ended it itself.
    has_ended: bool,
    /// It had not before its life was buried; an older copy of the store may have that life alive again.
    is_buried: bool,
    key: Option<String>,
    /// Reaper whose hook is on its way.
    calling: BTreeSet<Generation>,
    /// A failover lost its record.
    is_lost: bool,
}

impl Connection {
    fn new(life: Generation, has_ended: bool) -> Connection {
        Connection { life, has_ended, is_buried: false, key: None, calling: BTreeSet::new(), is_lost: false }
    }
}

impl Model {
    pub fn claimed(&mut self, name: &SessionName, by: Generation, token: Token) -> Option<(Generation, Token)> {
        self.claims.insert(name.clone(), (by, token))
    }

    pub fn passed(&mut self, name: &SessionName, to: Token) {
        self.claims.insert(name.clone(), (to.owner().expect("a node's"), to));
    }

    /// The store has an older history now.
    pub fn failed_over(
        &mut self,
        sessions: &BTreeMap<SessionName, Token>,
        connections: &BTreeSet<(Generation, Identity)>,
    ) {
        let claims = sessions.iter().filter_map(|(name, token)| Some((name.clone(), (token.owner()?, *token))));
        self.claims = claims.collect();
        self.forced.clear();
        for (identity, connection) in &mut self.connections {
            connection.is_lost |= !connections.iter().any(|(_, known)| known == identity);
        }
    }

    /// A write was carried out, and so acknowledged.
    pub fn check_write(&self, name: &SessionName, by: Generation, token: Token) {
        let owner = self.claims.get(name);
        assert_eq!(owner, Some(&(by, token)), "{name}: acknowledged by who is not its owner");
    }

    /// The owner acknowledges without a write.
    pub fn check_own_word(&self, name: &SessionName, by: Generation, token: Token) {
        let was_taken = self.forced.contains(&(name.clone(), by, token));
        assert!(!was_taken, "{name}: {by} stood still, lost it, and acknowledges");
    }

    pub fn connected(&mut self, identity: Identity, life: Generation, is_lost: bool) {
        // A survivor may have taken its record, and reported its close, before its own node hears that it is stored.
        let known = self.connections.entry(identity).or_insert_with(|| Connection::new(life, false));
        known.is_lost |= is_lost;
    }

    pub fn ended(&mut self, identity: &Identity) {
        self.connections.get_mut(identity).expect("it was connected").has_ended = true;
    }

    pub fn life_ended(&mut self, life: Generation) {
        for connection in self.connections.values_mut().filter(|connection| connection.life == life) {
            connection.is_buried |= !connection.has_ended;
            connection.has_ended = true;
        }
        for connection in self.connections.values_mut() {
            connection.calling.remove(&life);
        }
    }

    /// A hook reaches the backend. True if it is the first for this connection.
    pub fn hook(&mut self, identity: &Identity, by: Generation, key: &str, is_calm: bool) -> bool {
        // Its record was written, and the node did not hear of that: it was never let in.
        let connection = self.connections.entry(*identity).or_insert_with(|| Connection::new(by, true));
        assert!(connection.has_ended, "the close of a connection that lives is reported by {by}");
        connection.calling.insert(by);
        assert!(connection.calling.len() == 1 || !is_calm, "two report one close at the same time");
        let is_first = connection.key.is_none();
        let known = connection.key.get_or_insert_with(|| key.to_owned());
        assert_eq!(known, key, "one close under two keys");
        is_first
    }

    pub fn hook_ended(&mut self, identity: &Identity, by: Generation) {
        if let Some(connection) = self.connections.get_mut(identity) {
            connection.calling.remove(&by);
        }
    }

    /// `running`: the lives that are there.
    pub fn check_all_closed(&self, running: &[Generation]) {
        for (identity, connection) in &self.connections {
            let goes_on = connection.is_buried && running.contains(&connection.life);
            let is_due = connection.has_ended && !connection.is_lost && !goes_on;
            assert!(!is_due || connection.key.is_some(), "nobody has reported the close of {identity:?}");
        }
    }
}
