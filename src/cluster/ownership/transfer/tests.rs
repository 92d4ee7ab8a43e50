//! Transfers with messages that are lost and repeated, disks that take their time, and restarts.

use super::*;
use crate::base::rng::Rng;

const THERE: Generation = Generation(2);

/// Both sides, their disks, and what is on its way.
struct World {
    rng: Rng,
    source: Source,
    source_disk: Source,
    destination: Destination,
    destination_disk: Destination,
    to_source: Vec<Message>,
    to_destination: Vec<Message>,
    /// Writes that the disks have not finished.
    freezing: bool,
    deleting: Option<Epoch>,
    storing: Option<Epoch>,
    epoch: u64,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            rng: Rng::new(seed),
            source: Source::Serving,
            source_disk: Source::Serving,
            destination: Destination::Absent,
            destination_disk: Destination::Absent,
            to_source: Vec::new(),
            to_destination: Vec::new(),
            freezing: false,
            deleting: None,
            storing: None,
            epoch: 0,
        }
    }

    fn source_step(&mut self, step: Action) {
        match step {
            Action::Send(message) => self.to_destination.push(message),
            Action::Freeze(_) => self.freezing = true,
            Action::Thaw => self.source_disk = Source::Serving,
            Action::Delete(epoch) => self.deleting = Some(epoch),
            _ => {}
        }
    }

    fn destination_step(&mut self, step: Action) {
        match step {
            Action::Send(message) => self.to_source.push(message),
            Action::Store(epoch) => self.storing = Some(epoch),
            _ => {}
        }
    }

    /// Takes a message at random; it may stay to come once more.
    fn draw(rng: &mut Rng, messages: &mut Vec<Message>, has_faults: bool) -> Option<Message> {
        if messages.is_empty() {
            return None;
        }
        let index = rng.below(messages.len() as u64) as usize;
        let message = if has_faults && rng.chance(30) { messages[index] } else { messages.swap_remove(index) };
        (!has_faults || rng.chance(80)).then_some(message)
    }

    fn step(&mut self, has_faults: bool) {
        match self.rng.below(if has_faults { 10 } else { 7 }) {
            0 => {
                if let Some(message) = World::draw(&mut self.rng, &mut self.to_source, has_faults) {
                    let step = self.source.on_message(THERE, message);
                    self.source_step(step);
                }
            }
            1 => {
                if let Some(message) = World::draw(&mut self.rng, &mut self.to_destination, has_faults) {
                    let step = self.destination.on_message(message);
                    self.destination_step(step);
                }
            }
            2 if self.freezing => {
                self.freezing = false;
                let step = self.source.on_frozen();
                self.source_disk = self.source;
                self.source_step(step);
            }
            3 => {
                if let Some(epoch) = self.deleting.take() {
                    self.source_disk = Source::Gone;
                    let step = self.source.on_deleted(epoch);
                    self.source_step(step);
                }
            }
            4 => {
                if let Some(epoch) = self.storing.take() {
                    let steps = self.destination.on_stored(epoch);
                    self.destination_disk = self.destination;
                    steps.into_iter().for_each(|step| self.destination_step(step));
                }
            }
            5 if self.to_destination.len() < 4 => {
                let step = self.source.resolve();
                self.source_step(step);
            }
            6 if self.to_source.len() < 4 => match self.destination {
                Destination::Absent => {
                    self.epoch += 1;
                    let step = self.destination.request(Epoch(self.epoch));
                    self.destination_step(step);
                }
                Destination::Requesting(epoch) => self.destination_step(Action::Send(Message::Request(epoch))),
                _ => {}
            },
            7 => self.destination.give_up(),
            8 if self.rng.chance(30) => {
                (self.source, self.freezing, self.deleting) = (self.source_disk, false, None);
            }
            9 if self.rng.chance(30) => {
                (self.destination, self.storing) = (self.destination_disk, None);
            }
            _ => {}
        }
        assert!(!(self.source.serves() && self.destination.serves()), "two nodes serve the session");
    }
}

#[test]
fn one_side_serves_the_session_at_most_and_in_the_end_exactly_one() {
    let (mut arrived, mut aborted) = (0, 0);
    for seed in 0..500 {
        let mut world = World::new(seed);
        (0..200).for_each(|_| world.step(true));
        aborted += u32::from(world.epoch > 1);
        (0..3_000).for_each(|_| world.step(false));
        assert!(world.destination.serves(), "seed {seed}: {:?} {:?}", world.source, world.destination);
        arrived += u32::from(world.source == Source::Gone);
    }
    assert!(arrived > 450 && aborted > 100, "{arrived} have arrived, {aborted} after another attempt");
}

#[test]
fn a_destination_that_never_comes_back_leaves_the_session_frozen() {
    let mut source = Source::Serving;
    assert!(matches!(source.on_message(THERE, Message::Request(Epoch(1))), Action::Freeze(_)));
    assert_eq!(source.on_message(Generation(3), Message::Request(Epoch(2))), Action::Send(Message::NotHere(Epoch(2))));
    assert_eq!(source.on_frozen(), Action::Send(Message::Data(Epoch(1))));
    assert_eq!(source.resolve(), Action::Send(Message::Resolve(Epoch(1))));
    assert_eq!(source.on_message(THERE, Message::Aborted(Epoch(9))), Action::Nothing, "another epoch");
    assert!(!source.serves());
    assert_eq!(source.on_message(THERE, Message::Aborted(Epoch(1))), Action::Thaw);
    assert!(source.serves());
}
