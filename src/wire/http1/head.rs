//! Heads of requests and responses, read in place: start line, headers, and how the body is framed.
//!
//! `parse` takes exactly the bytes that `HeadScanner` measured, and refuses what two implementations could read in two
//! ways (RFC 9112, sections 3.2, 6.1 and 6.3; RFC 9110, section 8.6): it never repairs. Nothing is allocated and
//! nothing is copied. Called by the upgrade and the control API (requests) and by the client of the business server
//! (responses).

use super::names::is_same_name;
use super::scan::{HeadError, HeadLimits, HeadScanner};
use httparse::Header;
use std::mem::MaybeUninit;

/// Room for one header. Not initialised: filling 2 kB for each request costs more than parsing it.
pub type Slot<'a> = MaybeUninit<Header<'a>>;

/// Room for the headers of one request: `let mut slots = REQUEST_SLOTS;`.
pub const REQUEST_SLOTS: [Slot<'static>; HeadLimits::REQUEST.headers_max] =
    [MaybeUninit::uninit(); HeadLimits::REQUEST.headers_max];
/// Room for the headers of one response.
pub const RESPONSE_SLOTS: [Slot<'static>; HeadLimits::RESPONSE.headers_max] =
    [MaybeUninit::uninit(); HeadLimits::RESPONSE.headers_max];

/// How the bytes after a head are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    None,
    Length(u64),
    Chunked,
    /// Responses only: the body ends when the connection does.
    UntilClose,
}

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// As sent.
    pub target: &'a str,
    /// Of the target, still percent-encoded; begins with `/`, or is `*`.
    pub path: &'a str,
    /// Of the target, still encoded, without its `?`; see `query_pairs`.
    pub query: &'a str,
    /// 0 or 1.
    pub version_minor: u8,
    pub headers: Headers<'a>,
    /// Never `UntilClose`.
    pub framing: BodyFraming,
}

impl<'a> RequestHead<'a> {
    /// `head` is what a `HeadScanner` measured, no more and no less.
    pub fn parse<'b: 'a>(head: &'b [u8], slots: &'a mut [Slot<'b>]) -> Result<RequestHead<'a>, HeadError> {
        debug_assert!(is_measured(head), "only a measured head has strict line ends");
        let slots_max = slots.len();
        let mut request = httparse::Request::new(&mut []);
        let complete = request.parse_with_uninit_headers(head, slots).map_err(|error| match error {
            httparse::Error::Version if !names_a_version(head) => HeadError::RequestLine,
            error => refusal(error, slots_max, HeadError::RequestLine),
        })?;
        let (httparse::Status::Complete(len), Some(method), Some(target), Some(version_minor)) =
            (complete, request.method, request.path, request.version)
        else {
            return Err(HeadError::RequestLine);
        };
        debug_assert_eq!(len, head.len(), "scanner and parser agree on where a head ends");
        let headers = Headers(request.headers);
        let (path, query) = split_target(method, target)?;
        headers.check_host(version_minor)?;
        let framing = headers.declared_framing(version_minor)?.unwrap_or(BodyFraming::None);
        Ok(RequestHead { method, target, path, query, version_minor, headers, framing })
    }

    /// The first header of that name; see `Headers` for more.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.get(name)
    }

    /// Whether the caller wants to send another request on this connection (RFC 9112, section 9.3).
    pub fn keep_alive(&self) -> bool {
        self.headers.keep_alive(self.version_minor)
    }

    /// Whether the caller waits for `100 Continue` before it sends the body (RFC 9110, section 10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.version_minor > 0 && self.headers.has_token("expect", "100-continue")
    }
}

/// The head of a response.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// 100–599.
    pub status: u16,
    /// 0 or 1.
    pub version_minor: u8,
    pub headers: Headers<'a>,
    /// For the answer to anything but HEAD and CONNECT.
    pub framing: BodyFraming,
}

