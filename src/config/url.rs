//! Backends' URLs, taken apart once at start. Only `http://host[:port][/path][?query]` is understood; what a request
//! line or a `Host` header could not carry is refused here, so that no other code has to check it. No name is resolved
//! here.

use std::fmt;
use std::net::Ipv6Addr;

use thiserror::Error;

/// An `http://` URL. `host` is a name, an IPv4 address, or an IPv6 address without its brackets; lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpUrl {
    pub host: String,
    pub port: u16,
    /// Begins with `/`; may hold `{message_type}`.
    pub path_and_query: String,
}

/// Why a text is not such a URL.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    #[error("{len} bytes are more than a URL may have ({max})")]
    TooLong { len: usize, max: usize },
    #[error("https:// to backends is not built yet")]
    Tls,
    #[error("the scheme {scheme:?} is not http://")]
    Scheme { scheme: String },
    #[error("http:// is missing")]
    NoScheme,
    #[error("the quotes are taken as a part of it")]
    Quotes,
    #[error("the host is missing")]
    NoHost,
    #[error("a user name or password does not belong in this URL")]
    UserInfo,
    #[error("a fragment (#…) is never sent")]
    Fragment,
    #[error("the host holds {character:?}")]
    HostCharacter { character: char },
    #[error("the host's name is too long, or has an empty or too long part between two dots")]
    HostShape,
    #[error("what stands in brackets is no IPv6 address")]
    Ipv6,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("the path or query holds {character:?}")]
    PathCharacter { character: char },
}

impl UrlError {
    /// What to do about it, as a sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            UrlError::TooLong { .. } => "Use a shorter path.",
            UrlError::Tls => "Use http:// to a local proxy that speaks TLS to the backend.",
            UrlError::Scheme { .. } | UrlError::NoScheme | UrlError::NoHost => {
                "Write it like http://localhost:8000/rainbow/."
            }
            UrlError::Quotes => "Leave them out; only TOML has texts in quotes.",
            UrlError::UserInfo => "Let the backend check Rainbow's signature (security_token) instead.",
            UrlError::Fragment => "Remove the # and what follows.",
            UrlError::HostCharacter { .. } | UrlError::HostShape => {
                "Use a host name of letters, digits, - and ., or an address."
            }
            UrlError::Ipv6 => "Write it like http://[::1]:8000/.",
            UrlError::Port => "Write it like http://localhost:8000/, or leave it out for port 80.",
            UrlError::PathCharacter { .. } => "Percent-encode it (a space is %20).",
        }
    }
}

impl HttpUrl {
    /// The longest URL taken, in bytes. It must fit into a request line beside the client's own query.
    pub const LEN_MAX: usize = 2048;

    pub fn parse(text: &str) -> Result<HttpUrl, UrlError> {
        if text.len() > HttpUrl::LEN_MAX {
            return Err(UrlError::TooLong { len: text.len(), max: HttpUrl::LEN_MAX });
        }
        let rest = after_scheme(text)?;
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (authority, path_and_query) = rest.split_at(rest.find(['/', '?', '\\']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (host, port) = split_port(authority)?;
        Ok(HttpUrl { host, port, path_and_query: checked_path(path_and_query)? })
    }

    /// The value of the `Host` header: the port is named unless it is 80 (RFC 9110 section 4.2.3).
    pub fn host_header(&self) -> String {
        let brackets = self.host.contains(':');
        match (brackets, self.port) {
            (false, 80) => self.host.clone(),
            (true, 80) => format!("[{}]", self.host),
            (false, port) => format!("{}:{port}", self.host),
            (true, port) => format!("[{}]:{port}", self.host),
        }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host_header(), self.path_and_query)
    }
}

/// RFC 3986 section 3.1: schemes compare without case.
fn after_scheme(text: &str) -> Result<&str, UrlError> {
    if text.starts_with(['"', '\'']) {
        return Err(UrlError::Quotes);
    }
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok(rest),
        "https" => Err(UrlError::Tls),
        "" => Err(UrlError::NoScheme),
        other => Err(UrlError::Scheme { scheme: other.chars().take(16).collect() }),
    }
}

fn split_port(authority: &str) -> Result<(String, u16), UrlError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(UrlError::Ipv6)?;
        let address: Ipv6Addr = address.parse().map_err(|_| UrlError::Ipv6)?;
        let port = match after {
            "" => 80,
            _ => parse_port(after.strip_prefix(':').ok_or(UrlError::Ipv6)?)?,
        };
        return Ok((address.to_string(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, parse_port(port)?),
        None => (authority, 80),
    };
    check_host(host)?;
    Ok((host.to_ascii_lowercase(), port))
}

fn parse_port(digits: &str) -> Result<u16, UrlError> {
    // `u16::from_str` alone would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UrlError::Port);
    }
    digits.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)
}

