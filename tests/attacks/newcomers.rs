//! Connections of one network, as many and as fast as they can come.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::Attack;
use crate::on_both_drivers;
use crate::process::{Daemon, Driver};
use crate::socket::upgrade_request;

/// Not that of the honest.
const NETWORK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const SETTINGS: [(&str, &str); 3] = [
    ("ADMISSION_NETWORK_CONNECTIONS_MAX", "100"),
    ("ADMISSION_NETWORK_UNAUTHENTICATED_MAX", "50"),
    ("ADMISSION_NETWORK_CONNECTS_PER_SECOND", "20"),
];

/// Keeps as many connections as it gets, each begun with `opening`, and opens another one for each that ends. What they cost
/// is what they are bounded by: nothing beside what is spare.
fn connect_flood(driver: Driver, name: &str, opening: &[u8]) {
    let attack = Attack { settings: &SETTINGS, ..Attack::new(name, 0) };
    attack.run(
        driver,
        |_| (),
        |daemon, (), until| {
            let mut held: Vec<TcpStream> = Vec::new();
            let mut at = 0;
            while Instant::now() < until {
                if held.len() < 1_000 {
                    held.push(newcomer(daemon, opening));
                    continue;
                }
                // Without a pause it would be the kernel that is attacked: it makes connections before the daemon sees them.
                thread::sleep(Duration::from_micros(300));
                held[at] = newcomer(daemon, opening);
                at = (at + 1) % held.len();
            }
        },
    );
}

fn newcomer(daemon: &Daemon, opening: &[u8]) -> TcpStream {
    let mut stream = daemon.connect_from(NETWORK);
    // One that is refused at once may be closed by now.
    stream.write_all(opening).ok();
    stream
}

on_both_drivers! {
    fn connections_that_say_nothing(driver: Driver) {
        connect_flood(driver, "silent connections", b"");
    }

    fn upgrades_of_one_network(driver: Driver) {
        connect_flood(driver, "upgrades", upgrade_request("/connection/websocket", "").as_bytes());
    }
}
