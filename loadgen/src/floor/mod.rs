//! The floor: the least server that does the same job, so that every figure has a ratio to what the kernel charges.
//!
//! Inputs: upgrades to `/floor?c=1,2` and publications to `POST /publish?c=1`. Outputs: the publication's body as one
//! text frame to every connection of the channel. It has no sessions, names, history or limits: one epoll, one list of
//! sockets a channel, one loop of sends. What a server takes above it is the server's own.
//!
//! It also sends text and binary messages back to who sent them, and pings everybody if asked to.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use trunkline::proto::http1::{BodyLength, parse_head, write_response};
use trunkline::proto::websocket::{Decoder, Message, Opcode, Role, accept, write_frame};

use crate::net::Broadcast;

const LISTENER: Token = Token(usize::MAX);
/// Longest request or message; it serves a load generator, not strangers.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 64 * 1024;
/// Channels that may be named. Each is a list.
const CHANNELS_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum FloorBy {
    /// One send(2) a connection.
    #[default]
    Send,
    /// One io_uring submission a connection, handed over in batches.
    Uring,
}

pub struct FloorOptions {
    pub listen: SocketAddr,
    pub by: FloorBy,
    pub ping: Option<Duration>,
}

pub struct Floor {
    poll: Poll,
    listener: TcpListener,
    /// By descriptor.
    peers: Vec<Option<Peer>>,
    /// Descriptors by channel.
    channels: Vec<Vec<RawFd>>,
    uring: Option<Broadcast>,
    ping: Option<Duration>,
    buffer: Box<[u8]>,
}

struct Peer {
    stream: TcpStream,
    /// A request, or what is left of one.
    unread: Vec<u8>,
    upgraded: bool,
    decoder: Option<Box<Decoder>>,
}

