//! Calls that the contract forbids are found out, and what the handles tell a harness is so.

use std::time::Duration;

use super::{one_client, options, send, wait};
use crate::base::bytes::Bytes;
use crate::base::time::Time;
use crate::driver::sim::{ClientEnd, ClientState, Faults, SimDriver, SimNet};
use crate::driver::{AcceptFailure, Driver, DriverEvent, SendPart, SocketEnd};

#[test]
#[should_panic(expected = "a second send on")]
fn two_sends_before_a_flush_are_found_out() {
    let (_net, mut driver, _client, sock) = one_client(Faults::none());
    send(&mut driver, sock, b"one");
    send(&mut driver, sock, b"two");
}

#[test]
#[should_panic(expected = "send on")]
fn a_send_after_finish_is_found_out() {
    let (_net, mut driver, _client, sock) = one_client(Faults::none());
    driver.finish(sock);
    send(&mut driver, sock, b"late");
}

#[test]
#[should_panic(expected = "after close")]
fn a_use_after_close_is_found_out() {
    let (_net, mut driver, _client, sock) = one_client(Faults::none());
    driver.close(sock);
    driver.read_pause(sock);
}

#[test]
#[should_panic(expected = "lent buffers were not given back")]
fn a_kept_buffer_is_found_out() {
    let (_net, mut driver, mut client, _sock) = one_client(Faults::none());
    client.send(b"x");
    let _kept = wait(&mut driver);
    wait(&mut driver);
}

#[test]
#[should_panic(expected = "sends were not flushed")]
fn a_forgotten_flush_is_found_out() {
    let (_net, mut driver, _client, sock) = one_client(Faults::none());
    send(&mut driver, sock, b"x");
    wait(&mut driver);
}

#[test]
#[should_panic(expected = "a hold is used after its flush")]
fn a_hold_kept_over_a_flush_is_found_out() {
    let (_net, mut driver, _client, sock) = one_client(Faults::none());
    let hold = driver.hold(Bytes::from_static(b"x"));
    driver.flush(&mut Vec::new());
    driver.hold(Bytes::from_static(b"y"));
    driver.send(sock, &[SendPart { hold, range: 0..1 }], 0);
}

#[test]
#[should_panic(expected = "would starve")]
fn faults_that_starve_are_refused() {
    SimNet::new(0, Faults { wait_empty: 1.0, ..Faults::none() });
}

#[test]
fn a_harness_can_step_to_what_comes_next() {
    let latency = Faults { latency_us: 5_000..=5_000, ..Faults::none() };
    let net = SimNet::new(0, latency);
    let mut driver = net.driver(&options(8));
    assert!(net.runnable(0), "a shard starts by itself");
    driver.accept_start();
    assert!(wait(&mut driver).is_empty());
    assert_eq!((net.next_event_at(), net.asked_until(0)), (None, Time::NEVER));
    driver.wait(&mut Vec::new(), Some(Duration::from_millis(30))).expect("wait");
    assert_eq!(net.next_event_at(), Some(Time::from_millis(30)));
    assert!(!net.runnable(0));

    let client = net.connect();
    assert_eq!(net.next_event_at(), Some(Time::from_millis(5)));
    net.advance(Duration::from_millis(4));
    assert_eq!((client.state(), net.runnable(0)), (ClientState::Connecting, false));
    net.advance_to(Time::from_millis(5));
    assert_eq!((client.state(), net.runnable(0)), (ClientState::Open, true));
    assert_eq!(net.next_event_at(), Some(net.now()));
    let events = wait(&mut driver);
    assert!(matches!(events[..], [DriverEvent::Accepted { .. }]));
    assert!(net.runnable(0), "a wait that returned early runs its tick, then waits again");
    assert!(wait(&mut driver).is_empty());
    assert!(!net.runnable(0));

    driver.waker().wake();
    assert!(net.runnable(0));
    assert!(wait(&mut driver).is_empty());
    assert!(wait(&mut driver).is_empty());
    assert!(!net.runnable(0));
}

