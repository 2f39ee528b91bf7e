//! Every other protocol against the least server that speaks it, which cuts what it sends at odd places.

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::{loadgen, request, serve};
use trunkline::proto::http1::parse_head;
use trunkline::proto::websocket::{Decoder, Message, Opcode, Role, accept, write_frame};

/// Bytes of a piece that a server sends by itself: shorter than any message.
const PIECE_BYTES: usize = 7;

type Sinks = Arc<Mutex<HashMap<String, Vec<Sink>>>>;

/// One connection of a server, which may speak in WebSocket frames.
#[derive(Clone)]
struct Sink {
    stream: Arc<Mutex<TcpStream>>,
    framed: bool,
}

impl Sink {
    fn send(&self, bytes: &[u8]) {
        let mut out = Vec::new();
        for piece in bytes.chunks(PIECE_BYTES) {
            if self.framed {
                write_frame(&mut out, Opcode::Binary, piece);
            } else {
                out.extend_from_slice(piece);
            }
        }
        // A client that is gone is the generator's own.
        let _ = self.stream.lock().unwrap().write_all(&out);
    }
}

/// A broker's connection: an upgrade first if it is a GET, then `take` eats whole commands from what has come.
fn broker(mut stream: TcpStream, greeting: &[u8], take: impl Fn(&Sink, &mut Vec<u8>) -> bool) {
    let mut bytes = [0; 4096];
    let mut unread = Vec::new();
    let mut decoder = None;
    // NATS speaks first, so whether this is a GET is found out by looking.
    let mut first = [0; 1];
    let framed = stream.peek(&mut first).is_ok() && first[0] == b'G';
    let sink = Sink { stream: Arc::new(Mutex::new(stream.try_clone().unwrap())), framed };
    if framed {
        while !matches!(parse_head(&unread), Ok(Some(_))) {
            let len = stream.read(&mut bytes).unwrap_or(0);
            if len == 0 {
                return;
            }
            unread.extend_from_slice(&bytes[..len]);
        }
        let mut out = Vec::new();
        let (head, len) = parse_head(&unread).unwrap().unwrap();
        accept(&head, &["mqtt"]).unwrap().write(&mut out, &[]);
        stream.write_all(&out).unwrap();
        unread.drain(..len);
        decoder = Some(Decoder::new(Role::Server, 1 << 20));
    }
    sink.send(greeting);
    loop {
        while take(&sink, &mut unread) {}
        let Ok(len @ 1..) = stream.read(&mut bytes) else { return };
        match &mut decoder {
            None => unread.extend_from_slice(&bytes[..len]),
            Some(decoder) => {
                let mut at = 0;
                while let Ok((consumed, Some(message))) = decoder.decode(&mut bytes[at..len]) {
                    at += consumed;
                    if let Message::Binary(bytes) = message {
                        unread.extend_from_slice(bytes);
                    }
                }
            }
        }
    }
}

#[test]
fn nats_over_tcp_and_websocket() {
    let sinks = Sinks::default();
    let addr = serve(move |stream| {
        broker(stream, b"INFO {\"server_id\":\"x\"}\r\n", |sink, unread| {
            let Some(end) = unread.windows(2).position(|pair| pair == b"\r\n") else { return false };
            let line = String::from_utf8(unread[..end].to_vec()).unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let mut consumed = end + 2;
            match words[0] {
                "SUB" => sinks.lock().unwrap().entry(words[1].into()).or_default().push(sink.clone()),
                "PING" => sink.send(b"PONG\r\n"),
                "PUB" => {
                    let len: usize = words[2].parse().unwrap();
                    if unread.len() < consumed + len + 2 {
                        return false;
                    }
                    let mut message = format!("MSG {} 1 {len}\r\n", words[1]).into_bytes();
                    message.extend_from_slice(&unread[consumed..consumed + len + 2]);
                    for sink in sinks.lock().unwrap().entry(words[1].into()).or_default() {
                        sink.send(&message);
                    }
                    consumed += len + 2;
                }
                _ => {}
            }
            unread.drain(..consumed);
            true
        });
    });
    check_broker("nats", &[format!("tcp://{addr}"), format!("ws://{addr}/")]);
}

