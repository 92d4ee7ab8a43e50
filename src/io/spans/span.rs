//! A span: what was done, for which trace, from when to when, and how it ended. Plain data, made by the recorder.

use crate::base::client::trace_parent::TraceParent;
use std::borrow::Cow;

#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its own, as it is handed on to what is done below it.
    pub context: TraceParent,
    /// `None`: the trace begins with it.
    pub parent: Option<TraceParent>,
    /// The parent is another process's.
    pub is_parent_remote: bool,
    pub kind: SpanKind,
    pub name: Cow<'static, str>,
    /// Nanoseconds since 1970, as is the end.
    pub began_ns: u64,
    pub ended_ns: u64,
    pub attributes: Vec<(&'static str, SpanValue)>,
    /// Why it failed.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// We were called.
    Server,
    /// We called.
    Client,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SpanValue {
    Text(Cow<'static, str>),
    Number(i64),
}

/// Sends some spans, and waits until the collector has them, or says why it does not take them.
pub type Collect = Box<dyn Fn(Vec<Span>) -> Result<(), String> + Send>;

impl From<&'static str> for SpanValue {
    fn from(text: &'static str) -> SpanValue {
        SpanValue::Text(text.into())
    }
}

impl From<String> for SpanValue {
    fn from(text: String) -> SpanValue {
        SpanValue::Text(text.into())
    }
}

impl From<u16> for SpanValue {
    fn from(number: u16) -> SpanValue {
        SpanValue::Number(number.into())
    }
}
