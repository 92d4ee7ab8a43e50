//! Mistakes that a shard can be told to make (`Mode::Planted`), so that the simulation shows that its model notices
//! each. Each costs one line at the place it spoils; release builds leave all of them out.

/// Which mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A message that the backend does not have is answered as if it had it.
    AnswersFailed,
    /// A message that failed is not taken again when the client repeats it.
    AbsorbsFailed,
    /// A repeat of an answered message stays without answer.
    StaysSilent,
    /// The newest message in the forward queue goes first.
    ForwardsOutOfOrder,
    /// Repeats come without DUP.
    RepeatsWithoutDup,
    /// Nothing is repeated.
    NeverRepeats,
    /// REL is sent once.
    ReleasesOnce,
    /// Every second message gets the id of the one before.
    ReusesIds,
    /// A member that has gone counts as one that has answered.
    CountsTheGone,
    /// A call whose time is over is not replied to.
    LosesReplies,
    /// A stale key reaches whoever has the slot now.
    TrustsStaleKeys,
    /// A connection that ends does not release its messages.
    LeaksMessages,
    /// A write that does not take everything counts as one byte more.
    SkipsBytes,
    /// A paused client is never read again.
    NeverResumes,
    /// A silent client is not pinged.
    NeverPings,
    /// The packet PING stays without answer.
    NeverPongs,
    /// A QoS 1 id that names another message is taken for a repeat.
    SwallowsReusedIds,
    /// A queue that waits for REL does not go on when REL comes.
    HoldsForEver,
    /// Answers that are not released do not hold the queue.
    KeepsAllAnswers,
    /// A client whose queue is full is not read on.
    StopsAtFullQueue,
    /// Answers that nobody reads wait however many they are.
    AnswersWithoutLimit,
    /// A message goes to members although the time of its call is over.
    SendsAfterItsTime,
    /// A refusal looks like an answer.
    HidesRefusals,
    /// Sessions that are absent are counted among those who are online.
    CountsTheAbsent,
    /// A member of two channels of one call gets the message twice.
    SendsTwice,
    /// What is done in slices is said to be done after the first one.
    EndsWithTheFirstSlice,
    /// The first member of each slice is left out.
    LosesItsPlace,
    /// Names are hashed without the key that was drawn.
    HashesWithoutKey,
    /// A session whose connection ends stores nothing of what was in flight.
    ForgetsAtTheEnd,
    /// After a crash offsets that were reserved are used again, and with them their ids.
    ForgetsReserved,
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
    /// A refusal that was stored comes back as an answer.
    ForgetsRefusals,
    /// A connection that takes a session over does not get what is with the backend.
    LeavesUplink,
    /// What is not known in time is called nothing.
    HidesUndecided,
    /// What a session is refused is called nothing.
    HidesRefused,
    /// A message whose time is over is sent and repeated.
    DeliversExpired,
    /// What the store has purged, and counted, is counted off once more when the client answers it.
    CountsExpiredTwice,
    /// The wall clock counts as it stood at the start.
    IgnoresClockSteps,
    /// Commands to the store are taken however many are unfinished.
    TakesCommandsWithoutLimit,
}

impl Bug {
    pub const ALL: &[Bug] = &[
        Bug::AnswersFailed,
        Bug::AbsorbsFailed,
        Bug::StaysSilent,
        Bug::ForwardsOutOfOrder,
        Bug::RepeatsWithoutDup,
        Bug::NeverRepeats,
        Bug::ReleasesOnce,
        Bug::ReusesIds,
        Bug::CountsTheGone,
        Bug::LosesReplies,
        Bug::TrustsStaleKeys,
        Bug::LeaksMessages,
        Bug::SkipsBytes,
        Bug::NeverResumes,
        Bug::NeverPings,
        Bug::NeverPongs,
        Bug::SwallowsReusedIds,
        Bug::HoldsForEver,
        Bug::KeepsAllAnswers,
        Bug::StopsAtFullQueue,
        Bug::AnswersWithoutLimit,
        Bug::HidesRefusals,
        Bug::SendsAfterItsTime,
        Bug::HashesWithoutKey,
        Bug::EndsWithTheFirstSlice,
        Bug::LosesItsPlace,
    ];

    /// Those that only a durable session can show.
    pub const OF_SESSIONS: &[Bug] = &[
        Bug::ForgetsAtTheEnd,
        Bug::ForgetsReserved,
        Bug::SweepsNothing,
        Bug::ResumesWithoutDup,
        Bug::LoadsBackwards,
        Bug::ReleasesUnstored,
        Bug::AnswersUnstored,
        Bug::NumbersUnstored,
        Bug::ForgetsRefusals,
        Bug::LeavesUplink,
        Bug::HidesUndecided,
        Bug::HidesRefused,
        Bug::DeliversExpired,
        Bug::CountsExpiredTwice,
        Bug::IgnoresClockSteps,
        Bug::TakesCommandsWithoutLimit,
        Bug::CountsTheAbsent,
    ];
}
