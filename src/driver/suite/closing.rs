//! The peer's ends, ours, and the life of a slot.

use super::*;

suite_test!(reports_the_peers_fin(64), |h| {
    let (client, sock) = h.connect_reading();
    h.client_send_all(client, b"bye");
    h.rig.client_finish(client);
    h.until("the end", |h| h.seen[&sock].ended.is_some());
    assert_eq!(h.seen[&sock].ended, Some(SocketEnd::Finished));
    assert_eq!(h.seen[&sock].received, b"bye");
    h.settle();
});

suite_test!(reports_the_peers_reset(64), |h| {
    let (client, sock) = h.connect_reading();
    h.settle();
    h.rig.client_reset(client);
    h.until("the end", |h| h.seen[&sock].ended.is_some());
    assert!(matches!(h.seen[&sock].ended, Some(SocketEnd::Broken(errno)) if errno > 0));
    h.settle();
    h.close(sock);
    h.until_closed(sock);
});

suite_test!(a_half_closed_peer_is_still_written_to(64), |h| {
    let (client, sock) = h.connect_reading();
    h.rig.client_finish(client);
    h.until("the end", |h| h.seen[&sock].ended == Some(SocketEnd::Finished));
    h.send(sock, b"the answer", 0);
    assert_eq!(h.client_hears(client, 10), b"the answer");
    assert_eq!(h.failures, []);
    h.close(sock);
    assert_eq!(h.client_hears_to_the_end(client), (vec![], Heard::Finished));
    h.until_closed(sock);
});

suite_test!(finish_ends_the_stream_and_reading_goes_on(64), |h| {
    let (client, sock) = h.connect_reading();
    h.send(sock, b"last words", 0);
    h.driver().finish(sock);
    assert_eq!(h.client_hears_to_the_end(client), (b"last words".to_vec(), Heard::Finished));
    h.client_send_all(client, b"and mine");
    h.until_received(sock, 8);
    assert_eq!(h.seen[&sock].received, b"and mine");
    h.rig.client_finish(client);
    h.until("the end", |h| h.seen[&sock].ended == Some(SocketEnd::Finished));
    h.close(sock);
    h.until_closed(sock);
});

suite_test!(close_reaches_the_peer_promptly(64), |h| {
    let (client, sock) = h.connect_reading();
    h.settle();
    h.close(sock);
    h.until_closed(sock);
    // Nothing else keeps the socket open: the peer sees the end although nothing more happens here.
    let mut end = Heard::Nothing;
    for _ in 0..TICKS_MAX {
        end = h.rig.client_recv(client, &mut Vec::new());
        if end != Heard::Nothing {
            break;
        }
        h.rig.pass(Duration::from_millis(1));
    }
    assert_eq!(end, Heard::Finished);
});

suite_test!(close_after_send_delivers_the_send(64), |h| {
    let (client, sock) = h.connect_reading();
    h.send(sock, b"goodbye", 0);
    h.close(sock);
    assert_eq!(h.client_hears_to_the_end(client), (b"goodbye".to_vec(), Heard::Finished));
    h.until_closed(sock);
    assert_eq!(h.failures, []);
});

suite_test!(close_before_read_start(64), |h| {
    let (client, sock) = h.connect();
    h.close(sock);
    h.until_closed(sock);
    assert_eq!(h.client_hears_to_the_end(client).1, Heard::Finished);
});

suite_test!(close_while_paused(64), |h| {
    let (client, sock) = h.connect_reading();
    h.settle();
    h.driver().read_pause(sock);
    h.close(sock);
    h.until_closed(sock);
    assert_eq!(h.client_hears_to_the_end(client).1, Heard::Finished);
});

suite_test!(close_while_watched_for_writing(64), |h| {
    let (client, sock) = h.connect_reading();
    let bytes = pattern(LARGE_BYTES);
    h.fill(sock, &bytes, 0);
    h.driver().write_watch(sock);
    h.settle();
    h.close(sock);
    h.until_closed(sock);
    assert_ne!(h.client_hears_to_the_end(client).1, Heard::Nothing);
    // The watch had fired, but the event was not yet collected.
    let (_client, sock) = h.connect();
    h.driver().write_watch(sock);
    h.driver().flush(&mut Vec::new());
    h.close(sock);
    h.until_closed(sock);
});

suite_test!(close_with_unread_data(64), |h| {
    let (client, sock) = h.connect_reading();
    h.driver().read_pause(sock);
    h.client_send_all(client, b"never read");
    h.settle();
    h.close(sock);
    h.until_closed(sock);
    // TCP answers unread bytes with a reset (RFC 9293 section 3.6.1, RFC 2525 section 2.17).
    assert_ne!(h.client_hears_to_the_end(client).1, Heard::Nothing);
    // Readable and not yet read, in the tick of the close.
    let (client, sock) = h.connect_reading();
    h.settle();
    h.client_send_all(client, b"never read either");
    h.close(sock);
    h.until_closed(sock);
});

