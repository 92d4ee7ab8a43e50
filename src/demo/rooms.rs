//! Rooms, the people in them and their chat lines: plain data; the caller passes the time in.
//!
//! Everything is bounded: rooms, people, lines, lengths. People are known by Rainbow's identity of their connection.
//! Everything is forgotten when the demo is restarted; `hooks` then learns the people anew from the cookies that
//! Rainbow stores.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// The person behind a connection. The cookie has the same fields, so that a restarted demo recognises everyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    pub name: String,
    pub device: String,
    pub room: String,
}

/// One line of a room's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChatLine {
    /// Rises within a room, across restarts of the demo too (it follows the clock), so that pages can sort by it.
    pub seq: u64,
    pub time_ms: u64,
    pub room: String,
    /// Chosen by the page, which shows a line that comes twice once.
    pub key: String,
    pub name: String,
    pub device: String,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    Joined,
    Left,
    Renamed,
    /// Nobody came or went; only the list is new.
    Present,
}

/// Sent to everyone in a room when its people change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Presence {
    pub seq: u64,
    pub time_ms: u64,
    pub room: String,
    pub event: Event,
    pub name: String,
    /// The former name of someone who renamed.
    pub was: Option<String>,
    pub device: String,
    pub people: Vec<Seen>,
}

/// A person as others see them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Seen {
    pub name: String,
    pub device: String,
}

/// A room in the list of rooms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoomInfo {
    pub name: String,
    pub people: usize,
}

#[derive(Debug)]
pub struct Rooms {
    people: HashMap<String, Person>,
    rooms: BTreeMap<String, Room>,
    last_seq: u64,
}

#[derive(Debug, Default)]
struct Room {
    /// Identities.
    here: BTreeSet<String>,
    history: VecDeque<ChatLine>,
}

impl Rooms {
    /// With the rooms that a new visitor finds.
    pub fn new() -> Rooms {
        let rooms = FIRST_ROOMS.iter().map(|name| ((*name).to_owned(), Room::default())).collect();
        Rooms { people: HashMap::new(), rooms, last_seq: 0 }
    }

    pub fn person(&self, identity: &str) -> Option<&Person> {
        self.people.get(identity)
    }

    /// Puts someone into the room that `person` names, and out of the one they were in. A device with several
    /// connections (a reconnection that overtook its own close) joins once and leaves once.
    pub fn enter(&mut self, identity: &str, person: Person, now_ms: u64) -> Vec<Presence> {
        let was_in = self.people.get(identity).map(|known| known.room.clone());
        if was_in.as_ref() == Some(&person.room) {
            return self.rename(identity, &person.name, now_ms).into_iter().collect();
        }
        let mut announcements: Vec<Presence> = self.leave(identity, now_ms).into_iter().collect();
        if self.people.len() >= PEOPLE_MAX {
            return announcements;
        }
        let is_new = !self.is_device_in(&person.room, &person.device);
        self.rooms.entry(person.room.clone()).or_default().here.insert(identity.to_owned());
        self.people.insert(identity.to_owned(), person.clone());
        announcements.push(self.presence(if is_new { Event::Joined } else { Event::Present }, &person, None, now_ms));
        announcements
    }

    /// Adds a person whom an earlier process of the demo let in, without an announcement. True when nobody else is
    /// known in that room: then the others have to be asked for.
    pub fn recognize(&mut self, identity: &str, person: Person) -> bool {
        if self.people.len() >= PEOPLE_MAX {
            return false;
        }
        let room = self.rooms.entry(person.room.clone()).or_default();
        let is_first = room.here.is_empty();
        room.here.insert(identity.to_owned());
        self.people.insert(identity.to_owned(), person);
        is_first
    }

    pub fn leave(&mut self, identity: &str, now_ms: u64) -> Option<Presence> {
        let person = self.people.remove(identity)?;
        if let Some(room) = self.rooms.get_mut(&person.room) {
            room.here.remove(identity);
        }
        let is_new = !self.is_device_in(&person.room, &person.device);
        is_new.then(|| self.presence(Event::Left, &person, None, now_ms))
    }

    pub fn rename(&mut self, identity: &str, name: &str, now_ms: u64) -> Option<Presence> {
        let person = self.people.get_mut(identity)?;
        if person.name == name {
            return None;
        }
        let was = std::mem::replace(&mut person.name, name.to_owned());
        let person = person.clone();
        Some(self.presence(Event::Renamed, &person, Some(was), now_ms))
    }

    /// The list alone, for a room whose people had to be learnt anew.
    pub fn present(&mut self, identity: &str, now_ms: u64) -> Option<Presence> {
        let person = self.people.get(identity)?.clone();
        Some(self.presence(Event::Present, &person, None, now_ms))
    }

