//! Each fault by itself: it happens, and does what its line in [`Faults`] says.

use std::time::Duration;

use super::{one_client, options, send, wait};
use crate::driver::sim::{ClientState, Faults, SimNet};
use crate::driver::{Driver, DriverEvent, SendCause, SocketEnd};

const PAYLOAD: &[u8] = &[b'x'; 1000];

#[test]
fn reads_are_cut() {
    let (_net, mut driver, mut client, _) = one_client(Faults { read_cut: 1.0, ..Faults::none() });
    client.send(PAYLOAD);
    let mut reads = Vec::new();
    while reads.iter().sum::<usize>() < PAYLOAD.len() {
        for event in wait(&mut driver) {
            let DriverEvent::Received { lent, .. } = event else { panic!("{event:?}") };
            reads.push(driver.received(&lent).len());
            driver.give_back(lent);
        }
    }
    assert!(reads.len() > 2, "{reads:?}");
}

#[test]
fn segments_are_split_and_stay_in_order() {
    let faults = Faults { split: 1.0, latency_us: 0..=1000, ..Faults::none() };
    let (net, mut driver, mut client, sock) = one_client(faults);
    let bytes: &'static [u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut pieces = 0;
    for _ in 0..10 {
        send(&mut driver, sock, bytes);
        driver.flush(&mut Vec::new());
        let mut heard = Vec::new();
        while heard.len() < bytes.len() {
            pieces += usize::from(client.recv_into(&mut heard) > 0);
            net.advance(Duration::from_micros(1));
        }
        assert_eq!(heard, bytes);
    }
    assert!(pieces > 20, "{pieces}");
}

#[test]
fn sends_are_cut_and_the_socket_is_writable_at_once() {
    let (_net, mut driver, _client, sock) = one_client(Faults { send_cut: 1.0, ..Faults::none() });
    send(&mut driver, sock, PAYLOAD);
    let mut failures = Vec::new();
    driver.flush(&mut failures);
    assert_eq!(failures[0].cause, SendCause::WouldBlock);
    assert!((failures[0].sent as usize) < PAYLOAD.len());
    driver.write_watch(sock);
    assert!(matches!(wait(&mut driver)[..], [DriverEvent::Writable { .. }]));
}

#[test]
fn small_buffers_fill_and_a_reading_client_frees_them() {
    let faults = Faults { send_buffer_bytes: 100..=100, client_window_bytes: 50..=50, ..Faults::none() };
    let (_net, mut driver, mut client, sock) = one_client(faults);
    client.read_pause();
    let (mut failures, mut taken) = (Vec::new(), 0);
    for want in [100, 50, 0] {
        send(&mut driver, sock, PAYLOAD);
        driver.flush(&mut failures);
        assert_eq!((failures[0].sent, failures[0].cause), (want, SendCause::WouldBlock));
        taken += failures.pop().map_or(0, |failure| failure.sent);
    }
    driver.write_watch(sock);
    assert!(wait(&mut driver).is_empty());
    client.read_resume();
    assert!(matches!(wait(&mut driver)[..], [DriverEvent::Writable { .. }]));
    assert_eq!(client.recv().len(), taken as usize);
}

#[test]
fn sends_meet_a_kernel_without_buffers() {
    let (_net, mut driver, _client, sock) = one_client(Faults { no_buffers: 1.0, ..Faults::none() });
    let mut failures = Vec::new();
    for _ in 0..20 {
        send(&mut driver, sock, PAYLOAD);
        driver.flush(&mut failures);
    }
    assert!(failures.iter().all(|f| f.cause == SendCause::NoBuffers && (f.sent as usize) < PAYLOAD.len()));
    assert!(failures.iter().any(|f| f.sent == 0) && failures.iter().any(|f| f.sent > 0));
}

#[test]
fn sends_break() {
    let (_net, mut driver, client, sock) = one_client(Faults { break_in_send: 1.0, ..Faults::none() });
    send(&mut driver, sock, PAYLOAD);
    let mut failures = Vec::new();
    driver.flush(&mut failures);
    assert_eq!(failures[0].cause, SendCause::Broken(libc::ECONNRESET));
    assert_eq!(client.state(), ClientState::Reset);
    send(&mut driver, sock, PAYLOAD);
    driver.flush(&mut failures);
    assert_eq!((failures[1].sent, failures[1].cause), (0, SendCause::Broken(libc::EPIPE)));
}

#[test]
fn connections_are_doomed() {
    let doom_us = 1_000_000..=1_000_000;
    let reset = Faults { doom_reset: 1.0, doom_us: doom_us.clone(), ..Faults::none() };
    let half_close = Faults { doom_half_close: 1.0, doom_us, ..Faults::none() };
    for (faults, finished) in [(reset, false), (half_close, true)] {
        let (net, mut driver, client, _) = one_client(faults);
        net.advance(Duration::from_millis(999));
        assert!(wait(&mut driver).is_empty());
        net.advance(Duration::from_millis(1));
        let events = wait(&mut driver);
        let [DriverEvent::Ended { cause, .. }] = events[..] else { panic!("{events:?}") };
        assert_eq!(cause == SocketEnd::Finished, finished);
        assert_eq!(client.state(), if finished { ClientState::Open } else { ClientState::Reset });
        assert!(client.finished(), "either way it can send no more");
    }
}

