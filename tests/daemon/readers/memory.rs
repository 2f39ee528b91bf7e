//! What an idle reader costs, beside an idle client of the SDK.

use super::client::await_subscribers;
use crate::crowd::Crowd;
use crate::on_both_drivers;
use crate::process::{Daemon, Driver};
use crate::socket::Socket;

/// Enough that pages and tables, which grow by steps, count for little in the mean.
const READERS: usize = 6_000;
/// Connections before the counting begins: what the first ones cost, the daemon keeps.
const WARM: usize = 1_024;
const MEASURES: usize = 3;
/// What a held reader may cost above an idle WebSocket, in bytes.
const ABOVE_MAX: f64 = 64.0;

fn resident(daemon: &Daemon) -> f64 {
    let info = daemon.api("info", "{}");
    info["result"]["nodes"][0]["process"]["rss"].as_f64().expect("bytes")
}

/// The least of some measures: whatever else grows meanwhile (a buffer of a busy tick, the allocator's next segment)
/// only adds.
fn least<T>(driver: Driver, open: impl Fn(&Daemon, usize) -> T) -> f64 {
    (0..MEASURES).map(|_| fill(driver, &open)).fold(f64::INFINITY, f64::min)
}

fn fill<T>(driver: Driver, open: &impl Fn(&Daemon, usize) -> T) -> f64 {
    let daemon = Daemon::start_with(driver, &["--shards", "1"]);
    let first = open(&daemon, WARM);
    let before = resident(&daemon);
    let all = open(&daemon, READERS);
    await_subscribers(&daemon, "c", (WARM + READERS) as u64);
    let each = (resident(&daemon) - before) / READERS as f64;
    drop((first, all));
    each
}

fn readers(daemon: &Daemon, target: &str, count: usize) -> Vec<Socket> {
    (0..count)
        .map(|_| {
            let mut client = Socket::raw(daemon);
            client.ask(target, "");
            if target.starts_with("/sse") {
                client.recv_until(b"\"ready\":true}\n\n");
            }
            client
        })
        .collect()
}

on_both_drivers! {
    fn a_held_reader_costs_little_more_than_an_idle_websocket(driver: Driver) {
        let websocket = least(driver, |daemon, count| Crowd::subscribe(daemon, "c", count));
        let events = least(driver, |daemon, count| readers(daemon, "/sse?channel=c", count));
        let polls = least(driver, |daemon, count| readers(daemon, "/poll?channel=c", count));
        println!("bytes each: websocket {websocket:.0}, events {events:.0}, held polls {polls:.0}");
        assert!(events <= websocket + ABOVE_MAX, "events {events:.0}, websocket {websocket:.0}");
        assert!(polls <= websocket + ABOVE_MAX, "polls {polls:.0}, websocket {websocket:.0}");
    }
}
