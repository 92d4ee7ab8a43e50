//! What nodes send each other, and the links between them.

use super::{Event, World};
use rainbow::base::id::{Generation, NodeId};

impl World {
    pub(super) fn send_datagram(&mut self, life: Generation, to: u16, message: Vec<u8>) {
        if !self.slots.contains_key(&to) {
            return;
        }
        if !self.network.passes(self.port_of(life), to) || self.rng.chance(self.loss_percent) {
            return self.seen.count("datagram lost");
        }
        let ms = if self.rng.chance(3) { 50 } else { 1 + self.rng.below(4) };
        let from = self.port_of(life);
        self.push_in(ms, Event::Datagram { to, from, message });
    }

    pub(super) fn send_frame(&mut self, life: Generation, link: u64, to: Generation, bytes: Vec<u8>) {
        let way = (self.port_of(life), self.port_of(to));
        let at = self.now + 1 + self.rng.below(4);
        if let Some(at) = self.network.send(link, way, at) {
            self.push(at, Event::Frame { life: to, link, bytes });
        }
    }

    pub(super) fn connect(&mut self, life: Generation, node: NodeId) {
        let to = node.generation;
        let (here, there) = (self.port_of(life), node.address.port());
        let is_there = self.node(to).is_some() && !self.is_still(to);
        if !is_there || !self.network.passes_both_ways(here, there) {
            return self.push_in(5, Event::DialFailed { life, peer: to });
        }
        let link = self.network.new_link(here, there, self.now + 10);
        for (side, other) in [(life, to), (to, life)] {
            let hello = self.node(other).expect("both run").hello(self.now);
            let ms = 1 + self.rng.below(8);
            self.push_in(ms, Event::LinkUp { life: side, hello, link, is_dialed: side == life });
        }
    }

    /// What was sent before comes before.
    pub(super) fn close_link(&mut self, life: Generation, link: u64, peer: Generation) {
        self.seen.count("link broken");
        self.say(|| format!("{life} closes link {link} to {peer}"));
        let way = (self.port_of(life), self.port_of(peer));
        if let Some(at) = self.network.send(link, way, self.now + 3) {
            self.push(at, Event::LinkBroken { life: peer, link });
        }
    }
}
