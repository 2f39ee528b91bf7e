//! Many subscriptions, and subscribers that do not read.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use crate::commands::{SLOW_READER_BYTES, opening};
use crate::frame::Frame;
use crate::harness::{Attack, MIB};
use crate::line::{Answers, Line, flood};
use crate::on_both_drivers;
use crate::process::{Api, Daemon};
use crate::socket::Socket;

const CROWD: &str = "\n[[namespace]]\nname = \"crowd\"\npresence = true\nallow_subscribe_for_client = true\n\
     allow_presence_for_client = true\n";

fn members(daemon: &Daemon, channel: &str, count: usize) -> Vec<Socket> {
    let commands =
        format!("{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}");
    (0..count)
        .map(|_| {
            let mut member = Socket::open(daemon, "/connection/websocket");
            member.send(Frame::text(&commands));
            member
        })
        .collect()
}

on_both_drivers! {
    /// A member of a large channel asks for all members, hundreds of times in a frame.
    fn a_frame_of_presences(driver: Driver) {
        let commands: Vec<String> = (3..303)
            .map(|id| format!("{{\"id\":{id},\"presence\":{{\"channel\":\"crowd:1\"}}}}"))
            .collect();
        let frame = Frame::text(&commands.join("\n")).masked();
        // The list of 1,500 members is 0.1 MB, encoded once for all who ask at a time.
        let attack = Attack { tables: CROWD, ..Attack::new("presences", 2 * SLOW_READER_BYTES) };
        attack.run(driver, |daemon| members(daemon, "crowd:1", 1500), |daemon, _members, until| {
            flood(daemon, 2, &opening("crowd:1"), &frame, Answers::Read, until);
        });
    }

    /// Connections walk through new channels, publishing to each, until their share of the table is full.
    fn channels_without_end(driver: Driver) {
        let settings = [("CLIENT_COMMANDS_PER_SECOND", "0"), ("LIMITS_CHANNELS_MAX", "20000")];
        // A channel, its log and its one publication are 1.2 KB, and stay until their history ends. The attackers' publications
        // make new ones in the place of old ones all the time: as much again is free in between.
        let attack = Attack { settings: &settings, stays_bytes_max: 24 * MIB, ..Attack::new("channels", 48 * MIB) };
        attack.run(driver, |_| (), |daemon, (), until| {
            let next = Cell::new(0_u64);
            let mut lines: Vec<Line> = Vec::new();
            let mut written = 0;
            while Instant::now() < until {
                while lines.len() < 4 {
                    lines.push(Line::open(daemon, &opening("open:start")));
                }
                let commands: Vec<String> = (3..203)
                    .map(|id| {
                        next.set(next.get() + 1);
                        format!("{{\"id\":{id},\"publish\":{{\"channel\":\"open:{}\",\"data\":1}}}}", next.get())
                    })
                    .collect();
                let frame = Frame::text(&commands.join("\n")).masked();
                lines.retain_mut(|line| line.go_on(&frame, Answers::Read, &mut written));
            }
        });
    }

    /// Large publications to subscribers that stopped reading: each is kept once for all of them, 1 MiB of a channel at most.
    fn subscribers_that_do_not_read(driver: Driver) {
        let attack = Attack::new("subscribers that do not read", 0);
        attack.run(driver, |daemon| members(daemon, "live:1", 150), |daemon, members, until| {
            let mut api = Api::new(daemon);
            let body = format!("{{\"channel\":\"live:1\",\"data\":\"{}\"}}", "x".repeat(500_000));
            while Instant::now() < until {
                api.call("publish", &body);
                thread::sleep(Duration::from_millis(100));
            }
            drop(members);
        });
    }
}