impl<'a> ResponseHead<'a> {
    /// `head` is what a `HeadScanner` measured, no more and no less.
    pub fn parse<'b: 'a>(head: &'b [u8], slots: &'a mut [Slot<'b>]) -> Result<ResponseHead<'a>, HeadError> {
        debug_assert!(is_measured(head), "only a measured head has strict line ends");
        // The scanner lets one empty line pass, which is for requests only.
        if head.first() == Some(&b'\r') {
            return Err(HeadError::StatusLine);
        }
        let slots_max = slots.len();
        let mut response = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let complete =
            parser.parse_response_with_uninit_headers(&mut response, head, slots).map_err(|error| match error {
                httparse::Error::Version if !head.starts_with(b"HTTP/") => HeadError::StatusLine,
                error => refusal(error, slots_max, HeadError::StatusLine),
            })?;
        let (httparse::Status::Complete(len), Some(status @ 100..600), Some(version_minor)) =
            (complete, response.code, response.version)
        else {
            return Err(HeadError::StatusLine);
        };
        debug_assert_eq!(len, head.len(), "scanner and parser agree on where a head ends");
        let headers = Headers(response.headers);
        let declared = headers.declared_framing(version_minor)?;
        let framing = match status {
            // RFC 9112, section 6.3: no body, whatever the headers say.
            100..200 | 204 | 304 => BodyFraming::None,
            _ => declared.unwrap_or(BodyFraming::UntilClose),
        };
        Ok(ResponseHead { status, version_minor, headers, framing })
    }

    /// The first header of that name; see `Headers` for more.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.get(name)
    }

    /// 1xx: another head follows on the same connection. 101 would end HTTP; Rainbow never requests it.
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// Whether the connection can carry another request once the body is read.
    pub fn keep_alive(&self) -> bool {
        self.framing != BodyFraming::UntilClose && self.headers.keep_alive(self.version_minor)
    }
}

/// The headers of one head, in order. Names compare without case; values are bytes without surrounding blanks.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a>(&'a [Header<'a>]);

impl<'a> Headers<'a> {
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.0.iter().map(|header| (header.name, header.value))
    }

    /// The first header of that name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The first header of that name, when it is UTF-8.
    pub fn get_text(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// As `get`, and `_` in a name is taken for `-`: the first implementation's clients send `X_DEVICEID` too.
    pub fn get_loose(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| same_name_loosely(found, name)).map(|(_, value)| value)
    }

    /// Every header of that name, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(found, _)| is_same_name(found.as_bytes(), name.as_bytes())).map(|(_, value)| value)
    }

    /// Every header of that name that is UTF-8, in order.
    pub fn all_text(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a str> {
        let named = self.0.iter().filter(move |header| is_same_name(header.name.as_bytes(), name.as_bytes()));
        named.filter_map(|header| std::str::from_utf8(header.value).ok())
    }

    /// The comma-separated members of every header of that name, without surrounding blanks, without empty ones.
    pub fn members(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let members = self.all(name).flat_map(|value| value.split(|byte| *byte == b','));
        members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
    }

    /// Whether `token` is a member, without case: `has_token("connection", "upgrade")`.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.members(name).any(|member| is_same_name(member, token.as_bytes()))
    }

    fn keep_alive(&self, version_minor: u8) -> bool {
        let close = self.has_token("connection", "close");
        !close && (version_minor > 0 || self.has_token("connection", "keep-alive"))
    }

    /// RFC 9112, section 3.2: one valid Host; HTTP/1.0 may leave it out.
    fn check_host(&self, version_minor: u8) -> Result<(), HeadError> {
        let mut hosts = self.all("host");
        match (hosts.next(), hosts.next()) {
            (_, Some(_)) => Err(HeadError::HostRepeated),
            (None, None) if version_minor > 0 => Err(HeadError::HostMissing),
            (Some(host), None) if !host.iter().all(|byte| is_authority_byte(*byte)) => Err(HeadError::HostMalformed),
            _ => Ok(()),
        }
    }

    /// The framing by Content-Length and Transfer-Encoding together; `None` when there is neither.
    fn declared_framing(&self, version_minor: u8) -> Result<Option<BodyFraming>, HeadError> {
        let length = self.content_length()?;
        let mut codings = self.all("transfer-encoding");
        let Some(coding) = codings.next() else {
            return Ok(length.map(BodyFraming::Length));
        };
        // RFC 9112, section 6.1: either of the next two is a smuggling attempt or a broken peer.
        if length.is_some() {
            return Err(HeadError::LengthWithTransferCoding);
        }
        if version_minor == 0 {
            return Err(HeadError::TransferCodingInHttp10);
        }
        // Exactly one header with exactly one coding: lists of one with stray commas are read differently elsewhere.
        if codings.next().is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
            return Err(HeadError::TransferCoding);
        }
        Ok(Some(BodyFraming::Chunked))
    }

    fn content_length(&self) -> Result<Option<u64>, HeadError> {
        let mut agreed = None;
        for value in self.all("content-length") {
            let length = decimal(value).ok_or(HeadError::LengthMalformed)?;
            if agreed.is_some_and(|earlier| earlier != length) {
                return Err(HeadError::LengthsDiffer);
            }
            agreed = Some(length);
        }
        Ok(agreed)
    }
}

