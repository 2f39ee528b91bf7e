//! What an idle unidirectional client costs, beside an idle client of the SDK.

use super::client::await_subscribers;
use crate::crowd::Crowd;
use crate::on_both_drivers;
use crate::process::{Daemon, Driver};
use crate::socket::Socket;

/// Enough that pages and tables, which grow by steps, count for little in the mean.
const CLIENTS: usize = 6_000;
/// Connections before the counting begins: what the first ones cost, the daemon keeps.
const WARM: usize = 1_024;
/// Polls that may be in the making at once. A held poll says nothing that could be awaited, and what making one takes is
/// given back to the allocator but not to the kernel: a daemon that had to wait for a core and then serves hundreds of
/// new polls in one tick stays that much larger.
const MAKING: usize = 16;
const MEASURES: usize = 3;
/// What a unidirectional client may cost above an idle WebSocket, in bytes.
const ABOVE_MAX: f64 = 64.0;

fn resident(daemon: &Daemon) -> f64 {
    let info = daemon.api("info", "{}");
    info["result"]["nodes"][0]["process"]["rss"].as_f64().expect("bytes")
}

/// The least of some measures: whatever else grows meanwhile (a buffer of a busy tick, the allocator's next segment)
/// only adds.
fn least<T>(driver: Driver, open: impl Fn(&Daemon, usize, usize) -> T) -> f64 {
    (0..MEASURES).map(|_| fill(driver, &open)).fold(f64::INFINITY, f64::min)
}

/// `open` is given how many there are already, and how many more it shall open.
fn fill<T>(driver: Driver, open: &impl Fn(&Daemon, usize, usize) -> T) -> f64 {
    let daemon = Daemon::start_with(driver, &["--shards", "1"]);
    let first = open(&daemon, 0, WARM);
    let before = resident(&daemon);
    let all = open(&daemon, WARM, CLIENTS);
    await_subscribers(&daemon, "c", (WARM + CLIENTS) as u64);
    let each = (resident(&daemon) - before) / CLIENTS as f64;
    drop((first, all));
    each
}

fn subscribe(daemon: &Daemon, _: usize, count: usize) -> Crowd {
    Crowd::subscribe(daemon, "c", count)
}

fn stream(daemon: &Daemon, _: usize, count: usize) -> Vec<Socket> {
    let open = |_| {
        let mut client = Socket::raw(daemon);
        client.ask("/sse?channel=c", "");
        client.recv_until(b"\"ready\":true}\n\n");
        client
    };
    (0..count).map(open).collect()
}

fn poll(daemon: &Daemon, already: usize, count: usize) -> Vec<Socket> {
    let mut all = Vec::new();
    while all.len() < count {
        for _ in 0..MAKING {
            let mut client = Socket::raw(daemon);
            client.ask("/poll?channel=c", "");
            all.push(client);
        }
        await_subscribers(daemon, "c", (already + all.len()) as u64);
    }
    all
}

on_both_drivers! {
    fn a_held_poll_costs_little_more_than_an_idle_websocket(driver: Driver) {
        let websocket = least(driver, subscribe);
        let events = least(driver, stream);
        let polls = least(driver, poll);
        println!("bytes each: websocket {websocket:.0}, events {events:.0}, held polls {polls:.0}");
        assert!(events <= websocket + ABOVE_MAX, "events {events:.0}, websocket {websocket:.0}");
        assert!(polls <= websocket + ABOVE_MAX, "polls {polls:.0}, websocket {websocket:.0}");
    }
}
