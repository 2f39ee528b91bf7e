//! What an idle connection costs.

use super::authority::Authority;
use super::client::{Secure, config};
use super::start_with;
use crate::frame::Frame;
use crate::on_both_drivers;
use crate::process::Daemon;
use crate::unidirectional::client::await_subscribers;

/// Enough that pages and tables, which grow by steps, count for little in the mean.
const CLIENTS: usize = 3_000;
/// Connections before the counting begins: what the first ones cost, the daemon keeps.
const WARM: usize = 600;
/// Bytes of ours for an idle, subscribed connection.
const BYTES_MAX: f64 = 1_536.0;

fn resident(daemon: &Daemon) -> f64 {
    let info = daemon.api("info", "{}");
    info["result"]["nodes"][0]["process"]["rss"].as_f64().expect("bytes")
}

on_both_drivers! {
    fn an_idle_connection_stays_within_its_bound(driver: Driver) {
        let authority = Authority::new();
        let daemon = start_with(driver, &authority.sign("a", "localhost"), &["--shards", "1"], "");
        let config = config(&authority);
        let mut all = Vec::new();
        let mut open = |count: usize| {
            for _ in 0..count {
                let mut secure = Secure::websocket(&daemon, &config, "/connection/websocket");
                secure.send(Frame::text("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"c\"}}"));
                all.push(secure);
            }
            await_subscribers(&daemon, "c", all.len() as u64);
        };
        open(WARM);
        let before = resident(&daemon);
        open(CLIENTS);
        let each = (resident(&daemon) - before) / CLIENTS as f64;
        println!("bytes each: {each:.0}");
        assert!(each <= BYTES_MAX, "{each:.0}");
    }
}
