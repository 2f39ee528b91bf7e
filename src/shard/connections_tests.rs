//! When a connection is read from: each reason not to, alone and beside the others.

use super::*;
use crate::base::budget::Budget;
use crate::base::ids::ShardId;
use crate::proto::wire::Wire;
use crate::shard::core_tests::{OUTBOX_BYTES, Stage};
use crate::shard::directory::Directory;
use crate::shard::link::PendingOutput;
use crate::shard::links::Action;
use crate::shard::requests::{Http, Request};

fn connection() -> Connection {
    let mut directory = Directory::new(ShardId(0));
    Connection::new(1, directory.insert(0))
}

fn client() -> Connection {
    let mut connection = connection();
    connection.peer.set_client(Session::new(Wire::default(), None));
    connection
}

fn pause_for_debt(connection: &mut Connection, on: bool) {
    connection.link.pending =
        on.then(|| Box::new(PendingOutput { read_paused: true, ..PendingOutput::default() }));
}

type Reason = (&'static str, fn(&mut Connection, bool));

const REASONS: [Reason; 4] = [
    ("a step of its handshake", |connection, on| connection.link.set_awaits_step(on)),
    ("input to inflate", |connection, on| connection.link.set_awaits_inflating(on)),
    ("what it owes", pause_for_debt),
    ("its commands", |connection, on| {
        connection.peer.session().expect("a client").input_paused = on;
    }),
];

/// In whichever order they come and go, the last reason that goes is the one that counts.
#[test]
fn a_connection_is_read_when_no_reason_is_left() {
    for on in 0..1 << REASONS.len() {
        let mut connection = client();
        for (at, (_, set)) in REASONS.iter().enumerate() {
            set(&mut connection, on & 1 << at != 0);
        }
        assert_eq!(connection.may_be_read(), on == 0, "{on:b}");
        for (at, (what, set)) in REASONS.iter().enumerate() {
            assert_eq!(connection.may_be_read(), on >> at == 0, "before {what}, {on:b}");
            set(&mut connection, false);
        }
        assert!(connection.may_be_read());
    }
}

#[test]
fn a_connection_that_closes_is_read_up_to_the_peers_end() {
    for end in [ClosingEnd::PeersClose, ClosingEnd::Fin, ClosingEnd::Both] {
        let mut connection = client();
        connection.peer.session().expect("a client").input_paused = true;
        pause_for_debt(&mut connection, true);
        connection.set_closing(end);
        assert!(connection.may_be_read());
        // What came before is looked at first.
        connection.link.set_awaits_inflating(true);
        assert!(!connection.may_be_read());
        connection.set_gone();
        connection.link.set_awaits_inflating(false);
        assert!(!connection.may_be_read());
    }
}

#[test]
fn requests_are_read_one_at_a_time() {
    let budget = Budget::new("input", 1000);
    let with = |unread: &[u8], request: Option<Request>| {
        let mut http = Box::<Http>::default();
        http.unread.push(&budget, unread).unwrap();
        http.request = request;
        let mut connection = connection();
        *connection.peer.requests_mut().expect("it asks requests") = Some(http);
        connection
    };
    assert!(connection().may_be_read());
    assert!(with(b"GET / HT", None).may_be_read(), "the rest of a head");
    assert!(with(b"", Some(Request::default())).may_be_read(), "a body");
    let asked = || Some(Request { asked: true, ..Request::default() });
    assert!(!with(b"", asked()).may_be_read(), "its answer is awaited");
    let mut next = with(b"GET / HT", None);
    next.link.pending = Some(Box::new(PendingOutput { owed_bytes: 1, ..PendingOutput::default() }));
    assert!(!next.may_be_read(), "the answer before is not gone");
    next.link.pending = None;
    assert!(next.may_be_read());
}

/// It unsubscribes between the moment at which its socket takes bytes again and its turn.
#[test]
fn who_was_not_read_for_its_debt_is_read_again_whatever_happens_meanwhile() {
    let mut stage = Stage::new();
    let slot = stage.subscriber(&["log:a"]);
    stage.block(slot);
    stage.publish("log:a", &format!("\"{}\"", "x".repeat(OUTBOX_BYTES * 3 / 4)));
    stage.tick();
    stage.text(slot, r#"{"id":9,"ping":{}}"#);
    assert!(
        stage.pending(slot).is_some_and(|pending| pending.read_paused),
        "it owes more than half of what it may"
    );
    stage.actions.clear();
    stage.unblock(slot);
    let channel = stage.core.delivery.followed.find("log:a").expect("it is subscribed");
    stage.core.unsubscribe(slot, channel, None);
    stage.tick();
    stage.tick();
    let starts = stage.actions.iter().filter(|action| matches!(action, Action::ReadStart(at) if *at == slot));
    assert_eq!((starts.count(), stage.pending(slot).is_none()), (1, true));
}
