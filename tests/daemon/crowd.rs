//! Thousands of subscribers in one thread: the Centrifuge JSON protocol as far as a silent listener needs it.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::Deserialize;

use crate::frame::{Frame, TEXT};
use crate::process::{DEADLINE, Daemon};
use crate::socket::Socket;

/// Subscribers of one channel, each on its own connection.
pub struct Crowd {
    poll: Poll,
    members: Vec<Member>,
    buffer: Box<[u8]>,
}

struct Member {
    stream: TcpStream,
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
}

/// One publication as a subscriber sees it.
#[derive(Debug, Deserialize)]
pub struct Publication {
    #[serde(default)]
    pub offset: u64,
    pub data: u64,
}

#[derive(Deserialize)]
struct Message {
    push: Option<Push>,
    error: Option<serde_json::Value>,
    id: Option<u32>,
}

#[derive(Deserialize)]
struct Push {
    channel: String,
    #[serde(rename = "pub")]
    publication: Option<Publication>,
}

impl Crowd {
    /// Connects `count` clients and subscribes each to `channel`. When it returns, every one has the answer.
    pub fn subscribe(daemon: &Daemon, channel: &str, count: usize) -> Crowd {
        let poll = Poll::new().expect("an epoll");
        let commands = format!(
            "{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}"
        );
        let members = (0..count)
            .map(|index| {
                let mut socket = Socket::open(daemon, "/connection/websocket");
                socket.send(Frame::text(&commands));
                await_subscribed(&mut socket);
                let stream = socket.into_stream();
                stream.set_nonblocking(true).expect("a socket");
                let mut stream = TcpStream::from_std(stream);
                poll.registry()
                    .register(&mut stream, Token(index), Interest::READABLE)
                    .expect("a descriptor in epoll");
                Member { stream, rest: Vec::new() }
            })
            .collect();
        Crowd { poll, members, buffer: vec![0; 256 * 1024].into() }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Hands every publication that arrives to `seen`, with the number of its subscriber, until `wanted` have come.
    /// Panics when a subscriber is closed, or when nothing at all comes for [`DEADLINE`].
    pub fn receive(&mut self, channel: &str, wanted: usize, mut seen: impl FnMut(usize, Publication)) {
        let mut events = Events::with_capacity(1024);
        let mut count = 0;
        let mut last = Instant::now();
        while count < wanted {
            self.poll.poll(&mut events, Some(Duration::from_secs(1))).expect("epoll");
            assert!(last.elapsed() < DEADLINE, "{count} of {wanted} deliveries, then nothing");
            for event in &events {
                let index = event.token().0;
                let before = count;
                self.members[index].read(&mut self.buffer, |message| {
                    let Some(push) = message.push else { return };
                    let publication = push.publication.expect("no other push was asked for");
                    assert_eq!(push.channel, channel);
                    count += 1;
                    seen(index, publication);
                });
                if count > before {
                    last = Instant::now();
                }
            }
        }
    }

    /// Nothing more is on its way: one round trip on every connection, whose answer comes behind everything before it.
    pub fn expect_silence(&mut self) {
        for (index, member) in self.members.iter_mut().enumerate() {
            member.send(&Frame::ping("fence"));
            let mut fenced = false;
            let end = Instant::now() + DEADLINE;
            while !fenced {
                assert!(Instant::now() < end, "subscriber {index} gets no Pong");
                fenced = member.read(&mut self.buffer, |message| {
                    assert!(message.push.is_none(), "subscriber {index} gets one more publication");
                });
                if !fenced {
                    std::thread::yield_now();
                }
            }
        }
    }
}

impl Member {
    /// Reads until the socket is empty. True when a Pong came.
    fn read(&mut self, buffer: &mut [u8], mut seen: impl FnMut(Message)) -> bool {
        let mut ponged = false;
        loop {
            match self.stream.read(buffer) {
                Ok(0) => panic!("a subscriber is closed without a word"),
                Ok(len) => self.rest.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return ponged,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("a subscriber is cut off: {error}"),
            }
            let mut taken = 0;
            while let Some((frame, len)) = Frame::parse(&self.rest[taken..]) {
                taken += len;
                match frame.opcode {
                    TEXT => self.handle_text(&frame.payload, &mut seen),
                    crate::frame::PONG => ponged = true,
                    crate::frame::CLOSE => panic!("a subscriber is closed: {:?}", frame.close_code()),
                    other => panic!("a frame of kind {other:#x}"),
                }
            }
            self.rest.drain(..taken);
        }
    }

    fn handle_text(&mut self, payload: &[u8], seen: &mut impl FnMut(Message)) {
        for line in payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if line == b"{}" {
                self.send(&Frame::text("{}"));
                continue;
            }
            let message = serde_json::from_slice(line)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)));
            seen(message);
        }
    }

    /// A few bytes into a socket that is otherwise unused in this direction: they fit.
    fn send(&mut self, frame: &Frame) {
        self.stream.write_all(&frame.masked()).expect("a subscriber is cut off");
    }
}

/// Reads the answers to connect (1) and subscribe (2).
fn await_subscribed(socket: &mut Socket) {
    let mut answered = 0;
    while answered < 2 {
        let frame = socket.recv().expect("an answer to connect and subscribe");
        assert_eq!(frame.opcode, TEXT, "{frame:?}");
        for line in frame.payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let message: Message = serde_json::from_slice(line).expect("JSON");
            assert!(message.error.is_none(), "{}", String::from_utf8_lossy(line));
            answered += 1;
            assert_eq!(message.id, Some(answered), "answers come in the order of the commands");
        }
    }
}
