//! Section 5.4. Autobahn's section 5.

use super::{echo, noise, text};
use crate::frame::{BINARY, CONTINUATION, Frame, PING, PONG, TEXT, fragments};
use crate::on_both_drivers;

on_both_drivers! {
    /// 5.3 to 5.5 and beyond: one message in every fragment size, whole writes and single bytes.
    fn a_message_in_fragments_of_any_size_comes_back(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let words = text(120);
        for size in 1..=120 {
            socket.send_all(&fragments(TEXT, words.as_bytes(), size));
            socket.expect(&Frame::text(&words));
        }
        for size in [1, 7, 119] {
            socket.send_in_octets(&crate::frame::masked(&fragments(TEXT, words.as_bytes(), size)));
            socket.expect(&Frame::text(&words));
        }
        socket.close();
    }

    /// 5.6 to 5.8: a Ping between two fragments is answered before the message is.
    fn a_ping_between_fragments_is_answered_at_once(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        for in_octets in [false, true] {
            let first = Frame::text("fragment1").unfinished().masked();
            let ping = Frame::ping("ping payload").masked();
            let bytes = [first, ping].concat();
            if in_octets { socket.send_in_octets(&bytes) } else { socket.send_bytes(&bytes) }
            // Nothing follows before the Pong is here: it cannot wait for the message's end.
            socket.expect(&Frame::pong("ping payload"));
            socket.send(Frame::new(CONTINUATION, "fragment2"));
            socket.expect(&Frame::text("fragment1fragment2"));
        }
        socket.close();
    }

    /// 5.19, 5.20: five fragments, Pings among them.
    fn several_pings_among_several_fragments(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let part = |opcode, n: u32| Frame::new(opcode, format!("fragment{n}")).unfinished();
        socket.send_all(&[part(TEXT, 1), part(CONTINUATION, 2), Frame::ping("one"), part(CONTINUATION, 3)]);
        socket.expect(&Frame::pong("one"));
        socket.send_all(&[part(CONTINUATION, 4), Frame::ping("two"), Frame::new(CONTINUATION, "fragment5")]);
        socket.expect(&Frame::pong("two"));
        socket.expect(&Frame::text("fragment1fragment2fragment3fragment4fragment5"));
        socket.close();
    }

    /// Empty fragments are fragments (section 5.4), at the start, inside and at the end.
    fn empty_fragments_add_nothing(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let empty = Frame::new(CONTINUATION, "").unfinished();
        socket.send_all(&[Frame::text("").unfinished(), empty.clone(), Frame::new(CONTINUATION, "")]);
        socket.expect(&Frame::text(""));
        let middle = Frame::new(CONTINUATION, "middle").unfinished();
        socket.send_all(&[Frame::text("").unfinished(), middle, empty, Frame::new(CONTINUATION, "")]);
        socket.expect(&Frame::text("middle"));
        socket.close();
    }

    /// 5.1, 5.2, section 5.5: control frames must not be fragmented.
    fn a_fragmented_control_frame_fails_the_connection(driver: Driver) {
        for opcode in [PING, PONG] {
            let (_daemon, mut socket) = echo(driver);
            socket.send_all(&[
                Frame::new(opcode, "fragment1").unfinished(),
                Frame::new(CONTINUATION, "fragment2"),
            ]);
            socket.expect_failed(1002);
        }
        let (_daemon, mut socket) = echo(driver);
        socket.send(Frame::close(1000, "").unfinished());
        socket.expect_failed(1002);
    }

    /// 5.9 to 5.14: a continuation of nothing, with FIN and without, before a whole message and after one.
    fn a_continuation_of_nothing_fails_the_connection(driver: Driver) {
        for lone in [Frame::new(CONTINUATION, "lone"), Frame::new(CONTINUATION, "lone").unfinished()] {
            let (_daemon, mut socket) = echo(driver);
            socket.send_all(&[lone.clone(), Frame::text("Hello, world!")]);
            socket.expect_failed(1002);

            let (_daemon, mut socket) = echo(driver);
            socket.send_all(&fragments(TEXT, b"whole message", 7));
            socket.send(lone);
            socket.expect(&Frame::text("whole message"));
            socket.expect_failed(1002);
        }
    }

    /// 5.15 to 5.18: a new message may not begin inside another.
    fn a_message_inside_a_message_fails_the_connection(driver: Driver) {
        for opcode in [TEXT, BINARY] {
            for finished in [false, true] {
                let (_daemon, mut socket) = echo(driver);
                let mut second = Frame::new(opcode, "fragment2");
                second.fin = finished;
                socket.send_all(&[Frame::text("fragment1").unfinished(), second]);
                socket.expect_failed(1002);
            }
        }
    }

    /// The binary kind is that of the first fragment.
    fn fragments_of_a_binary_message_come_back_as_binary(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let payload = noise(10_000);
        for size in [1, 125, 126, 4096, 9_999] {
            socket.send_all(&fragments(BINARY, &payload, size));
            socket.expect(&Frame::binary(payload.clone()));
        }
        socket.close();
    }
}
