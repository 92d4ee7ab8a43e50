//! Users: whom the business server names when it lets a client in. A user's connections and sessions are the members of
//! a channel that nobody else can name, so that a message or a kick for a user finds them as it would find a channel's:
//! on all workers and nodes, and sessions that are away.

/// The channel of this user's connections and sessions.
pub fn channel_of(user: &str) -> String {
    format!("{MARK}{user}")
}

/// Whose channel it is, if it is a user's.
pub fn user_of(channel: &str) -> Option<&str> {
    channel.strip_prefix(MARK)
}

/// Takes the user's channel out of those that a client has joined.
pub fn take_user(channels: &mut Vec<String>) -> Option<String> {
    let place = channels.iter().position(|channel| channel.starts_with(MARK))?;
    channels.remove(place).strip_prefix(MARK).map(String::from)
}

/// No header can carry it, and calls that name such a channel are refused.
const MARK: char = '\u{1}';
