//! The client protocol's codec: what a command costs on the way in and a publication on the way out.
//!
//! The floor beside it is a parser that checks the same bytes and keeps nothing, and a copy of the same bytes.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use trunkline::base::ids::Offset;
use trunkline::proto::centrifuge::reply::{ClientInfoRef, PublicationRef};
use trunkline::proto::centrifuge::{Format, Push, decode_frame, encode_push};

fn connect() -> String {
    // As long as a token with four claims is.
    let token = format!("eyJhbGciOiJIUzI1NiJ9.{}.{}", "e".repeat(120), "s".repeat(43));
    format!(r#"{{"id":1,"connect":{{"token":"{token}","name":"js","version":"5.2.0"}}}}"#)
}

fn subscribe(id: u32) -> String {
    format!(
        r#"{{"id":{id},"subscribe":{{"channel":"news:room-{id}","recover":true,"epoch":"0a1b2c3d","offset":12345,"flag":1}}}}"#
    )
}

/// A payload of 128 bytes: a short chat message.
fn payload() -> String {
    let around = r#"{"user":"42","text":"","time":1700000000000}"#.len();
    format!(r#"{{"user":"42","text":"{}","time":1700000000000}}"#, "x".repeat(128 - around))
}

fn publish() -> String {
    format!(r#"{{"id":7,"publish":{{"channel":"news:room-1","data":{}}}}}"#, payload())
}

fn decode(criterion: &mut Criterion) {
    let batch = (0..50).map(|id| subscribe(id + 2)).collect::<Vec<_>>().join("\n");
    let frames = [
        ("connect", connect()),
        ("subscribe", subscribe(2)),
        ("publish_128", publish()),
        ("subscribe_batch_50", batch),
        ("pong", "{}".to_string()),
    ];
    let mut group = criterion.benchmark_group("decode");
    for (name, frame) in &frames {
        assert!(decode_frame(Format::Json, frame.as_bytes()).all(|command| command.is_ok()));
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                for command in decode_frame(Format::Json, black_box(frame.as_bytes())) {
                    let _ = black_box(command);
                }
            });
        });
        group.bench_function(format!("{name}/floor"), |bencher| {
            bencher.iter(|| {
                let values = serde_json::Deserializer::from_slice(black_box(frame.as_bytes()))
                    .into_iter::<serde::de::IgnoredAny>();
                black_box(values.count())
            });
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let data = payload();
    let info = ClientInfoRef {
        user: "42",
        client: "01234567-89ab-4cde-8f01-23456789abcd",
        conn_info: Some(br#"{"name":"Ann"}"#),
        chan_info: None,
    };
    let plain = PublicationRef { data: data.as_bytes(), offset: Offset(12_345), ..PublicationRef::default() };
    let cases =
        [("publication_128", plain), ("publication_128_info", PublicationRef { info: Some(info), ..plain })];
    let mut group = criterion.benchmark_group("encode");
    let mut out = Vec::with_capacity(4096);
    for (name, publication) in cases {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                encode_push(
                    &mut out,
                    Format::Json,
                    black_box("news:room-1"),
                    black_box(&Push::Publication(publication)),
                );
                black_box(out.len())
            });
        });
        let encoded = out.clone();
        group.bench_function(format!("{name}/floor"), |bencher| {
            bencher.iter(|| {
                out.clear();
                out.extend_from_slice(black_box(&encoded));
                black_box(out.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