    /// Adds a line to the room of `identity`. A line whose key is known is a repeat: the first one is returned.
    pub fn say(&mut self, identity: &str, key: &str, text: &str, now_ms: u64) -> Option<ChatLine> {
        let Person { name, device, room } = self.people.get(identity)?.clone();
        let seq = self.next_seq(now_ms);
        let history = &mut self.rooms.entry(room.clone()).or_default().history;
        if let Some(line) = history.iter().find(|line| line.key == key && line.device == device) {
            return Some(line.clone());
        }
        let line = ChatLine { seq, time_ms: now_ms, room, key: key.to_owned(), name, device, text: text.to_owned() };
        if history.len() == HISTORY_MAX {
            history.pop_front();
        }
        history.push_back(line.clone());
        Some(line)
    }

    /// Oldest first.
    pub fn history(&self, room: &str) -> Vec<&ChatLine> {
        self.rooms.get(room).map(|room| room.history.iter().collect()).unwrap_or_default()
    }

    /// By name; a device once.
    pub fn people_in(&self, room: &str) -> Vec<Seen> {
        let here = self.rooms.get(room).into_iter().flat_map(|room| &room.here);
        let seen = here.filter_map(|identity| self.people.get(identity));
        let unique: BTreeMap<&String, &String> = seen.map(|person| (&person.device, &person.name)).collect();
        let mut list: Vec<Seen> =
            unique.into_iter().map(|(device, name)| Seen { name: name.clone(), device: device.clone() }).collect();
        list.sort();
        list.truncate(LIST_MAX);
        list
    }

    pub fn list(&self) -> Vec<RoomInfo> {
        let info = |(name, room): (&String, &Room)| RoomInfo { name: name.clone(), people: room.here.len() };
        self.rooms.iter().map(info).collect()
    }

    /// A room's name as it is used: lower case, letters, digits and dashes. When there are too many rooms, an unknown
    /// name leads to the first one. What comes out is safe in a header.
    pub fn room_name(&mut self, wanted: &str) -> String {
        let tidy = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = wanted.trim().chars().take(ROOM_NAME_MAX).map(tidy).collect();
        let name = name.trim_matches('-');
        if self.rooms.contains_key(name) {
            return name.to_owned();
        }
        if self.rooms.len() >= ROOMS_MAX {
            let deserted =
                self.rooms.iter().find(|(name, room)| room.here.is_empty() && !FIRST_ROOMS.contains(&name.as_str()));
            if let Some(name) = deserted.map(|(name, _)| name.clone()) {
                self.rooms.remove(&name);
            }
        }
        if name.is_empty() || self.rooms.len() >= ROOMS_MAX { FIRST_ROOMS[0].to_owned() } else { name.to_owned() }
    }

    fn is_device_in(&self, room: &str, device: &str) -> bool {
        let here = self.rooms.get(room).into_iter().flat_map(|room| &room.here);
        here.filter_map(|identity| self.people.get(identity)).any(|person| person.device == device)
    }

    fn presence(&mut self, event: Event, person: &Person, was: Option<String>, now_ms: u64) -> Presence {
        let seq = self.next_seq(now_ms);
        let (name, device, people) = (person.name.clone(), person.device.clone(), self.people_in(&person.room));
        Presence { seq, time_ms: now_ms, room: person.room.clone(), event, name, was, device, people }
    }

    fn next_seq(&mut self, now_ms: u64) -> u64 {
        self.last_seq = now_ms.max(self.last_seq + 1);
        self.last_seq
    }
}

/// A name as it is shown: no control characters, no blanks around it, not too long, never empty.
pub fn person_name(wanted: &str) -> String {
    let name: String = wanted.chars().filter(|c| !c.is_control()).take(PERSON_NAME_MAX).collect();
    let name = name.trim();
    if name.is_empty() { "Guest".to_owned() } else { name.to_owned() }
}

