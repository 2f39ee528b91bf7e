//! Several listeners of one driver.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::base::address::ListenAddress;
use crate::driver::UnixSocket;

const FIRST: ListenerId = ListenerId(0);
const SECOND: ListenerId = ListenerId(1);
const UNIX: ListenerId = ListenerId(2);

/// Runs a test with two ports and a unix socket.
fn with_three<R: Rig>(sockets_max: u32, run: impl FnOnce(&mut Harness<R>, &std::path::Path)) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("driver.sock");
    let unix = UnixSocket::bind(&path, 0o600).expect("bound");
    let Some(mut h) = Harness::<R>::with_listeners(sockets_max, vec![tcp(), tcp(), unix.into()]) else {
        eprintln!("skipped: this machine forbids the driver");
        return;
    };
    run(&mut h, &path);
}

pub(in crate::driver) fn serves_two_ports_and_a_unix_socket<R: Rig>() {
    with_three::<R>(64, |h, path| {
        let address = |h: &mut Harness<R>, listener| h.driver().local_addr(listener);
        let ports = [FIRST, SECOND].map(|listener| address(h, listener).tcp().expect("a port").port());
        assert!(ports[0] != ports[1] && !ports.contains(&0), "{ports:?}");
        assert_eq!(address(h, UNIX), ListenAddress::Unix(path.into()));
        let mut all = Vec::new();
        for _ in 0..3 {
            for listener in [UNIX, FIRST, SECOND] {
                let (client, sock) = h.connect_by(listener);
                h.driver().read_start(sock);
                all.push((client, sock));
            }
        }
        for (number, (client, sock)) in all.into_iter().enumerate() {
            let text = format!("client {number}");
            h.client_send_all(client, text.as_bytes());
            h.until_received(sock, text.len());
            assert_eq!(h.seen[&sock].received, text.as_bytes());
            h.send(sock, text.as_bytes(), 7);
            assert_eq!(h.client_hears(client, text.len()), text.as_bytes());
            h.close(sock);
            h.until_closed(sock);
            assert_eq!(h.client_hears_to_the_end(client), (Vec::new(), Heard::Finished));
        }
        assert_eq!((h.failures.as_slice(), h.accept_failures.as_slice()), (&[][..], &[][..]));
    });
}

/// What TCP has and a unix socket lacks must not be relied on: more bytes than one buffer and the end arrive together.
pub(in crate::driver) fn a_unix_socket_is_read_to_its_end<R: Rig>() {
    with_three::<R>(64, |h, _| {
        let (client, sock) = h.connect_by(UNIX);
        let bytes = pattern(6 * RECV_BUFFER_BYTES + 100);
        h.client_send_all(client, &bytes);
        h.rig.client_finish(client);
        h.settle();
        h.driver().read_start(sock);
        h.until("the end", |h| h.seen[&sock].ended.is_some());
        assert_eq!(h.seen[&sock].ended, Some(SocketEnd::Finished));
        assert_same(&h.seen[&sock].received, &bytes);
        // It still reads: a send is cut at what its kernel takes, and goes on when it is writable.
        let answer = pattern(LARGE_BYTES);
        let mut sent = h.fill(sock, &answer, 1);
        let mut heard = Vec::new();
        while sent < answer.len() {
            h.driver().write_watch(sock);
            let watches = h.seen[&sock].writable;
            h.until("room", |h| {
                while let Heard::Bytes(_) = h.rig.client_recv(client, &mut heard) {}
                h.seen[&sock].writable > watches
            });
            h.send(sock, &answer[sent..], 2);
            let mut failures = Vec::new();
            h.driver().flush(&mut failures);
            sent = match failures[..] {
                [] => answer.len(),
                [SendFailure { tag: 2, sent: more, cause: SendCause::WouldBlock }] => sent + more as usize,
                _ => panic!("{failures:?}"),
            };
        }
        h.driver().finish(sock);
        let (rest, end) = h.client_hears_to_the_end(client);
        heard.extend(rest);
        assert_same(&heard, &answer);
        assert_eq!(end, Heard::Finished);
        h.close(sock);
        h.until_closed(sock);
    });
}

pub(in crate::driver) fn pause_and_end_are_for_every_listener<R: Rig>() {
    with_three::<R>(64, |h, _| {
        let every = [FIRST, SECOND, UNIX];
        for _ in 0..2 {
            h.driver().accept_pause();
            h.settle();
            let before = h.accepted.len();
            let waiting = every.map(|listener| h.rig.connect_by(listener));
            h.settle();
            assert_eq!(h.accepted.len(), before, "accepted while paused");
            h.driver().accept_start();
            h.until("those in the backlogs", |h| h.accepted.len() == before + waiting.len());
            let mut came_by = h.came_by[before..].to_vec();
            came_by.sort();
            assert_eq!(came_by, every);
        }
        h.driver().accept_end();
        for listener in every.into_iter().filter(|&listener| listener != UNIX) {
            h.until("refusal", |h| h.rig.is_refused_by(listener));
        }
        h.driver().accept_start();
        let before = h.accepted.len();
        h.settle();
        assert_eq!(h.accepted.len(), before);
    });
}

