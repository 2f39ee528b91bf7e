//! Spans as OTLP has them in JSON: ids in hex, times as texts of nanoseconds, kinds as numbers (OTLP 1.x, "JSON Protobuf Encoding").
//!
//! Written here, and not by the crates of OpenTelemetry: these bring a second way to run tasks, protobuf and tonic for a document of
//! a dozen keys. The test decodes it with their published schema.

use serde_json::{Value, json};

/// Which side of a call a span is (`SpanKind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    Server = 2,
    Client = 3,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Text(String),
    Number(i64),
}

/// Something that happened within a span.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanMoment {
    pub name: &'static str,
    pub time_ns: u64,
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// Times are wall clock, nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub trace: u128,
    pub span: u64,
    /// 0: it has none.
    pub parent: u64,
    pub name: String,
    pub kind: SpanKind,
    pub start_ns: u64,
    pub end_ns: u64,
    pub attributes: Vec<(&'static str, Attribute)>,
    pub moments: Vec<SpanMoment>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What a node is in its spans.
#[derive(Clone, Debug)]
pub struct Resource {
    pub node_name: String,
    pub uid: String,
}

/// The body of one request.
pub fn encode(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let own = [
        ("service.name", Attribute::Text("trunkline".into())),
        ("service.version", Attribute::Text(env!("CARGO_PKG_VERSION").into())),
        ("service.instance.id", Attribute::Text(resource.uid.clone())),
        ("host.name", Attribute::Text(resource.node_name.clone())),
    ];
    let body = json!({ "resourceSpans": [{
        "resource": { "attributes": attributes(&own) },
        "scopeSpans": [{
            "scope": { "name": "trunkline", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans.iter().map(span).collect::<Vec<_>>(),
        }],
    }] });
    body.to_string().into_bytes()
}

fn span(span: &Span) -> Value {
    let mut object = json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.span),
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": span.start_ns.to_string(),
        "endTimeUnixNano": span.end_ns.to_string(),
        "attributes": attributes(&span.attributes),
        "events": span.moments.iter().map(|moment| json!({
            "name": moment.name,
            "timeUnixNano": moment.time_ns.to_string(),
            "attributes": attributes(&moment.attributes),
        })).collect::<Vec<_>>(),
    });
    if span.parent != 0 {
        object["parentSpanId"] = format!("{:016x}", span.parent).into();
    }
    if let Some(error) = &span.error {
        // STATUS_CODE_ERROR
        object["status"] = json!({ "code": 2, "message": error });
    }
    object
}

fn attributes(all: &[(&'static str, Attribute)]) -> Vec<Value> {
    let value = |attribute: &Attribute| match attribute {
        Attribute::Text(text) => json!({ "stringValue": text }),
        Attribute::Number(number) => json!({ "intValue": number.to_string() }),
    };
    all.iter().map(|(key, attribute)| json!({ "key": key, "value": value(attribute) })).collect()
}
