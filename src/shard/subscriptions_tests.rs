//! Joins: what an owner refuses, what it answers when nobody is there any more, and who an answer is for.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, ErrorCode, Unsubscribed};
use crate::base::ids::{ConnId, Epoch, Offset, Position};
use crate::base::publication::{Encoded, PayloadForm, Publications};
use crate::base::time::Time;
use crate::driver::SocketEnd;
use crate::hub::requests::{History, PresenceStats, Read, ReadAnswer};
use crate::session::hook_call::Denied;
use crate::session::permissions::{Deed, Grantee, Permissions};
use crate::session::rules::ChannelRules;
use crate::session::tunnel::TunnelAnswer;
use crate::shard::control_request::{ControlReply, UserMessage};
use crate::shard::core_tests::Stage;
use crate::shard::gather::{Gather, Tally};
use crate::shard::mailbox::{ApiCommand, ConnectionCommand, HookAnswered, PushMessage, ShardMessage};
use crate::shard::owner::{FromOwner, OwnerAnswer, ReadBy};

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
                false => stage.core.handle_ended(slot, SocketEnd::Broken(libc::ECONNRESET)),
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

/// The name of a request that was refused, and the client that its connection became.
fn refused_then_client(stage: &mut Stage, target: &str) -> (ConnId, u32) {
    let slot = stage.get(target);
    let conn = stage.core.conn_id(slot);
    stage.core.refuse_uni(slot, ErrorCode::LimitExceeded.into());
    stage.flush();
    assert!(stage.taken(slot).starts_with("HTTP/1.1 503"));
    (conn, slot)
}

