//! One publish, everybody gets it: the main job, with a crowd.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::crowd::Crowd;
use crate::on_both_drivers;
use crate::process::{Api, Daemon};

const CHANNEL: &str = "stadium";

/// Two crowds at a time would be more sockets than a process may have (20,000 here, a common hard limit).
static ONE_CROWD: Mutex<()> = Mutex::new(());

on_both_drivers! {
    fn one_publish_reaches_ten_thousand_subscribers(driver: Driver) {
        let _alone = ONE_CROWD.lock().unwrap_or_else(PoisonError::into_inner);
        let daemon = Daemon::start(driver);
        let mut crowd = Crowd::subscribe(&daemon, CHANNEL, 10_000);

        let answer = daemon.api("publish", &format!("{{\"channel\":\"{CHANNEL}\",\"data\":42}}"));
        let offset = answer["result"]["offset"].as_u64().expect("an offset");

        let mut deliveries = vec![0_u32; crowd.len()];
        crowd.receive(CHANNEL, 10_000, |subscriber, publication| {
            assert_eq!((publication.data, publication.offset), (42, offset));
            deliveries[subscriber] += 1;
        });
        assert!(deliveries.iter().all(|&count| count == 1), "somebody has it twice");
        crowd.expect_silence();

        let stats = daemon.api("info", "{}");
        let clients: u64 = stats["result"]["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .map(|node| node["num_clients"].as_u64().expect("a number"))
            .sum();
        assert_eq!(clients, 10_000, "{stats}");
        drop(crowd);
        assert!(daemon.stop().success());
    }

    /// 100 a second, as a backend would: not in one burst.
    fn a_thousand_publishes_reach_a_thousand_subscribers_in_order(driver: Driver) {
        const PUBLISHES: u64 = 1000;
        const SUBSCRIBERS: usize = 1000;
        let _alone = ONE_CROWD.lock().unwrap_or_else(PoisonError::into_inner);
        let daemon = Daemon::start(driver);
        let mut crowd = Crowd::subscribe(&daemon, CHANNEL, SUBSCRIBERS);

        let mut api = Api::new(&daemon);
        let publisher = thread::spawn(move || {
            let start = Instant::now();
            for n in 1..=PUBLISHES {
                let due = start + Duration::from_millis(10 * n);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let answer = api.call("publish", &format!("{{\"channel\":\"{CHANNEL}\",\"data\":{n}}}"));
                assert_eq!(answer["result"]["offset"], n, "{answer}");
            }
        });

        let mut last = vec![0_u64; SUBSCRIBERS];
        crowd.receive(CHANNEL, SUBSCRIBERS * PUBLISHES as usize, |subscriber, publication| {
            let due = last[subscriber] + 1;
            assert_eq!((publication.data, publication.offset), (due, due), "subscriber {subscriber}");
            last[subscriber] = due;
        });
        publisher.join().expect("every publish was taken");
        assert!(last.iter().all(|&n| n == PUBLISHES));
        crowd.expect_silence();
        drop(crowd);
        assert!(daemon.stop().success());
    }
}
