//! Subscribers whose sockets do not take everything: what they owe, where they stand, and how they catch up.

use crate::shard::core_tests::{OUTBOX_BYTES, STREAM_ITEMS, Stage, numbers_in};

/// More than a stream keeps: who misses the first of them has fallen off it.
const MANY: u32 = 3 * STREAM_ITEMS as u32;

/// A subscriber whose socket is full, and which has been sent the number 0.
fn laggard(stage: &mut Stage, channel: &str) -> u32 {
    let slot = stage.subscriber(&[channel]);
    stage.block(slot);
    stage.publish_each(channel, [0]);
    slot
}

fn cursors(stage: &Stage, slot: u32) -> usize {
    stage.pending(slot).map_or(0, |pending| pending.cursors.len())
}

#[test]
fn a_slow_subscriber_becomes_a_laggard_and_catches_up_in_order() {
    let mut stage = Stage::new();
    let fast = stage.subscriber(&["a"]);
    let slow = laggard(&mut stage, "a");
    let owed = stage.pending(slow).expect("a pending").owed_bytes;
    assert!(owed > 0 && cursors(&stage, slow) == 1);
    stage.publish_each("a", 1..4);
    assert_eq!(
        stage.pending(slow).expect("a pending").owed_bytes,
        owed,
        "what comes now waits in the stream"
    );
    assert_eq!((stage.numbers(fast), stage.numbers(slow)), ((0..4).collect(), vec![]));
    stage.unblock(slow);
    stage.tick();
    assert_eq!(stage.numbers(slow), [0, 1, 2, 3]);
    assert!(stage.pending(slow).is_none(), "it keeps up again");
    stage.publish_each("a", [4]);
    assert_eq!((stage.numbers(fast), stage.numbers(slow)), (vec![4], vec![4]));
}

#[test]
fn one_that_is_refused_once_more_goes_on_where_it_was() {
    let mut stage = Stage::new();
    let slow = laggard(&mut stage, "a");
    stage.publish_each("a", [1]);
    // Writable, it was said, and then it was not.
    stage.core.handle_writable(slow);
    stage.publish_each("a", [2]);
    assert!(stage.pending(slow).expect("a pending").blocked && stage.numbers(slow).is_empty());
    stage.unblock(slow);
    stage.tick();
    assert_eq!(stage.numbers(slow), [0, 1, 2]);
    assert!(stage.pending(slow).is_none());
}

#[test]
fn who_has_fallen_off_the_stream_gets_the_rest_from_the_log() {
    for target in ["client", "/sse?channel=log:a", "/ws?channel=log:a"] {
        let mut stage = Stage::new();
        let slow = subscribed(&mut stage, target, "log:a");
        stage.block(slow);
        stage.publish_each("log:a", 0..MANY);
        stage.unblock(slow);
        for _ in 0..3 {
            stage.tick();
        }
        assert_eq!(stage.numbers(slow), (0..MANY).collect::<Vec<_>>(), "{target}");
        assert!(stage.pending(slow).is_none(), "{target}");
    }
}

