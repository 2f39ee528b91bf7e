//! Deliveries that are spread over a window or wait behind others: complete, once, in order, and in nobody's way.

use std::sync::{Mutex, PoisonError};

use crate::crowd::Crowd;
use crate::on_both_drivers;
use crate::process::{Api, Daemon};

const CHANNEL: &str = "stadium";
const SUBSCRIBERS: usize = 2_000;

/// Two crowds at a time are more than two loaded cores are asked for.
static ONE_CROWD: Mutex<()> = Mutex::new(());

fn publish(api: &mut Api, data: u64, pace: &str) {
    let answer = api.call("publish", &format!("{{\"channel\":\"{CHANNEL}\",\"data\":{data}{pace}}}"));
    assert_eq!(answer["result"]["offset"], data, "{answer}");
}

/// Every subscriber gets 1 to `last`, in order, and nothing else.
fn expect_all_in_order(crowd: &mut Crowd, last: u64) {
    let mut got = vec![0_u64; crowd.len()];
    crowd.receive(CHANNEL, crowd.len() * last as usize, |subscriber, publication| {
        let next = got[subscriber] + 1;
        assert_eq!((publication.data, publication.offset), (next, next), "subscriber {subscriber}");
        got[subscriber] = next;
    });
    assert!(got.iter().all(|&got| got == last));
    crowd.expect_silence();
}

on_both_drivers! {
    fn a_spread_publication_reaches_everyone_once(driver: Driver) {
        let _alone = ONE_CROWD.lock().unwrap_or_else(PoisonError::into_inner);
        let daemon = Daemon::start(driver);
        let mut crowd = Crowd::subscribe(&daemon, CHANNEL, SUBSCRIBERS);
        publish(&mut Api::new(&daemon), 1, ",\"spread_ms\":1000");
        expect_all_in_order(&mut crowd, 1);
        drop(crowd);
        assert!(daemon.stop().success());
    }

    /// A window of an hour: whatever comes before its end comes because something let it go.
    fn a_window_holds_up_no_other_channel_and_ends_with_the_next_publication_of_its_own(driver: Driver) {
        let _alone = ONE_CROWD.lock().unwrap_or_else(PoisonError::into_inner);
        let daemon = Daemon::start(driver);
        let mut crowd = Crowd::subscribe(&daemon, CHANNEL, SUBSCRIBERS);
        let mut others = Crowd::subscribe(&daemon, "elsewhere", 50);
        let mut api = Api::new(&daemon);
        publish(&mut api, 1, ",\"spread_ms\":3600000");
        publish(&mut api, 2, ",\"spread_ms\":3600000");

        api.call("publish", "{\"channel\":\"elsewhere\",\"data\":7}");
        others.receive("elsewhere", 50, |_, publication| assert_eq!(publication.data, 7));

        let history = api.call("history", &format!("{{\"channel\":\"{CHANNEL}\",\"limit\":10}}"));
        assert_eq!(history["result"]["publications"].as_array().map(Vec::len), Some(2), "{history}");
        publish(&mut api, 3, "");
        expect_all_in_order(&mut crowd, 3);
        others.expect_silence();
        drop((crowd, others));
        assert!(daemon.stop().success());
    }

    fn paces_one_after_the_other_keep_the_order(driver: Driver) {
        let _alone = ONE_CROWD.lock().unwrap_or_else(PoisonError::into_inner);
        let daemon = Daemon::start(driver);
        let mut crowd = Crowd::subscribe(&daemon, CHANNEL, SUBSCRIBERS);
        let mut api = Api::new(&daemon);
        let paces = [",\"class\":\"bulk\"", ",\"spread_ms\":300", ",\"spread_ms\":50", "", ",\"class\":\"bulk\""];
        for data in 1..=20 {
            publish(&mut api, data, paces[data as usize % paces.len()]);
        }
        expect_all_in_order(&mut crowd, 20);
        drop(crowd);
        assert!(daemon.stop().success());
    }

    /// Who comes in the middle of a window has it from history or not at all, never twice.
    fn who_subscribes_meanwhile_gets_what_comes_after(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut first = Crowd::subscribe(&daemon, CHANNEL, 20);
        let mut api = Api::new(&daemon);
        publish(&mut api, 1, ",\"spread_ms\":3600000");
        let mut later = Crowd::subscribe(&daemon, CHANNEL, 20);
        publish(&mut api, 2, ",\"class\":\"bulk\"");
        expect_all_in_order(&mut first, 2);
        later.receive(CHANNEL, 20, |_, publication| assert_eq!(publication.data, 2));
        later.expect_silence();
    }
}
