//! How many messages go to the channels that somebody looks at. A channel is counted from the first look on, as long as
//! looks follow each other; channels that nobody looks at cost a message one look at an empty list.

use crate::base::time::Tick;

/// Since the first look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages that calls have sent to the channel.
    pub messages: u64,
    /// Members online that they were for, added up.
    pub deliveries: u64,
}

/// The channels of a shard that somebody looks at.
#[derive(Default)]
pub struct Watches {
    open: Vec<Watch>,
}

struct Watch {
    channel: Box<str>,
    ends: Tick,
    traffic: Traffic,
}

impl Traffic {
    /// Two shards' parts. A message for the channel goes to each shard that has members, and is one all the same. A
    /// part that is not known makes the sum unknown.
    pub fn added(one: Option<Traffic>, other: Option<Traffic>) -> Option<Traffic> {
        let (one, other) = (one?, other?);
        Some(Traffic { messages: one.messages.max(other.messages), deliveries: one.deliveries + other.deliveries })
    }
}

impl Watches {
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Somebody looks at the channel: what was counted so far. `None`: too many channels are looked at.
    pub fn look(&mut self, channel: &str, now: Tick) -> Option<Traffic> {
        let ends = now + WATCH_MS;
        self.expire(now);
        if let Some(watch) = self.open.iter_mut().find(|watch| *watch.channel == *channel) {
            watch.ends = ends;
            return Some(watch.traffic);
        }
        let has_room = self.open.len() < WATCHES_MAX;
        has_room.then(|| {
            self.open.push(Watch { channel: channel.into(), ends, traffic: Traffic::default() });
            Traffic::default()
        })
    }

    /// A message goes to so many members of the channel.
    #[cold]
    pub fn count(&mut self, channel: &str, members: usize, now: Tick) {
        self.expire(now);
        if let Some(Watch { traffic, .. }) = self.open.iter_mut().find(|watch| *watch.channel == *channel) {
            traffic.messages += 1;
            traffic.deliveries += members as u64;
        }
    }

    fn expire(&mut self, now: Tick) {
        self.open.retain(|watch| now < watch.ends);
    }
}

/// A page looks each second; one that was in the background goes on where it was.
pub const WATCH_MS: u64 = 15_000;
/// More than people look at; each costs every message a comparison while it is looked at.
const WATCHES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_counted_while_somebody_looks() {
        let mut watches = Watches::default();
        watches.count("news", 3, Tick(0));
        assert_eq!(watches.look("news", Tick(0)), Some(Traffic::default()));
        watches.count("news", 3, Tick(1_000));
        watches.count("weather", 5, Tick(1_000));
        watches.count("news", 2, Tick(1_000));
        let counted = Traffic { messages: 2, deliveries: 5 };
        assert_eq!(watches.look("news", Tick(14_999)), Some(counted));
        assert_eq!(watches.look("news", Tick(29_998)), Some(counted), "each look prolongs it");
        watches.count("news", 1, Tick(29_998 + WATCH_MS));
        assert!(watches.is_idle(), "nobody has looked for so long");
        assert_eq!(watches.look("news", Tick(60_000)), Some(Traffic::default()), "it begins anew");
    }

    #[test]
    fn so_many_channels_are_looked_at_and_no_more() {
        let mut watches = Watches::default();
        for n in 0..WATCHES_MAX {
            assert!(watches.look(&n.to_string(), Tick(n as u64)).is_some());
        }
        assert_eq!(watches.look("one more", Tick(100)), None);
        assert!(watches.look("0", Tick(100)).is_some(), "those that are looked at stay");
        assert!(watches.look("one more", Tick(1 + WATCH_MS)).is_some(), "another's time is over");
    }

    #[test]
    fn a_message_to_several_shards_is_one() {
        let [one, other] = [(4, 10), (5, 1)].map(|(messages, deliveries)| Some(Traffic { messages, deliveries }));
        assert_eq!(Traffic::added(one, other), Some(Traffic { messages: 5, deliveries: 11 }));
        assert_eq!(Traffic::added(one, None), None);
    }
}
