//! Sockets from one driver to another, and back.

use super::*;

impl<R: Rig> Harness<R> {
    /// The harness goes on with another driver, which has adopted `socks`: as what, and the driver that was.
    fn hand_over(&mut self, socks: &[Sock]) -> (Vec<Sock>, R::Driver) {
        self.driver().hold_reads(true);
        self.driver().accept_pause();
        self.until("no accept", |h| h.driver().accept_is_idle());
        let mut exported = Vec::new();
        self.driver().export(socks, &mut exported);
        assert_eq!(exported.len(), socks.len());
        let old = self.rig.succeed(options(4096, vec![tcp()]));
        let adopted: Vec<Sock> = exported
            .into_iter()
            .map(|fd| self.driver().adopt(fd.expect("exported")).expect("adopted"))
            .collect();
        self.was = std::mem::take(&mut self.seen);
        self.seen = adopted.iter().map(|sock| (*sock, Seen::default())).collect();
        (adopted, old)
    }

    fn may_export(&mut self) -> bool {
        let refused = self.driver().export_is_refused();
        if let Some(why) = refused {
            eprintln!("skipped: {why}");
        }
        refused.is_none()
    }
}

suite_test!(held_reads_leave_everything_in_the_socket(64), |h| {
    let (client, sock) = h.connect_reading();
    h.client_send_all(client, b"before");
    h.until_received(sock, 6);
    h.driver().hold_reads(true);
    h.client_send_all(client, b" and after");
    h.rig.client_finish(client);
    h.settle();
    // What is wanted meanwhile is wanted later.
    h.driver().read_start(sock);
    h.settle();
    assert_eq!((&h.seen[&sock].received[..], h.seen[&sock].ended), (&b"before"[..], None));
    h.driver().hold_reads(false);
    h.until("the end", |h| h.seen[&sock].ended.is_some());
    assert_eq!(h.seen[&sock].received, b"before and after");
});

suite_test!(an_exported_socket_goes_on_at_another_driver(64), |h| {
    if !h.may_export() {
        return;
    }
    let clients: Vec<(Client, Sock)> = (0..5).map(|_| h.connect_reading()).collect();
    for (client, sock) in &clients {
        h.client_send_all(*client, b"to the old");
        h.until_received(*sock, 10);
        h.driver().hold_reads(true);
        h.client_send_all(*client, b"to the new");
        h.driver().hold_reads(false);
        h.driver().read_pause(*sock);
    }
    let had: usize = clients.iter().map(|(_, sock)| h.seen[sock].received.len()).sum();
    let socks: Vec<Sock> = clients.iter().map(|(_, sock)| *sock).collect();
    let (adopted, mut old) = h.hand_over(&socks);
    h.rig.settle_succession();
    h.settle();
    assert!(adopted.iter().all(|sock| h.seen[sock].reads == 0), "read before read_start");
    for sock in &socks {
        old.close(*sock);
    }
    let mut gone = Vec::new();
    for _ in 0..TICKS_QUIET {
        old.flush(&mut Vec::new());
        old.wait(&mut gone, Some(Duration::from_millis(1))).expect("wait");
    }
    assert_eq!(gone.iter().filter(|event| matches!(event, DriverEvent::Closed { .. })).count(), socks.len());
    drop(old);
    let mut received = had;
    for ((client, _), sock) in clients.iter().zip(&adopted) {
        h.driver().read_start(*sock);
        h.client_send_all(*client, b"!");
        h.until("the rest", |h| h.seen[sock].received.ends_with(b"!"));
        received += h.seen[sock].received.len();
        h.send(*sock, b"from the new", 1);
        assert_eq!(h.client_hears(*client, 12), b"from the new");
        h.rig.client_finish(*client);
        h.until("the end", |h| h.seen[sock].ended == Some(SocketEnd::Finished));
        h.close(*sock);
        h.until_closed(*sock);
        assert_eq!(h.client_hears_to_the_end(*client), (Vec::new(), Heard::Finished));
    }
    assert_eq!(received, clients.len() * 21, "every byte, once");
    // The slots are free, and new clients come.
    h.driver().accept_start();
    let (client, sock) = h.connect_reading();
    h.client_send_all(client, b"new");
    h.until_received(sock, 3);
});

suite_test!(what_was_exported_goes_on_here_if_the_other_gives_up(64), |h| {
    if !h.may_export() {
        return;
    }
    let (client, sock) = h.connect_reading();
    h.client_send_all(client, b"one");
    h.until_received(sock, 3);
    let (_, old) = h.hand_over(&[sock]);
    h.client_send_all(client, b"two");
    h.settle();
    let given_up = h.rig.take_back(old);
    drop(given_up);
    h.seen = std::mem::take(&mut h.was);
    h.driver().hold_reads(false);
    h.driver().accept_start();
    h.until_received(sock, 6);
    assert_eq!(h.seen[&sock].received, b"onetwo");
    h.send(sock, b"still here", 1);
    assert_eq!(h.client_hears(client, 10), b"still here");
    let (other, sock) = h.connect_reading();
    h.client_send_all(other, b"new");
    h.until_received(sock, 3);
});

