//! What sends spans by OTLP over HTTP, in protobuf: OpenTelemetry's own crates, and a client that waits, since the
//! exporter's thread has nothing else to do.
//!
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` are read as in every program that
//! speaks OTLP.

use super::span::{Collect, Span, SpanKind, SpanValue};
use crate::base::client::trace_parent::TraceParent;
use async_trait::async_trait;
use opentelemetry::trace as otel;
use opentelemetry::{InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId, Value};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tracing::warn;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// `endpoint`: the collector's, without `/v1/traces`; `instance` names this life of this node.
pub fn collector(endpoint: &str, instance: String) -> io::Result<Collect> {
    let mut exporter = OtlpExporter::builder()
        .with_http()
        .with_http_client(Client(client(endpoint)))
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(io::Error::other)?;
    let attributes = [KeyValue::new("service.version", VERSION), KeyValue::new("service.instance.id", instance)];
    let mut resource = Resource::builder().with_attributes(attributes);
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("rainbow-server");
    }
    exporter.set_resource(&resource.build());
    let scope = InstrumentationScope::builder("rainbow").with_version(VERSION).build();
    Ok(Box::new(move |spans| {
        let data = spans.into_iter().map(|span| span_data(span, &scope)).collect();
        futures_executor::block_on(exporter.export(data)).map_err(|error| error.to_string())
    }))
}

fn span_data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let at = |unix_ns| UNIX_EPOCH + Duration::from_nanos(unix_ns);
    let (trace_id, span_id) = span.context.ids();
    SpanData {
        span_context: otel::SpanContext::new(
            TraceId::from(trace_id),
            SpanId::from(span_id),
            TraceFlags::SAMPLED,
            false,
            otel::TraceState::NONE,
        ),
        parent_span_id: span.parent.as_ref().map(TraceParent::ids).map_or(SpanId::INVALID, |(_, id)| SpanId::from(id)),
        parent_span_is_remote: span.is_parent_remote,
        span_kind: match span.kind {
            SpanKind::Server => otel::SpanKind::Server,
            SpanKind::Client => otel::SpanKind::Client,
        },
        name: span.name,
        start_time: at(span.began_ns),
        end_time: at(span.ended_ns),
        attributes: span.attributes.into_iter().map(|(key, value)| KeyValue::new(key, otel_value(value))).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.error.map_or(otel::Status::Unset, otel::Status::error),
        instrumentation_scope: scope.clone(),
    }
}

fn otel_value(value: SpanValue) -> Value {
    match value {
        SpanValue::Text(text) => Value::String(text.into()),
        SpanValue::Number(number) => Value::I64(number),
    }
}

/// Waits: on this thread nobody else does.
#[derive(Debug)]
struct Client(ureq::Agent);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let (head, mut body) = self.0.run(Request::from_parts(head, &*body))?.into_parts();
        let body = body.with_config().limit(RESPONSE_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}

fn client(endpoint: &str) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .timeout_global(Some(REQUEST_TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("rainbow-server/", env!("CARGO_PKG_VERSION")));
    if endpoint.starts_with("https:") {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            warn!(errors = ?found.errors, "no certificates of this system: the collector will not be trusted");
        }
        let certs: Vec<_> = found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&certs))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        config = config.tls_config(tls.build());
    }
    config.build().into()
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Of one request; a collector that answers slower is as good as away.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Of a batch with its repeats.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_BYTES_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_what_opentelemetry_calls_one() {
        let parent = TraceParent::read(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        let span = Span {
            context: parent.child(5),
            parent: Some(parent),
            is_parent_remote: true,
            kind: SpanKind::Client,
            name: "hook".into(),
            began_ns: 1_000_000_007,
            ended_ns: 2_000_000_000,
            attributes: vec![("http.response.status_code", 500u16.into()), ("rainbow.hook", "forward".into())],
            error: Some("500".into()),
        };
        let data = span_data(span, &InstrumentationScope::builder("rainbow").build());
        assert_eq!(data.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(data.span_context.span_id().to_string(), "0000000000000005");
        assert_eq!(data.parent_span_id.to_string(), "00f067aa0ba902b7");
        assert_eq!(data.end_time.duration_since(data.start_time).unwrap(), Duration::from_nanos(999_999_993));
        assert_eq!(data.status, otel::Status::error("500"));
        let attributes = [KeyValue::new("http.response.status_code", 500), KeyValue::new("rainbow.hook", "forward")];
        assert_eq!(data.attributes, attributes);
    }
}
