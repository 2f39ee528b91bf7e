//! Sending: whole, gathered, short, refused.

use super::*;

suite_test!(sends_one(64), |h| {
    let (client, sock) = h.connect_reading();
    h.send(sock, b"hello", 7);
    assert_eq!(h.client_hears(client, 5), b"hello");
    assert_eq!(h.failures, []);
});

suite_test!(sends_many_parts_as_one(64), |h| {
    let (client, sock) = h.connect();
    let bytes = pattern(10_000);
    let (a, b) = (h.hold(&bytes[..5_000]), h.hold(&bytes[5_000..]));
    let mut parts = Vec::new();
    for hold in [a, b] {
        parts.extend((0..5_000).step_by(100).map(|at| part(hold, at..at + 100)));
        parts.push(part(hold, 17..17));
    }
    h.driver().send(sock, &parts, 0);
    assert_same(&h.client_hears(client, bytes.len()), &bytes);
    // Nothing to send is nothing sent, and no failure.
    h.driver().send(sock, &[], 1);
    let empty = h.hold(b"");
    h.driver().send(sock, &[part(empty, 0..0)], 2);
    h.settle();
    assert_eq!(h.failures, []);
});

suite_test!(sends_more_parts_than_a_gathered_write_takes(64), |h| {
    let (client, sock) = h.connect();
    let bytes = pattern(5_000);
    let mut sent = 0;
    let mut heard = Vec::new();
    // The kernel gathers 1,024 parts at most: a longer send is cut there, as if the socket were full.
    while sent < bytes.len() {
        let hold = h.hold(&bytes);
        let parts: Vec<SendPart> = (sent..bytes.len()).map(|at| part(hold, at..at + 1)).collect();
        h.driver().send(sock, &parts, 3);
        let mut failures = Vec::new();
        h.driver().flush(&mut failures);
        match failures.as_slice() {
            [] => sent = bytes.len(),
            [failure] => {
                assert_eq!((failure.tag, failure.cause), (3, SendCause::WouldBlock));
                assert!(failure.sent > 0);
                sent += failure.sent as usize;
                let before = h.seen[&sock].writable;
                h.driver().write_watch(sock);
                h.until("writable", |h| h.seen[&sock].writable > before);
            }
            more => panic!("{more:?}"),
        }
    }
    heard.extend(h.client_hears(client, bytes.len()));
    assert_same(&heard, &bytes);
});

suite_test!(
    /// More sends than the submission queue of any driver has entries.
    sends_to_many_sockets_in_one_flush(2_000),
    |h| {
        let clients: Vec<_> = (0..1_500).map(|_| h.connect()).collect();
        let one = h.hold(b"for all, ");
        for (i, (_, sock)) in clients.iter().enumerate() {
            let own = h.hold(format!("{i:05}").as_bytes());
            if i % 2 == 0 {
                h.driver().send(*sock, &[part(own, 0..5)], i as u32);
            } else {
                h.driver().send(*sock, &[part(one, 0..9), part(own, 0..5)], i as u32);
            }
        }
        for (i, (client, _)) in clients.iter().enumerate() {
            let want = if i % 2 == 0 { format!("{i:05}") } else { format!("for all, {i:05}") };
            assert_eq!(h.client_hears(*client, want.len()), want.as_bytes());
        }
        assert_eq!(h.failures, []);
    }
);

suite_test!(a_hold_is_released_after_the_flush(64), |h| {
    let (client, sock) = h.connect();
    for round in 0..100 {
        let bytes = Bytes::from(vec![round; 1000]);
        let kept = bytes.clone();
        let hold = h.driver().hold(bytes);
        assert!(!kept.is_unique());
        h.driver().send(sock, &[part(hold, 0..1000)], 0);
        h.driver().flush(&mut Vec::new());
        assert!(kept.is_unique(), "still held after the flush");
        assert_eq!(h.client_hears(client, 1000), kept);
    }
});

suite_test!(a_short_send_says_where_it_stopped(64), |h| {
    for parts_each in [1, 3] {
        let (client, sock) = h.connect_reading();
        let bytes = pattern(LARGE_BYTES);
        let mut sent = 0;
        let mut short = 0;
        let mut heard = Vec::with_capacity(bytes.len());
        while sent < bytes.len() {
            let rest = &bytes[sent..];
            let hold = h.hold(rest);
            let step = rest.len().div_ceil(parts_each);
            let parts: Vec<SendPart> =
                (0..rest.len()).step_by(step).map(|at| part(hold, at..(at + step).min(rest.len()))).collect();
            h.driver().send(sock, &parts, 99);
            let mut failures = Vec::new();
            h.driver().flush(&mut failures);
            if failures.is_empty() {
                break;
            }
            assert_eq!(failures.len(), 1);
            assert_eq!((failures[0].tag, failures[0].cause), (99, SendCause::WouldBlock));
            assert!((failures[0].sent as usize) < rest.len());
            sent += failures[0].sent as usize;
            short += 1;
            let before = h.seen[&sock].writable;
            h.driver().write_watch(sock);
            h.driver().write_watch(sock);
            h.until("writable", |h| {
                while let Heard::Bytes(_) = h.rig.client_recv(client, &mut heard) {}
                h.seen[&sock].writable > before
            });
            assert_eq!(h.seen[&sock].writable, before + 1, "one event a watch");
        }
        assert!(short > 0, "the test needs a send longer than the buffers");
        h.until("all bytes", |h| {
            while let Heard::Bytes(_) = h.rig.client_recv(client, &mut heard) {}
            heard.len() >= bytes.len()
        });
        assert_same(&heard, &bytes);
    }
});

suite_test!(a_full_socket_refuses(64), |h| {
    let (client, sock) = h.connect();
    let bytes = pattern(LARGE_BYTES);
    let mut sent = h.fill(sock, &bytes, 1);
    // The peer's window may open a little more while the bytes travel; soon nothing is taken at all.
    h.until("a refusal", |h| {
        h.send(sock, &bytes[sent..], 2);
        let failure = h.flush_to_one_failure();
        assert_eq!((failure.tag, failure.cause), (2, SendCause::WouldBlock));
        sent += failure.sent as usize;
        failure.sent == 0
    });
    h.driver().write_watch(sock);
    h.settle();
    assert_eq!(h.seen[&sock].writable, 0, "writable while the client reads nothing");
    let heard = h.client_hears(client, sent);
    assert_same(&heard, &bytes[..sent]);
    h.until("writable", |h| h.seen[&sock].writable == 1);
});

suite_test!(a_broken_socket_fails_its_sends(64), |h| {
    let (client, sock) = h.connect();
    h.rig.client_reset(client);
    h.until("a broken send", |h| {
        h.send(sock, b"anyone?", 5);
        let mut failures = Vec::new();
        h.driver().flush(&mut failures);
        match failures.as_slice() {
            [] => false,
            [failure] => {
                assert_eq!((failure.tag, failure.sent), (5, 0));
                assert!(matches!(failure.cause, SendCause::Broken(errno) if errno > 0), "{failure:?}");
                true
            }
            more => panic!("{more:?}"),
        }
    });
    h.close(sock);
    h.until_closed(sock);
});
