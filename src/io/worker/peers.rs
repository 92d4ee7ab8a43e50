//! The other workers, as one worker sees them: messages to them, those that a full mailbox did not take, and the bells
//! to be rung at the end of the turn.

use super::message::PeerMessage;
use crate::base::id::ShardId;
use crate::base::limits::Limits;
use crate::io::runtime::mailbox::{Bells, MailboxReceiver, MailboxSender};
use crate::io::runtime::socket::Pollable;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

pub struct Peers {
    mailboxes: Arc<[MailboxSender<PeerMessage>]>,
    /// This worker's own.
    mailbox: MailboxReceiver<PeerMessage>,
    /// Rung at the end of every turn.
    bells: Bells,
    /// Messages that must arrive, in order, and have found no room. Bounded by the calls that are open and by the
    /// connections that were handed over.
    backlog: RefCell<VecDeque<(ShardId, PeerMessage)>>,
}

impl Peers {
    pub fn new(
        mailboxes: Arc<[MailboxSender<PeerMessage>]>,
        mailbox: MailboxReceiver<PeerMessage>,
        limits: &Limits,
    ) -> Peers {
        Peers { mailboxes, mailbox, bells: Bells::new(limits.mailbox_unrung_max), backlog: RefCell::default() }
    }

    /// Gives the message back when the mailbox is full. The receiver is woken by `ring`.
    pub fn try_send(&self, to: ShardId, message: PeerMessage) -> Result<(), PeerMessage> {
        self.bells.put(&self.mailboxes, usize::from(to.0), message)
    }

    /// A message that must arrive, in the order in which it is sent.
    pub fn send(&self, to: ShardId, message: PeerMessage) {
        let mut backlog = self.backlog.borrow_mut();
        if !backlog.is_empty() {
            backlog.push_back((to, message));
        } else if let Err(back) = self.try_send(to, message) {
            backlog.push_back((to, back));
        }
    }

    /// What there was no room for. False when there was nothing of that kind.
    pub fn send_backlog(&self) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        let had_backlog = !backlog.is_empty();
        while let Some((to, message)) = backlog.pop_front() {
            if let Err(back) = self.try_send(to, message) {
                backlog.push_front((to, back));
                break;
            }
        }
        had_backlog
    }

    pub fn has_backlog(&self) -> bool {
        !self.backlog.borrow().is_empty()
    }

    /// Wakes the workers that were sent something.
    pub fn ring(&self) {
        self.bells.ring(&self.mailboxes);
    }

    pub fn try_receive(&self) -> Option<PeerMessage> {
        self.mailbox.try_recv()
    }

    /// This worker's own bell; call it in the thread that will wait.
    pub fn bell(&self) -> io::Result<Pollable> {
        self.mailbox.pollable()
    }

    /// Returns when the bell was rung, or there may be a message.
    pub async fn wait(&self, bell: &Pollable) {
        self.mailbox.wait(bell).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ConnIndex, ConnKey};
    use crate::io::runtime::mailbox::mailbox;

    #[test]
    fn what_must_arrive_keeps_its_order_when_the_mailbox_is_full() {
        let (sender, receiver) = mailbox(1).expect("an eventfd");
        let (_, own) = mailbox(1).expect("an eventfd");
        let peers = Peers::new([sender].into(), own, &Limits::DEFAULT);
        let key = |index| ConnKey { index: ConnIndex(index), generation: 0, shard: ShardId(0) };
        let ended = |index| PeerMessage::HandoverEnded { origin: key(index) };
        (1..=3).for_each(|index| peers.send(ShardId(0), ended(index)));
        assert!(peers.has_backlog());
        let next = || match receiver.try_recv() {
            Some(PeerMessage::HandoverEnded { origin }) => origin.index.0,
            _ => panic!("a message waits"),
        };
        assert_eq!(next(), 1);
        peers.send(ShardId(0), ended(4));
        assert!(receiver.try_recv().is_none(), "room that comes free is for the first that waits");
        for expected in 2..=4 {
            assert!(peers.send_backlog());
            assert_eq!(next(), expected);
        }
        assert!(!peers.has_backlog() && !peers.send_backlog());
    }
}
