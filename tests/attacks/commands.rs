//! Clients that say more than they may hear.

use crate::frame::Frame;
use crate::harness::{Attack, MIB};
use crate::line::{Answers, flood};
use crate::on_both_drivers;
use crate::process::{Api, Daemon, Driver};
use crate::socket::upgrade_request;

/// So that what holds is the share of a connection, not the rate of its commands.
const NO_RATE: [(&str, &str); 1] = [("CLIENT_COMMANDS_PER_SECOND", "0")];

/// An upgrade, and the first frame of a client that subscribes to `channel`.
pub fn opening(channel: &str) -> Vec<u8> {
    let mut bytes = upgrade_request("/connection/websocket", "").into_bytes();
    let commands =
        format!("{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}");
    Frame::text(&commands).masked_into(&mut bytes);
    bytes
}

/// One frame of `count` commands; `command` is given their numbers.
fn frame_of(count: usize, command: impl Fn(usize) -> String) -> Vec<u8> {
    let commands: Vec<String> =
        (0..count).map(|index| format!("{{\"id\":{},{}}}", index + 3, command(index))).collect();
    Frame::text(&commands.join("\n")).masked()
}

/// What a connection may cost that reads its answers slowly: it is owed up to 1 MiB (`outbox_bytes_max`), in buffers that grew
/// to twice that; as much again is in a write, and twice as much free and not yet given back.
pub const SLOW_READER_BYTES: u64 = 8 * MIB;

/// Small commands on a few connections, which read all answers as fast as their core lets them. Of each connection 64
/// commands are under way and a message and 16 KiB wait: nothing beside what it is owed, unless `more_bytes_max` says
/// otherwise.
fn commands_without_end(
    driver: Driver,
    name: &str,
    more_bytes_max: u64,
    settings: &[(&str, &str)],
    connections: usize,
    command: impl Fn(usize) -> String,
) {
    let frame = frame_of(700, command);
    let added_bytes_max = more_bytes_max + connections as u64 * SLOW_READER_BYTES;
    // What is owed grew through many sizes, and threads keep an empty page of each: up to four fifths of the peak were seen.
    let stays_bytes_max = added_bytes_max / 2;
    Attack { settings, stays_bytes_max, ..Attack::new(name, added_bytes_max) }.run(
        driver,
        |_| (),
        |daemon, (), until| {
            flood(daemon, connections, &opening("open:noise"), &frame, Answers::Read, until);
        },
    );
}

/// A channel with 300 publications of `bytes` each.
pub fn fill_history(daemon: &Daemon, bytes: usize) {
    let mut api = Api::new(daemon);
    let data = "x".repeat(bytes);
    for _ in 0..300 {
        api.call("publish", &format!("{{\"channel\":\"open:full\",\"data\":\"{data}\"}}"));
    }
}

on_both_drivers! {
    /// They subscribe to what they publish to, and read all of it. When they are too slow for it, each shard keeps up to 16,384
    /// publications for them, of 0.5 KB with what an entry costs.
    fn publications_to_oneself(driver: Driver) {
        commands_without_end(driver, "publications to oneself", 16 * MIB, &NO_RATE, 2, |_| {
            "\"publish\":{\"channel\":\"open:noise\",\"data\":1}".into()
        });
    }

    fn publications_to_nobody(driver: Driver) {
        commands_without_end(driver, "publications to nobody", 0, &NO_RATE, 2, |_| {
            "\"publish\":{\"channel\":\"open:empty\",\"data\":1}".into()
        });
    }

    fn publications_above_the_rate(driver: Driver) {
        commands_without_end(driver, "publications above the rate", 0, &[], 2, |_| {
            "\"publish\":{\"channel\":\"open:noise\",\"data\":1}".into()
        });
    }

    fn subscriptions_and_their_ends(driver: Driver) {
        commands_without_end(driver, "subscriptions and their ends", 0, &NO_RATE, 2, |index| match index % 2 {
            0 => "\"subscribe\":{\"channel\":\"open:x\"}".into(),
            _ => "\"unsubscribe\":{\"channel\":\"open:x\"}".into(),
        });
    }

    fn refused_commands(driver: Driver) {
        commands_without_end(driver, "refused commands", 0, &NO_RATE, 4, |_| "\"rpc\":{\"method\":\"x\"}".into());
    }

    /// One frame asks for 360 MB.
    fn a_frame_of_histories(driver: Driver) {
        let frame = frame_of(300, |_| "\"history\":{\"channel\":\"open:full\",\"limit\":300}".into());
        // One answer of 1.2 MB at a time for each of two connections, made, framed and sent: a copy for each step. As
        // much again is free and not yet given back, and stays as long as threads keep an empty page of each size.
        // On a busy machine 28 MiB were seen in all, and with epoll 10 to 58 MiB while it lasts.
        for (name, answers) in [("histories, read", Answers::Read), ("histories, left", Answers::Leave)] {
            let attack = Attack { stays_bytes_max: 24 * MIB, ..Attack::new(name, 56 * MIB) };
            attack.run(driver, |daemon| fill_history(daemon, 4_000), |daemon, (), until| {
                flood(daemon, 2, &opening("open:full"), &frame, answers, until);
            });
        }
    }
}
