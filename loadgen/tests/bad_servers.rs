//! Servers that misbehave, and the floor: what they do is counted by cause, and the exit code says so.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{LOADGEN, Server, loadgen, outcome};
use trunkline::proto::http1::{BodyLength, parse_head};
use trunkline::proto::websocket::{Opcode, accept, write_frame};

/// Serves each connection by `serve`, on a thread of its own.
fn bad_server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    url
}

/// Reads a request's head; what came behind it is returned.
fn read_head(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<usize> {
    let mut bytes = [0; 4096];
    loop {
        if let Ok(Some((_, len))) = parse_head(unread) {
            return Some(len);
        }
        match stream.read(&mut bytes) {
            Ok(len) if len > 0 => unread.extend_from_slice(&bytes[..len]),
            _ => return None,
        }
    }
}

/// Upgrades like an honest server.
fn upgrade(stream: &mut TcpStream) -> Option<()> {
    let mut unread = Vec::new();
    read_head(stream, &mut unread)?;
    let (head, _) = parse_head(&unread).ok()??;
    let mut out = Vec::new();
    accept(&head, &["centrifuge-json", "centrifuge-protobuf"]).ok()?.write(&mut out, &[]);
    stream.write_all(&out).ok()
}

fn storm(url: &str, more: &[&str]) -> common::Outcome {
    let mut arguments =
        vec!["connect-storm", "--profile", "websocket", "--url", url, "-n", "8", "--handshake-timeout", "1s"];
    arguments.extend_from_slice(more);
    loadgen(&arguments)
}

#[test]
fn a_server_that_refuses() {
    let url = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("ws://{}/", listener.local_addr().unwrap())
    };
    for driver in ["auto", "mio"] {
        let outcome = storm(&url, &["--driver", driver]);
        assert_eq!((outcome.code, outcome.failures("Connection refused")), (1, 8), "{}", outcome.text);
    }
}

#[test]
fn a_server_that_resets() {
    let url = bad_server(|stream| {
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    });
    let outcome = storm(&url, &[]);
    // Whether the reset or the end is seen first is the kernel's to say.
    let seen =
        outcome.failures("reset") + outcome.failures("ended by the server") + outcome.failures("Broken pipe");
    assert_eq!((outcome.code, seen), (1, 8), "{}", outcome.text);
}

#[test]
fn a_server_that_stalls() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&held);
    let url = bad_server(move |stream| keep.lock().unwrap().push(stream));
    let outcome = storm(&url, &[]);
    assert_eq!((outcome.code, outcome.failures("no answer in time")), (1, 8), "{}", outcome.text);
}

#[test]
fn a_server_that_speaks_something_else() {
    for (answer, cause) in [
        (&b"SSH-2.0-OpenSSH_9.9\r\n\r\n"[..], "no upgrade: malformed"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "upgrade answered 503"),
        (
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
            "no upgrade: Sec-WebSocket-Accept",
        ),
    ] {
        let url = bad_server(move |mut stream| {
            let mut unread = Vec::new();
            if read_head(&mut stream, &mut unread).is_some() {
                let _ = stream.write_all(answer);
                // Held until the client is done with it.
                let _ = stream.read(&mut [0; 1]);
            }
        });
        let outcome = storm(&url, &[]);
        assert_eq!((outcome.code, outcome.failures(cause)), (1, 8), "{cause}: {}", outcome.text);
    }
}

#[test]
fn a_server_that_breaks_the_protocol_after_the_upgrade() {
    for (frame, cause) in [
        (&[0xf1, 0x01, b'x'][..], "reserved bit"),
        (&[0x88, 0x02, 0x0b, 0xc0], "closed by the server with code 3008"),
        (&[0x81, 0x7f, 0, 0, 0, 1, 0, 0, 0, 0], "message longer"),
    ] {
        let url = bad_server(move |mut stream| {
            if upgrade(&mut stream).is_some() {
                let _ = stream.write_all(frame);
                let _ = stream.read(&mut [0; 1000]);
                let _ = stream.read(&mut [0; 1]);
            }
        });
        let outcome = storm(&url, &["--ready-on", "never comes"]);
        assert_eq!((outcome.code, outcome.failures(cause)), (1, 8), "{cause}: {}", outcome.text);
    }
}

