//! Frames cut and delayed at every byte: a reader that keeps half a frame keeps it right.

use std::thread;
use std::time::Duration;

use super::{noise, text};
use crate::frame::{Frame, PING, fragments, masked};
use crate::on_both_drivers;
use crate::process::Daemon;
use crate::socket::{Socket, upgrade_request};

/// One of each kind: short and extended lengths, fragments with a Ping between them, empty frames.
fn script() -> Vec<Frame> {
    let mut frames = vec![
        Frame::text("€ first"),
        Frame::text(""),
        Frame::binary(noise(130)),
        Frame::ping("p1"),
        Frame::pong("nobody asked"),
    ];
    frames.extend(fragments(1, text(40).as_bytes(), 9));
    frames.insert(frames.len() - 2, Frame::ping(""));
    frames.push(Frame::text("last"));
    frames
}

/// What comes back for [`script`]: a Ping inside a message is answered before the message.
fn expect_script(socket: &mut Socket) {
    socket.expect(&Frame::text("€ first"));
    socket.expect(&Frame::text(""));
    socket.expect(&Frame::binary(noise(130)));
    socket.expect(&Frame::pong("p1"));
    socket.expect(&Frame::pong(""));
    socket.expect(&Frame::text(&text(40)));
    socket.expect(&Frame::text("last"));
}

/// Long enough that the daemon reads the front alone, on an idle machine. On a busy one the cut may be read in one
/// piece: then this run proves less, it does not fail.
const PAUSE: Duration = Duration::from_millis(150);

/// Each socket sends the bytes cut at another place: all fronts go out, then one pause, then all backs.
fn send_cut(sockets: &mut [Socket], bytes: &[u8]) {
    for (cut, socket) in sockets.iter_mut().enumerate() {
        socket.send_bytes(&bytes[..cut]);
    }
    thread::sleep(PAUSE);
    for (cut, socket) in sockets.iter_mut().enumerate() {
        socket.send_bytes(&bytes[cut..]);
    }
}

on_both_drivers! {
    /// One connection for each cut.
    fn a_script_cut_at_every_byte_is_served_the_same(driver: Driver) {
        let daemon = Daemon::start(driver);
        let bytes = masked(&script());
        let mut sockets: Vec<Socket> = (0..=bytes.len()).map(|_| Socket::open(&daemon, "/echo")).collect();
        send_cut(&mut sockets, &bytes);
        for mut socket in sockets {
            expect_script(&mut socket);
            socket.close();
        }
    }

    /// The upgrade's head cut at every byte, its first frame behind it.
    fn a_head_cut_at_every_byte_is_served_the_same(driver: Driver) {
        let daemon = Daemon::start(driver);
        let bytes = [upgrade_request("/echo", "").into_bytes(), Frame::text("first").masked()].concat();
        let mut sockets: Vec<Socket> = (0..=bytes.len()).map(|_| Socket::raw(&daemon)).collect();
        send_cut(&mut sockets, &bytes);
        for mut socket in sockets {
            assert!(socket.recv_head().starts_with("HTTP/1.1 101 "));
            socket.expect(&Frame::text("first"));
            socket.close();
        }
    }

    /// Every byte a write of its own, with a pause after each of the first frame's.
    fn a_script_in_octets_is_served_the_same(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut socket = Socket::open(&daemon, "/echo");
        for byte in Frame::text("slow").masked() {
            socket.send_bytes(&[byte]);
            thread::sleep(Duration::from_millis(5));
        }
        socket.expect(&Frame::text("slow"));
        socket.send_in_octets(&masked(&script()));
        expect_script(&mut socket);
        socket.close();
    }

    /// Several frames ahead of each cut, so that one read holds whole frames and a part.
    fn whole_frames_before_a_cut_are_answered_before_the_rest_comes(driver: Driver) {
        let daemon = Daemon::start(driver);
        let mut socket = Socket::open(&daemon, "/echo");
        let second = Frame::new(PING, "second").masked();
        for cut in 0..second.len() {
            socket.send_bytes(&[Frame::text("first").masked(), second[..cut].to_vec()].concat());
            socket.expect(&Frame::text("first"));
            socket.send_bytes(&second[cut..]);
            socket.expect(&Frame::pong("second"));
        }
        socket.close();
    }
}
