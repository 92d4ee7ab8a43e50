//! Upstreams: host and port, whichever hooks lead there, and the hooks that lead to them.

use std::rc::Rc;

use super::Dispatcher;
use crate::io::backend::UpstreamState;
use crate::io::backend::options::HookKind;
use crate::io::backend::queue::RequestQueue;
use crate::io::backend::request_writer::Target;
use crate::policy::backend::{Balancer, Breaker};

#[derive(Default)]
pub(super) struct HookState {
    pub(super) targets: Vec<Rc<Target>>,
    pub(super) balancer: Balancer,
    pub(super) queue: RequestQueue,
}

/// One host and port, whichever hooks lead there.
pub(super) struct Upstream {
    pub(super) host: Rc<str>,
    pub(super) port: u16,
    pub(super) breaker: Breaker,
    /// Connections, those that are still being opened included.
    pub(super) connections: usize,
    /// Last in, first out: few connections stay warm, the others grow old and are closed.
    pub(super) idle: Vec<usize>,
    /// Requests on its connections.
    pub(super) outstanding: usize,
    /// Which of its addresses worked last.
    pub(super) address_hint: usize,
    /// No hook leads there any more.
    pub(super) is_retired: bool,
}

impl Dispatcher {
    pub fn upstream_states(&self) -> Vec<UpstreamState> {
        let in_use = self.upstreams.iter().filter(|upstream| !upstream.is_retired);
        in_use
            .map(|upstream| UpstreamState {
                host: upstream.host.to_string(),
                port: upstream.port,
                is_closed: upstream.breaker.is_closed(),
                outstanding: upstream.outstanding,
                connections: upstream.connections,
            })
            .collect()
    }

    /// Makes hooks and upstreams what the options say; upstreams that stay keep their connections and their breaker.
    pub(super) fn set_targets(&mut self) {
        self.upstreams.iter_mut().for_each(|upstream| upstream.is_retired = true);
        for hook in HookKind::ALL {
            let urls = self.options.urls(hook).to_vec();
            let target = |url| Rc::new(Target::new(hook, url, self.upstream_for(&url.host, url.port)));
            let targets = urls.iter().map(target).collect();
            let state = &mut self.hooks[hook as usize];
            (state.targets, state.balancer) = (targets, Balancer::default());
        }
        let retired = self.upstreams.iter().filter(|upstream| upstream.is_retired);
        let idle: Vec<usize> = retired.flat_map(|upstream| upstream.idle.iter().copied()).collect();
        idle.into_iter().for_each(|connection| self.close_connection(connection));
    }

    /// The upstream of that host and port, taking the slot of one that is over if there is none.
    pub(super) fn upstream_for(&mut self, host: &str, port: u16) -> usize {
        if let Some(index) = self.upstreams.iter().position(|known| *known.host == *host && known.port == port) {
            self.upstreams[index].is_retired = false;
            return index;
        }
        let upstream = Upstream {
            host: host.into(),
            port,
            breaker: Breaker::default(),
            connections: 0,
            idle: Vec::new(),
            outstanding: 0,
            address_hint: 0,
            is_retired: false,
        };
        match self.upstreams.iter().position(|known| known.is_retired && known.connections == 0) {
            Some(index) => {
                self.upstreams[index] = upstream;
                index
            }
            None => {
                self.upstreams.push(upstream);
                self.upstreams.len() - 1
            }
        }
    }
}
