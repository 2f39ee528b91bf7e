//! RFC 6455 against `/echo`, in the order of the Autobahn suite's sections: framing, pings, reserved bits and
//! opcodes, fragmentation, UTF-8, closing, limits. The handshake stands first.
//!
//! What a failed connection looks like is the same everywhere: a Close with the code, then the end of the stream
//! ([`crate::socket::Socket::expect_failed`]).

mod closing;
mod compression;
mod delays;
mod fragmentation;
mod framing;
mod handshake;
mod limits;
mod pings;
mod reserved;
mod utf8;

use crate::process::{Daemon, Driver};
use crate::socket::Socket;

/// A daemon with one client on its echo endpoint.
fn echo(driver: Driver) -> (Daemon, Socket) {
    let daemon = Daemon::start(driver);
    let socket = Socket::open(&daemon, "/echo");
    (daemon, socket)
}

/// The connection still works: what an ignored frame must leave behind.
fn expect_alive(socket: &mut Socket) {
    let probe = crate::frame::Frame::text("still here");
    socket.send(probe.clone());
    socket.expect(&probe);
}

/// Bytes without a pattern that a wrong offset could hide in.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ len as u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Text of exactly `len` bytes with characters of one to four bytes, so that cuts fall inside them.
fn text(len: usize) -> String {
    const CYCLE: [char; 4] = ['a', 'ß', '€', '𝄞'];
    let mut text = String::with_capacity(len);
    for character in CYCLE.iter().cycle() {
        if text.len() + character.len_utf8() > len {
            break;
        }
        text.push(*character);
    }
    while text.len() < len {
        text.push('.');
    }
    text
}