/// What each kind of peer gets in each namespace when neither stream nor log reach back to where it stands.
#[test]
fn a_gap_is_treated_as_the_channel_and_the_kind_of_peer_say() {
    let last = MANY - 1;
    let goes_on = [0, last, 100];
    // What is said of it, and the numbers that come, 100 published after the gap.
    let cases: [(&str, &str, &str, &[u32]); 14] = [
        ("client", "a", r#""unsubscribe":{"code":2500"#, &[0]),
        ("client", "tell:a", r#""unsubscribe":{"code":2500"#, &[0]),
        ("client", "latest:a", "", &goes_on),
        ("client", "close:a", "slow", &[0]),
        ("/sse?channel=a", "a", "event: reset", &[0, 100]),
        ("/sse?channel=tell:a", "tell:a", "event: reset", &[0, 100]),
        ("/sse?channel=latest:a", "latest:a", "event: reset", &[0, 100]),
        ("/sse?channel=close:a", "close:a", "event: disconnect", &[0]),
        ("/ws?channel=tell:a", "tell:a", r#""reset""#, &[0, 100]),
        ("/ws?channel=close:a", "close:a", "slow", &[0]),
        ("/ws?bare=1&channel=tell:a", "tell:a", "insufficient state", &[]),
        ("/ws?bare=1&channel=latest:a", "latest:a", "insufficient state", &[]),
        ("/ws?bare=1&channel=close:a", "close:a", "slow", &[]),
        ("/stream?channel=tell:a", "tell:a", r#""reset""#, &[0, 100]),
    ];
    for (target, channel, said, numbers) in cases {
        let mut stage = Stage::new();
        let slow = subscribed(&mut stage, target, channel);
        stage.block(slow);
        stage.publish_each(channel, 0..MANY);
        stage.unblock(slow);
        for _ in 0..3 {
            stage.tick();
        }
        stage.publish_each(channel, [100]);
        let text = stage.taken(slow);
        assert!(text.contains(said), "{target}: {text}");
        assert_eq!(numbers_in(&text), numbers, "{target}: {text}");
        assert_eq!(stage.core.env.stats.counters.gaps_total, 1, "{target}");
    }
}

#[test]
fn one_that_owes_too_much_is_cut_off() {
    let mut stage = Stage::new();
    let slow = laggard(&mut stage, "a");
    let large = "1".repeat(OUTBOX_BYTES);
    stage.core.send(slow, large.into_bytes().into());
    stage.tick();
    assert!(!stage.is_open(slow));
    assert!(stage.actions.iter().any(|action| matches!(action, crate::shard::links::Action::Reset(_))));
    assert_eq!((stage.members(), stage.core.footprint().local_channels), (0, 0));
}

/// The subscriber of that kind, with everything read that it was sent.
fn subscribed(stage: &mut Stage, target: &str, channel: &str) -> u32 {
    let slot = match target {
        "client" => return stage.subscriber(&[channel]),
        target if target.starts_with("/ws") => stage.upgraded(target),
        target => stage.get(target),
    };
    stage.tick();
    assert_ne!(stage.taken(slot), "");
    slot
}

/// One channel of a request loses something while another is still awaited: what others have is not given yet, and no
/// position may be past it.
#[test]
fn a_gap_before_the_answer_is_said_in_the_answer() {
    for target in ["/poll", "/stream", "/sse"] {
        let mut stage = Stage::new();
        stage.subscriber(&["log:a", "log:b"]);
        let before = stage.get("/poll?channel=log:a&channel=log:b&wait=0");
        stage.tick();
        let text = stage.taken(before);
        let position = text.split(r#""position":""#).nth(1).and_then(|rest| rest.split('"').next());
        let position = position.expect("a position");
        stage.publish_each("log:a", [7]);
        stage.publish_each("log:b", [8]);

        let slot = stage.get(&format!("{target}?channel=log:a&channel=log:b&position={position}"));
        let asking = stage.core.links.connections.uni_mut(slot).and_then(|uni| uni.asking());
        let asking = asking.expect("it waits for its channels");
        (asking.awaits_place, asking.outstanding) = (true, asking.outstanding + 1);
        stage.tick();
        let index = stage.core.delivery.followed.find("log:a").expect("it is followed");
        let top = stage.core.delivery.followed.get(index).top().expect("a log");
        stage.core.handle_channel_gap(index, &"log:a".into(), top);
        stage.tick();
        assert_eq!(stage.taken(slot), "", "{target}: it waits");
        let conn = stage.core.conn_id(slot);
        stage.core.handle_placed(conn);
        stage.tick();
        let text = stage.taken(slot);
        assert!(text.starts_with("HTTP/1.1 200"), "{target}: {text}");
        assert!(text.contains(r#""reset":"#) && text.contains("log:a"), "{target}: {text}");
        assert_eq!(numbers_in(&text), [8], "{target}: {text}");
    }
}
