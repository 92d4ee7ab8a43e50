//! An HTTP response of ours, as a value and as bytes.
//!
//! It knows nothing of what it answers: refusals make their own (`client::refusal`, `api::access`). `connection` writes
//! it.

use super::request_id::RequestId;
use crate::wire::http1::push_number;
use std::borrow::Cow;
use std::io::Write;

pub struct Response {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Cow<'static, [u8]>,
}

/// What of a request decides how its response is written.
#[derive(Clone, Debug)]
pub struct ResponseForm {
    /// The connection stays.
    pub keep_alive: bool,
    /// Then the caller has to be told so.
    pub is_http_1_0: bool,
    /// The body is left out, its length is not.
    pub is_head: bool,
    /// Names the request, where it could be read.
    pub request_id: Option<RequestId>,
}

impl ResponseForm {
    /// Of the last response, to whatever it was.
    pub const LAST: ResponseForm =
        ResponseForm { keep_alive: false, is_http_1_0: false, is_head: false, request_id: None };
}

impl Response {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Response {
        Response { status, content_type, headers: Vec::new(), body: body.into() }
    }

    pub fn json(body: Vec<u8>) -> Response {
        Response::new(200, "application/json", body)
    }

    /// One line of text, for whoever reads it in a log or a terminal.
    pub fn plain(status: u16, text: &str) -> Response {
        Response::new(status, "text/plain; charset=utf-8", format!("{text}\n").into_bytes())
    }

    pub fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// Later the same request may succeed.
    pub fn with_retry_after(self) -> Response {
        self.with_header("Retry-After", RETRY_AFTER_S)
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }

    pub fn body_mut(&mut self) -> &mut Vec<u8> {
        self.body.to_mut()
    }

    /// As a problem of RFC 9457; the body is one already.
    pub fn into_problem(self, status: u16) -> Response {
        Response { status, content_type: "application/problem+json", ..self }
    }

    /// The body's buffer, to be used again; `None` when it is not ours.
    pub fn into_buffer(self) -> Option<Vec<u8>> {
        match self.body {
            Cow::Owned(body) => Some(body),
            Cow::Borrowed(_) => None,
        }
    }

    pub fn write(&self, out: &mut Vec<u8>, form: &ResponseForm) {
        let Response { status, content_type, headers, body } = self;
        out.reserve(HEAD_ROOM + body.len());
        // Piece by piece: the formatting machinery costs a call more than its signature.
        if (*status, *content_type) == (200, "application/json") {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ");
        } else {
            out.extend_from_slice(b"HTTP/1.1 ");
            push_number(out, usize::from(*status));
            out.push(b' ');
            out.extend_from_slice(reason(*status).as_bytes());
            out.extend_from_slice(b"\r\nContent-Type: ");
            out.extend_from_slice(content_type.as_bytes());
            out.extend_from_slice(b"\r\nContent-Length: ");
        }
        push_number(out, body.len());
        out.extend_from_slice(b"\r\n");
        for (name, value) in headers {
            // Writing to a vector cannot fail.
            let _ = write!(out, "{name}: {value}\r\n");
        }
        if let Some(id) = &form.request_id {
            out.extend_from_slice(b"X-Request-Id: ");
            id.write(out);
            out.extend_from_slice(b"\r\n");
        }
        if !form.keep_alive {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if form.is_http_1_0 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !form.is_head {
            out.extend_from_slice(body);
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

/// Most heads are shorter.
const HEAD_ROOM: usize = 128;
const RETRY_AFTER_S: &str = "2";
