//! Clients that say more than they may hear.

use crate::frame::Frame;
use crate::harness::Attack;
use crate::line::{Answers, flood};
use crate::on_both_drivers;
use crate::process::Driver;
use crate::socket::upgrade_request;

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

fn commands_without_end(driver: Driver, name: &str, connections: usize, command: impl Fn(usize) -> String) {
    let frame = frame_of(700, command);
    Attack { name, ..Attack::default() }.run(
        driver,
        |_| (),
        |daemon, (), until| {
            flood(daemon, connections, &opening("open:noise"), &frame, Answers::Read, until);
        },
    );
}

on_both_drivers! {
    fn refused_commands(driver: Driver) {
        commands_without_end(driver, "refused commands", 4, |_| "\"rpc\":{\"method\":\"x\"}".into());
    }
}
