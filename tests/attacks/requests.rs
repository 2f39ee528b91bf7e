//! HTTP from strangers who show no key.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::Attack;
use crate::line::{Answers, Line, flood};
use crate::on_both_drivers;
use crate::process::{Api, Daemon, Driver};

/// One connection pipelines a request that is answered at once, and reads no answer.
fn answers_left_unread(driver: Driver, name: &str, request: &str) {
    let requests = request.repeat(60_000 / request.len());
    Attack { name, ..Attack::default() }.run(driver, fill_history, |daemon, (), until| {
        flood(daemon, 2, b"", requests.as_bytes(), Answers::Leave, until);
    });
}

/// A channel with 300 publications of 3 kB.
fn fill_history(daemon: &Daemon) {
    let mut api = Api::new(daemon);
    let data = "x".repeat(3000);
    for _ in 0..300 {
        api.call("publish", &format!("{{\"channel\":\"open:full\",\"data\":\"{data}\"}}"));
    }
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

    /// Large bodies without a key, a byte short, kept alive by one now and then.
    fn bodies_held_back(driver: Driver) {
        const BODY: usize = 1 << 20;
        let mut opening = format!("POST /api/publish HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY}\r\n\r\n").into_bytes();
        opening.resize(opening.len() + BODY - 64, b'x');
        Attack { name: "bodies held back", ..Attack::default() }.run(driver, |_| (), |daemon, (), until| {
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
}
