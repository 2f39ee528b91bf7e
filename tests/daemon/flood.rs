//! One client that wants more than its share: bounded memory, others served, an orderly end.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::frame::Frame;
use crate::on_both_drivers;
use crate::process::{Api, Daemon};
use crate::socket::Socket;

/// What the daemon may grow by: some answers under way, and what the allocator keeps of them. A fraction of what the
/// answers of a test come to in sum.
const GROWTH_MAX: u64 = 16 * 1024 * 1024;

fn resident(api: &mut Api) -> u64 {
    api.call("info", "{}")["result"]["nodes"][0]["process"]["rss"].as_u64().expect("bytes")
}

fn client(daemon: &Daemon, channel: &str) -> Socket {
    let mut socket = Socket::open(daemon, "/connection/websocket");
    socket.send(Frame::text(&format!(
        "{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}"
    )));
    until(&mut socket, "\"id\":2,");
    socket
}

/// Reads up to a frame with the text.
fn until(socket: &mut Socket, text: &str) -> String {
    loop {
        let frame = socket.recv().expect("the connection lives");
        let payload = String::from_utf8(frame.payload).unwrap();
        if payload == "{}" {
            socket.send(Frame::text("{}"));
        } else if payload.contains(text) {
            return payload;
        }
    }
}

on_both_drivers! {
    fn reads_in_one_frame_are_answered_as_they_can_leave(driver: Driver) {
        const READS: usize = 60;
        const ENTRIES: usize = 100;
        let daemon = Daemon::start_with(driver, &["--shards", "1"]);
        let mut api = Api::new(&daemon);
        for _ in 0..ENTRIES {
            api.call("publish", &format!("{{\"channel\":\"open:log\",\"data\":\"{}\"}}", "x".repeat(4_000)));
        }
        let mut other = client(&daemon, "other");
        let mut greedy = client(&daemon, "open:log");
        let before = resident(&mut api);
        let reads: Vec<String> = (0..READS)
            .map(|read| format!("{{\"id\":{},\"history\":{{\"channel\":\"open:log\",\"limit\":{ENTRIES}}}}}", read + 10))
            .collect();
        greedy.send(Frame::text(&reads.join("\n")));
        // It reads nothing yet: others are served all the same, and what it asked for waits.
        for data in 0..5 {
            api.call("publish", &format!("{{\"channel\":\"other\",\"data\":\"d{data}\"}}"));
            until(&mut other, &format!("\"d{data}\""));
        }
        let grown = resident(&mut api).saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{grown} bytes for answers that nobody reads");
        // Every answer comes.
        let mut stream = greedy.writer();
        let (mut wanted, mut read) = (READS * ENTRIES * 4_000, vec![0; 64 * 1024]);
        while wanted > 0 {
            let len = stream.read(&mut read).expect("answers");
            assert!(len > 0, "{wanted} bytes are missing");
            wanted = wanted.saturating_sub(len);
        }
        let grown = resident(&mut api).saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{grown} bytes afterwards");
        assert!(daemon.stop().success());
    }

    fn a_flood_of_commands_holds_up_neither_the_api_nor_the_end(driver: Driver) {
        let daemon = Daemon::start_set(
            driver,
            &["--shards", "2"],
            &[("CLIENT_COMMANDS_PER_SECOND", "0")],
        );
        let mut api = Api::new(&daemon);
        let mut other = client(&daemon, "other");
        let before = resident(&mut api);
        let commands: Vec<String> = (0..1_000)
            .map(|at| format!("{{\"id\":{},\"publish\":{{\"channel\":\"open:own\",\"data\":1}}}}", at + 10))
            .collect();
        let frame = Frame::text(&commands.join("\n")).masked();
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                let flooder = client(&daemon, "open:own");
                let mut writer = flooder.writer();
                let mut reader = flooder.writer();
                let (frame, ends) = (&frame, &ends);
                scope.spawn(move || while !ends.load(Ordering::Relaxed) && writer.write_all(frame).is_ok() {});
                scope.spawn(move || {
                    let mut read = vec![0; 64 * 1024];
                    while reader.read(&mut read).is_ok_and(|read| read > 0) {}
                });
            }
            for data in 0..20 {
                let answer = api.call("publish", &format!("{{\"channel\":\"other\",\"data\":\"d{data}\"}}"));
                assert!(answer["result"]["offset"].is_u64(), "{answer}");
                until(&mut other, &format!("\"d{data}\""));
            }
            let grown = resident(&mut api).saturating_sub(before);
            // The flood goes on while the daemon ends, within its grace.
            let status = daemon.stop();
            ends.store(true, Ordering::Relaxed);
            assert!(status.success(), "{status}");
            assert!(grown < GROWTH_MAX, "{grown} bytes");
        });
    }
}
