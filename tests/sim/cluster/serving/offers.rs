//! What a node that stops has is offered to the others, as in `io::service::drain`.

use super::{HASH_KEY, Purpose, Serving};
use rainbow::base::id::Generation;
use rainbow::base::time::Tick;
use rainbow::cluster::calls::{Answer, Call};
use rainbow::cluster::ownership::claims::SessionName;
use rainbow::cluster::ownership::rendezvous::winner;
use rainbow::io::cluster::calls::hash_of_session;
use rainbow::shard::{OfferWalk, Reply};

#[derive(Default)]
pub struct Offers {
    walk: OfferWalk,
    under_way: usize,
}

impl Serving {
    pub fn stop(&mut self) {
        self.offers = Some(Offers::default());
    }

    /// True: nothing is left to be handed over, as far as somebody takes it.
    pub fn hand_over(&mut self, linked: &[Generation], now: Tick) -> bool {
        let Some(offers) = &mut self.offers else { return false };
        if linked.is_empty() {
            return true;
        }
        let names = self.shard.offer_sessions(&mut offers.walk, OFFERS_MAX - offers.under_way);
        offers.under_way += names.len();
        let is_over = offers.under_way == 0 && self.shard.are_offers_over(&offers.walk);
        for name in names {
            let hash = hash_of_session(HASH_KEY, &name);
            let to = winner(hash, linked.iter().copied()).expect("there is one at least");
            self.call(to, &Call::Offer { name: &name }, Purpose::Offer(name.clone()), now);
        }
        is_over && !self.ownership.stands_in() && self.attached.is_empty()
    }

    pub(super) fn on_offered(&mut self, name: &SessionName, answer: Option<Answer>) {
        if let Some(offers) = &mut self.offers {
            offers.under_way -= 1;
        }
        if !matches!(answer, Some(Answer::Of(Reply::Done { connections: 1.., .. }))) {
            self.shard.decline_offer(name);
        }
    }
}

const OFFERS_MAX: usize = 4;
