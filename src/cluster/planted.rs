//! Mistakes that the parts of the cluster can be made to make, so that the simulation shows that its model notices
//! each. Release builds leave all of them out.

/// Which mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterBug {
    /// A link that comes up is sent changes only.
    SkipsSnapshot,
    /// A connection is open before its peers know of its channels.
    OpensUnacknowledged,
    /// A peer's channels are taken for known when its snapshot begins.
    TrustsHalfASnapshot,
    /// What was known of a peer counts while no link to it works.
    TrustsTheUnlinked,
    /// A fenced write ends nothing.
    IgnoresFences,
    /// A node that stood still acknowledges what it did not verify.
    TrustsItself,
    /// A session is deleted where it was although the other disk has not got it yet.
    DeletesBeforeArrival,
    /// A session that has arrived stays where it was, too.
    ThawsWhatArrived,
    /// A name is granted to whoever asks.
    GrantsToAll,
    /// A session that is passed on takes messages until it has left.
    TakesWhatIsPassed,
    /// A session that becomes part of another leaves no word of what its client may have.
    NotesNothing,
    /// A session that comes to a disk is not compared with those of its name elsewhere.
    OverlooksArrivals,
    /// What is on its way to a disk is settled as if it were not; harmless while the store refuses the rest of it.
    SettlesWhatComes,
}

impl ClusterBug {
    pub const ALL: &[ClusterBug] = &[
        ClusterBug::SkipsSnapshot,
        ClusterBug::OpensUnacknowledged,
        ClusterBug::TrustsHalfASnapshot,
        ClusterBug::TrustsTheUnlinked,
        ClusterBug::IgnoresFences,
        ClusterBug::TrustsItself,
    ];

    /// Where each node has a disk of its own.
    pub const OF_DISKS: &[ClusterBug] = &[
        ClusterBug::DeletesBeforeArrival,
        ClusterBug::ThawsWhatArrived,
        ClusterBug::GrantsToAll,
        ClusterBug::TakesWhatIsPassed,
    ];

    /// Where two nodes that had not met have a session of one name.
    pub const OF_UNIONS: &[ClusterBug] = &[ClusterBug::NotesNothing, ClusterBug::OverlooksArrivals];
}

/// The mistake that a part makes, if any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted(Option<ClusterBug>);

impl Planted {
    pub fn plant(&mut self, bug: ClusterBug) {
        self.0 = Some(bug);
    }

    #[inline]
    pub fn is(&self, bug: ClusterBug) -> bool {
        cfg!(debug_assertions) && self.0 == Some(bug)
    }
}
