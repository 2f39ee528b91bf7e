//! The listener over real sockets, with bounds small enough to be reached.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream as Socket};

use super::*;
use crate::config::Secret;
use crate::control::auth::AcceptedKeys;
use crate::control::options::ControlOptions;
use crate::control::{Control, start};
use crate::shard::mailbox::ShardInbox;
use crate::shard::router::Router as ShardRouter;

/// A bound on hanging, not on speed.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the bounds of a test leave to loaded machines.
const SOON: Duration = Duration::from_millis(300);
const NEVER: Duration = Duration::from_secs(3600);

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn limits() -> PortLimits {
    PortLimits {
        connections_max: 100,
        body_bytes_max: 64 * 1024,
        bodies_bytes_max: 1 << 20,
        head_time: NEVER,
        idle_time: NEVER,
        transfer_time: NEVER,
    }
}

/// A control plane whose shards never answer, and where its listener is.
fn started(limits: PortLimits) -> (Control, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let socket = ApiSocket::tcp(listener).unwrap();
    let address = socket.address().tcp().unwrap();
    (started_at(limits, socket, false), address)
}

fn started_at(limits: PortLimits, socket: ApiSocket, held: bool) -> Control {
    let config = crate::config::Config::default();
    let options = ControlOptions {
        api_keys: AcceptedKeys { keys: vec![Secret::new("key")], ..AcceptedKeys::default() },
        api_port: limits,
        ask_timeout: SOON,
        held,
        ..ControlOptions::new(&config)
    };
    let inboxes = Arc::new([Arc::new(ShardInbox::new(64))]);
    start(options, ShardRouter::new(inboxes, [1, 2, 3, 4]), vec![socket]).unwrap()
}

fn connect(address: SocketAddr) -> Socket {
    let socket = Socket::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn sent(address: SocketAddr, text: &str) -> Socket {
    let mut socket = connect(address);
    socket.write_all(text.as_bytes()).unwrap();
    socket
}

/// Everything until the listener closes.
fn rest(mut socket: Socket) -> String {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    String::from_utf8(bytes).unwrap()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Answers of a connection that stays open, one after another.
fn next_answer(socket: &mut Socket) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split_once("Content-Length: ").map_or("0", |(_, after)| after);
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if body.len() >= length {
                return text;
            }
        }
        let mut byte = [0];
        assert_eq!(socket.read(&mut byte).unwrap(), 1, "ended after {text:?}");
        bytes.push(byte[0]);
    }
}

/// Two control planes as two processes of an upgrade: a connection moves between two requests, and the request that comes
/// meanwhile is answered by the other.
#[test]
fn a_connection_goes_on_with_another_process() {
    let (old, address) = started(limits());
    let mut socket = sent(address, HEALTH);
    assert_eq!(status(&next_answer(&mut socket)), 200);
    let copies = old.hold();
    assert_eq!(copies.len(), 1);
    socket.write_all(HEALTH.as_bytes()).unwrap();
    // Back again: nothing is lost.
    drop(copies);
    old.release();
    assert_eq!(status(&next_answer(&mut socket)), 200);

    let copies = old.hold();
    let listeners = old.api_listeners().unwrap();
    assert_eq!((copies.len(), listeners.len()), (1, 1));
    socket.write_all(HEALTH.as_bytes()).unwrap();
    // One that knocks while neither serves.
    let mut knocks = sent(address, HEALTH);
    let listener = listeners.into_iter().next().unwrap().1;
    let new = started_at(limits(), ApiSocket::tcp(listener.into()).unwrap(), true);
    old.leave();
    drop(old);
    new.open(copies);
    assert_eq!(status(&next_answer(&mut socket)), 200);
    assert_eq!(status(&next_answer(&mut knocks)), 200);
}

#[test]
fn a_request_waits_for_an_upgrade_two_seconds() {
    let (control, address) = started(limits());
    let mut socket = sent(address, HEALTH);
    assert_eq!(status(&next_answer(&mut socket)), 200);
    let _copies = control.hold();
    socket.write_all(HEALTH.as_bytes()).unwrap();
    let answer = rest(socket);
    assert!(status(&answer) == 503 && answer.contains("upgraded"), "{answer}");
    control.release();
    assert_eq!(status(&next_answer(&mut sent(address, HEALTH))), 200);
}

fn publish(length: usize) -> String {
    format!("POST /api/publish HTTP/1.1\r\nHost: a\r\nX-API-Key: key\r\nContent-Length: {length}\r\n\r\n")
}