/// RFC 1123 names, and `_`, which container networks use.
fn check_host(host: &str) -> Result<(), UrlError> {
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    let odd = host.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.' | '_'));
    if let Some(character) = odd {
        return Err(UrlError::HostCharacter { character });
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > 253 || name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err(UrlError::HostShape);
    }
    Ok(())
}

/// Braces are let through for `{message_type}`; a request line carries no other unencoded byte outside `!`–`~`.
fn checked_path(path_and_query: &str) -> Result<String, UrlError> {
    let odd = path_and_query.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>' | '\\' | '^' | '`'));
    if let Some(character) = odd {
        return Err(UrlError::PathCharacter { character });
    }
    let slash = if path_and_query.starts_with('/') { "" } else { "/" };
    Ok(format!("{slash}{path_and_query}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(host: &str, port: u16, path_and_query: &str) -> Result<HttpUrl, UrlError> {
        Ok(HttpUrl { host: host.into(), port, path_and_query: path_and_query.into() })
    }

    #[test]
    fn urls_are_taken_apart() {
        assert_eq!(HttpUrl::parse("http://localhost:8000/rainbow/"), url("localhost", 8000, "/rainbow/"));
        assert_eq!(HttpUrl::parse("HTTP://Example.COM"), url("example.com", 80, "/"));
        assert_eq!(HttpUrl::parse("http://h?a=1&b"), url("h", 80, "/?a=1&b"));
        assert_eq!(HttpUrl::parse("http://[::1]:8000/x"), url("::1", 8000, "/x"));
        assert_eq!(HttpUrl::parse("http://[2001:DB8:0::1]"), url("2001:db8::1", 80, "/"));
        assert_eq!(
            HttpUrl::parse("http://my_app.internal./{message_type}/"),
            url("my_app.internal.", 80, "/{message_type}/")
        );
        assert_eq!(HttpUrl::parse("http://h/a@b:c"), url("h", 80, "/a@b:c"));
    }

    #[test]
    fn what_is_no_backend_url_is_refused() {
        use UrlError::*;
        let refused = |text: &str| HttpUrl::parse(text).expect_err(text);
        assert_eq!(refused(""), NoScheme);
        assert_eq!(refused("localhost:8000"), NoScheme);
        assert_eq!(refused("/path"), NoScheme);
        assert_eq!(refused("\"http://h/\""), Quotes);
        assert_eq!(refused("https://h/"), Tls);
        assert_eq!(refused("ftp://h/"), Scheme { scheme: "ftp".into() });
        assert_eq!(refused("http://"), NoHost);
        assert_eq!(refused("http:///x"), NoHost);
        assert_eq!(refused("http://:80/"), NoHost);
        assert_eq!(refused("http://user:pw@h/"), UserInfo);
        assert_eq!(refused("http://h/#x"), Fragment);
        assert_eq!(refused("http://h:0/"), Port);
        assert_eq!(refused("http://h:65536/"), Port);
        assert_eq!(refused("http://h:+80/"), Port);
        assert_eq!(refused("http://h:/"), Port);
        assert_eq!(refused("http://::1/"), Port);
        assert_eq!(refused("http://[::1/"), Ipv6);
        assert_eq!(refused("http://[::1]8000/"), Ipv6);
        assert_eq!(refused("http://[fe80::1%eth0]/"), Ipv6);
        assert_eq!(refused("http://h h/"), HostCharacter { character: ' ' });
        assert_eq!(refused("http://{message_type}/"), HostCharacter { character: '{' });
        assert_eq!(refused("http://a..b/"), HostShape);
        assert_eq!(refused("http://h/a b"), PathCharacter { character: ' ' });
        assert_eq!(refused("http://h/é"), PathCharacter { character: 'é' });
        assert_eq!(refused("http://h/\r\nX: y"), PathCharacter { character: '\r' });
        assert_eq!(refused("http://h\\@evil/"), PathCharacter { character: '\\' });
        assert!(matches!(refused(&format!("http://h/{}", "x".repeat(4096))), TooLong { .. }));
    }

    #[test]
    fn the_host_header_leaves_port_80_out() {
        let header = |text| HttpUrl::parse(text).unwrap().host_header();
        assert_eq!(header("http://h/"), "h");
        assert_eq!(header("http://h:80/"), "h");
        assert_eq!(header("http://h:81/"), "h:81");
        assert_eq!(header("http://[::1]/"), "[::1]");
        assert_eq!(header("http://[::1]:81/"), "[::1]:81");
    }

    proptest! {
        #[test]
        fn any_text_is_a_url_that_prints_back_or_an_error(text in "(http://)?[\\PC\\r\\n]{0,40}") {
            if let Ok(url) = HttpUrl::parse(&text) {
                prop_assert!(!url.host.is_empty() && url.path_and_query.starts_with('/'));
                prop_assert_eq!(HttpUrl::parse(&url.to_string()), Ok(url));
            }
        }
    }
}
