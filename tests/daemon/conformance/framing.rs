//! Section 5.2: every form of the length, both kinds of message. Autobahn's section 1.

use super::{echo, expect_alive, noise, text};
use crate::frame::{BINARY, Frame, TEXT};
use crate::on_both_drivers;

/// Around each change of the length's form, and nothing at all.
const BORDERS: [usize; 12] = [0, 1, 124, 125, 126, 127, 128, 129, 65_534, 65_535, 65_536, 65_537];

on_both_drivers! {
    fn text_of_every_border_length_comes_back(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        for len in BORDERS {
            let message = Frame::text(&text(len));
            socket.send(message.clone());
            socket.expect(&message);
        }
        socket.close();
    }

    fn binary_of_every_border_length_comes_back(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        for len in BORDERS {
            let message = Frame::binary(noise(len));
            socket.send(message.clone());
            socket.expect(&message);
        }
        socket.close();
    }

    /// Autobahn 1.1.7, 1.1.8, 1.2.7, 1.2.8: 65,535 and 65,536 bytes in pieces of 997.
    fn long_messages_in_pieces_of_997_bytes_come_back(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        for message in [Frame::text(&text(65_535)), Frame::text(&text(65_536)), Frame::binary(noise(65_536))] {
            for piece in message.masked().chunks(997) {
                socket.send_bytes(piece);
            }
            socket.expect(&message);
        }
        socket.close();
    }

    /// Every small length once: a mask applied from a wrong phase or by wrong words shows at one of them.
    fn every_length_up_to_300_comes_back(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        let messages: Vec<Frame> = (0..=300).map(|len| Frame::binary(noise(len))).collect();
        socket.send_all(&messages);
        for message in &messages {
            socket.expect(message);
        }
        socket.close();
    }

    /// Section 5.1: a server must close on a frame that is not masked.
    fn an_unmasked_frame_fails_the_connection(driver: Driver) {
        for frame in [Frame::text("bare"), Frame::binary(noise(70_000)), Frame::ping(""), Frame::close(1000, "")] {
            let (_daemon, mut socket) = echo(driver);
            expect_alive(&mut socket);
            socket.send_bytes(&frame.unmasked());
            socket.expect_failed(1002);
        }
    }

    /// Section 5.2: the minimal number of bytes must be used for the length.
    fn a_length_that_is_not_the_shortest_fails_the_connection(driver: Driver) {
        let with_length = |opcode: u8, length: &[u8]| [&[0x80 | opcode], length, &[0; 4][..]].concat();
        let cases = [
            with_length(TEXT, &[0x80 | 126, 0, 0]),
            with_length(TEXT, &[0x80 | 126, 0, 125]),
            with_length(BINARY, &[0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 125]),
            with_length(BINARY, &[0x80 | 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]),
        ];
        for bytes in cases {
            let (_daemon, mut socket) = echo(driver);
            socket.send_bytes(&bytes);
            socket.expect_failed(1002);
        }
    }

    /// Section 5.2: the most significant bit of a 64-bit length must be 0.
    fn a_length_with_its_top_bit_fails_the_connection(driver: Driver) {
        let (_daemon, mut socket) = echo(driver);
        socket.send_bytes(&[0x82, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
        socket.expect_failed(1002);
    }
}