pub(in crate::driver) fn a_failure_pauses_every_listener<R: Rig>() {
    with_three::<R>(3, |h, _| {
        let socks: Vec<Sock> = [FIRST, SECOND, UNIX].map(|listener| h.connect_by(listener).1).into();
        h.rig.connect_by(UNIX);
        h.until("the failure", |h| !h.accept_failures.is_empty());
        h.rig.connect_by(FIRST);
        h.rig.connect_by(SECOND);
        h.settle();
        assert_eq!(h.accept_failures, [AcceptFailure::Full], "one for all");
        for sock in socks {
            h.close(sock);
            h.until_closed(sock);
        }
        h.driver().accept_start();
        h.until("room again", |h| h.accepted.len() >= 3 + 2);
        // Those that were dropped with the failure may be missing; a new one is served.
        h.rig.connect_by(UNIX);
        h.until("one more", |h| h.came_by[3..].contains(&UNIX));
    });
}

/// By listeners of both kinds at a time, many before the driver looks, and while accepting is paused and resumed.
pub(in crate::driver) fn says_where_clients_come_from_if_asked<R: Rig>() {
    const CLIENTS: u8 = 40;
    let folder = tempfile::tempdir().expect("a folder");
    let unix = UnixSocket::bind(&folder.path().join("driver.sock"), 0o600).expect("bound");
    let asked = |options: ListenOptions| ListenOptions { addresses: true, ..options };
    let Some(mut h) = Harness::<R>::with_listeners(256, vec![asked(tcp()), tcp(), asked(unix.into())]) else {
        eprintln!("skipped: this machine forbids the driver");
        return;
    };
    let from = |number: u8| Ipv4Addr::new(127, 1, 2, number);
    let mut all = Vec::new();
    for round in 0..2 {
        h.driver().accept_pause();
        h.settle();
        for number in 1..=CLIENTS {
            all.push(h.rig.connect_from(FIRST, from(number)));
            all.push(h.rig.connect_from(SECOND, from(number)));
        }
        h.driver().accept_start();
        let count = (round + 1) * 2 * usize::from(CLIENTS);
        h.until("all of them", |h| h.accepted.len() == count);
    }
    let mut told = Vec::new();
    for (listener, address) in h.came_by.iter().zip(&h.came_from) {
        match *listener {
            FIRST => told.push(address.expect("asked for")),
            _ => assert_eq!(*address, None, "not asked for"),
        }
    }
    told.sort();
    let sent: Vec<IpAddr> = (1..=CLIENTS).flat_map(|number| [from(number).into(); 2]).collect();
    assert_eq!(told, sent);
    // One that came so is like any other, and a unix socket has no address to tell.
    let (client, sock) = h.connect_by(FIRST);
    assert_eq!(h.came_from.last(), Some(&Some(Ipv4Addr::LOCALHOST.into())));
    h.driver().read_start(sock);
    h.client_send_all(client, b"hello");
    h.until_received(sock, 5);
    h.connect_by(UNIX);
    assert_eq!(h.came_from.last(), Some(&None));
}

/// Drivers of several threads that share a unix socket get its clients in turn: for the real ones, as the kernel decides.
pub(in crate::driver) fn clients_of_a_shared_socket_come_in_turn<D: Bind + Send + 'static>() {
    const DRIVERS: usize = 3;
    const CLIENTS: usize = 60;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("driver.sock");
    let unix = UnixSocket::bind(&path, 0o600).expect("bound");
    let options = DriverOptions {
        listeners: vec![unix.into()],
        sockets_max: CLIENTS as u32 * 2,
        recv_buffer_bytes: RECV_BUFFER_BYTES,
        recv_buffers: RECV_BUFFERS,
        socket: Default::default(),
    };
    let counts = Arc::new([const { AtomicUsize::new(0) }; DRIVERS]);
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for number in 0..DRIVERS {
        let Some(rig) = <SocketRig<D> as Rig>::try_new(options.clone()) else { return };
        let (counts, stop, mut driver) = (counts.clone(), stop.clone(), rig.into_driver());
        threads.push(std::thread::spawn(move || {
            driver.accept_start();
            let mut events = Vec::new();
            while !stop.load(Ordering::Acquire) {
                driver.wait(&mut events, Some(Duration::from_millis(50))).expect("wait");
                counts[number].fetch_add(events.drain(..).count(), Ordering::AcqRel);
            }
            driver.accept_end();
            driver
        }));
    }
    // The drivers' are the only references: the socket goes with the last of them.
    drop(options);
    let accepted = || counts.iter().map(|count| count.load(Ordering::Acquire)).sum::<usize>();
    let clients: Vec<UnixStream> = (1..=CLIENTS)
        .map(|number| {
            let client = UnixStream::connect(&path).expect("connect");
            while accepted() < number {
                std::thread::sleep(Duration::from_millis(1));
            }
            client
        })
        .collect();
    stop.store(true, Ordering::Release);
    let drivers: Vec<D> = threads.into_iter().map(|thread| thread.join().expect("a driver")).collect();
    let counts: Vec<usize> = counts.iter().map(|count| count.load(Ordering::Acquire)).collect();
    assert!(counts.iter().all(|&count| count >= CLIENTS / DRIVERS / 2), "{counts:?}");
    drop(drivers);
    assert!(!path.exists(), "its file is gone with the last driver");
    drop(clients);
}
