//! Paths of the control API, and who may call each. Whether a caller is who it must be is decided in `io`.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Connect,
    Hello,
    Send,
    Broadcast,
    Subscribe,
    Unsubscribe,
    Kick,
    DropSession,
    Channel,
    Session,
    Sessions,
    Trace,
    Connection,
    Info,
    History,
    ServerInfo,
    OpenApi,
    Metrics,
    Live,
    Ready,
    UpdateConfig,
    Drain,
    ForgetNode,
}

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Anyone,
    /// The business server: signed, or with the admin token.
    Signed,
    /// A person or a scraper: on the admin listener, or signed, or with the admin token.
    Viewer,
    /// The operator: by POST on the admin listener, or signed, or with the admin token.
    Operator,
}

impl Route {
    pub const ALL: [Route; 23] = [
        Route::Connect,
        Route::Hello,
        Route::Send,
        Route::Broadcast,
        Route::Subscribe,
        Route::Unsubscribe,
        Route::Kick,
        Route::DropSession,
        Route::Channel,
        Route::Session,
        Route::Sessions,
        Route::Trace,
        Route::Connection,
        Route::Info,
        Route::History,
        Route::ServerInfo,
        Route::OpenApi,
        Route::Metrics,
        Route::Live,
        Route::Ready,
        Route::UpdateConfig,
        Route::Drain,
        Route::ForgetNode,
    ];

    /// The slash at the end of the path may be missing.
    pub fn find(path: &str) -> Option<Route> {
        Some(match path.strip_suffix('/').unwrap_or(path) {
            "/connect" => Route::Connect,
            "/hello" => Route::Hello,
            "/send" => Route::Send,
            "/broadcast" => Route::Broadcast,
            "/sub" => Route::Subscribe,
            "/unsub" => Route::Unsubscribe,
            "/kick" => Route::Kick,
            "/session/drop" => Route::DropSession,
            "/channel" => Route::Channel,
            "/session" => Route::Session,
            "/sessions" => Route::Sessions,
            "/trace" => Route::Trace,
            "/connection" => Route::Connection,
            "/info" => Route::Info,
            "/info/history" => Route::History,
            "/serverinfo" => Route::ServerInfo,
            "/openapi.json" => Route::OpenApi,
            "/metrics" => Route::Metrics,
            "/livez" => Route::Live,
            "/readyz" => Route::Ready,
            "/updateconfig" => Route::UpdateConfig,
            "/drain" => Route::Drain,
            "/cluster/forget" => Route::ForgetNode,
            _ => return None,
        })
    }

    /// As src/io/api/README.md spells it.
    pub fn path(self) -> &'static str {
        match self {
            Route::Connect => "/connect/",
            Route::Hello => "/hello/",
            Route::Send => "/send/",
            Route::Broadcast => "/broadcast/",
            Route::Subscribe => "/sub/",
            Route::Unsubscribe => "/unsub/",
            Route::Kick => "/kick/",
            Route::DropSession => "/session/drop/",
            Route::Channel => "/channel/",
            Route::Session => "/session/",
            Route::Sessions => "/sessions/",
            Route::Trace => "/trace/",
            Route::Connection => "/connection/",
            Route::Info => "/info/",
            Route::History => "/info/history/",
            Route::ServerInfo => "/serverinfo/",
            Route::OpenApi => "/openapi.json",
            Route::Metrics => "/metrics",
            Route::Live => "/livez",
            Route::Ready => "/readyz",
            Route::UpdateConfig => "/updateconfig/",
            Route::Drain => "/drain/",
            Route::ForgetNode => "/cluster/forget/",
        }
    }

    pub fn access(self) -> Access {
        match self {
            // The page asks for what it shows, and for a token where one is needed.
            Route::Connect | Route::Hello | Route::Live | Route::Ready | Route::ServerInfo | Route::OpenApi => {
                Access::Anyone
            }
            Route::Send | Route::Broadcast | Route::Subscribe | Route::Unsubscribe | Route::Kick => Access::Signed,
            Route::DropSession => Access::Signed,
            Route::Channel | Route::Session | Route::Sessions | Route::Connection => Access::Viewer,
            Route::Info | Route::History | Route::Metrics | Route::Trace => Access::Viewer,
            Route::UpdateConfig | Route::Drain | Route::ForgetNode => Access::Operator,
        }
    }

    /// POST where a body is part of the call, or a link that is only followed must not make it.
    pub fn is_post(self) -> bool {
        self.access() == Access::Signed || self == Route::Drain
    }

    /// Somebody or something is changed, or gets a message.
    pub fn changes(self) -> bool {
        matches!(self.access(), Access::Signed | Access::Operator)
    }

    /// Whether the route stays on the public address when `admin_listen` has the others.
    pub fn is_public(self) -> bool {
        matches!(self, Route::Connect | Route::Hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slash_at_the_end_may_be_missing() {
        assert_eq!(Route::find("/send"), Some(Route::Send));
        assert_eq!(Route::find("/send/"), Some(Route::Send));
        assert_eq!(Route::find("/send//"), None);
        assert_eq!(Route::find("/"), None);
    }

    #[test]
    fn a_path_leads_to_its_route() {
        for route in Route::ALL {
            assert_eq!(Route::find(route.path()), Some(route));
        }
    }
}
