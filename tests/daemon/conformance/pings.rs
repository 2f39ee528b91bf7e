//! Sections 5.5.2 and 5.5.3. Autobahn's section 2.

use super::{echo, expect_alive, noise};
use crate::frame::{Frame, PING};
use crate::on_both_drivers;

on_both_drivers! {
    /// 2.1 to 2.4, 2.6: the Pong carries the Ping's payload, whatever it is, to 125 bytes, also in single bytes.
    fn a_ping_is_answered_with_its_payload(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        for payload in [vec![], b"Hello, world!".to_vec(), vec![0, 0xFF, 0xFE, 0xFD, 0], vec![0xFE; 125]] {
            socket.send(Frame::ping(payload.clone()));
            socket.expect(&Frame::pong(payload.clone()));
            socket.send_in_octets(&Frame::ping(payload.clone()).masked());
            socket.expect(&Frame::pong(payload));
        }
        socket.close();
    }

    /// 2.5, section 5.5: a control frame has 125 bytes at most.
    fn a_ping_of_126_bytes_fails_the_connection(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        socket.send(Frame::ping(vec![0xFE; 126]));
        socket.expect_failed(1002);
    }

    /// 2.7 to 2.9: a Pong that nobody asked for is ignored.
    fn an_unsolicited_pong_is_ignored(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        socket.send_all(&[Frame::pong(""), Frame::pong("unsolicited"), Frame::pong(noise(125))]);
        socket.send(Frame::ping("ping payload"));
        socket.expect(&Frame::pong("ping payload"));
        expect_alive(&mut socket);
        socket.close();
    }

    /// 2.10, 2.11: ten Pings at once, also in single bytes. Section 5.5.3 lets a server answer only the latest ones;
    /// ours answers each, so that a client can count them.
    fn every_ping_of_many_is_answered_in_order(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let pings: Vec<Frame> = (0..10).map(|n| Frame::ping(format!("payload-{n}"))).collect();
        socket.send_all(&pings);
        socket.send_in_octets(&crate::frame::masked(&pings));
        for ping in pings.iter().chain(&pings) {
            socket.expect(&Frame::pong(ping.payload.clone()));
        }
        socket.close();
    }

    /// Many Pings whose Pongs nobody reads for a while: what is owed is bounded and the connection survives reading.
    fn pings_between_messages_keep_their_place(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let frames: Vec<Frame> = (0..200)
            .map(|n| if n % 2 == 0 { Frame::text(&format!("m{n}")) } else { Frame::ping(format!("p{n}")) })
            .collect();
        socket.send_all(&frames);
        for frame in frames {
            let wanted = if frame.opcode == PING { Frame::pong(frame.payload) } else { frame };
            socket.expect(&wanted);
        }
        socket.close();
    }
}
