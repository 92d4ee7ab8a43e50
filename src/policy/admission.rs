//! Who may come in: how many connections the process holds, and how many one address has.
//!
//! Shared by all workers. The total is one counter; addresses are counted only when a limit is set, under a
//! lock that is taken twice in a connection's life and never while a message is handled.

use crate::metrics::admission::AdmissionMetrics;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Default)]
pub struct Admission {
    connections: AtomicUsize,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    metrics: Arc<AdmissionMetrics>,
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
    pub fn new(metrics: Arc<AdmissionMetrics>) -> Admission {
        Admission { metrics, ..Admission::default() }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn admit(self: &Arc<Admission>, address: IpAddr, limits: AdmissionLimits) -> Result<Place, NotAdmitted> {
        if self.connections.fetch_add(1, Ordering::Relaxed) >= limits.connections_max {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            self.metrics.refused_full.increment();
            return Err(NotAdmitted::Full);
        }
        let mut place = Place { admission: self.clone(), address: None };
        if limits.per_address > 0 {
            let address = holder_of(address);
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let count = addresses.entry(address).or_insert(0);
            if *count >= limits.per_address {
                self.metrics.refused_address.increment();
                return Err(NotAdmitted::TooManyFromAddress);
            }
            *count += 1;
            place.address = Some(Box::new(address));
        }
        Ok(place)
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
        let admission = Arc::new(Admission::new(metrics.clone()));
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
    fn a_host_of_ipv6_is_counted_by_its_network() {
        let admission = Arc::new(Admission::default());
        let limits = AdmissionLimits { connections_max: 10, per_address: 1 };
        let admit = |address: &str| admission.admit(address.parse().expect("an address"), limits);
        let _place = admit("2001:db8:1:2::1").ok();
        assert!(matches!(admit("2001:db8:1:2:ffff::7"), Err(NotAdmitted::TooManyFromAddress)));
        assert!(admit("2001:db8:1:3::1").is_ok());
    }
}