suite_test!(close_after_finish(64), |h| {
    let (client, sock) = h.connect_reading();
    h.driver().finish(sock);
    h.close(sock);
    h.until_closed(sock);
    assert_eq!(h.client_hears_to_the_end(client).1, Heard::Finished);
});

suite_test!(close_after_the_peer_ended(64), |h| {
    let (client, sock) = h.connect_reading();
    h.rig.client_finish(client);
    h.until("the end", |h| h.seen[&sock].ended.is_some());
    h.close(sock);
    h.until_closed(sock);
    assert_eq!(h.client_hears_to_the_end(client).1, Heard::Finished);
});

suite_test!(reset_drops_what_the_peer_has_not_read(64), |h| {
    let (client, sock) = h.connect_reading();
    let bytes = pattern(LARGE_BYTES);
    h.fill(sock, &bytes, 0);
    h.driver().write_watch(sock);
    h.settle();
    h.reset(sock);
    h.until_closed(sock);
    assert_eq!(h.client_hears_to_the_end(client).1, Heard::Broken);
    // One with nothing to drop, and one that was never read from.
    for (client, sock) in [h.connect_reading(), h.connect()] {
        h.reset(sock);
        h.until_closed(sock);
        assert_eq!(h.client_hears_to_the_end(client), (vec![], Heard::Broken));
    }
    // The peer has ended before, or broken it.
    let (client, sock) = h.connect_reading();
    h.rig.client_finish(client);
    h.until("the end", |h| h.seen[&sock].ended.is_some());
    h.reset(sock);
    h.until_closed(sock);
    let (client, sock) = h.connect_reading();
    h.rig.client_reset(client);
    h.reset(sock);
    h.until_closed(sock);
});

suite_test!(reset_is_a_close_and_the_slot_is_free_after_it(1), |h| {
    for _ in 0..5 {
        let (client, sock) = h.connect_reading();
        h.driver().finish(sock);
        h.reset(sock);
        // Void, as after any close.
        h.reset(sock);
        h.driver().close(sock);
        h.send(sock, b"too late", 0);
        h.until_closed(sock);
        h.settle();
        assert_ne!(h.client_hears_to_the_end(client).1, Heard::Nothing);
        assert_eq!(h.failures, []);
    }
    assert_eq!(h.driver().stale_total(), 0);
});

suite_test!(close_twice_is_closed_once(64), |h| {
    let (_client, sock) = h.connect_reading();
    h.close(sock);
    h.close(sock);
    // Commands to a closing socket are void.
    h.driver().read_start(sock);
    h.driver().read_pause(sock);
    h.driver().write_watch(sock);
    h.driver().finish(sock);
    h.send(sock, b"too late", 0);
    h.until_closed(sock);
    h.settle();
    assert_eq!(h.failures, []);
});

suite_test!(a_slot_is_reused_with_another_generation(1), |h| {
    let mut before: Vec<Sock> = Vec::new();
    for round in 0..20u8 {
        let (client, sock) = h.connect_reading();
        assert!(before.iter().all(|b| b.slot == sock.slot && b.generation != sock.generation));
        h.client_send_all(client, &[round]);
        h.until_received(sock, 1);
        h.close(sock);
        h.until_closed(sock);
        before.push(sock);
    }
    assert_eq!(h.driver().stale_total(), 0, "a driver's own completions are never stale in an orderly life");
});

suite_test!(an_older_generation_is_ignored_and_counted(1), |h| {
    let (_, old) = h.connect_reading();
    h.close(old);
    h.until_closed(old);
    let (client, sock) = h.connect_reading();
    assert_eq!(sock.slot, old.slot);
    let hold = h.hold(b"not for you");
    let driver = h.driver();
    driver.read_pause(old);
    driver.read_start(old);
    driver.send(old, &[part(hold, 0..11)], 0);
    driver.write_watch(old);
    driver.finish(old);
    driver.close(old);
    driver.reset(old);
    assert_eq!(driver.stale_total(), 7);
    let never = Sock { slot: 1 << 20, generation: 1 };
    driver.close(never);
    h.settle();
    h.client_send_all(client, b"alive");
    h.until_received(sock, 5);
    h.send(sock, b"yes", 0);
    assert_eq!(h.client_hears(client, 3), b"yes");
    assert_eq!(h.seen[&sock].writable, 0);
    assert_eq!(h.failures, []);
});
