//! Many subscriptions, and subscribers that do not read.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use crate::commands::opening;
use crate::frame::Frame;
use crate::harness::Attack;
use crate::line::{Answers, Line};
use crate::on_both_drivers;
use crate::process::{Api, Daemon};
use crate::socket::Socket;

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
    /// A connection walks through new channels, publishing to each, until the table would be full.
    fn channels_without_end(driver: Driver) {
        let attack = Attack { name: "channels", ..Attack::default() };
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

    /// Large publications to subscribers that stopped reading.
    fn subscribers_that_do_not_read(driver: Driver) {
        let attack = Attack { name: "subscribers that do not read", ..Attack::default() };
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
