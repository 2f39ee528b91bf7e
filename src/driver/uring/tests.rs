//! The suite on io_uring, and what only io_uring can run into.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::*;
use crate::driver::suite::{Bind, Rig, SocketRig, driver_suite};
use crate::driver::uring::token::KINDS;

impl Bind for UringDriver {
    fn bind(options: &DriverOptions) -> io::Result<UringDriver> {
        UringDriver::try_new(options)
    }
}

driver_suite!(SocketRig<UringDriver>);

#[test]
fn clients_of_a_shared_socket_come_in_turn() {
    crate::driver::suite::clients_of_a_shared_socket_come_in_turn::<UringDriver>();
}

fn options() -> DriverOptions {
    DriverOptions {
        listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        sockets_max: 16,
        recv_buffer_bytes: 1024,
        recv_buffers: 2,
        socket: Default::default(),
    }
}

fn address(driver: &UringDriver) -> SocketAddr {
    driver.local_addr(ListenerId(0)).tcp().expect("bound by TCP")
}

/// A driver with one socket that is read, and its client; `None` where io_uring is forbidden.
fn connected() -> Option<(UringDriver, TcpStream, Sock)> {
    let rig = <SocketRig<UringDriver> as Rig>::try_new(options())?;
    let mut driver = rig.into_driver();
    driver.accept_start();
    let client = TcpStream::connect(address(&driver)).expect("connect");
    let mut events = Vec::new();
    while events.is_empty() {
        driver.wait(&mut events, Some(Duration::from_secs(10))).expect("wait");
    }
    let DriverEvent::Accepted { sock, .. } = events[0] else { panic!("{events:?}") };
    driver.read_start(sock);
    Some((driver, client, sock))
}

