//! One suite for both implementations: what a client's sockets do, against plain listeners.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::mio::MioNet;
use super::uring::UringNet;
use super::{Event, Net, NetOptions};

/// Each scenario on mio, on one ring, and on several; where io_uring is forbidden the latter two are left out.
fn on_each(connections_max: u32, run: impl Fn(&mut dyn Net, &TcpListener)) {
    for rings in [None, Some(1), Some(3)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = NetOptions { connections_max, rings: rings.unwrap_or(0), receive_bytes: 0 };
        let mut net: Box<dyn Net> = match rings {
            None => Box::new(MioNet::try_new(options).unwrap()),
            Some(_) => match UringNet::try_new(options) {
                Ok(net) => Box::new(net),
                Err(error) => {
                    eprintln!("skipped: {error}");
                    continue;
                }
            },
        };
        run(net.as_mut(), &listener);
    }
}

/// Polls until `done` holds for what was collected; data is copied out of its buffers.
fn poll_until(net: &mut dyn Net, mut done: impl FnMut(&[(Event, Vec<u8>)]) -> bool) -> Vec<(Event, Vec<u8>)> {
    let mut all = Vec::new();
    let give_up = Instant::now() + Duration::from_secs(20);
    while !done(&all) {
        assert!(Instant::now() < give_up, "{} waited in vain, after {} events", net.name(), all.len());
        let mut events = Vec::new();
        net.poll(&mut events, Duration::from_millis(50)).unwrap();
        for event in events {
            let bytes = match event {
                Event::Data { buffer, len, .. } => net.data(buffer, len).to_vec(),
                _ => Vec::new(),
            };
            all.push((event, bytes));
        }
    }
    all
}

fn count(all: &[(Event, Vec<u8>)], is: impl Fn(&Event) -> bool) -> usize {
    all.iter().filter(|(event, _)| is(event)).count()
}

#[test]
fn connects_sends_reads_and_closes_across_rings() {
    on_each(7, |net, listener| {
        let mut peers: Vec<TcpStream> = Vec::new();
        for slot in 0..7 {
            net.connect(slot, listener.local_addr().unwrap(), Some("127.0.0.9:0".parse().unwrap())).unwrap();
        }
        poll_until(net, |all| count(all, |event| matches!(event, Event::Connected { .. })) == 7);
        for slot in 0..7u32 {
            net.send(slot, &[slot as u8; 10]);
        }
        net.poll(&mut Vec::new(), Duration::ZERO).unwrap();
        for _ in 0..7 {
            let (mut peer, from) = listener.accept().unwrap();
            assert_eq!(from.ip().to_string(), "127.0.0.9");
            let mut bytes = [0; 10];
            peer.read_exact(&mut bytes).unwrap();
            peer.write_all(&bytes).unwrap();
            peers.push(peer);
        }
        let all = poll_until(net, |all| count(all, |event| matches!(event, Event::Data { .. })) == 7);
        for (event, bytes) in &all {
            if let Event::Data { slot, .. } = event {
                assert_eq!(bytes, &[*slot as u8; 10]);
            }
        }
        for slot in 0..7 {
            net.close(slot);
        }
        let all = poll_until(net, |all| count(all, |event| matches!(event, Event::Closed { .. })) == 7);
        let closed: HashSet<u32> = all
            .iter()
            .filter_map(|(event, _)| match event {
                Event::Closed { slot } => Some(*slot),
                _ => None,
            })
            .collect();
        assert_eq!(closed.len(), 7);
        for mut peer in peers {
            assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0, "the server sees an orderly end");
        }
        // The slots can be taken again.
        net.connect(3, listener.local_addr().unwrap(), None).unwrap();
        poll_until(net, |all| count(all, |event| *event == Event::Connected { slot: 3 }) == 1);
    });
}