#[test]
fn clients_spread_over_the_shards_that_listen() {
    let net = SimNet::new(3, Faults::none());
    let mut drivers: Vec<SimDriver> = (0..4).map(|_| net.driver(&options(64))).collect();
    drivers[2].accept_end();
    let clients: Vec<ClientEnd> = (0..60).map(|_| net.connect()).collect();
    let landed = |shard| clients.iter().filter(|client| client.shard() == Some(shard)).count();
    assert!(landed(0) > 0 && landed(1) > 0 && landed(3) > 0);
    assert_eq!((landed(2), net.backlog(0)), (0, landed(0)));
    assert_eq!(net.connect_to(2).state(), ClientState::Refused);
    assert_eq!(net.connect_to(1).shard(), Some(1));
    drivers.clear();
    net.advance(Duration::ZERO);
    assert!(clients.iter().all(|client| client.state() == ClientState::Reset), "closed in the backlog");
    assert_eq!(net.connect().state(), ClientState::Refused);
}

#[test]
fn a_close_with_unread_bytes_is_a_reset_and_without_them_an_orderly_end() {
    for unread in [false, true] {
        let (net, mut driver, mut client, sock) = one_client(Faults::none());
        send(&mut driver, sock, b"hello");
        driver.flush(&mut Vec::new());
        driver.read_pause(sock);
        if unread {
            client.send(b"not read");
        }
        net.advance(Duration::from_millis(1));
        driver.close(sock);
        let want = if unread { ClientState::Reset } else { ClientState::Finished };
        assert_eq!(client.state(), want);
        assert_eq!(client.recv(), b"hello");
        assert!(matches!(wait(&mut driver)[..], [DriverEvent::Closed { sock: closed }] if closed == sock));
        assert_eq!(net.open_sockets(0), 0);
    }
}

#[test]
fn a_dead_client_is_learnt_from_its_answer_to_a_send() {
    let (_net, mut driver, client, sock) = one_client(Faults::none());
    drop(client);
    let events = wait(&mut driver);
    assert!(matches!(events[..], [DriverEvent::Ended { cause: SocketEnd::Finished, .. }]), "{events:?}");
    let mut failures = Vec::new();
    send(&mut driver, sock, b"into the void");
    driver.flush(&mut failures);
    assert!(failures.is_empty());
    send(&mut driver, sock, b"again");
    driver.flush(&mut failures);
    assert!(matches!(failures[..], [failure] if failure.sent == 0), "{failures:?}");
}

#[test]
fn a_socket_that_is_over_and_not_closed_is_overdue() {
    let (net, mut driver, mut client, sock) = one_client(Faults::none());
    client.reset();
    assert!(matches!(wait(&mut driver)[..], [DriverEvent::Ended { cause: SocketEnd::Broken(_), .. }]));
    net.advance(Duration::from_secs(1));
    assert_eq!(net.overdue(0, Duration::from_secs(2)), []);
    assert_eq!(net.overdue(0, Duration::from_secs(1)), [sock]);
    driver.close(sock);
    assert_eq!(net.overdue(0, Duration::ZERO), []);
}

#[test]
fn every_kind_of_accept_failure_comes() {
    let net = SimNet::new(1, Faults { accept_failed: 1.0, accept_drops: 0.5, ..Faults::none() });
    let mut driver = net.driver(&options(8));
    let (mut causes, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let client = net.connect();
        driver.accept_start();
        assert_eq!(client.state(), ClientState::Open);
        clients.push(client);
        for event in wait(&mut driver) {
            let DriverEvent::AcceptFailed { cause } = event else { panic!("{event:?}") };
            causes.push(cause);
        }
    }
    let dropped = clients.iter().filter(|client| client.state() == ClientState::Reset).count();
    assert_eq!(causes.len(), 100);
    for cause in [AcceptFailure::Full, AcceptFailure::NoMemory, AcceptFailure::Other(libc::ECONNABORTED)] {
        assert!(causes.contains(&cause), "{cause:?} never came");
    }
    assert_eq!(100 - dropped, net.backlog(0), "who is not dropped stays in the backlog");
    assert!(dropped > 0, "a failing accept never cost its client the connection");
}

#[test]
fn a_killed_shard_closes_what_it_had() {
    for unread in [false, true] {
        let (net, driver, mut client, _sock) = one_client(Faults::none());
        let waiting = net.connect();
        if unread {
            client.send(b"not read");
        }
        net.advance(Duration::ZERO);
        drop(driver);
        net.advance(Duration::ZERO);
        assert_eq!(client.state(), if unread { ClientState::Reset } else { ClientState::Finished });
        assert_eq!(waiting.state(), ClientState::Reset);
        assert!(!net.runnable(0), "the dead do not tick");
    }
}
