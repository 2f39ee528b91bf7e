//! Sections 5.5.1 and 7. Autobahn's section 7.

use super::{echo, expect_alive, noise};
use crate::frame::{CLOSE, Frame};
use crate::on_both_drivers;
use crate::process::Daemon;
use crate::socket::Socket;

/// What the RFC defines for the wire, what IANA holds for libraries, and the private range.
const VALID_CODES: [u16; 13] = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];

/// Section 7.4: below 1000, those that may not stand in a frame (1005, 1006, 1015), 1004, and unregistered ones.
const INVALID_CODES: [u16; 10] = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999];

on_both_drivers! {
    /// 7.1.1, 7.7: the Close comes back with its code, then the server ends the stream, being the one that should first
    /// (section 7.1.1).
    fn a_close_is_answered_with_its_code(driver: Driver) {
        let daemon = Daemon::start(driver);
        for code in VALID_CODES {
            let mut socket = Socket::open(&daemon, "/echo");
            socket.send(Frame::close(code, "reason"));
            let got = socket.recv().expect("a Close");
            assert_eq!(got.close_code(), Some(code));
            socket.expect_end();
        }
    }

    /// 7.3.1: a Close without payload has no code to return.
    fn an_empty_close_is_answered(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        socket.send(Frame::new(CLOSE, ""));
        let got = socket.recv().expect("a Close");
        assert!(matches!(got.close_code(), None | Some(1000)), "{got:?}");
        socket.expect_end();
    }

    /// 7.1.2 to 7.1.6: after the first Close nothing more is served: not another, not a Ping, not a message.
    fn nothing_is_served_after_a_close(driver: Driver) {
        for after in [Frame::close(1000, ""), Frame::ping("late"), Frame::text("late"), Frame::binary(noise(100_000))] {
            let (_daemon, mut socket) = echo(driver);
            socket.send_all(&[Frame::close(1000, ""), after]);
            let got = socket.recv().expect("a Close");
            assert_eq!(got.close_code(), Some(1000));
            socket.expect_end();
        }
    }

    /// 7.1.5: a Close between two fragments ends the connection; the message is not delivered.
    fn a_close_between_fragments_ends_the_connection(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        socket.send_all(&[Frame::text("fragment1").unfinished(), Frame::close(1000, ""), Frame::new(0, "fragment2")]);
        let got = socket.recv().expect("a Close");
        assert_eq!(got.close_code(), Some(1000));
        socket.expect_end();
    }

    /// 7.1.6: a large message, then the Close: the message comes back whole before the Close does.
    fn what_is_owed_is_sent_before_the_close(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let large = Frame::binary(noise(256 * 1024));
        socket.send_all(&[large.clone(), Frame::close(1000, "")]);
        socket.expect(&large);
        assert_eq!(socket.recv().expect("a Close").close_code(), Some(1000));
        socket.expect_end();
    }

    /// 7.3.3 to 7.3.5: reasons to the largest that fits.
    fn a_reason_of_123_bytes_is_taken(driver: Driver) {
        for len in [0, 1, 122, 123] {
            let (_daemon, mut socket) = echo(driver);
            socket.send(Frame::close(1000, "r".repeat(len)));
            assert_eq!(socket.recv().expect("a Close").close_code(), Some(1000));
            socket.expect_end();
        }
    }

    /// 7.3.2: one byte is half a code. 7.3.6: 126 bytes are too many for a control frame.
    fn a_malformed_close_fails_the_connection(driver: Driver) {
        for payload in [vec![0x03], Frame::close(1000, "r".repeat(124)).payload] {
            let (_daemon, mut socket) = echo(driver);
            socket.send(Frame::new(CLOSE, payload));
            socket.expect_failed(1002);
        }
    }

    /// 7.5.1: a reason is UTF-8 too.
    fn a_reason_that_is_not_utf8_fails_the_connection(driver: Driver) {
        for reason in [&b"\xCE\xBA\xE1\xBD\xB9\xED\xA0\x80"[..], b"\xFF", b"cut \xE2\x82"] {
            let (_daemon, mut socket) = echo(driver);
            socket.send(Frame::close(1000, reason));
            socket.expect_failed(1007);
        }
    }

    /// 7.9: a code that may not be sent is not returned, it fails the connection.
    fn an_invalid_code_fails_the_connection(driver: Driver) {
        let daemon = Daemon::start(driver);
        for code in INVALID_CODES {
            let mut socket = Socket::open(&daemon, "/echo");
            socket.send(Frame::close(code, ""));
            socket.expect_failed(1002);
        }
    }

    /// A client that vanishes without a Close takes nobody with it.
    fn a_client_that_ends_without_a_close_is_forgotten(driver: Driver) {
        let (daemon, mut socket) = echo(driver);
        for n in 0..50 {
            let mut other = Socket::open(&daemon, "/echo");
            other.send_bytes(&Frame::text("half a message").masked()[..n % 12]);
            if n % 2 == 0 {
                other.finish_sending();
                assert_eq!(other.recv_rest(), b"", "nothing is owed to half a frame");
            }
        }
        expect_alive(&mut socket);
        socket.close();
    }

    /// SIGTERM: every client is told 1001 or the protocol's shutdown code, and the process ends with 0.
    fn the_end_of_the_process_is_told(driver: Driver) {
        let (daemon, mut socket) = echo(driver);
        expect_alive(&mut socket);
        let end = std::thread::spawn(move || {
            let code = socket.recv().expect("a Close").close_code();
            assert!(matches!(code, Some(3001 | 1001)), "{code:?}");
            socket.send(Frame::close(1000, ""));
            socket.expect_end();
        });
        assert!(daemon.stop().success());
        end.join().expect("the client was told");
    }
}