#[test]
fn mqtt_over_tcp_and_websocket() {
    let sinks = Sinks::default();
    let addr = serve(move |stream| {
        broker(stream, b"", |sink, unread| {
            let (mut len, mut header) = (0, 1);
            loop {
                let Some(&byte) = unread.get(header) else { return false };
                len |= usize::from(byte & 0x7f) << (7 * (header - 1));
                header += 1;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            if unread.len() < header + len {
                return false;
            }
            let packet: Vec<u8> = unread.drain(..header + len).collect();
            let string = |at: usize| {
                let len = usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
                String::from_utf8(packet[at + 2..at + 2 + len].to_vec()).unwrap()
            };
            match packet[0] {
                0x10 => sink.send(&[0x20, 2, 0, 0]),
                0x82 => {
                    let mut at = header + 2;
                    let mut answer = vec![0x90, 2, packet[header], packet[header + 1]];
                    while at < packet.len() {
                        let topic = string(at);
                        at += topic.len() + 3;
                        sinks.lock().unwrap().entry(topic).or_default().push(sink.clone());
                        answer.push(0);
                        answer[1] += 1;
                    }
                    sink.send(&answer);
                }
                0x30 => {
                    for sink in sinks.lock().unwrap().entry(string(header)).or_default() {
                        sink.send(&packet);
                    }
                }
                _ => {}
            }
            true
        });
    });
    check_broker("mqtt", &[format!("tcp://{addr}"), format!("ws://{addr}/mqtt")]);
}

/// Fan-out and requests on each address.
fn check_broker(profile: &str, urls: &[String]) {
    for url in urls {
        let outcome = loadgen(&[
            "fanout",
            "--profile",
            profile,
            "--url",
            url,
            "-n",
            "12",
            "-c",
            "3",
            "--per-connection",
            "2",
            "--rate",
            "50",
            "--seconds",
            "1s",
            "--warm-up",
            "0s",
        ]);
        outcome.assert_passed();
        let published = outcome.phase("fan-out")["published"].as_u64().unwrap();
        assert!(published >= 25, "{}", outcome.text);
        assert_eq!(outcome.counter("fan-out", "deliveries"), published * 8);
        let outcome = loadgen(&[
            "rpc",
            "--profile",
            profile,
            "--url",
            url,
            "-n",
            "6",
            "--rate",
            "100",
            "--seconds",
            "1s",
        ]);
        outcome.assert_passed();
        assert!(outcome.counter("rpc", "replies") >= 50);
    }
}

const DONE: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";

#[test]
fn server_sent_events() {
    let sinks = Sinks::default();
    let addr = serve(move |mut stream| {
        let mut unread = Vec::new();
        while let Some((method, path, _, body)) = request(&mut stream, &mut unread) {
            let channel = path.rsplit('/').next().unwrap().to_string();
            if method == "GET" {
                let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                             2\r\n\r\n\r\n";
                let sink = Sink { stream: Arc::new(Mutex::new(stream.try_clone().unwrap())), framed: false };
                sinks.lock().unwrap().entry(channel).or_default().push(sink.clone());
                sink.send(head);
                continue;
            }
            // An event over two chunks.
            let (first, second) = body.split_at(body.len() / 2);
            let first = [&b"data: "[..], first].concat();
            let second = [second, &b"\n\n"[..]].concat();
            let mut event = Vec::new();
            for part in [first, second] {
                event.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                event.extend_from_slice(&part);
                event.extend_from_slice(b"\r\n");
            }
            for sink in sinks.lock().unwrap().entry(channel).or_default() {
                sink.send(&event);
            }
            stream.write_all(DONE).unwrap();
        }
    });
    check_http("sse", &addr);
}

#[test]
fn long_polling() {
    let log = Arc::new((Mutex::new(HashMap::<String, Vec<Vec<u8>>>::new()), Condvar::new()));
    let addr = serve(move |mut stream| {
        let (channels, news) = &*log;
        let mut unread = Vec::new();
        while let Some((method, path, since, body)) = request(&mut stream, &mut unread) {
            let channel = path.rsplit('/').next().unwrap().to_string();
            let mut channels = channels.lock().unwrap();
            if method == "POST" {
                channels.entry(channel).or_default().push(body);
                news.notify_all();
                stream.write_all(DONE).unwrap();
                continue;
            }
            let at = since as usize;
            let has = |channels: &HashMap<String, Vec<Vec<u8>>>| {
                channels.get(&channel).is_some_and(|log| log.len() > at)
            };
            while !has(&channels) {
                let (again, waited) = news.wait_timeout(channels, Duration::from_millis(300)).unwrap();
                channels = again;
                if waited.timed_out() {
                    break;
                }
            }
            let answer = if has(&channels) {
                let message = &channels[&channel][at];
                let head = format!(
                    "HTTP/1.1 200 OK\r\nEtag: {}\r\nContent-Length: {}\r\n\r\n",
                    at + 1,
                    message.len()
                );
                [head.as_bytes(), message].concat()
            } else {
                format!("HTTP/1.1 304 Not Modified\r\nEtag: {at}\r\n\r\n").into_bytes()
            };
            drop(channels);
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
    check_http("long-poll", &addr);
}

fn check_http(profile: &str, addr: &str) {
    let url = format!("http://{addr}/sub/{{channel}}");
    let publish = format!("http://{addr}/pub/{{channel}}");
    let outcome = loadgen(&[
        "fanout",
        "--profile",
        profile,
        "--url",
        &url,
        "--publish-url",
        &publish,
        "--publish-body",
        "{data}",
        "--publishers",
        "1",
        "-n",
        "10",
        "-c",
        "2",
        "--rate",
        "20",
        "--seconds",
        "1s",
        "--warm-up",
        "0s",
    ]);
    outcome.assert_passed();
    let published = outcome.phase("fan-out")["published"].as_u64().unwrap();
    assert!(published >= 10, "{}", outcome.text);
    assert_eq!(outcome.counter("fan-out", "deliveries"), published * 5);
}

#[test]
fn requests_are_refused_where_a_protocol_has_none() {
    for profile in ["sse", "long-poll", "pusher"] {
        let output = std::process::Command::new(common::LOADGEN)
            .args(["rpc", "--profile", profile, "--url", "http://127.0.0.1:1/"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn header_fields_go_with_every_opening() {
    let heads = Arc::new(Mutex::new(Vec::<String>::new()));
    let addr = {
        let heads = Arc::clone(&heads);
        serve(move |mut stream| {
            let (mut bytes, mut unread) = ([0; 4096], Vec::new());
            while !matches!(parse_head(&unread), Ok(Some(_))) {
                let Ok(len @ 1..) = stream.read(&mut bytes) else { return };
                unread.extend_from_slice(&bytes[..len]);
            }
            heads.lock().unwrap().push(String::from_utf8(unread).unwrap());
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        })
    };
    for (profile, scheme, field) in [
        ("centrifuge", "ws", "Sec-WebSocket-Protocol: centrifuge-json\r\n"),
        ("centrifuge-protobuf", "ws", "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n"),
        ("mqtt", "ws", "Sec-WebSocket-Protocol: mqtt\r\n"),
        ("sse", "http", "Accept: text/event-stream\r\n"),
        ("long-poll", "http", ""),
    ] {
        let url = format!("{scheme}://{addr}/there");
        let outcome = loadgen(&[
            "connect-storm",
            "--profile",
            profile,
            "--url",
            &url,
            "-n",
            "1",
            "--header",
            "X-Load: 1",
            "--header",
            "Origin: http://a",
        ]);
        assert_eq!((outcome.code, outcome.failures("answered 403")), (1, 1), "{}", outcome.text);
        let head = heads.lock().unwrap().pop().unwrap();
        for field in [field, "GET /there HTTP/1.1\r\n", "X-Load: 1\r\n", "Origin: http://a\r\n"] {
            assert!(head.contains(field), "{profile}: {field:?} in {head}");
        }
    }
}