#[test]
fn a_server_that_breaks_the_protobuf_form() {
    for (frame, cause) in [
        // The other form.
        (&b"\x81\x20{\"id\":1,\"connect\":{\"client\":\"a\"}}"[..], "a length beyond the message"),
        // {"id":1,"error":{"code":101}}
        (b"\x82\x07\x06\x08\x01\x12\x02\x08\x65", "refused with error 101"),
        // {"push":{"disconnect":{"code":3008}}}
        (b"\x82\x08\x07\x22\x05\x5a\x03\x08\xc0\x17", "closed by the server with code 3008"),
        // {"id":9,"subscribe":{}}
        (b"\x82\x05\x04\x08\x09\x32\x00", "a reply to no command"),
        (b"\x82\x05\x04\x08\x01\x13\x14", "a field of no type"),
        // A message of 2^63 bytes.
        (b"\x82\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "a length beyond the message"),
        (b"\x82\x7f\x00\x00\x00\x01\x00\x00\x00\x00", "message longer"),
        (b"\x88\x02\x0d\xad", "closed by the server with code 3501"),
    ] {
        let url = bad_server(move |mut stream| {
            if upgrade(&mut stream).is_some() {
                let _ = stream.write_all(frame);
                let _ = stream.read(&mut [0; 1000]);
                let _ = stream.read(&mut [0; 1]);
            }
        });
        let protobuf = ["connect-storm", "--profile", "centrifuge-protobuf", "--url", &url, "-n", "8"];
        let outcome = loadgen(&protobuf);
        assert_eq!((outcome.code, outcome.failures(cause)), (1, 8), "{cause}: {}", outcome.text);
    }
}

#[test]
fn a_server_that_loses_doubles_and_disorders() {
    let subscribers = Arc::new(Mutex::new(Vec::<TcpStream>::new()));
    let kept = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let count = Arc::new(Mutex::new(0u32));
    let url = bad_server(move |mut stream| {
        let mut unread = Vec::new();
        loop {
            let Some(len) = read_head(&mut stream, &mut unread) else { return };
            let Ok(Some((head, _))) = parse_head(&unread) else { return };
            if head.method == "GET" {
                let mut out = Vec::new();
                let Ok(handshake) = accept(&head, &[]) else { return };
                handshake.write(&mut out, &[]);
                stream.write_all(&out).unwrap();
                subscribers.lock().unwrap().push(stream);
                return;
            }
            let BodyLength::Length(body_len) = head.body_length() else { return };
            while unread.len() < len + body_len as usize {
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).unwrap();
                unread.extend_from_slice(&bytes[..read]);
            }
            let mut frame = Vec::new();
            write_frame(&mut frame, Opcode::Text, &unread[len..len + body_len as usize]);
            unread.drain(..len + body_len as usize);
            let number = {
                let mut count = count.lock().unwrap();
                *count += 1;
                *count
            };
            let frames = match number {
                // Lost.
                3 => vec![],
                // Twice.
                5 => vec![frame.clone(), frame],
                // Kept back, and sent after the next one, which was published when this one had been answered.
                7 => {
                    kept.lock().unwrap().push(frame);
                    vec![]
                }
                8 => vec![frame, kept.lock().unwrap().pop().unwrap()],
                _ => vec![frame],
            };
            for stream in subscribers.lock().unwrap().iter_mut() {
                for frame in &frames {
                    stream.write_all(frame).unwrap();
                }
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        }
    });
    let publish = format!("{}publish", url.replace("ws://", "http://"));
    let outcome = loadgen(&[
        "fanout",
        "--profile",
        "websocket",
        "--url",
        &url,
        "--publish-url",
        &publish,
        "--publishers",
        "1",
        "-n",
        "4",
        "--rate",
        "20",
        "--seconds",
        "1s",
        "--warm-up",
        "0s",
        "--drain",
        "1s",
    ]);
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    assert_eq!(outcome.phase("fan-out")["lost"], 4, "{}", outcome.text);
    assert_eq!(outcome.counter("fan-out", "duplicates"), 4);
    assert_eq!(outcome.counter("fan-out", "out_of_order"), 4);
    let channel = &outcome.phase("fan-out")["disorder_by_channel"]["0"];
    assert_eq!(channel, &serde_json::json!({ "lost": 4, "duplicates": 4, "out_of_order": 4 }));
}

#[test]
fn a_server_that_dies_in_the_middle() {
    let mut server = Server::floor(&[]);
    let url = format!("ws://{}/", server.addr);
    let child = Command::new(LOADGEN)
        .args(["fanout", "--profile", "floor", "--url", &url, "-n", "50", "--rate", "20", "--seconds", "60s"])
        .args(["--quiet", "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(1500));
    server.child.kill().unwrap();
    let outcome = outcome(&child.wait_with_output().unwrap());
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.counter("fan-out", "failed"), 50, "{}", outcome.text);
    assert!(outcome.counter("fan-out", "deliveries") >= 50, "what was measured before is reported");
    assert_eq!(outcome.json["target"]["ended_early"], "no connection is left");
}

#[test]
fn an_interrupted_run_tells_what_it_has() {
    let server = Server::floor(&[]);
    let url = format!("ws://{}/", server.addr);
    let child = Command::new(LOADGEN)
        .args(["fanout", "--profile", "floor", "--url", &url, "-n", "20", "--rate", "20", "--seconds", "60s"])
        .args(["--warm-up", "0s", "--quiet", "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(1500));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let outcome = outcome(&child.wait_with_output().unwrap());
    assert_eq!(outcome.code, 130, "{}", outcome.text);
    assert!(outcome.counter("fan-out", "deliveries") >= 20);
    assert_eq!(outcome.json["target"]["interrupted"], true);
    assert_eq!(outcome.phase("fan-out")["lost"], 0, "what was under way is waited for");
}

#[test]
fn the_floor_delivers_by_send_and_by_io_uring() {
    for by in ["send", "uring"] {
        let server = Server::floor(&["--by", by, "--ping", "200ms"]);
        let url = format!("ws://{}/", server.addr);
        let pid = server.child.id().to_string();
        let outcome = loadgen(&[
            "fanout",
            "--profile",
            "floor",
            "--url",
            &url,
            "-n",
            "700",
            "-c",
            "2",
            "--rate",
            "20",
            "--seconds",
            "1s",
            "--pid",
            &pid,
        ]);
        outcome.assert_passed();
        let published = outcome.phase("fan-out")["published"].as_u64().unwrap();
        assert_eq!(outcome.counter("fan-out", "deliveries"), published * 350);
        assert!(outcome.counter("fan-out", "pings") >= 700);
        let outcome = loadgen(&[
            "echo",
            "--profile",
            "floor",
            "--url",
            &url,
            "-n",
            "10",
            "--rate",
            "200",
            "--seconds",
            "1s",
        ]);
        outcome.assert_passed();
        assert!(outcome.counter("echo", "replies") >= 100);
    }
}
