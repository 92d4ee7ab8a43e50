//! Mistakes that a shard can be told to make (`Mode::Planted`), so that the simulation shows that its model notices
//! each. Every one stands beside the line it spoils, off the hot path, and release builds leave all of them out.

/// Which mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A message that the backend does not have is answered as if it had it.
    AnswersFailed,
    /// A message that failed is not taken again when the client repeats it.
    AbsorbsFailed,
    /// A message that failed and is repeated goes out under a new number.
    NumbersAnew,
    /// A QoS 2 id is forgotten when it is answered, not at REL.
    ForgetsReceived,
    /// A repeat is answered with an empty body.
    AnswersDifferently,
    /// A repeat of an answered message stays without answer.
    StaysSilent,
    /// The oldest message in the line goes behind the others.
    ForwardsOutOfOrder,
    /// Repeats come without DUP.
    RepeatsWithoutDup,
    /// Nothing is repeated.
    NeverRepeats,
    /// REL is sent once.
    ReleasesOnce,
    /// Every second message gets the id of the one before.
    ReusesIds,
    /// Room in the window is not used.
    ForgetsQueue,
    /// A member that has gone counts as one that has answered.
    CountsTheGone,
    /// A call whose time is over is not replied to.
    LosesReplies,
    /// A connection's end is told before its last message is through.
    ClosesEarly,
    /// The end of a connection that the backend never heard of is told too.
    ClosesUnopened,
    /// A stale key reaches whoever has the slot now.
    TrustsStaleKeys,
    /// A connection that ends keeps its messages.
    LeaksMessages,
    /// A write that does not take everything counts as one byte more.
    SkipsBytes,
    /// A paused client is never read again.
    NeverResumes,
    /// A silent client is not asked whether it lives.
    NeverPings,
    /// A call counts a message as stored when the store is asked.
    CountsBeforeStored,
    /// A session whose line ends keeps nothing of what was in flight.
    ForgetsAtTheEnd,
    /// Orders are used without being reserved, so that a crash gives ids away again.
    ReservesNothing,
    /// After a crash, ids that the client may hold are not released.
    SweepsNothing,
    /// What a session sends again comes without DUP.
    ResumesWithoutDup,
    /// A page of stored messages is sent from its end.
    LoadsBackwards,
    /// REL goes out before the store knows that the client has the message.
    ReleasesUnstored,
    /// REC goes out before the store has the id.
    AnswersUnstored,
    /// A new run of the client's ids is used before it is stored.
    NumbersUnstored,
    /// A connection that takes a session over does not get what is with the backend.
    LeavesUplink,
}

impl Bug {
    pub const ALL: &[Bug] = &[
        Bug::AnswersFailed,
        Bug::AbsorbsFailed,
        Bug::NumbersAnew,
        Bug::ForgetsReceived,
        Bug::AnswersDifferently,
        Bug::StaysSilent,
        Bug::ForwardsOutOfOrder,
        Bug::RepeatsWithoutDup,
        Bug::NeverRepeats,
        Bug::ReleasesOnce,
        Bug::ReusesIds,
        Bug::ForgetsQueue,
        Bug::CountsTheGone,
        Bug::LosesReplies,
        Bug::ClosesEarly,
        Bug::ClosesUnopened,
        Bug::TrustsStaleKeys,
        Bug::LeaksMessages,
        Bug::SkipsBytes,
        Bug::NeverResumes,
        Bug::NeverPings,
    ];

    /// Those that only a durable session can show.
    pub const OF_SESSIONS: &[Bug] = &[
        Bug::CountsBeforeStored,
        Bug::ForgetsAtTheEnd,
        Bug::ReservesNothing,
        Bug::SweepsNothing,
        Bug::ResumesWithoutDup,
        Bug::LoadsBackwards,
        Bug::ReleasesUnstored,
        Bug::AnswersUnstored,
        Bug::NumbersUnstored,
        Bug::LeavesUplink,
    ];
}