#[test]
fn a_caller_that_closes_its_sending_side_is_answered() {
    let (_control, address) = started(limits());
    for _ in 0..100 {
        let socket = sent(address, HEALTH);
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(status(&rest(socket)), 200);
    }
    // Also when the answer takes a while: the shards of this test never answer.
    let socket = sent(address, &(publish(24) + r#"{"channel":"c","data":1}"#));
    socket.shutdown(Shutdown::Write).unwrap();
    let answer = rest(socket);
    assert!(answer.contains(r#""code":100"#), "{answer}");
    // A request that is not whole is none.
    let socket = sent(address, &(publish(24) + "{"));
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(socket), "");
}

#[test]
fn requests_of_one_connection_are_answered_in_order() {
    let (_control, address) = started(limits());
    let mut socket =
        sent(address, &(HEALTH.to_string() + "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n" + HEALTH));
    let answers: Vec<u16> = (0..3).map(|_| status(&next_answer(&mut socket))).collect();
    assert_eq!(answers, [200, 404, 200]);
    socket.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let last = rest(socket);
    assert!(status(&last) == 200 && last.contains("Connection: close"), "{last}");
}

#[test]
fn a_body_is_read_from_callers_with_a_key_only() {
    let (_control, address) = started(limits());
    // The answer comes while the body does not.
    let answer = rest(sent(address, &publish(60_000).replace("X-API-Key: key", "X-API-Key: no")));
    assert!(status(&answer) == 401 && answer.contains("Connection: close"), "{answer}");
    // One that is too long is refused by what it announces.
    assert_eq!(status(&rest(sent(address, &publish(65_537)))), 413);
    // `Expect: 100-continue` is answered before the body.
    let mut socket = sent(address, &publish(24).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"));
    assert_eq!(status(&next_answer(&mut socket)), 100);
    socket.write_all(br#"{"channel":"c","data":1}"#).unwrap();
    assert_eq!(status(&next_answer(&mut socket)), 200);
}

#[test]
fn every_wait_has_an_end() {
    let soon = PortLimits { head_time: SOON, idle_time: SOON, transfer_time: SOON, ..limits() };
    let (_control, address) = started(soon);
    let silent: Vec<Socket> = (0..30).map(|_| connect(address)).collect();
    let half_head: Vec<Socket> = (0..30).map(|_| sent(address, "GET /health HTTP/1.1\r\nHo")).collect();
    let half_body: Vec<Socket> = (0..30).map(|_| sent(address, &(publish(24) + "{"))).collect();
    for socket in silent {
        assert_eq!(rest(socket), "");
    }
    for socket in half_head.into_iter().chain(half_body) {
        assert_eq!(status(&rest(socket)), 408);
    }
    let mut idle = sent(address, HEALTH);
    assert_eq!(status(&next_answer(&mut idle)), 200);
    assert_eq!(rest(idle), "");
    // A byte now and then does not restart anything.
    let mut slow = connect(address);
    let trickle = slow.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let mut trickle = trickle;
        while trickle.write_all(b"G").is_ok() {
            std::thread::sleep(SOON / 10);
        }
    });
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    drop(slow);
    writer.join().unwrap();
}

#[test]
fn more_connections_than_may_be_are_answered_503() {
    let (_control, address) = started(PortLimits { connections_max: 3, ..limits() });
    let mut held: Vec<Socket> = (0..3).map(|_| sent(address, HEALTH)).collect();
    for socket in &mut held {
        assert_eq!(status(&next_answer(socket)), 200);
    }
    let refused = rest(sent(address, HEALTH));
    assert!(status(&refused) == 503 && refused.contains("Retry-After: 1"), "{refused}");
    held.clear();
    // The places are free again, as soon as their ends have been seen.
    let until = std::time::Instant::now() + PATIENCE;
    while status(&next_answer(&mut sent(address, HEALTH))) != 200 {
        assert!(std::time::Instant::now() < until, "no place came free");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn bodies_have_a_budget_together() {
    let (_control, address) = started(PortLimits { bodies_bytes_max: 128 * 1024, ..limits() });
    let most_of_a_body = publish(60_000) + &"x".repeat(59_999);
    let held: Vec<Socket> = (0..4).map(|_| sent(address, &most_of_a_body)).collect();
    // Those who came too late are refused; the others wait for the rest of theirs.
    let refused = |held: &[Socket]| {
        let answered = held.iter().filter(|socket| {
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let mut answer = [0; 12];
            socket.peek(&mut answer).is_ok_and(|read| answer[..read] == b"HTTP/1.1 503"[..])
        });
        answered.count()
    };
    let until = std::time::Instant::now() + PATIENCE;
    while refused(&held) < 2 {
        assert!(std::time::Instant::now() < until, "more bodies than the budget has room for");
    }
    std::thread::sleep(SOON);
    assert!(refused(&held) < 4, "the budget has room for one");
    // What they held is free when they have gone.
    drop(held);
    let until = std::time::Instant::now() + PATIENCE;
    let whole = most_of_a_body.clone() + "x";
    while status(&next_answer(&mut sent(address, &whole))) != 400 {
        assert!(std::time::Instant::now() < until, "the budget did not come back");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn stopping_answers_what_is_under_way_and_ends_what_is_idle() {
    let (control, address) = started(limits());
    let idle = connect(address);
    // Its head has been read when it is asked for the body.
    let mut asking = sent(address, &publish(24).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"));
    assert_eq!(status(&next_answer(&mut asking)), 100);
    // Connections are accepted in order.
    let mut kept = sent(address, HEALTH);
    assert_eq!(status(&next_answer(&mut kept)), 200);
    let asks = std::thread::spawn(move || {
        asking.write_all(br#"{"channel":"c","data":1}"#).unwrap();
        rest(asking)
    });
    control.quiet(PATIENCE);
    assert_eq!((rest(idle), rest(kept)), (String::new(), String::new()));
    assert!(asks.join().unwrap().contains(r#""code":100"#));
    control.stop(Duration::ZERO);
}

#[test]
fn what_was_sent_before_the_stop_is_answered() {
    let (control, address) = started(limits());
    let mut kept: Vec<Socket> = (0..20).map(|_| sent(address, HEALTH)).collect();
    for socket in &mut kept {
        assert_eq!(status(&next_answer(socket)), 200);
        socket.write_all(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    control.quiet(PATIENCE);
    for socket in kept {
        assert_eq!(status(&rest(socket)), 404);
    }
    control.stop(Duration::ZERO);
}