fn one_event(driver: &mut UringDriver) -> DriverEvent {
    let mut events = Vec::new();
    while events.is_empty() {
        driver.wait(&mut events, Some(Duration::from_secs(10))).expect("wait");
    }
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn no_event(driver: &mut UringDriver) {
    let mut events = Vec::new();
    for _ in 0..5 {
        driver.wait(&mut events, Some(Duration::from_millis(1))).expect("wait");
    }
    assert!(events.is_empty(), "{events:?}");
}

/// Waits for the poll of the one socket, without reading it.
fn until_readable(driver: &mut UringDriver) {
    while driver.readable.is_empty() {
        driver.ring.wait(Some(Duration::from_secs(10))).expect("wait");
        driver.harvest();
        driver.act(&mut Vec::new());
    }
}

#[test]
fn a_driver_made_on_one_thread_runs_on_another() {
    let Some(rig) = <SocketRig<UringDriver> as Rig>::try_new(options()) else { return };
    let mut driver = rig.into_driver();
    driver.accept_start();
    let waker = driver.waker();
    // The ring takes no messages yet; the wake must not be lost.
    waker.wake();
    std::thread::spawn(move || {
        driver.wait(&mut Vec::new(), None).expect("wait");
        let _client = TcpStream::connect(address(&driver)).expect("connect");
        assert!(matches!(one_event(&mut driver), DriverEvent::Accepted { .. }));
    })
    .join()
    .expect("the other thread");
    // Nor does a waker need its driver.
    waker.wake();
}

#[test]
fn wakes_by_the_eventfd_where_the_kernel_has_no_messages() {
    let Some((mut driver, _client, _)) = connected() else { return };
    no_event(&mut driver);
    driver.waker.end();
    let waker = driver.waker();
    for _ in 0..3 {
        waker.wake();
        driver.wait(&mut Vec::new(), None).expect("wait");
    }
}

/// More completions than the ring has room for: none may be lost, and polls that the kernel ends for want of room
/// are armed again.
#[test]
fn completions_beyond_the_ring_are_not_lost() {
    let Some((mut driver, mut client, sock)) = connected() else { return };
    no_event(&mut driver);
    let waker = driver.waker();
    for round in 0..3u8 {
        for _ in 0..3_000 {
            waker.wake();
        }
        client.write_all(&[round]).expect("send");
        for _ in 0..3_000 {
            waker.wake();
        }
        let DriverEvent::Received { sock: from, lent } = one_event(&mut driver) else { panic!("no bytes") };
        assert_eq!((from, &*driver.received(&lent)), (sock, &[round][..]));
        driver.give_back(lent);
    }
    no_event(&mut driver);
}

#[test]
fn a_receive_without_a_buffer_is_tried_again() {
    let Some((mut driver, mut client, sock)) = connected() else { return };
    client.write_all(&[1; 5 * 1024]).expect("send");
    let DriverEvent::Received { lent: one, .. } = one_event(&mut driver) else { panic!("no bytes") };
    let DriverEvent::Received { lent: two, .. } = one_event(&mut driver) else { panic!("no bytes") };
    driver.ring.pretend_buffers_free(1);
    no_event(&mut driver);
    assert!(driver.slots[sock.slot as usize].is(QUEUED), "still in the queue");
    driver.ring.pretend_buffers_free(0);
    driver.give_back(one);
    driver.give_back(two);
    let mut rest = 3 * 1024;
    while rest > 0 {
        let DriverEvent::Received { lent, .. } = one_event(&mut driver) else { panic!("no bytes") };
        rest -= driver.received(&lent).len();
        driver.give_back(lent);
    }
}

/// A receive whose completion comes after a pause keeps its bytes for the next start, or frees its buffer at the
/// close.
#[test]
fn a_receive_that_a_pause_overtook_is_parked() {
    let Some((mut driver, mut client, sock)) = connected() else { return };
    for closes in [false, true] {
        client.write_all(b"late").expect("send");
        until_readable(&mut driver);
        assert!(driver.queue_reads());
        driver.ring.submit();
        driver.read_pause(sock);
        no_event(&mut driver);
        assert_eq!(driver.parked.len(), 1);
        if closes {
            driver.close(sock);
            assert!(matches!(one_event(&mut driver), DriverEvent::Closed { sock: closed } if closed == sock));
        } else {
            driver.read_start(sock);
            let DriverEvent::Received { lent, .. } = one_event(&mut driver) else { panic!("no bytes") };
            assert_eq!(driver.received(&lent), b"late");
            driver.give_back(lent);
        }
        assert_eq!(driver.parked.len(), 0);
        assert_eq!(driver.ring.buffers_free(), 2);
    }
}

#[test]
fn a_stuck_queue_refuses_sends_until_it_moves() {
    let Some((mut driver, mut client, sock)) = connected() else { return };
    driver.flush(&mut Vec::new());
    let mut failures = Vec::new();
    driver.ring.pretend_stuck();
    let hold = driver.hold(Bytes::from_static(b"hello"));
    driver.send(sock, &[SendPart { hold, range: 0..5 }], 1);
    driver.flush(&mut failures);
    assert_eq!(failures, [SendFailure { tag: 1, sent: 0, cause: SendCause::NoBuffers }]);
    let hold = driver.hold(Bytes::from_static(b"hello"));
    driver.send(sock, &[SendPart { hold, range: 0..5 }], 2);
    failures.clear();
    driver.flush(&mut failures);
    assert_eq!(failures, []);
    let mut heard = [0; 5];
    client.read_exact(&mut heard).expect("bytes");
    assert_eq!(&heard, b"hello");
}

/// A million connections in one process are 54 tables of the 20,000 descriptors a process may have, behind one port.
#[test]
fn the_shards_of_a_million_connections_fit_one_process() {
    let mut options = DriverOptions { sockets_max: 20_000, recv_buffers: 64, ..options() };
    let mut drivers: Vec<UringDriver> = Vec::new();
    for _ in 0..54 {
        let Some(rig) = <SocketRig<UringDriver> as Rig>::try_new(options.clone()) else { return };
        drivers.push(rig.into_driver());
        options.listeners = vec![address(&drivers[0]).into()];
    }
    for driver in &mut drivers {
        driver.accept_start();
        driver.flush(&mut Vec::new());
    }
    let clients: Vec<_> =
        (0..54).map(|_| TcpStream::connect(address(&drivers[0])).expect("connect")).collect();
    let mut accepted = 0;
    while accepted < clients.len() {
        for driver in &mut drivers {
            let mut events = Vec::new();
            driver.wait(&mut events, Some(Duration::ZERO)).expect("wait");
            accepted += events.len();
        }
    }
}

#[test]
fn generations_wrap() {
    let Some((mut driver, _client, sock)) = connected() else { return };
    driver.close(sock);
    assert!(matches!(one_event(&mut driver), DriverEvent::Closed { .. }));
    driver.slots[sock.slot as usize].generation = GENERATION_MASK;
    let _client = TcpStream::connect(address(&driver)).expect("connect");
    let DriverEvent::Accepted { sock, .. } = one_event(&mut driver) else { panic!("no client") };
    assert_eq!(sock.generation, 0);
    driver.read_start(sock);
    driver.close(sock);
    assert!(matches!(one_event(&mut driver), DriverEvent::Closed { .. }));
}

#[test]
fn tokens_keep_their_parts_at_their_borders() {
    for (at, kind) in KINDS.into_iter().enumerate() {
        assert_eq!(kind as usize, at, "the table is in the order of the enum");
        for slot in [0, 1, SLOT_MAX] {
            for generation in [0, 1, GENERATION_MASK] {
                let token = Token::of(kind, slot, generation);
                assert_eq!((Token::kind(token), Token::slot(token)), (kind, (slot, generation)));
            }
        }
        for tag in [0, 1, u32::MAX] {
            let token = Token::send(kind, tag);
            assert_eq!((Token::kind(token), Token::tag(token)), (kind, tag));
        }
    }
}
