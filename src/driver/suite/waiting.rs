//! The listener, the wait, and many sockets at once.

use super::*;

suite_test!(accept_pause_leaves_clients_in_the_backlog(64), |h| {
    h.connect();
    for _ in 0..3 {
        h.driver().accept_pause();
        h.driver().accept_pause();
        h.settle();
        let before = h.accepted.len();
        let client = h.rig.connect();
        h.settle();
        assert_eq!(h.accepted.len(), before, "accepted while paused");
        h.driver().accept_start();
        h.driver().accept_start();
        h.until("the one in the backlog", |h| h.accepted.len() == before + 1);
        let sock = h.accepted[before];
        h.driver().read_start(sock);
        h.client_send_all(client, b"hi");
        h.until_received(sock, 2);
    }
    // A start that overtakes its pause.
    h.driver().accept_pause();
    h.driver().accept_start();
    h.connect();
    assert_eq!(h.accept_failures, []);
});

suite_test!(accept_end_refuses_clients(64), |h| {
    let (client, sock) = h.connect_reading();
    h.driver().accept_end();
    h.driver().accept_end();
    h.until("refusal", |h| h.rig.is_refused());
    h.driver().accept_start();
    h.settle();
    assert!(h.rig.is_refused(), "the end is for good");
    h.client_send_all(client, b"still served");
    h.until_received(sock, 12);
    assert_eq!(h.accept_failures, []);
});

suite_test!(a_full_table_fails_the_accept_until_a_slot_is_free(4), |h| {
    let first: Vec<_> = (0..4).map(|_| h.connect_reading()).collect();
    // This client waits in the backlog or is dropped: the drivers differ.
    h.rig.connect();
    h.until("the failure", |h| !h.accept_failures.is_empty());
    h.settle();
    assert_eq!(h.accept_failures, [AcceptFailure::Full], "a failure pauses accepting");
    assert_eq!(h.accepted.len(), 4);
    let (client, sock) = first[2];
    h.client_send_all(client, b"unharmed");
    h.until_received(sock, 8);
    // Started too early, it fails again and pauses again.
    h.driver().accept_start();
    h.rig.connect();
    h.until("the second failure", |h| h.accept_failures.len() == 2);
    for (_, sock) in &first {
        h.close(*sock);
    }
    for (_, sock) in &first {
        h.until_closed(*sock);
    }
    h.driver().accept_start();
    h.rig.connect();
    h.until("accepted again", |h| h.accepted.len() > 4);
});

suite_test!(a_wake_ends_the_wait(64), |h| {
    h.settle();
    let waker = h.driver().waker();
    for _ in 0..10 {
        let waker = waker.clone();
        let thread = std::thread::spawn(move || {
            // Long enough that the other thread sleeps in most rounds; neither order fails.
            std::thread::sleep(Duration::from_millis(2));
            waker.wake();
        });
        let mut events = Vec::new();
        if R::REAL_TIME {
            let start = h.driver().now();
            h.driver().wait(&mut events, Some(Duration::from_secs(60))).expect("wait");
            assert!(h.driver().now().since(start) < Duration::from_secs(50), "the wake did not end the wait");
        }
        thread.join().expect("waking thread");
        if !R::REAL_TIME {
            h.driver().wait(&mut events, None).expect("wait");
        }
        assert!(events.is_empty(), "{events:?}");
    }
});

suite_test!(a_wake_before_the_wait_ends_it(64), |h| {
    h.settle();
    let waker = h.driver().waker();
    for wakes in [1, 3] {
        for _ in 0..wakes {
            waker.wake();
        }
        h.driver().wait(&mut Vec::new(), None).expect("wait");
    }
    // A wake outlives what it wakes.
    drop(std::thread::spawn(move || waker.wake()).join());
});

suite_test!(wait_returns_after_its_timeout(64), |h| {
    h.settle();
    for timeout in [Duration::ZERO, Duration::from_micros(300), Duration::from_millis(5)] {
        let start = h.driver().now();
        let mut events = Vec::new();
        h.driver().wait(&mut events, Some(timeout)).expect("wait");
        assert!(events.is_empty());
        assert!(h.driver().now().since(start) >= timeout, "woken early from {timeout:?}");
    }
});

suite_test!(idle_sockets_cost_no_events(512), |h| {
    for _ in 0..200 {
        h.connect_reading();
    }
    h.settle();
    let before = h.events_total;
    h.settle();
    assert_eq!(h.events_total, before);
});

suite_test!(thousands_of_sockets(3_000), |h| {
    let mut clients = Vec::new();
    for i in 0..2_500usize {
        let (client, sock) = h.connect_reading();
        h.client_send_all(client, &i.to_le_bytes());
        clients.push((client, sock));
    }
    for (i, (_, sock)) in clients.iter().enumerate() {
        h.until_received(*sock, 8);
        assert_eq!(h.seen[sock].received, i.to_le_bytes());
    }
    let hold = h.hold(b"to everyone");
    for (i, (_, sock)) in clients.iter().enumerate() {
        h.driver().send(*sock, &[part(hold, 0..11)], i as u32);
    }
    for (client, _) in &clients {
        assert_eq!(h.client_hears(*client, 11), b"to everyone");
    }
    assert_eq!(h.failures, []);
    for (_, sock) in &clients {
        h.close(*sock);
    }
    for (client, sock) in &clients {
        h.until_closed(*sock);
        assert_eq!(h.client_hears_to_the_end(*client).1, Heard::Finished);
    }
    assert_eq!(h.driver().stale_total(), 0);
});

suite_test!(
    /// Every order in which a close can meet what is in flight, by chance from a fixed seed.
    closes_everything_in_flight(64),
    |h| {
        let mut rng = crate::base::prng::Prng::with_seed(7);
        for _ in 0..30 {
            let clients: Vec<_> = (0..8).map(|_| h.connect()).collect();
            for (client, sock) in &clients {
                for _ in 0..rng.u32(0..6) {
                    match rng.u32(0..9) {
                        0 | 1 => h.driver().read_start(*sock),
                        2 => h.driver().read_pause(*sock),
                        3 => h.driver().write_watch(*sock),
                        4 => h.rig.client_finish(*client),
                        5 => h.rig.client_reset(*client),
                        6 => drop(h.rig.client_send(*client, b"some bytes")),
                        7 => h.driver().finish(*sock),
                        _ => h.tick(),
                    }
                }
                if rng.bool() {
                    h.tick();
                }
            }
            for (_, sock) in &clients {
                h.close(*sock);
                if rng.bool() {
                    h.tick();
                }
            }
            for (_, sock) in &clients {
                h.until_closed(*sock);
            }
        }
        assert_eq!(h.driver().stale_total(), 0);
    }
);
