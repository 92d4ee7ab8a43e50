//! What clients' upgrades say of where they have come to and from, each kept once: a million clients of one site must
//! not keep its name a million times.

use crate::base::client::ClientSite;
use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;

/// Those of one worker. `S` has a key that nobody outside knows: strangers choose the names.
pub struct Sites<S> {
    known: HashSet<Arc<ClientSite>, S>,
    max: usize,
}

impl<S: BuildHasher> Sites<S> {
    pub fn new(max: usize, hasher: S) -> Sites<S> {
        Sites { known: HashSet::with_hasher(hasher), max }
    }

    /// The same for everybody who says the same. Beyond `max` of them each client keeps its own.
    pub fn share(&mut self, site: ClientSite) -> Arc<ClientSite> {
        if let Some(known) = self.known.get(&site) {
            return known.clone();
        }
        if self.known.len() >= self.max {
            self.known.retain(|site| Arc::strong_count(site) > 1);
        }
        let site = Arc::new(site);
        if self.known.len() < self.max {
            self.known.insert(site.clone());
        }
        site
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
        assert!(Arc::ptr_eq(&one, &same));
        let other = sites.share(site("b"));
        let (third, second) = (sites.share(site("c")), sites.share(site("c")));
        assert!(third == second && !Arc::ptr_eq(&third, &second), "there is no room for it");
        drop(other);
        let (third, same) = (sites.share(site("c")), sites.share(site("c")));
        assert!(Arc::ptr_eq(&third, &same), "nobody has the other one any more");
        (0..100).for_each(|n| drop(sites.share(site(&format!("stranger {n}")))));
        assert_eq!(sites.known.len(), 2);
    }
}
