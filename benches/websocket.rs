//! The codecs that every connection's bytes pass: frames and request heads.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use trunkline::proto::http1::{HeadScan, parse_head};
use trunkline::proto::websocket::deflate::{CompressionOptions, Deflater, Inflater};
use trunkline::proto::websocket::{
    Decoder, Message, Opcode, Role, accept, apply_mask, write_frame, write_frame_masked,
};

const PAYLOADS: [(&str, usize); 4] = [("16 B", 16), ("128 B", 128), ("4 KiB", 4 << 10), ("64 KiB", 64 << 10)];

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket/decode");
    for (name, len) in PAYLOADS {
        group.throughput(Throughput::Bytes(len as u64));
        for (kind, opcode) in [("text", Opcode::Text), ("binary", Opcode::Binary)] {
            let mut frame = Vec::new();
            // A key of zeros costs what any key does and leaves the text a text, however often it is taken off.
            write_frame_masked(&mut frame, opcode, &vec![b'x'; len], [0; 4]);
            group.bench_function(format!("{kind} {name}"), |bencher| {
                bencher.iter(|| {
                    let mut decoder = Decoder::new(Role::Server, 1 << 20);
                    black_box(decoder.decode(black_box(&mut frame)).is_ok())
                });
            });
        }
    }
    group.finish();

    // The floor under decoding: the mask alone.
    let mut group = criterion.benchmark_group("websocket/mask");
    for (name, len) in PAYLOADS {
        let mut payload = vec![b'x'; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| apply_mask(black_box(&mut payload), black_box([1, 2, 3, 4])));
        });
    }
    group.finish();
}

fn decode_stored(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket/decode in two reads");
    for (name, len) in PAYLOADS {
        let mut frame = Vec::new();
        write_frame_masked(&mut frame, Opcode::Text, &vec![b'x'; len], [0; 4]);
        let cut = frame.len() / 2;
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut decoder = Decoder::new(Role::Server, 1 << 20);
                let (first, second) = frame.split_at_mut(cut);
                black_box(decoder.decode(black_box(first)).is_ok());
                black_box(decoder.decode(black_box(second)).is_ok())
            });
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket/encode");
    for (name, len) in PAYLOADS {
        let payload = vec![b'x'; len];
        let mut out = Vec::with_capacity(len + 16);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                write_frame(&mut out, Opcode::Text, black_box(&payload));
                black_box(out.len())
            });
        });
    }
    group.finish();
}

fn head(criterion: &mut Criterion) {
    const BROWSER: &[u8] = b"GET /connection/websocket HTTP/1.1\r\nHost: example.com:8000\r\n\
        Connection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36\r\n\
        Upgrade: websocket\r\nOrigin: http://example.com\r\nSec-WebSocket-Version: 13\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let mut group = criterion.benchmark_group("http1");
    group.throughput(Throughput::Bytes(BROWSER.len() as u64));
    group.bench_function("find the end of a head", |bencher| {
        bencher.iter(|| HeadScan::default().find_end(black_box(BROWSER)));
    });
    group.bench_function("parse a head", |bencher| {
        bencher.iter(|| parse_head(black_box(BROWSER)).map(|head| head.is_some()));
    });
    group.bench_function("handshake", |bencher| {
        let mut out = Vec::with_capacity(1024);
        bencher.iter(|| {
            out.clear();
            if let Ok(Some((head, _))) = parse_head(black_box(BROWSER))
                && let Ok(handshake) = accept(&head, &["centrifuge-protobuf"])
            {
                handshake.write(&mut out, &[]);
            }
            black_box(out.len())
        });
    });
    group.finish();
}

/// Once a publication, whatever the number of its subscribers; and once a message of a client.
fn compression(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket/compression");
    for len in [200, 1 << 10, 8 << 10] {
        let mut text = String::from("[");
        for row in 1.. {
            let next = format!(r#"{{"id":{row},"name":"name of row {row}","price":{}}},"#, row * 7919 % 1000);
            if text.len() + next.len() > len {
                break;
            }
            text += &next;
        }
        group.throughput(Throughput::Bytes(text.len() as u64));
        for level in [1, 3, 6] {
            let mut deflater = Deflater::new(CompressionOptions { bytes_min: 1, level });
            group.bench_function(format!("compress {len} B at level {level}"), |bencher| {
                bencher.iter(|| black_box(deflater.frame(Opcode::Text, black_box(text.as_bytes()))));
            });
        }
        let mut deflater = Deflater::new(CompressionOptions { bytes_min: 1, level: 6 });
        let mut frame = deflater.frame(Opcode::Text, text.as_bytes());
        let mut inflater = Inflater::default();
        group.bench_function(format!("inflate {len} B"), |bencher| {
            bencher.iter(|| {
                let mut decoder = Decoder::new(Role::Client, 1 << 20).deflating(true);
                match decoder.decode(black_box(&mut frame)) {
                    Ok((_, Some(Message::Compressed { text, payload }))) => {
                        inflater.message(text, payload, 1 << 20).is_ok()
                    }
                    _ => false,
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, decode_stored, encode, head, compression);
criterion_main!(benches);