/// Whether two header names are the same to a gateway that maps `-` to `_`, as CGI and WSGI do.
pub fn same_name_loosely(a: &str, b: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    a.len() == b.len() && a.bytes().map(fold).eq(b.bytes().map(fold))
}

/// Path and query of a target (RFC 9112, section 3.2): origin form, absolute form, or `OPTIONS *`.
fn split_target<'t>(method: &str, target: &'t str) -> Result<(&'t str, &'t str), HeadError> {
    // A fragment is never sent, and bytes above ASCII have to be encoded; what follows them is read differently
    // elsewhere.
    if !target.is_ascii() || memchr::memchr(b'#', target.as_bytes()).is_some() {
        return Err(HeadError::Target);
    }
    if target == "*" && method == "OPTIONS" {
        return Ok(("*", ""));
    }
    let local = if target.starts_with('/') { target } else { after_authority(target).ok_or(HeadError::Target)? };
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    Ok((if path.is_empty() { "/" } else { path }, query))
}

/// Path and query of an absolute-form target; `None` when it is none of HTTP's or WebSocket's.
fn after_authority(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    let (authority, local) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (!authority.is_empty() && authority.bytes().all(is_authority_byte)).then_some(local)
}

/// Host and port as RFC 3986 spells them, without user information.
fn is_authority_byte(byte: u8) -> bool {
    AUTHORITY[usize::from(byte)]
}

const AUTHORITY: [bool; 256] = {
    let mut allowed = [false; 256];
    let (marks, mut at) = (b"-._~!$&'()*+;=:%[]", 0);
    while at < 256 {
        allowed[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    while at < 256 + marks.len() {
        allowed[marks[at - 256] as usize] = true;
        at += 1;
    }
    allowed
};

/// Digits only: no sign, no blanks, no list.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

fn refusal(error: httparse::Error, slots_max: usize, start_line: HeadError) -> HeadError {
    match error {
        httparse::Error::HeaderName => HeadError::HeaderName,
        httparse::Error::HeaderValue => HeadError::HeaderValue,
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders { max: slots_max },
        httparse::Error::Version => HeadError::Version,
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => start_line,
    }
}

/// Whether a request line ends in `HTTP/` and something: a version we do not speak, rather than no HTTP at all.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.trim_ascii_start().split(|byte| *byte == b'\r').next().unwrap_or_default();
    line.rsplit(|byte| *byte == b' ').next().is_some_and(|last| last.starts_with(b"HTTP/"))
}

fn is_measured(head: &[u8]) -> bool {
    const NO_LIMITS: HeadLimits = HeadLimits { bytes_max: usize::MAX, headers_max: usize::MAX };
    HeadScanner::default().advance(head, &NO_LIMITS) == Ok(Some(head.len()))
}

#[cfg(test)]
mod tests;