#[test]
fn a_refused_connect_says_so() {
    for uring in [false, true] {
        let target = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let options = NetOptions { connections_max: 1, rings: 0, receive_bytes: 0 };
        let mut net: Box<dyn Net> = if uring {
            let Ok(net) = UringNet::try_new(options) else { continue };
            Box::new(net)
        } else {
            Box::new(MioNet::try_new(options).unwrap())
        };
        // epoll's connect may fail at once, and then needs no close.
        match net.connect(0, target, None) {
            Err(errno) => assert_eq!(errno, libc::ECONNREFUSED),
            Ok(()) => {
                let refused = Event::ConnectFailed { slot: 0, errno: libc::ECONNREFUSED };
                poll_until(net.as_mut(), |all| count(all, |event| *event == refused) == 1);
                net.close(0);
                poll_until(net.as_mut(), |all| count(all, |event| *event == Event::Closed { slot: 0 }) == 1);
            }
        }
    }
}

#[test]
fn a_long_stream_arrives_whole_and_a_paused_one_waits() {
    on_each(2, |net, listener| {
        net.connect(0, listener.local_addr().unwrap(), None).unwrap();
        net.connect(1, listener.local_addr().unwrap(), None).unwrap();
        poll_until(net, |all| count(all, |event| matches!(event, Event::Connected { .. })) == 2);
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let (mut peer, _) = listener.accept().unwrap();
                std::thread::spawn(move || {
                    let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
                    peer.write_all(&bytes).unwrap();
                })
            })
            .collect();
        net.pause(1);
        let mut got = [0, 0];
        let mut at_end = false;
        let all = poll_until(net, |all| {
            got = [0, 0];
            for (event, bytes) in all {
                if let Event::Data { slot, .. } = event {
                    got[*slot as usize] += bytes.len();
                }
            }
            at_end |= all.iter().any(|(event, _)| matches!(event, Event::Ended { slot: 0, errno: 0 }));
            got[0] == 1_000_000 && at_end
        });
        let stream: Vec<u8> = all
            .iter()
            .filter(|(event, _)| matches!(event, Event::Data { slot: 0, .. }))
            .flat_map(|(_, bytes)| bytes.iter().copied())
            .collect();
        assert!(stream.iter().enumerate().all(|(n, &byte)| byte == (n % 251) as u8));
        assert_eq!(got[1], 0, "paused");
        net.resume(1);
        poll_until(net, |all| {
            let len: usize = all.iter().map(|(_, bytes)| bytes.len()).sum();
            len == 1_000_000
        });
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn a_send_that_does_not_fit_fails_once() {
    on_each(1, |net, listener| {
        net.connect(0, listener.local_addr().unwrap(), None).unwrap();
        poll_until(net, |all| count(all, |event| matches!(event, Event::Connected { .. })) == 1);
        let _peer = listener.accept().unwrap();
        net.send(0, &vec![0; 16 << 20]);
        let full = Event::SendFailed { slot: 0, errno: libc::EAGAIN };
        poll_until(net, |all| count(all, |event| *event == full) == 1);
        net.close(0);
        poll_until(net, |all| count(all, |event| *event == Event::Closed { slot: 0 }) == 1);
    });
}

#[test]
fn a_connect_that_nobody_answers_can_be_closed() {
    // A backlog of one that is full: further connects stay unanswered.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let target = socket.local_addr().unwrap().as_socket().unwrap();
    let options = NetOptions { connections_max: 8, rings: 2, receive_bytes: 0 };
    let mut nets: Vec<Box<dyn Net>> = vec![Box::new(MioNet::try_new(options).unwrap())];
    if let Ok(net) = UringNet::try_new(options) {
        nets.push(Box::new(net));
    }
    for net in &mut nets {
        for slot in 0..8 {
            net.connect(slot, target, None).unwrap();
        }
        net.poll(&mut Vec::new(), Duration::from_millis(100)).unwrap();
        for slot in 0..8 {
            net.close(slot);
        }
        poll_until(net.as_mut(), |all| count(all, |event| matches!(event, Event::Closed { .. })) == 8);
    }
}
