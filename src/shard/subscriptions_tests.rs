//! Joins: what an owner refuses, what it answers when nobody is there any more, and who an answer is for.

use crate::base::fault::{ErrorCode, Unsubscribed};
use crate::driver::End;
use crate::shard::core_tests::Stage;

/// One channel is all that the node may remember.
fn full() -> Stage {
    let mut stage = Stage::with(|options| options.hub.channels_max = 1);
    stage.subscriber(&["first"]);
    stage
}

#[test]
fn a_join_that_is_refused_leaves_nothing_and_says_so() {
    let mut stage = full();
    let (client, poll, events) = (stage.client(), stage.get("/poll?channel=b"), stage.get("/sse?channel=b"));
    stage.subscribe(client, "b");
    let stream = stage.upgraded("/ws?channel=first");
    stage.tick();
    stage.taken(stream);
    stage.text(stream, "subscribe b");
    stage.tick();
    assert!(stage.taken(client).contains(r#""id":2,"error":{"code":106"#), "a client by its command");
    assert!(stage.taken(poll).starts_with("HTTP/1.1 503"), "a poll by its answer");
    assert!(stage.taken(events).contains("event: disconnect"), "events by a stream that ends");
    assert!(stage.taken(stream).contains(r#""code":106"#), "one that flows by a note");
    let footprint = stage.core.footprint();
    assert_eq!((footprint.local_channels, footprint.subscriptions), (1, 2));
    assert_eq!(stage.members(), 2);
}

#[test]
fn a_join_that_is_answered_after_the_peer_is_gone_leaves_nothing() {
    for orderly in [true, false] {
        let mut stage = Stage::new();
        let client = stage.client();
        stage.subscribe(client, "a");
        let peers = [
            client,
            stage.get("/poll?channel=a&channel=b"),
            stage.get("/sse?channel=a"),
            stage.upgraded("/ws?channel=a"),
        ];
        for slot in peers {
            match orderly {
                true => stage.core.give_up(slot),
                false => stage.core.handle_ended(slot, End::Broken(libc::ECONNRESET)),
            }
        }
        assert_eq!(stage.core.footprint().local_channels, 2, "the answers are awaited");
        for _ in 0..2 {
            stage.tick();
        }
        let footprint = stage.core.footprint();
        assert_eq!((footprint.connections, footprint.local_channels, footprint.subscriptions), (0, 0, 0));
        assert_eq!(stage.members(), 0, "the owner has heard that they left");
    }
}

/// The connection of a request that was refused may be upgraded before the owners of its other channels have answered.
#[test]
fn an_answer_is_for_the_peer_that_asked() {
    let mut stage = Stage::new();
    let slot = stage.get("/poll?channel=a");
    stage.core.refuse_uni(slot, ErrorCode::LimitExceeded.into());
    // The refusal leaves before the owner has answered.
    stage.flush();
    assert!(stage.taken(slot).starts_with("HTTP/1.1 503"));
    stage.connect(slot);
    assert!(!stage.taken(slot).contains("subscribe"));
    assert_eq!((stage.members(), stage.core.footprint().local_channels), (0, 0));
    stage.subscribe(slot, "a");
    stage.tick();
    assert!(stage.taken(slot).contains(r#"{"id":2,"subscribe":{"#), "and the client may have it");
}

#[test]
fn a_subscription_that_the_api_ends_before_the_answer_does_not_begin() {
    let mut stage = Stage::new();
    let client = stage.client();
    for _ in 0..2 {
        stage.subscribe(client, "a");
        let index = stage.core.delivery.local.find("a").expect("it is asked for");
        stage.core.unsubscribe(client, index, Some(Unsubscribed::Server));
    }
    stage.tick();
    let text = stage.taken(client);
    assert_eq!(text.matches(r#"{"id":2,"subscribe":{"#).count(), 2, "each command has its answer: {text}");
    assert_eq!((stage.members(), stage.core.footprint().local_channels), (0, 0));
    // Of three that are asked, the last one stays: no earlier answer is taken for its own.
    for _ in 0..2 {
        stage.subscribe(client, "a");
        let index = stage.core.delivery.local.find("a").expect("it is asked for");
        stage.core.unsubscribe(client, index, Some(Unsubscribed::Server));
    }
    stage.subscribe(client, "a");
    stage.tick();
    stage.publish_each("a", [1]);
    assert_eq!((stage.numbers(client), stage.members()), (vec![1], 1));
}

#[test]
fn a_request_is_answered_when_all_of_its_channels_are() {
    let mut stage = Stage::new();
    let stream = stage.get("/sse?channel=a&channel=b&channel=c");
    assert_eq!(stage.taken(stream), "");
    stage.tick();
    assert!(stage.taken(stream).contains("event: ready"));
    stage.publish("c", "7");
    stage.publish("a", "8");
    stage.tick();
    let mut numbers = stage.numbers(stream);
    numbers.sort_unstable();
    assert_eq!((numbers, stage.members()), (vec![7, 8], 3));
}