impl Floor {
    /// # Errors
    /// When the address cannot be bound, or io_uring is asked for and cannot be used.
    pub fn bind(options: &FloorOptions) -> io::Result<Floor> {
        let mut listener = TcpListener::bind(options.listen)?;
        // mio's backlog is 1024: a storm of connects would be refused by the kernel, not by the floor.
        rustix::net::listen(&listener, 4096)?;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Floor {
            poll,
            listener,
            peers: Vec::new(),
            channels: Vec::new(),
            uring: if options.by == FloorBy::Uring { Some(Broadcast::try_new()?) } else { None },
            ping: options.ping,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
        })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// When epoll fails.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut next_ping = self.ping.map(|ping| Instant::now() + ping);
        loop {
            let timeout = next_ping.map(|at| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            if let (Some(at), Some(ping)) = (next_ping, self.ping)
                && Instant::now() >= at
            {
                next_ping = Some(at + ping);
                self.ping_all();
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    Token(fd) => self.read(fd),
                }
            }
        }
    }

    fn accept(&mut self) {
        // Until there is none, or none can be taken: the next edge tries again.
        while let Ok((mut stream, _)) = self.listener.accept() {
            let fd = stream.as_raw_fd() as usize;
            let _ = stream.set_nodelay(true);
            if self.poll.registry().register(&mut stream, Token(fd), Interest::READABLE).is_err() {
                continue;
            }
            if fd >= self.peers.len() {
                self.peers.resize_with(fd + 1, || None);
            }
            self.peers[fd] = Some(Peer { stream, unread: Vec::new(), upgraded: false, decoder: None });
            // Its request may have come with it, before the edge was watched.
            self.read(fd);
        }
    }

    fn read(&mut self, fd: usize) {
        loop {
            let Some(Some(peer)) = self.peers.get_mut(fd) else { return };
            let len = match peer.stream.read(&mut self.buffer) {
                Ok(0) => return self.drop_peer(fd),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return self.drop_peer(fd),
            };
            let goes_on = if peer.upgraded {
                echo(peer, &mut self.buffer[..len])
            } else {
                peer.unread.extend_from_slice(&self.buffer[..len]);
                self.requests(fd)
            };
            if !goes_on {
                return self.drop_peer(fd);
            }
            if len < READ_BYTES {
                return;
            }
        }
    }

    /// Answers the whole requests that a peer has sent. `false`: it is to be dropped.
    fn requests(&mut self, fd: usize) -> bool {
        loop {
            let Some(Some(peer)) = self.peers.get_mut(fd) else { return false };
            let Ok(parsed) = parse_head(&peer.unread) else { return false };
            let Some((head, head_len)) = parsed else { return true };
            let channels: Vec<usize> = channels_of(head.query);
            let mut out = Vec::new();
            if head.method == "GET" {
                let Ok(handshake) = accept(&head, &[]) else { return false };
                handshake.write(&mut out, &[]);
                peer.upgraded = true;
                peer.unread = Vec::new();
                let sent = matches!(peer.stream.write(&out), Ok(len) if len == out.len());
                for channel in channels {
                    if channel >= self.channels.len() {
                        self.channels.resize_with(channel + 1, Vec::new);
                    }
                    self.channels[channel].push(fd as RawFd);
                }
                return sent;
            }
            let BodyLength::Length(len) = head.body_length() else { return false };
            let Ok(len) = usize::try_from(len) else { return false };
            if len > MESSAGE_BYTES_MAX {
                return false;
            }
            let Some(body) = peer.unread.get(head_len..head_len + len) else { return true };
            let mut frame = Vec::with_capacity(len + 16);
            write_frame(&mut frame, Opcode::Text, body);
            peer.unread.drain(..head_len + len);
            for channel in channels {
                self.send_all(channel, &frame);
            }
            write_response(&mut out, 200, &[("Content-Type", b"application/json")], b"{}");
            let Some(Some(peer)) = self.peers.get_mut(fd) else { return false };
            if !matches!(peer.stream.write(&out), Ok(len) if len == out.len()) {
                return false;
            }
        }
    }

    /// The loop that everything else is measured by.
    fn send_all(&mut self, channel: usize, bytes: &[u8]) {
        let Some(fds) = self.channels.get(channel) else { return };
        match &mut self.uring {
            // One that does not take it has lost it: the generator counts.
            Some(uring) => uring.send(fds, bytes),
            None => {
                for &fd in fds {
                    if let Some(Some(peer)) = self.peers.get(fd as usize) {
                        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
                        let _ = rustix::net::send(&peer.stream, bytes, flags);
                    }
                }
            }
        }
    }

    fn ping_all(&mut self) {
        const PING: [u8; 2] = [0x89, 0];
        for peer in self.peers.iter().flatten().filter(|peer| peer.upgraded) {
            let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
            let _ = rustix::net::send(&peer.stream, &PING, flags);
        }
    }

    fn drop_peer(&mut self, fd: usize) {
        self.peers[fd] = None;
        // Rare and slow: the floor keeps no table that would make it fast.
        for channel in &mut self.channels {
            channel.retain(|&member| member as usize != fd);
        }
    }
}

/// `c=1,2` of a query.
fn channels_of(query: Option<&[u8]>) -> Vec<usize> {
    let query = query.and_then(|query| std::str::from_utf8(query).ok());
    let list = query.and_then(|query| query.strip_prefix("c=")).unwrap_or_default();
    list.split(',').filter_map(|word| word.parse().ok()).filter(|&channel| channel < CHANNELS_MAX).collect()
}

/// Sends messages back. `false`: the peer is to be dropped.
fn echo(peer: &mut Peer, bytes: &mut [u8]) -> bool {
    let mut decoder =
        peer.decoder.take().unwrap_or_else(|| Box::new(Decoder::new(Role::Server, MESSAGE_BYTES_MAX)));
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        let Ok((consumed, message)) = decoder.decode(&mut bytes[at..]) else { return false };
        at += consumed;
        match message {
            None => break,
            Some(Message::Text(text)) => write_frame(&mut out, Opcode::Text, text.as_bytes()),
            Some(Message::Binary(bytes)) => write_frame(&mut out, Opcode::Binary, bytes),
            Some(Message::Ping(payload)) => write_frame(&mut out, Opcode::Pong, payload),
            // Nobody offers the floor server an extension.
            Some(Message::Pong(_) | Message::Compressed { .. }) => {}
            Some(Message::Close { .. }) => return false,
        }
    }
    if !decoder.is_idle() {
        peer.decoder = Some(decoder);
    }
    out.is_empty() || matches!(peer.stream.write(&out), Ok(len) if len == out.len())
}
