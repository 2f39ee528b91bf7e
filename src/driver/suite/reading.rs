//! Accepting and reading.

use super::*;

suite_test!(accepts_clients(64), |h| {
    let socks: Vec<Sock> = (0..10).map(|_| h.connect().1).collect();
    for (i, sock) in socks.iter().enumerate() {
        assert!(sock.slot < 64);
        assert!(!socks[..i].iter().any(|other| other.slot == sock.slot), "a slot handed out twice");
    }
    assert_eq!(h.driver().stale_total(), 0);
});

suite_test!(reads_nothing_before_read_start(64), |h| {
    let (client, sock) = h.connect();
    h.client_send_all(client, b"early");
    h.settle();
    assert_eq!(h.seen[&sock].reads, 0);
    h.driver().read_start(sock);
    h.until_received(sock, 5);
    assert_eq!(h.seen[&sock].received, b"early");
});

suite_test!(receives_whole(64), |h| {
    let (client, sock) = h.connect_reading();
    for round in 1..=20 {
        h.client_send_all(client, b"hello");
        h.until_received(sock, 5 * round);
    }
    assert_eq!(h.seen[&sock].received, b"hello".repeat(20));
});

suite_test!(receives_in_pieces(64), |h| {
    let (client, sock) = h.connect_reading();
    let bytes = pattern(300);
    for (i, byte) in bytes.iter().enumerate() {
        h.client_send_all(client, &[*byte]);
        if i % 7 == 0 {
            h.until_received(sock, i + 1);
        }
    }
    h.until_received(sock, bytes.len());
    assert_same(&h.seen[&sock].received, &bytes);
});

suite_test!(receives_more_than_its_buffers(64), |h| {
    let (client, sock) = h.connect_reading();
    let bytes = pattern(5 * RECV_BUFFER_BYTES * usize::from(RECV_BUFFERS) + 17);
    h.client_send_all(client, &bytes);
    h.until_received(sock, bytes.len());
    assert_same(&h.seen[&sock].received, &bytes);
});

suite_test!(a_lent_buffer_is_writable(64), |h| {
    let (client, sock) = h.connect();
    h.driver().read_start(sock);
    h.client_send_all(client, b"masked");
    let mut events = Vec::new();
    h.until("a read", |h| {
        if h.seen[&sock].reads > 0 {
            return true;
        }
        h.driver().wait(&mut events, Some(Duration::from_millis(1))).expect("wait");
        for event in events.drain(..) {
            if let DriverEvent::Received { lent, .. } = event {
                for byte in h.driver().received(&lent).iter_mut() {
                    *byte ^= 0xff;
                }
                assert_eq!(h.driver().received(&lent)[0], b'm' ^ 0xff);
                h.driver().give_back(lent);
                h.seen.get_mut(&sock).expect("accepted").reads += 1;
            }
        }
        false
    });
});

suite_test!(a_flood_does_not_starve_the_others(64), |h| {
    let (loud, loud_sock) = h.connect_reading();
    let quiet: Vec<_> = (0..2 * RECV_BUFFERS).map(|_| h.connect_reading()).collect();
    let flood = pattern(64 * RECV_BUFFER_BYTES);
    let mut sent = 0;
    for (client, sock) in quiet {
        sent += h.rig.client_send(loud, &flood[sent % flood.len()..]);
        h.client_send_all(client, b"still here");
        h.until("the quiet one", |h| {
            sent += h.rig.client_send(loud, &flood[sent % flood.len()..]);
            h.seen[&sock].received.len() == 10
        });
    }
    h.until_received(loud_sock, sent);
});

suite_test!(pause_holds_bytes_back_and_start_brings_them(64), |h| {
    let (client, sock) = h.connect_reading();
    h.client_send_all(client, b"one");
    h.until_received(sock, 3);
    for _ in 0..3 {
        h.driver().read_pause(sock);
        h.driver().read_pause(sock);
        let before = h.seen[&sock].received.len();
        h.client_send_all(client, b"two");
        h.settle();
        assert_eq!(h.seen[&sock].received.len(), before, "read while paused");
        h.driver().read_start(sock);
        h.driver().read_start(sock);
        h.until_received(sock, before + 3);
    }
    // More than a buffer waits, and the socket is paused again after the first read of it.
    let bytes = pattern(3 * RECV_BUFFER_BYTES);
    h.driver().read_pause(sock);
    h.client_send_all(client, &bytes);
    h.settle();
    let (before, reads) = (h.seen[&sock].received.len(), h.seen[&sock].reads);
    h.driver().read_start(sock);
    h.until("one read", |h| h.seen[&sock].reads > reads);
    h.driver().read_pause(sock);
    h.settle();
    assert_eq!(h.seen[&sock].reads, reads + 1, "read while paused");
    h.driver().read_start(sock);
    h.until_received(sock, before + bytes.len());
    assert_same(&h.seen[&sock].received[before..], &bytes);
    // The end is held back as well.
    h.driver().read_pause(sock);
    h.rig.client_finish(client);
    h.settle();
    assert_eq!(h.seen[&sock].ended, None);
    h.driver().read_start(sock);
    h.until("the end", |h| h.seen[&sock].ended == Some(SocketEnd::Finished));
});

suite_test!(more_readers_than_buffers(256), |h| {
    let clients: Vec<_> = (0..10 * RECV_BUFFERS).map(|_| h.connect()).collect();
    for (i, (client, _)) in clients.iter().enumerate() {
        h.client_send_all(*client, &pattern(100 + i));
    }
    for (_, sock) in &clients {
        h.driver().read_start(*sock);
    }
    for (i, (_, sock)) in clients.iter().enumerate() {
        h.until_received(*sock, 100 + i);
        assert_same(&h.seen[sock].received, &pattern(100 + i));
    }
});
