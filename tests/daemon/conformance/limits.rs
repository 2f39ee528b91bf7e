//! Large messages and many of them. Autobahn's sections 9 and 10.

use std::io::Write;
use std::thread;

use super::{echo, expect_alive, noise, text};
use crate::frame::{BINARY, Frame, TEXT, fragments, masked};
use crate::on_both_drivers;

const MIB: usize = 1 << 20;

on_both_drivers! {
    /// 9.1, 9.2: 64 KiB to 16 MiB in one frame.
    fn one_frame_of_up_to_16_mib_comes_back(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        for len in [65_536, 256 * 1024, MIB, 4 * MIB, 8 * MIB, 16 * MIB] {
            let message = Frame::binary(noise(len));
            socket.send(message.clone());
            socket.expect(&message);
            let message = Frame::text(&text(len));
            socket.send(message.clone());
            socket.expect(&message);
        }
        socket.close();
    }

    /// 9.3, 9.4: 4 MiB in fragments of 64 bytes to 4 MiB.
    fn four_mib_in_fragments_of_every_size_come_back(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let payload = noise(4 * MIB);
        let words = text(4 * MIB);
        for size in [64, 256, 1024, 4096, 16_384, 65_536, 262_144, MIB, 4 * MIB] {
            socket.send_all(&fragments(BINARY, &payload, size));
            socket.expect(&Frame::binary(payload.clone()));
            socket.send_all(&fragments(TEXT, words.as_bytes(), size));
            socket.expect(&Frame::text(&words));
        }
        socket.close();
    }

    /// The stated bound of the echo endpoint: 16 MiB in 65,536 fragments.
    fn sixteen_mib_in_65536_fragments_come_back(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let payload = noise(16 * MIB);
        let frames = fragments(BINARY, &payload, 256);
        assert_eq!(frames.len(), 65_536);
        socket.send_all(&frames);
        socket.expect(&Frame::binary(payload));
        socket.close();
    }

    /// 10.1: a message in fragments that are no power of two.
    fn fragments_of_1300_bytes_come_back(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let words = text(65_536);
        socket.send_all(&fragments(TEXT, words.as_bytes(), 1300));
        socket.expect(&Frame::text(&words));
        socket.close();
    }

    /// 9.5, 9.6: 1 MiB in writes of 64 bytes to 2 KiB.
    fn a_message_in_small_writes_comes_back(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let message = Frame::text(&text(MIB));
        for size in [64, 128, 256, 512, 1024, 2048] {
            for piece in message.masked().chunks(size) {
                socket.send_bytes(piece);
            }
            socket.expect(&message);
        }
        socket.close();
    }

    /// 9.7, 9.8: a thousand round trips of each length.
    fn a_thousand_round_trips_of_each_length(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        for len in [0, 16, 64, 256, 1024, 4096] {
            let messages = [Frame::text(&text(len)), Frame::binary(noise(len))];
            for round in 0..1000 {
                let message = &messages[round % 2];
                socket.send(message.clone());
                socket.expect(message);
            }
        }
        socket.close();
    }

    /// Sent without waiting for the echoes, by one thread, while another reads them: more than any socket buffer holds.
    /// None is lost, none is out of order, and a writer faster than the reader is held back, not closed.
    fn ten_thousand_messages_without_waiting_all_come_back_in_order(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let message = |n: usize| Frame::text(&format!("{n} {}", text(n % 3000)));
        let mut writer = socket.writer();
        let writing = thread::spawn(move || {
            for first in (0..10_000).step_by(100) {
                let frames: Vec<Frame> = (first..first + 100).map(message).collect();
                writer.write_all(&masked(&frames)).expect("the daemon goes on reading");
            }
        });
        for n in 0..10_000 {
            socket.expect(&message(n));
        }
        writing.join().expect("everything is written");
        socket.close();
    }

    /// Section 7.4.1: one byte more than the bound is refused by its announced length, before any of it is sent, and by
    /// the sum of its fragments.
    fn a_message_over_the_bound_is_refused_with_1009(driver: Driver) {
        let (daemon, mut socket) = echo(driver);
        let mut head = vec![0x82, 0x80 | 127];
        head.extend_from_slice(&(16 * MIB as u64 + 1).to_be_bytes());
        head.extend_from_slice(&[1, 2, 3, 4]);
        socket.send_bytes(&head);
        socket.expect_failed(1009);

        let mut socket = crate::socket::Socket::open(&daemon, "/echo");
        let mut head = vec![0x82, 0x80 | 127];
        head.extend_from_slice(&(i64::MAX as u64).to_be_bytes());
        head.extend_from_slice(&[1, 2, 3, 4]);
        socket.send_bytes(&head);
        socket.expect_failed(1009);

        let mut socket = crate::socket::Socket::open(&daemon, "/echo");
        let mut writer = socket.writer();
        let writing = thread::spawn(move || {
            let mut frames = fragments(BINARY, &vec![0; 16 * MIB], 65_536);
            frames.last_mut().expect("a fragment").fin = false;
            frames.push(Frame::new(0, "x"));
            // The daemon may close while the last bytes are on their way.
            writer.write_all(&masked(&frames)).ok();
        });
        socket.expect_failed(1009);
        writing.join().expect("the writer ends");

        let mut socket = crate::socket::Socket::open(&daemon, "/echo");
        expect_alive(&mut socket);
        socket.close();
    }
}