const FIRST_ROOMS: [&str; 3] = ["lobby", "kitchen", "garden"];
const ROOMS_MAX: usize = 200;
const PEOPLE_MAX: usize = 10_000;
/// Lines per room, in the demo's memory only.
const HISTORY_MAX: usize = 100;
/// People named in one announcement.
const LIST_MAX: usize = 200;
/// Characters.
const ROOM_NAME_MAX: usize = 32;
const PERSON_NAME_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn person(name: &str, room: &str) -> Person {
        Person { name: name.into(), device: format!("device of {name}"), room: room.into() }
    }

    fn events(announcements: &[Presence]) -> Vec<(&str, Event, usize)> {
        announcements.iter().map(|presence| (presence.room.as_str(), presence.event, presence.people.len())).collect()
    }

    #[test]
    fn people_join_move_and_leave() {
        let mut rooms = Rooms::new();
        assert_eq!(events(&rooms.enter("1", person("Ann", "lobby"), 1)), [("lobby", Event::Joined, 1)]);
        assert_eq!(events(&rooms.enter("2", person("Bob", "lobby"), 2)), [("lobby", Event::Joined, 2)]);
        let moved = rooms.enter("1", person("Ann", "garden"), 3);
        assert_eq!(events(&moved), [("lobby", Event::Left, 1), ("garden", Event::Joined, 1)]);
        assert_eq!(events(&rooms.enter("1", person("Ann", "garden"), 4)), []);
        assert_eq!(rooms.leave("1", 5).map(|presence| presence.room), Some("garden".into()));
        assert_eq!(rooms.leave("1", 6), None);
        assert_eq!(rooms.people_in("lobby"), [Seen { name: "Bob".into(), device: "device of Bob".into() }]);
    }

    #[test]
    fn a_reconnection_that_overtakes_its_close_is_no_news() {
        let mut rooms = Rooms::new();
        rooms.enter("1", person("Ann", "lobby"), 1);
        assert_eq!(events(&rooms.enter("2", person("Ann", "lobby"), 2)), [("lobby", Event::Present, 1)]);
        assert_eq!(rooms.leave("1", 3), None);
        assert_eq!(rooms.leave("2", 4).map(|presence| presence.event), Some(Event::Left));
    }

    #[test]
    fn a_line_that_comes_twice_is_stored_once() {
        let mut rooms = Rooms::new();
        rooms.enter("1", person("Ann", "lobby"), 1);
        let first = rooms.say("1", "k", "hello", 10).unwrap();
        let repeat = rooms.say("1", "k", "hello", 20).unwrap();
        assert_eq!((repeat.room.as_str(), &repeat), ("lobby", &first));
        assert_eq!(rooms.history("lobby"), [&first]);
        assert_eq!(rooms.say("nobody", "k", "hello", 30), None);
    }

    #[test]
    fn history_is_bounded_and_its_order_rises_even_when_the_clock_does_not() {
        let mut rooms = Rooms::new();
        rooms.enter("1", person("Ann", "lobby"), 1000);
        for number in 0..HISTORY_MAX + 5 {
            rooms.say("1", &number.to_string(), "x", 500);
        }
        let history = rooms.history("lobby");
        assert_eq!((history.len(), history[0].key.as_str()), (HISTORY_MAX, "5"));
        assert!(history.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        assert!(history[0].seq > 1000);
    }

    #[test]
    fn a_rename_is_announced_once() {
        let mut rooms = Rooms::new();
        rooms.enter("1", person("Ann", "lobby"), 1);
        let presence = rooms.rename("1", "Anna", 2).unwrap();
        assert_eq!(
            (presence.room.as_str(), presence.name.as_str(), presence.was.as_deref()),
            ("lobby", "Anna", Some("Ann"))
        );
        assert_eq!(rooms.rename("1", "Anna", 3), None);
    }

    #[test]
    fn after_a_restart_people_are_recognized_quietly() {
        let mut rooms = Rooms::new();
        assert!(rooms.recognize("1", person("Ann", "lobby")));
        assert!(!rooms.recognize("2", person("Bob", "lobby")));
        assert_eq!(rooms.people_in("lobby").len(), 2);
        assert_eq!(rooms.leave("2", 5).map(|presence| presence.event), Some(Event::Left));
    }

    #[test]
    fn names_are_made_safe_for_headers_and_rooms_are_bounded() {
        let mut rooms = Rooms::new();
        assert_eq!(rooms.room_name(" My Room;;x\r\ny "), "my-room--x--y");
        assert_eq!(rooms.room_name("ü"), "lobby");
        for number in 0..2 * ROOMS_MAX {
            let room = rooms.room_name(&format!("r{number}"));
            rooms.enter(&number.to_string(), person("Ann", &room), 1);
        }
        assert_eq!(rooms.list().len(), ROOMS_MAX);
        assert_eq!(rooms.room_name("one-more"), "lobby");
        rooms.leave("7", 2);
        assert_eq!(rooms.room_name("one-more"), "one-more");
        assert_eq!(person_name(" A\u{0}nn \n"), "Ann");
        assert_eq!(person_name("\n"), "Guest");
        assert_eq!(person_name(&"x".repeat(100)).len(), PERSON_NAME_MAX);
    }
}
