//! Which web pages may do what: a browser tells by `Origin` and `Sec-Fetch-Site` whose page a request comes from, and
//! the name that it was sent to in `Host`.
//!
//! A page of another site must not make calls with what its visitor may do (cross-site request forgery), and a name
//! that suddenly leads here must not make its pages ours (DNS rebinding).

use std::net::IpAddr;

/// The request comes from a page of another site than the one that it is sent to. Programs send neither header.
pub fn is_cross_site<'a>(
    origin: Option<&str>,
    fetch_site: Option<&str>,
    host: impl FnOnce() -> Option<&'a str>,
) -> bool {
    let is_foreign = origin.is_some_and(|origin| !is_same_host(origin, host().unwrap_or("")));
    is_foreign || fetch_site.is_some_and(|site| site.eq_ignore_ascii_case("cross-site"))
}

/// Whatever the ports and the schemes.
pub fn is_same_host(origin: &str, host: &str) -> bool {
    let of_origin = origin.split_once("://").map_or("", |(_, authority)| name_of(authority));
    !of_origin.is_empty() && of_origin.eq_ignore_ascii_case(name_of(host))
}

/// May a page of this origin connect? `allowed` empty: only pages of the host that is connected to.
pub fn may_connect(allowed: &[String], origin: Option<&str>, host: Option<&str>) -> bool {
    let Some(origin) = origin else { return true };
    if allowed.is_empty() {
        return is_same_host(origin, host.unwrap_or(""));
    }
    allowed.iter().any(|allowed| allowed == ANY_ORIGIN || allowed.eq_ignore_ascii_case(origin))
}

/// The host that was asked for is an address, or a name of this machine that nobody else can give to a page: localhost,
/// or one of `hosts`.
pub fn names_this_machine(hosts: &[String], host: Option<&str>) -> bool {
    let name = name_of(host.unwrap_or(""));
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_listed = || hosts.iter().any(|host| host.eq_ignore_ascii_case(name));
    address.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || is_listed()
}

/// Without the port.
fn name_of(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.find(']').map_or("", |end| &authority[..=end]);
    }
    authority.split(':').next().unwrap_or("")
}

/// Of `allowed_origins`: every page may connect.
pub const ANY_ORIGIN: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_sites_are_told_from_our_own() {
        let cross = |origin, site| is_cross_site(origin, site, || Some("chat.example.com:1984"));
        assert!(!cross(None, None) && !cross(Some("https://chat.example.com"), Some("same-origin")));
        assert!(!cross(Some("http://CHAT.example.com:8000"), None), "another port is the same machine");
        assert!(cross(Some("https://evil.example"), None) && cross(None, Some("cross-site")));
        for origin in
            ["null", "", "chat.example.com", "https://chat.example.com.evil.example", "https://", "https://[::1]"]
        {
            assert!(cross(Some(origin), None), "{origin}");
        }
        assert!(is_cross_site(Some("https://a"), None, || None));
    }

    #[test]
    fn pages_connect_to_their_own_host_unless_others_are_allowed() {
        let host = Some("chat.example.com");
        assert!(may_connect(&[], None, host) && may_connect(&[], Some("https://chat.example.com:8443"), host));
        assert!(!may_connect(&[], Some("https://evil.example"), host));
        let allowed = ["https://app.example".to_owned()];
        assert!(may_connect(&allowed, Some("https://APP.example"), host) && may_connect(&allowed, None, host));
        assert!(!may_connect(&allowed, Some("https://chat.example.com"), host));
        assert!(may_connect(&[ANY_ORIGIN.into()], Some("https://evil.example"), host));
    }

    #[test]
    fn only_addresses_localhost_and_listed_names_are_this_machine() {
        for host in ["127.0.0.1:1984", "127.0.0.1", "[::1]:1984", "localhost", "LOCALHOST:80", "192.0.2.1:1984"] {
            assert!(names_this_machine(&[], Some(host)), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:1984", "[::1", "[x]"] {
            assert!(!names_this_machine(&[], Some(host)), "{host}");
        }
        assert!(!names_this_machine(&[], None));
        let hosts = ["ops.example".to_owned()];
        assert!(names_this_machine(&hosts, Some("Ops.Example:1983")));
        assert!(!names_this_machine(&hosts, Some("evil.ops.example")) && !names_this_machine(&hosts, None));
    }
}