#[test]
fn a_reset_loses_what_was_not_read() {
    for (chance, reads) in [(0.0, 1), (1.0, 0)] {
        let (_net, mut driver, mut client, _) = one_client(Faults { reset_loses: chance, ..Faults::none() });
        client.send(PAYLOAD);
        client.reset();
        let (mut received, mut ended) = (0, 0);
        for event in wait(&mut driver) {
            match event {
                DriverEvent::Received { lent, .. } => {
                    received += 1;
                    driver.give_back(lent);
                }
                DriverEvent::Ended { cause: SocketEnd::Broken(_), .. } => ended += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((received, ended), (reads, 1));
    }
}

#[test]
fn clients_are_dead_on_arrival() {
    let (_net, mut driver, client, _) = one_client(Faults { accept_dead: 1.0, ..Faults::none() });
    assert_eq!(client.state(), ClientState::Reset);
    assert!(matches!(wait(&mut driver)[..], [DriverEvent::Ended { cause: SocketEnd::Broken(_), .. }]));
}

#[test]
fn a_pause_comes_too_late_for_one_client() {
    let net = SimNet::new(0, Faults { accept_late: 1.0, ..Faults::none() });
    let mut driver = net.driver(&options(8));
    driver.accept_start();
    let _clients = [net.connect(), net.connect(), net.connect()];
    net.advance(Duration::ZERO);
    driver.accept_pause();
    assert!(matches!(wait(&mut driver)[..], [DriverEvent::Accepted { .. }]));
    assert!(wait(&mut driver).is_empty());
    assert_eq!(net.backlog(0), 2);
}

#[test]
fn buffers_run_short_and_every_client_is_read_all_the_same() {
    let net = SimNet::new(0, Faults { buffers_short: 0.9, ..Faults::none() });
    let mut driver = net.driver(&options(64));
    driver.accept_start();
    let mut clients: Vec<_> = (0..40).map(|_| net.connect()).collect();
    for event in wait(&mut driver) {
        let DriverEvent::Accepted { sock, .. } = event else { panic!("{event:?}") };
        driver.read_start(sock);
    }
    clients.iter_mut().for_each(|client| assert!(client.send(b"hi")));
    let (mut read, mut most, mut least) = (0, 0, usize::MAX);
    while read < clients.len() {
        let events = wait(&mut driver);
        (most, least) = (most.max(events.len()), least.min(events.len()));
        for event in events {
            let DriverEvent::Received { lent, .. } = event else { panic!("{event:?}") };
            driver.give_back(lent);
            read += 1;
        }
    }
    assert!(least < 4 && most <= 8, "{least}..={most}");
}

#[test]
fn waits_end_early_and_events_come_late() {
    for faults in [Faults { wait_empty: 0.9, ..Faults::none() }, Faults { event_late: 0.9, ..Faults::none() }]
    {
        let (net, mut driver, mut client, _) = one_client(faults);
        client.send(b"hi");
        let mut empty = 0;
        loop {
            net.advance(Duration::ZERO);
            assert!(net.runnable(0), "what is late is not forgotten");
            let events = wait(&mut driver);
            let came = !events.is_empty();
            for event in events {
                let DriverEvent::Received { lent, .. } = event else { panic!("{event:?}") };
                driver.give_back(lent);
            }
            if came {
                break;
            }
            empty += 1;
        }
        assert!(empty > 0);
    }
}

#[test]
fn writable_comes_early() {
    let faults = Faults {
        writable_early: 1.0,
        send_buffer_bytes: 10..=10,
        client_window_bytes: 1..=1,
        ..Faults::none()
    };
    let (_net, mut driver, mut client, sock) = one_client(faults);
    client.read_pause();
    for _ in 0..3 {
        send(&mut driver, sock, PAYLOAD);
        driver.flush(&mut Vec::new());
    }
    driver.write_watch(sock);
    driver.write_watch(sock);
    assert!(matches!(wait(&mut driver)[..], [DriverEvent::Writable { .. }]));
    assert!(wait(&mut driver).is_empty(), "one event a watch");
}

#[test]
fn closed_comes_late_and_holds_its_slot_until_then() {
    let late = Faults { closed_late: 1.0, closed_late_us: 500..=500, ..Faults::none() };
    let (net, mut driver, client, sock) = one_client(late);
    driver.close(sock);
    assert_eq!(client.state(), ClientState::Finished);
    net.advance(Duration::from_micros(499));
    assert!(wait(&mut driver).is_empty());
    assert_eq!(net.open_sockets(0), 1);
    net.advance(Duration::from_micros(1));
    assert!(matches!(wait(&mut driver)[..], [DriverEvent::Closed { .. }]));
    assert_eq!(net.open_sockets(0), 0);
}

#[test]
fn a_segment_stalls_and_holds_back_what_follows() {
    let faults = Faults { stall: 1.0, stall_us: 300_000..=300_000, ..Faults::none() };
    let net = SimNet::new(0, faults);
    let _driver = net.driver(&options(8));
    let client = net.connect();
    net.advance(Duration::from_millis(299));
    assert_eq!(client.state(), ClientState::Connecting);
    net.advance(Duration::from_millis(1));
    assert_eq!(client.state(), ClientState::Open);
}
