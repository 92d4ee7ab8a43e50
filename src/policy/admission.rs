//! Who may come in: how many connections of a kind the process holds, and how many of them one address has. The kinds
//! are clients, and those that are neither clients nor have made a call that was allowed.
//!
//! Shared by all workers. The total is one counter; addresses are counted only when a limit is set, under a
//! lock that is taken twice in a connection's life and never while a message is handled.

use crate::metrics::admission::AdmissionMetrics;
use crate::metrics::counter::SharedCounter;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Default)]
pub struct Admission {
    connections: AtomicUsize,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    of: ConnectionKind,
    metrics: Arc<AdmissionMetrics>,
}

/// Which connections an admission counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionKind {
    #[default]
    Client,
    /// Neither a client nor somebody who has made a call that was allowed.
    Handshake,
}

/// As configured; `per_address` 0 means no limit.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionLimits {
    pub connections_max: usize,
    pub per_address: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// 503
    Full,
    /// 429
    TooManyFromAddress,
}

/// The place of one connection; it is free when this is dropped.
pub struct Place {
    admission: Arc<Admission>,
    /// `None` when addresses are not counted; boxed, because then it costs a connection eight bytes.
    address: Option<Box<IpAddr>>,
}

impl Admission {
    pub fn new(of: ConnectionKind, metrics: Arc<AdmissionMetrics>) -> Admission {
        Admission { of, metrics, ..Admission::default() }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn admit(self: &Arc<Admission>, address: IpAddr, limits: AdmissionLimits) -> Result<Place, NotAdmitted> {
        if self.connections.fetch_add(1, Ordering::Relaxed) >= limits.connections_max {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(self.refuse(NotAdmitted::Full));
        }
        let mut place = Place { admission: self.clone(), address: None };
        place.count_address(address, limits.per_address)?;
        Ok(place)
    }

    fn refuse(&self, why: NotAdmitted) -> NotAdmitted {
        self.counter(why).increment();
        why
    }

    fn counter(&self, why: NotAdmitted) -> &SharedCounter {
        match (self.of, why) {
            (ConnectionKind::Client, NotAdmitted::Full) => &self.metrics.refused_full,
            (ConnectionKind::Client, NotAdmitted::TooManyFromAddress) => &self.metrics.refused_address,
            (ConnectionKind::Handshake, NotAdmitted::Full) => &self.metrics.handshakes_refused,
            (ConnectionKind::Handshake, NotAdmitted::TooManyFromAddress) => &self.metrics.handshakes_refused_address,
        }
    }
}

impl Place {
    /// Counts the place for an address too, if it is not counted for one yet; `max` 0 means no limit.
    pub fn count_address(&mut self, address: IpAddr, max: usize) -> Result<(), NotAdmitted> {
        if max == 0 || self.address.is_some() {
            return Ok(());
        }
        let address = holder_of(address);
        let mut addresses = self.admission.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let count = addresses.entry(address).or_insert(0);
        if *count >= max {
            return Err(self.admission.refuse(NotAdmitted::TooManyFromAddress));
        }
        *count += 1;
        self.address = Some(Box::new(address));
        Ok(())
    }
}

/// Whom an address stands for: of IPv6 a host gets a whole /64.
fn holder_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address.take() else { return };
        let mut addresses = self.admission.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = addresses.get_mut(&*address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&*address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_place_is_free_again_when_it_is_dropped() {
        let metrics = Arc::<AdmissionMetrics>::default();
        let admission = Arc::new(Admission::new(ConnectionKind::Client, metrics.clone()));
        let limits = AdmissionLimits { connections_max: 1, per_address: 0 };
        let place = admission.admit(HERE, limits).ok();
        assert!(matches!(admission.admit(HERE, limits), Err(NotAdmitted::Full)));
        assert_eq!((metrics.refused_full.get(), metrics.refused_address.get()), (1, 0));
        drop(place);
        assert!(admission.admit(HERE, limits).is_ok());
        assert_eq!(admission.connections(), 0);
    }

    #[test]
    fn addresses_are_counted_apart_and_v4_in_v6_is_v4() {
        let admission = Arc::new(Admission::default());
        let limits = AdmissionLimits { connections_max: 10, per_address: 1 };
        let _place = admission.admit(HERE, limits).ok();
        let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        assert!(matches!(admission.admit(mapped, limits), Err(NotAdmitted::TooManyFromAddress)));
        assert!(admission.admit(Ipv4Addr::new(127, 0, 0, 2).into(), limits).is_ok());
        assert_eq!(admission.connections(), 1, "a refusal takes no place");
    }

    #[test]
    fn handshakes_have_counters_of_their_own() {
        let metrics = Arc::<AdmissionMetrics>::default();
        let admission = Arc::new(Admission::new(ConnectionKind::Handshake, metrics.clone()));
        let limits = AdmissionLimits { connections_max: 2, per_address: 1 };
        let _place = admission.admit(HERE, limits).ok();
        assert!(matches!(admission.admit(HERE, limits), Err(NotAdmitted::TooManyFromAddress)));
        let _other = admission.admit(Ipv4Addr::new(127, 0, 0, 2).into(), limits).ok();
        assert!(matches!(admission.admit(HERE, limits), Err(NotAdmitted::Full)));
        assert_eq!((metrics.handshakes_refused.get(), metrics.handshakes_refused_address.get()), (1, 1));
        assert_eq!((metrics.refused_full.get(), metrics.refused_address.get()), (0, 0));
    }

    #[test]
    fn a_place_is_counted_for_an_address_that_is_known_later() {
        let admission = Arc::new(Admission::default());
        let unlimited = AdmissionLimits { connections_max: 10, per_address: 0 };
        let mut places = [(); 2].map(|()| admission.admit(HERE, unlimited).expect("there is room"));
        assert_eq!(places[0].count_address(HERE, 1), Ok(()));
        assert_eq!(places[0].count_address(HERE, 1), Ok(()), "a place counts once");
        assert_eq!(places[1].count_address(HERE, 1), Err(NotAdmitted::TooManyFromAddress));
        drop(places);
        assert!(admission.addresses.lock().expect("no panics").is_empty());
    }

    #[test]
    fn a_host_of_ipv6_is_counted_by_its_network() {
        let admission = Arc::new(Admission::default());
        let limits = AdmissionLimits { connections_max: 10, per_address: 1 };
        let admit = |address: &str| admission.admit(address.parse().expect("an address"), limits);
        let _place = admit("2001:db8:1:2::1").ok();
        assert!(matches!(admit("2001:db8:1:2:ffff::7"), Err(NotAdmitted::TooManyFromAddress)));
        assert!(admit("2001:db8:1:3::1").is_ok());
    }
}
