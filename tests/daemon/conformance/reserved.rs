//! Section 5.2: bits and opcodes that nobody has given a meaning. Autobahn's sections 3 and 4.

use super::echo;
use crate::frame::{BINARY, CLOSE, Frame, PING, PONG, TEXT};
use crate::on_both_drivers;

on_both_drivers! {
    /// 3.1 to 3.7: no extension was agreed on, so every reserved bit fails the connection, on every kind of frame.
    fn a_reserved_bit_fails_the_connection(driver: Driver) {
        let daemon = crate::process::Daemon::start(driver);
        for rsv in 1..=7 {
            for opcode in [TEXT, BINARY, PING, PONG, CLOSE] {
                let mut socket = crate::socket::Socket::open(&daemon, "/echo");
                let payload = if opcode == CLOSE { vec![0x03, 0xE8] } else { b"payload".to_vec() };
                socket.send(Frame::new(opcode, payload).with_rsv(rsv));
                socket.expect_failed(1002);
            }
        }
    }

    /// 3.2 to 3.4, 4.1.3, 4.2.3: what came whole before the bad frame is answered; the Ping behind it is not.
    fn frames_before_a_bad_one_are_served_and_none_after(driver: Driver) {
        for bad in [Frame::text("bad").with_rsv(2), Frame::new(0x5, ""), Frame::new(0xC, "")] {
            for in_octets in [false, true] {
                let (_daemon, mut socket) = echo(driver);
                let good = Frame::text("Hello, world!");
                let bytes = crate::frame::masked(&[good.clone(), bad.clone(), Frame::ping("after")]);
                if in_octets { socket.send_in_octets(&bytes) } else { socket.send_bytes(&bytes) }
                socket.expect(&good);
                socket.expect_failed(1002);
            }
        }
    }

    /// 4.1, 4.2: opcodes 3 to 7 and 11 to 15, with and without payload.
    fn a_reserved_opcode_fails_the_connection(driver: Driver) {
        let daemon = crate::process::Daemon::start(driver);
        for opcode in (0x3..=0x7).chain(0xB..=0xF) {
            for payload in ["", "reserved"] {
                let mut socket = crate::socket::Socket::open(&daemon, "/echo");
                socket.send(Frame::new(opcode, payload));
                socket.expect_failed(1002);
            }
        }
    }
}
