//! Per hook: where its requests can go, and the requests that wait to go there.
//!
//! Owns the queues, the targets and the balancers. Reads upstreams to choose among targets, and never changes one.
//! Called by the dispatcher only.

use std::ops::{Index, IndexMut};
use std::rc::Rc;

use super::ids::{RequestIndex, UpstreamIndex};
use super::queue::RequestQueue;
use super::upstreams::{Place, Upstreams};
use crate::base::time::Tick;
use crate::io::backend::hook::HookKind;
use crate::io::backend::request_writer::RequestTemplate;
use crate::policy::backend::Balancer;

/// All hooks' routes, by kind.
#[derive(Default)]
pub struct Routes {
    routes: [Route; HookKind::COUNT],
    /// The hook whose queue is served first in the present round.
    first: usize,
}

/// One hook's.
#[derive(Default)]
pub struct Route {
    targets: Vec<RouteTarget>,
    balancer: Balancer,
    queue: RequestQueue,
}

/// One URL of a hook, and where it leads.
#[derive(Clone)]
pub struct RouteTarget {
    pub upstream: UpstreamIndex,
    pub template: Rc<RequestTemplate>,
}

impl Routes {
    /// All hooks in the order of the next round of serving: each round begins with another, so that no queue starves.
    pub fn next_round(&mut self) -> impl Iterator<Item = HookKind> + use<> {
        self.first = (self.first + 1) % HookKind::COUNT;
        let first = self.first;
        (0..HookKind::COUNT).map(move |offset| HookKind::ALL[(first + offset) % HookKind::COUNT])
    }

    /// Requests in all queues.
    pub fn waiting(&self) -> usize {
        self.routes.iter().map(|route| route.queue.len()).sum()
    }

    /// When the first of the queues has something due.
    pub fn next_deadline(&self) -> Tick {
        let waiting = self.routes.iter().filter(|route| !route.queue.is_empty());
        waiting.map(|route| route.queue.next_deadline()).min().unwrap_or(Tick::NEVER)
    }
}

impl Index<HookKind> for Routes {
    type Output = Route;

    fn index(&self, hook: HookKind) -> &Route {
        &self.routes[hook as usize]
    }
}

impl IndexMut<HookKind> for Routes {
    fn index_mut(&mut self, hook: HookKind) -> &mut Route {
        &mut self.routes[hook as usize]
    }
}

impl Route {
    pub fn set_targets(&mut self, targets: Vec<RouteTarget>) {
        (self.targets, self.balancer) = (targets, Balancer::default());
    }

    pub fn has_targets(&self) -> bool {
        !self.targets.is_empty()
    }

    pub fn queue(&self) -> &RequestQueue {
        &self.queue
    }

    pub fn queue_mut(&mut self) -> &mut RequestQueue {
        &mut self.queue
    }

    /// The next request that can go, out of the queue, and where it goes; `None` while no upstream admits one or has a
    /// connection for it.
    pub fn pop_ready(&mut self, upstreams: &Upstreams, place: Place) -> Option<(RequestIndex, RouteTarget)> {
        let Route { targets, balancer, queue } = self;
        queue.pop_ready(|is_suspect| {
            let place = Place { is_suspect, ..place };
            let candidates = targets.iter().map(|target| upstreams[target.upstream].candidate(place));
            balancer.pick(candidates).map(|index| targets[index].clone())
        })
    }

    /// When the first of the open breakers admits a probe for what is ready, if that is still to come.
    pub fn probe_at(&self, upstreams: &Upstreams, hook: HookKind, now: Tick) -> Option<Tick> {
        let upstreams = || self.targets.iter().map(|target| &upstreams[target.upstream]);
        let kinds = [false, true].into_iter().filter(|&is_suspect| self.queue.has_ready(is_suspect));
        let probes =
            kinds.flat_map(|is_suspect| upstreams().filter_map(move |upstream| upstream.probe_at(hook, is_suspect)));
        probes.filter(|probe| *probe > now).min()
    }

    /// No upstream admits a request.
    pub fn is_down(&self, upstreams: &Upstreams, hook: HookKind, now: Tick) -> bool {
        self.targets.iter().all(|target| !upstreams[target.upstream].admits(hook, now, false))
    }

    /// At least one upstream is believed to be well.
    pub fn has_closed_breaker(&self, upstreams: &Upstreams, hook: HookKind) -> bool {
        self.targets.iter().any(|target| upstreams[target.upstream].is_closed(hook))
    }
}