/// The log is read for a request that is refused meanwhile; its connection is a client's when the owner answers.
#[test]
fn a_log_that_was_read_for_a_refused_request_reaches_no_client() {
    let mut stage = Stage::with(|options| {
        let permissions = Permissions::default().with(Deed::Subscribe, Grantee::Client, true).with(
            Deed::ReadHistory,
            Grantee::Client,
            true,
        );
        let rules = ChannelRules { permissions, ..ChannelRules::default() };
        options.rules = Arc::new(options.namespaces.map(|_| rules.clone()));
    });
    let writer = stage.subscriber(&["log:a"]);
    stage.publish_each("log:a", [1, 2]);
    stage.taken(writer);
    for target in ["/history?channel=log:a&limit=10", "/poll?channel=log:a&wait=0"] {
        let asked = stage.get(target);
        stage.tick();
        assert!(stage.taken(asked).starts_with("HTTP/1.1 200"), "it would be answered: {target}");
        let (_, slot) = refused_then_client(&mut stage, target);
        stage.upgrade(slot, "/connection/websocket");
        stage.text(slot, r#"{"id":7,"connect":{}}"#);
        stage.tick();
        let text = stage.taken(slot);
        assert!(text.contains(r#"{"id":7,"connect":{"#), "{text}");
        assert_eq!(text.matches(r#""id":"#).count(), 1, "{target}: {text}");
        stage.subscribe(slot, "log:a");
        stage.tick();
        assert!(stage.taken(slot).contains(r#"{"id":2,"subscribe":{"#), "and it may ask for itself");
    }
}

/// Whatever names a connection and was under way when its request was answered.
#[test]
fn nothing_that_is_for_an_answered_request_reaches_the_client_after_it() {
    let position = Position { offset: Offset(1), epoch: Epoch(1) };
    type Named = (&'static str, fn(ConnId, Position) -> ShardMessage);
    let answers: [Named; 11] = [
        ("history", |conn, position| {
            let history =
                History { publications: Publications::default(), position, payload: PayloadForm::Json };
            from_owner(OwnerAnswer::History { conn, id: 0, outcome: Ok(history) })
        }),
        ("publish", |conn, position| {
            from_owner(OwnerAnswer::Published { conn, id: 0, outcome: Ok(position), receipt: false })
        }),
        ("publish refused", |conn, _| {
            from_owner(OwnerAnswer::Published {
                conn,
                id: 0,
                outcome: Err(ErrorCode::Internal),
                receipt: false,
            })
        }),
        ("presence", |conn, _| {
            from_owner(OwnerAnswer::Presence { conn, id: 0, outcome: Err(ErrorCode::Internal) })
        }),
        ("presence stats", |conn, _| {
            from_owner(OwnerAnswer::PresenceStats { conn, id: 0, outcome: Ok(PresenceStats::default()) })
        }),
        ("what a laggard misses", |conn, after| {
            let read = Read { channel: "log:a".into(), index: 0, number: 0, after, bytes_max: 100 };
            let answer = ReadAnswer::Lost(after);
            from_owner(OwnerAnswer::Read { by: ReadBy::Laggard(conn), read, answer })
        }),
        ("a hook call", |conn, _| {
            let denied = Denied::Disconnect(Disconnect::FORCE_NO_RECONNECT);
            let answered = HookAnswered { conn, number: 0, asked_at: Time::ZERO, outcome: Err(denied) };
            ShardMessage::Backend(Box::new(answered))
        }),
        ("a tunnel's", |conn, _| ShardMessage::Tunnel(Box::new((conn, TunnelAnswer::Gone)))),
        ("the control plane's", |conn, _| {
            ShardMessage::Http(Box::new((conn, http::Response::new(Bytes::from_static(b"body")))))
        }),
        ("a place", |conn, _| ShardMessage::Placed(conn)),
        ("a command of the API", |conn, _| {
            let (user, done) = ("".into(), Gather::new(ControlReply::new(|_| {})));
            let command = ApiCommand::Disconnect(Disconnect::FORCE_NO_RECONNECT);
            ShardMessage::Connection(Box::new(ConnectionCommand { conn, user, command, done }))
        }),
    ];
    for (what, answer) in answers {
        let mut stage = Stage::new();
        let (conn, slot) = refused_then_client(&mut stage, "/poll?channel=log:a");
        stage.connect(slot);
        stage.subscribe(slot, "log:a");
        stage.tick();
        stage.taken(slot);
        stage.core.handle_message(answer(conn, position));
        stage.tick();
        assert_eq!(stage.taken(slot), "", "{what}");
        stage.publish_each("log:a", [5]);
        assert_eq!((stage.numbers(slot), stage.members()), (vec![5], 1), "{what}");
    }
}

/// A message for a user's connection is as little for the peer that follows on it.
#[test]
fn a_message_for_the_peer_before_is_not_for_the_one_after() {
    let mut stage = Stage::new();
    let (before, slot) = refused_then_client(&mut stage, "/poll?channel=a");
    stage.connect(slot);
    let after = stage.core.conn_id(slot);
    assert_ne!(before, after);
    let mut push = |conn| {
        let message = Arc::new(UserMessage {
            data: Bytes::from_static(b"5"),
            except: None,
            encoded: Encoded::default(),
        });
        let tally = Tally::new(1, ControlReply::new(|_| {}));
        let push = PushMessage { message, targets: vec![(conn, 0)], tally };
        stage.core.handle_message(ShardMessage::Push(Box::new(push)));
        stage.tick();
        // As numbers are found in publications: behind `data`.
        stage.numbers(slot)
    };
    assert_eq!((push(before), push(after)), (vec![], vec![5]));
}

fn from_owner(answer: OwnerAnswer) -> ShardMessage {
    ShardMessage::FromOwner(FromOwner::Answer(Box::new(answer)))
}

/// However many requests it comes in, what one connection makes is the work of one creator.
#[test]
fn a_connection_is_one_creator_in_all_of_its_requests() {
    let mut stage = Stage::new();
    let slot = stage.get("/poll?channel=a&wait=0");
    let (name, creator) = (stage.core.conn_id(slot), stage.core.creator(slot, None));
    stage.tick();
    assert!(stage.taken(slot).starts_with("HTTP/1.1 200"));
    stage.receive(slot, b"GET /poll?channel=b&wait=0 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec());
    assert_ne!(stage.core.conn_id(slot), name, "another peer");
    assert_eq!(stage.core.creator(slot, None), creator);
}

#[test]
fn a_subscription_that_the_api_ends_before_the_answer_does_not_begin() {
    let mut stage = Stage::new();
    let client = stage.client();
    for _ in 0..2 {
        stage.subscribe(client, "a");
        let index = stage.core.delivery.followed.find("a").expect("it is asked for");
        stage.core.unsubscribe(client, index, Some(Unsubscribed::Server));
    }
    stage.tick();
    let text = stage.taken(client);
    assert_eq!(text.matches(r#"{"id":2,"subscribe":{"#).count(), 2, "each command has its answer: {text}");
    assert_eq!((stage.members(), stage.core.footprint().local_channels), (0, 0));
    // Of three that are asked, the last one stays: no earlier answer is taken for its own.
    for _ in 0..2 {
        stage.subscribe(client, "a");
        let index = stage.core.delivery.followed.find("a").expect("it is asked for");
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
