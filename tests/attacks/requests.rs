//! HTTP from strangers who show no key.

use std::io::Read;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use crate::commands::fill_history;
use crate::frame::Frame;
use crate::harness::{Attack, MIB, duration};
use crate::line::{Answers, Line, flood};
use crate::on_both_drivers;
use crate::process::Driver;
use crate::socket::upgrade_request;

/// Two connections pipeline a request that is answered at once, and read no answer. Each is owed one answer, here of 0.9 MB
/// at most, and what came with its request in one read: nothing beside what is spare.
fn answers_left_unread(driver: Driver, name: &str, request: &str) {
    let requests = request.repeat(60_000 / request.len());
    Attack::new(name, 0).run(
        driver,
        |daemon| fill_history(daemon, 3_000),
        |daemon, (), until| {
            flood(daemon, 2, b"", requests.as_bytes(), Answers::Leave, until);
        },
    );
}

on_both_drivers! {
    fn refusals_left_unread(driver: Driver) {
        answers_left_unread(driver, "refusals", "POST /api/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}");
    }

    fn unknown_paths_left_unread(driver: Driver) {
        answers_left_unread(driver, "unknown paths", "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    }

    fn preflights_left_unread(driver: Driver) {
        answers_left_unread(driver, "preflights", "OPTIONS /sse HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n\r\n");
    }

    fn health_left_unread(driver: Driver) {
        answers_left_unread(driver, "health", "GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    }

    fn histories_left_unread(driver: Driver) {
        answers_left_unread(driver, "histories", "GET /history?channel=open:full&limit=300 HTTP/1.1\r\nHost: a\r\n\r\n");
    }

    /// Large bodies without a key, a byte short, kept alive by one now and then. They are not read.
    fn bodies_held_back(driver: Driver) {
        const BODY: usize = 1 << 20;
        let mut opening = format!("POST /api/publish HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY}\r\n\r\n").into_bytes();
        opening.resize(opening.len() + BODY - 64, b'x');
        Attack::new("bodies held back", 0).run(driver, |_| (), |daemon, (), until| {
            let mut lines = Vec::new();
            while Instant::now() < until {
                if lines.len() < 400 {
                    let mut line = Line::open(daemon, &opening);
                    if line.finish_opening() {
                        lines.push(line);
                    }
                } else {
                    thread::sleep(Duration::from_millis(100));
                }
                lines.retain_mut(|line| line.trickle(b'x'));
            }
        });
    }

    /// Compression of a long answer costs a thread's time, and shards none. The answers are 0.9 MB each: 16 wait for it
    /// and one is in work, of 20 connections the others have theirs uncompressed. As much again is free and not yet given
    /// back, since the pieces that such answers grow by fit no other.
    fn compressed_histories(driver: Driver) {
        let request = "GET /history?channel=open:full&limit=300 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n";
        // What stays: each thread keeps an empty page of every size that it used, here of up to 4 MiB.
        let attack = Attack { stays_bytes_max: 32 * MIB, ..Attack::new("compressed histories", 100 * MIB) };
        attack.run(driver, |daemon| fill_history(daemon, 3_000), |daemon, (), until| {
            flood(daemon, 20, b"", request.as_bytes(), Answers::Read, until);
        });
    }

    /// A backend that never answers, and what clients send while they wait for it: 80 KB each, until all together take three
    /// quarters of their budget and are closed; a third more for what the allocator rounds up to.
    fn commands_held_before_a_still_backend(driver: Driver) {
        let backend = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = backend.local_addr().expect("bound");
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in backend.incoming() {
                let Ok(mut stream) = stream else { break };
                stream.read_exact(&mut [0; 16]).ok();
                held.push(stream);
            }
        });
        // Longer than the attack; then they are refused, and nothing waits.
        let timeout = duration().as_secs() + 5;
        let tables = format!("\n[[hook]]\nname = \"still\"\nendpoint = \"http://{address}/\"\ntimeout = \"{timeout}s\"\n\
             \n[[namespace]]\nname = \"asked\"\nsubscribe_hook = \"still\"\n");
        let mut opening = upgrade_request("/connection/websocket", "").into_bytes();
        Frame::text("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"asked:1\"}}").masked_into(&mut opening);
        let data = "y".repeat(15_000);
        for id in 3..20 {
            Frame::text(&format!("{{\"id\":{id},\"rpc\":{{\"method\":\"m\",\"data\":\"{data}\"}}}}")).masked_into(&mut opening);
        }
        // Each of those closed is remembered with half a KiB (`observe.closed_kept`): by design, and not what this is about.
        let settings = [("LIMITS_CLIENT_BUFFERS_BYTES_MAX", "24MiB"), ("OBSERVE_CLOSED_KEPT", "1000")];
        // What the allocator keeps of pages in which something small is still in use: 10 to 15 MiB stay of 24.
        let stays_bytes_max = 6 * MIB;
        let held = Attack::new("commands held", 32 * MIB);
        let attack = Attack { settings: &settings, tables: &tables, stays_bytes_max, ..held };
        attack.run(driver, |_| (), |daemon, (), until| {
            let mut lines = Vec::new();
            while Instant::now() < until {
                if lines.len() < 800 {
                    lines.push(Line::open(daemon, &opening));
                } else {
                    thread::sleep(Duration::from_millis(5));
                }
                let mut written = 0;
                lines.retain_mut(|line| line.go_on(b"", Answers::Read, &mut written));
            }
        });
    }
}