suite_test!(what_is_given_up_goes_on_at_the_other(64), |h| {
    if !h.may_export() {
        return;
    }
    let (client, sock) = h.connect_reading();
    let (adopted, mut old) = h.hand_over(&[sock]);
    h.rig.settle_succession();
    old.give_up(sock);
    let mut gone = Vec::new();
    for _ in 0..TICKS_QUIET {
        old.flush(&mut Vec::new());
        old.wait(&mut gone, Some(Duration::from_millis(1))).expect("wait");
    }
    assert!(matches!(gone[..], [DriverEvent::Closed { sock: closed }] if closed == sock), "{gone:?}");
    h.driver().read_start(adopted[0]);
    h.client_send_all(client, b"hello");
    h.until_received(adopted[0], 5);
    drop(old);
    h.send(adopted[0], b"hello", 1);
    assert_eq!(h.client_hears(client, 5), b"hello");
    h.close(adopted[0]);
    h.until_closed(adopted[0]);
    assert_eq!(h.client_hears_to_the_end(client), (Vec::new(), Heard::Finished));
});

suite_test!(who_said_something_before_it_was_read_is_known(64), |h| {
    if !h.may_export() {
        return;
    }
    let clients: Vec<(Client, Sock)> = (0..3).map(|_| h.connect_reading()).collect();
    let socks: Vec<Sock> = clients.iter().map(|(_, sock)| *sock).collect();
    let (adopted, old) = h.hand_over(&socks);
    h.rig.settle_succession();
    h.settle();
    for place in [2, 0, 2] {
        h.client_send_all(clients[place].0, b"hello");
        h.settle();
    }
    let stirred = h.driver().take_stirred();
    // The latest last; or the driver does not know.
    assert!(stirred.is_empty() || stirred == [adopted[0], adopted[2]], "{stirred:?}");
    drop(old);
    for (sock, bytes) in adopted.iter().zip([5, 0, 10]) {
        h.driver().read_start(*sock);
        h.until_received(*sock, bytes);
    }
    assert!(h.driver().take_stirred().is_empty());
});

suite_test!(what_both_have_closed_has_ended(64), |h| {
    if !h.may_export() {
        return;
    }
    let (client, sock) = h.connect_reading();
    let (adopted, mut old) = h.hand_over(&[sock]);
    h.rig.settle_succession();
    old.close(sock);
    let mut gone = Vec::new();
    for _ in 0..TICKS_QUIET {
        old.flush(&mut Vec::new());
        old.wait(&mut gone, Some(Duration::from_millis(1))).expect("wait");
    }
    assert!(matches!(gone[..], [DriverEvent::Closed { sock: closed }] if closed == sock), "{gone:?}");
    // It was never read here.
    h.close(adopted[0]);
    h.until_closed(adopted[0]);
    assert_eq!(h.client_hears_to_the_end(client), (Vec::new(), Heard::Finished));
});

suite_test!(clients_in_the_backlog_are_taken_by_the_successor(64), |h| {
    h.driver().accept_pause();
    h.until("no accept", |h| h.driver().accept_is_idle());
    let clients: Vec<Client> = (0..3).map(|_| h.rig.connect_by(ListenerId(0))).collect();
    h.settle();
    let (_, mut old) = h.hand_over(&[]);
    h.rig.settle_succession();
    old.accept_end();
    drop(old);
    let more = h.rig.connect_by(ListenerId(0));
    h.driver().accept_start();
    let before = h.accepted.len();
    h.until("all of them", |h| h.accepted.len() >= before + 4);
    for at in before..h.accepted.len() {
        let sock = h.accepted[at];
        h.send(sock, b"welcome", 1);
    }
    for client in clients.into_iter().chain([more]) {
        assert_eq!(h.client_hears(client, 7), b"welcome");
    }
});

suite_test!(thousands_of_sockets_are_exported(2048), |h| {
    if !h.may_export() {
        return;
    }
    let clients: Vec<(Client, Sock)> = (0..700).map(|_| h.connect_reading()).collect();
    let socks: Vec<Sock> = clients.iter().map(|(_, sock)| *sock).collect();
    let (adopted, old) = h.hand_over(&socks);
    h.rig.settle_succession();
    drop(old);
    for ((client, _), sock) in clients.iter().zip(&adopted) {
        h.driver().read_start(*sock);
        h.client_send_all(*client, b"x");
    }
    h.until("all of them", |h| adopted.iter().all(|sock| h.seen[sock].received == b"x"));
});

suite_test!(an_export_of_what_is_closed_fails_by_itself(64), |h| {
    if !h.may_export() {
        return;
    }
    let (_, first) = h.connect_reading();
    let (_, second) = h.connect_reading();
    h.close(first);
    h.until_closed(first);
    let mut exported = Vec::new();
    h.driver().export(&[first, second], &mut exported);
    assert!(exported[0].is_err() && exported[1].is_ok());
});
