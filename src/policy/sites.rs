//! What clients' upgrades say of where they have come to and from, each kept once: a million clients of one site must
//! not keep its name a million times.

use crate::base::client::{ClientFacts, ClientSite};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;

/// Those of one worker. `S` has a key that nobody outside knows: strangers choose the names.
pub struct Sites<S> {
    known: HashMap<Arc<ClientSite>, Rc<ClientFacts>, S>,
    max: usize,
}

impl<S: BuildHasher> Sites<S> {
    pub fn new(max: usize, hasher: S) -> Sites<S> {
        Sites { known: HashMap::with_hasher(hasher), max }
    }

    /// The same for everybody who says the same. Beyond `max` of them each client keeps its own.
    pub fn share(&mut self, site: impl Borrow<ClientSite> + Into<Arc<ClientSite>>) -> Rc<ClientFacts> {
        if let Some(known) = self.known.get(site.borrow()) {
            return known.clone();
        }
        if self.known.len() >= self.max {
            // Clients that have a cookie too have facts of their own, and the site in them.
            let ours = |site: &Arc<ClientSite>, facts: &Rc<ClientFacts>| {
                (Arc::strong_count(site), Rc::strong_count(facts)) == (2, 1)
            };
            self.known.retain(|site, facts| !ours(site, facts));
        }
        let site = site.into();
        let facts = Rc::new(ClientFacts::from(site.clone()));
        if self.known.len() < self.max {
            self.known.insert(site, facts.clone());
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{BuildHasherDefault, DefaultHasher};

    fn site(host: &str) -> ClientSite {
        ClientSite { host: Some(host.as_bytes().into()), ..ClientSite::default() }
    }

    #[test]
    fn who_says_the_same_shares_it_and_names_without_number_are_not_kept() {
        let mut sites = Sites::new(2, BuildHasherDefault::<DefaultHasher>::default());
        let (one, same) = (sites.share(site("a")), sites.share(site("a")));
        assert!(Rc::ptr_eq(&one, &same));
        let other = sites.share(site("b"));
        let (third, second) = (sites.share(site("c")), sites.share(site("c")));
        assert!(third == second && !Rc::ptr_eq(&third, &second), "there is no room for it");
        drop(other);
        let (third, same) = (sites.share(site("c")), sites.share(site("c")));
        assert!(Rc::ptr_eq(&third, &same), "nobody has the other one any more");
        (0..100).for_each(|n| drop(sites.share(site(&format!("stranger {n}")))));
        assert_eq!(sites.known.len(), 2);
    }
}
